"""Starts to compare: drawn ones, and presets that put several side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from overdepth.chain import balanced_factors, product
from overdepth.initialization import Init, initial_factors
from overdepth.theory.balancing import factors_with_imbalance

IMBALANCES = (0.5, 2.0, 8.0)
SCALES = (0.3, 0.1, 0.03, 0.01)
SMALL = 0.01
CLOSE = 0.5


@dataclass(frozen=True)
class Start:
    """Initial factors with a name."""

    name: str
    factors: list[Tensor]


@dataclass(frozen=True)
class Preset:
    """Starts towards a target (k, d), drawn with a seed, and what they show."""

    shows: str
    starts: Callable[[Tensor, int], list[Start]]


def drawn_target(rows: int, columns: int, seed: int) -> Tensor:
    """A matrix (rows, columns) with random singular vectors and singular values evenly from 2 down to 1."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(
        torch.randn(rows, columns, generator=generator, dtype=torch.float64), full_matrices=False
    )
    found: Tensor = (u * torch.linspace(2, 1, min(rows, columns), dtype=torch.float64)) @ vh
    return found


def drawn_start(
    shape: tuple[int, int],
    *,
    init: Init = "near_zero",
    depth: int = 2,
    width: int | None = None,
    scale: float = SMALL,
    imbalance: float | None = None,
    seed: int = 0,
) -> Start:
    """Factors of an initialization; with ``imbalance`` those of the same product that have this imbalance.

    Raises:
        ValueError: If an argument is out of its range.
    """
    factors = _drawn(shape, init, depth, width, scale, seed)
    words = f"{init.replace('_', '-')}, depth {depth}" + ("" if init == "identity" else f", scale {scale:g}")
    if imbalance is None:
        return Start(words, factors)
    return Start(f"{words}, imbalance {imbalance:g}", factors_with_imbalance(product(factors), depth, imbalance, width))


def _drawn(shape: tuple[int, int], init: Init, depth: int, width: int | None, scale: float, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return initial_factors(*shape, depth, width=width, init=init, scale=scale, generator=generator, dtype=torch.float64)


def _by_imbalance(target: Tensor, seed: int) -> list[Start]:
    near_zero = _near_zero(target, 2, SMALL, seed)
    weight = product(near_zero)
    sign = _useful_sign(target)
    return [
        Start("near zero", near_zero),
        Start("balanced, same product", balanced_factors(weight, 2)),
        *(
            Start(f"imbalance {sign * size:g}, same product", factors_with_imbalance(weight, 2, sign * size))
            for size in IMBALANCES
        ),
        Start("balanced, short of W*", balanced_factors(_close(target), 2)),
        Start("balanced, beyond W*", balanced_factors(2 * target - _close(target), 2)),
    ]


def _by_depth(target: Tensor, seed: int) -> list[Start]:
    weight = product(_near_zero(target, 2, SMALL, seed))
    sign = _useful_sign(target)
    found = []
    for depth in (2, 3, 4):
        found.append(Start(f"depth {depth}, balanced, short of W*", balanced_factors(_close(target), depth)))
        small = factors_with_imbalance(weight, depth, sign)
        found.append(Start(f"depth {depth}, imbalance {sign:g}, product near zero", small))
    return found


def _by_scale(target: Tensor, seed: int) -> list[Start]:
    return [
        Start(f"depth {depth}, scale {scale:g}", _near_zero(target, depth, scale, seed))
        for depth in (2, 3)
        for scale in SCALES
    ]


def _near_zero(target: Tensor, depth: int, scale: float, seed: int) -> list[Tensor]:
    """Near-zero factors whose product has, where it is square, a determinant of the target's sign.

    Balanced factors keep that sign: with the other one their flow ends on a saddle.
    """
    factors = _drawn((target.shape[0], target.shape[1]), "near_zero", depth, None, scale, seed)
    if cannot_arrive(product(factors), target):
        factors[-1][0].neg_()
    return factors


def cannot_arrive(weight: Tensor, target: Tensor) -> bool:
    """Whether both are square with determinants of opposite sign: no flow of balanced factors joins them."""
    if weight.shape[0] != weight.shape[1]:
        return False
    return bool(torch.linalg.slogdet(weight).sign * torch.linalg.slogdet(target).sign < 0)


def _close(target: Tensor) -> Tensor:
    """A weight on the way to the target, near enough that the margin is half its smallest singular value."""
    singular = torch.linalg.svdvals(target)
    size = torch.linalg.vector_norm(singular)
    away = (CLOSE * singular[-1] / size).clamp(min=1e-3)
    found: Tensor = (1 - away) * target
    return found


def _useful_sign(target: Tensor) -> float:
    """The side on which the larger layers have to be to help: the narrow one."""
    return 1.0 if target.shape[0] <= target.shape[1] else -1.0


PRESETS: dict[str, Preset] = {
    "imbalance": Preset(
        "Depth 2. Five starts have the same, tiny end-to-end weight: near zero, balanced, and with a growing "
        "imbalance, which the flow keeps and which sets the certified rate. Two balanced ones are close enough to the "
        "minimizer for a margin, which sets it there; beyond the minimizer the flow is slower than the frozen "
        "prediction.",
        _by_imbalance,
    ),
    "depth": Preset(
        "Depths 2, 3 and 4, each balanced and close to the minimizer, and from a tiny product with an imbalance of 1 "
        "between neighbours: the certified rate grows like (N-1)! with these.",
        _by_depth,
    ),
    "near_zero": Preset(
        "The plateau of near-zero starts: it grows with log(1/scale) at depth 2 and with 1/scale at depth 3. Almost "
        "nothing is certified there, and the frozen prediction is far off.",
        _by_scale,
    ),
}
"""What ``overdepth rates --preset`` can show, by name."""
