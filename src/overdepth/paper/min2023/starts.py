"""Random starts of gradient flow for each family of factors that a rate is proved for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from overdepth.chain import product
from overdepth.initialization import Init, initial_factors
from overdepth.paper.rates import Objective, drawn_target, towards
from overdepth.theory.balancing import factors_with_imbalance
from overdepth.theory.losses import least_squares

IMBALANCED = "imbalanced"
SCALES = {
    "near_zero": (0.2, 1.0),
    "near_identity": (0.03, 0.3),
    "orthogonal": (0.5, 1.5),
    "balanced": (0.1, 2.0),
    IMBALANCED: (0.03, 2.0),
}
"""How the factors are initialized, and the range of their scale, drawn evenly in the logarithm."""

_MOST_IMBALANCE = 2.0
_PERTURBATION = 0.1
_CONDITION, _SIZE = 30.0, 0.05  # W_e(0) that is worse, or smaller, has no target nearby: it would only be stiff
_NEAR = (0.05, 0.45)  # distance of a target nearby, over the smallest singular value of W_e(0)
_SPREAD = 0.2  # decades by which the scales of the features differ, either way


@dataclass(frozen=True)
class Family:
    """Factors that one of the statements is about.

    Attributes:
        name: In the data and on the page.
        bound: The name of its bound in :class:`overdepth.theory.Certificate`.
        depths: To draw from.
        shapes: Of W_e, (k, d), to draw from.
        wide: Whether hidden widths above min(k, d) are drawn too.
        inits: Of ``SCALES``.
        homogeneous: Whether every imbalance must stay a multiple of the identity.
    """

    name: str
    bound: str
    depths: tuple[int, ...]
    shapes: tuple[tuple[int, int], ...]
    wide: bool
    inits: tuple[str, ...] = tuple(SCALES)
    homogeneous: bool = False


# The bound of three layers comes from the imbalances alone: for balanced and orthogonal factors it is always vacuous.
MATRICES = ((2, 2), (3, 3), (1, 3), (2, 4), (4, 2))
FAMILIES = (
    Family("scalar", "scalar chain", (2, 3, 4, 5), ((1, 1),), wide=False),
    Family("two-layer", "two layers", (2,), MATRICES, wide=True),
    Family("three-layer", "three layers", (3,), MATRICES, wide=True, inits=("near_zero", "near_identity", IMBALANCED)),
    Family(
        "homogeneous",
        "homogeneous",
        (3, 4),
        ((2, 2), (3, 3), (2, 3), (3, 2)),
        wide=False,
        inits=("orthogonal", "balanced", IMBALANCED),
        homogeneous=True,
    ),
)


@dataclass(frozen=True)
class Drawn:
    """A start with its loss.

    Attributes:
        factors: W_1, ..., W_N.
        objective: Half the squared distance to W*, or least squares on drawn data.
        init: Of ``SCALES``.
        scale: Of the initialization.
        near: Whether W* was drawn close to the initial W_e, so that there can be a margin.
        data: Whether the loss is least squares on data that are not whitened.
    """

    factors: list[Tensor]
    objective: Objective
    init: str
    scale: float
    near: bool
    data: bool


def drawn(family: Family, number: int, seed: int) -> Drawn:
    """Start ``number`` of a family: the initializations take turns, all else is random."""
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(FAMILIES.index(family), number)))
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    init = family.inits[number % len(family.inits)]
    shape = family.shapes[rng.integers(len(family.shapes))]
    depth = int(rng.choice(family.depths))
    width = int(rng.integers(min(shape), 2 * max(shape) + 1)) if family.wide else min(shape)
    low, high = SCALES[init]
    scale = float(math.exp(rng.uniform(math.log(low), math.log(high))))

    def normal(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    word: Init = "near_zero" if init == IMBALANCED else init  # type: ignore[assignment]
    factors = initial_factors(
        *shape, depth, width=width, init=word, scale=scale, generator=generator, dtype=torch.float64
    )
    if init == IMBALANCED:
        imbalances = rng.uniform(-_MOST_IMBALANCE, _MOST_IMBALANCE, depth - 1)
        factors = factors_with_imbalance(product(factors), depth, imbalances.tolist(), width)
        if not family.homogeneous and rng.random() < 0.5:
            factors = [factor + _PERTURBATION * normal(*factor.shape) for factor in factors]
    if family.homogeneous:
        factors = _rotated(factors, [torch.linalg.qr(normal(width, width)).Q for _ in factors[1:]])
    with_data, wants_near = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    features = normal(4 * shape[1] + 4, shape[1]) * torch.from_numpy(10 ** rng.uniform(-_SPREAD, _SPREAD, shape[1]))
    covariance = torch.linalg.eigvalsh(features.mT @ features)
    distance = float(rng.uniform(*_NEAR)) * (float((covariance[0] / covariance[-1]).sqrt()) if with_data else 1.0)
    weight = product(factors)
    singular = torch.linalg.svdvals(weight)
    near = wants_near and _SIZE < float(singular[-1]) and float(singular[0]) < _CONDITION * float(singular[-1])
    if near:
        away = normal(*shape)
        target, origin = weight + distance * singular[-1] / away.norm() * away, "drawn near the initial weight"
    else:
        target, origin = drawn_target(*shape, int(rng.integers(2**62))), "drawn with singular values evenly from 2 to 1"
    if not with_data:
        return Drawn(factors, towards(target, origin), init, scale, near, with_data)
    loss = least_squares(features, features @ target.mT)
    words = "f(W) = ‖Y − X Wᵀ‖² / 2m, X drawn, not whitened"
    return Drawn(factors, Objective(loss, loss.strong_convexity, words, origin), init, scale, near, with_data)


def _rotated(factors: Sequence[Tensor], rotations: Sequence[Tensor]) -> list[Tensor]:
    """The same product and imbalances up to the choice of a basis in every hidden layer."""
    found = list(factors)
    for j, rotation in enumerate(rotations):
        found[j], found[j + 1] = rotation @ found[j], found[j + 1] @ rotation.mT
    return found
