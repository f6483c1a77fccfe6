"""The numbers of a chain: imbalance, singular values of the product, learning-rate multipliers.

Everything in float64. Both ends of a chain are reduced by QR decompositions first, so that a head of width 64 costs as
little in a model of width 4096 as in one of width 64: beside the row space of W_1 and the column space of W_N the
eigenvalues of the transfer operator are those of one term, or zero.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overdepth._checks import with_float64
from overdepth.chain import multiply
from overdepth.inspection.levels import Levels
from overdepth.rule import default_rank_rtol, end_to_end_spectrum, without_noise
from overdepth.transfer import transfer_operator

BALANCED = 1e-6  # relative imbalance up to which large deep products have the multipliers of balanced ones
DENSE, ITERATED = 1024, 2**14  # entries of the reduced product up to which a spectrum, and its ends, are computed


@dataclass(frozen=True)
class Multipliers:
    """By how much a product multiplies a learning rate, over all directions of the end-to-end weight.

    Attributes:
        smallest: The smallest eigenvalue.
        mean: Their mean.
        largest: The largest.
        frozen: The fraction of directions with the eigenvalue zero, which a gradient step does not move at first order.
        curve: The eigenvalues at evenly spaced places of the falling order; empty where only the ends are known.
        is_exact: Whether the ends are the eigenvalues, to rounding, and not bounds that are certain to enclose them.
    """

    smallest: float
    mean: float
    largest: float
    frozen: float
    curve: tuple[float, ...]
    is_exact: bool = True

    @classmethod
    def of(cls, levels: Levels) -> Multipliers:
        """Of a whole spectrum."""
        return cls(levels.smallest, levels.mean, levels.largest, levels.zeros, levels.curve())


@dataclass(frozen=True)
class Measures:
    """What a chain's numbers are; see :class:`overdepth.inspection.Product` for their meaning."""

    imbalance: tuple[float, ...]
    relative_imbalance: float
    norm: float
    rank: int
    largest_rank: int
    condition: float
    multipliers: Multipliers
    balanced_multipliers: Multipliers


def measure(factors: Sequence[Tensor], scale: float) -> Measures:
    """The numbers of ``scale`` times the product of factors that chain, given in the order in which they act."""
    sizes = factors[-1].shape[0], factors[0].shape[1]
    rtol = default_rank_rtol(torch.empty(sizes, dtype=factors[0].dtype, device="meta"))
    wide = [with_float64(f).double() for f in factors]
    mean = transfer_operator(wide).mean_eigenvalue()  # refuses what overflows
    norms, relative = imbalance_norms(wide)
    reduced, rows, columns = _reduced(wide)
    core = multiply(reduced)
    singular = without_noise(torch.linalg.svdvals(core), rtol)
    largest_rank = min(min(f.shape) for f in wide)
    rank = int((singular > 0).sum())
    padded = torch.nn.functional.pad(core, (0, min(columns, 1), 0, min(rows, 1)))
    eigenvalues = end_to_end_spectrum(padded, len(wide), rank_rtol=rtol)
    counts = _counts(core.shape[0], rows, core)[:, None] * _counts(core.shape[1], columns, core)
    balanced = Multipliers.of(Levels(eigenvalues.flatten(), counts.flatten()).scaled(scale**2))
    is_balanced = relative <= BALANCED and len(wide) > 2 and core.numel() > DENSE
    return Measures(
        imbalance=norms,
        relative_imbalance=relative,
        norm=abs(scale) * float(core.norm()),
        rank=rank,
        largest_rank=largest_rank,
        condition=_condition(singular, rank, largest_rank),
        multipliers=balanced if is_balanced else _multipliers(wide, reduced, rows, columns, mean, scale**2),
        balanced_multipliers=balanced,
    )


def imbalance_norms(factors: Sequence[Tensor]) -> tuple[tuple[float, ...], float]:
    """||D_j|| of each pair, and the largest over the root of its two Gram matrices' summed squared norms."""
    norms, relative = [], [0.0]
    for lower, upper in itertools.pairwise(factors):
        of_upper, of_lower = upper.mT @ upper, lower @ lower.mT
        norms.append(float((of_upper - of_lower).norm()))
        size = math.hypot(float(of_upper.norm()), float(of_lower.norm()))
        relative.append(norms[-1] / size if size != 0 else 0.0)
    return tuple(norms), max(relative)


def _reduced(factors: Sequence[Tensor]) -> tuple[list[Tensor], int, int]:
    """The chain without the output and input directions that W_N and W_1 do not see, and how many these are."""
    reduced, rows, columns = list(factors), 0, 0
    if len(factors) == 1:
        return reduced, rows, columns
    if factors[0].shape[1] > factors[0].shape[0]:
        columns = factors[0].shape[1] - factors[0].shape[0]
        reduced[0] = torch.linalg.qr(factors[0].mT, mode="r").R.mT
    if factors[-1].shape[0] > factors[-1].shape[1]:
        rows = factors[-1].shape[0] - factors[-1].shape[1]
        reduced[-1] = torch.linalg.qr(factors[-1], mode="r").R
    return reduced, rows, columns


def _counts(kept: int, others: int, like: Tensor) -> Tensor:
    """How often each direction of a padded core stands for itself."""
    ones = like.new_ones(kept)
    return torch.cat([ones, like.new_tensor([float(others)])]) if others else ones


def _condition(singular: Tensor, rank: int, largest_rank: int) -> float:
    """The largest over the smallest singular value of those that the shapes allow; infinite below full rank."""
    if rank == 0:
        return math.nan
    values = singular.sort(descending=True).values
    return float(values[0] / values[largest_rank - 1]) if rank == largest_rank else math.inf


def _multipliers(
    factors: Sequence[Tensor], reduced: Sequence[Tensor], rows: int, columns: int, mean: float, square: float
) -> Multipliers:
    """Of the chain as it stands: exact up to depth 2 and for small products, else bounds."""
    if len(factors) == 1:
        return Multipliers.of(Levels.of(factors[0].new_ones(1)))
    above, below = multiply(factors[1:]), multiply(factors[:-1])
    on_outputs, on_inputs = _gram_levels(above), _gram_levels(below.mT)  # of A_1 and B_N
    if len(factors) == 2:
        exact = Multipliers.of(on_outputs.plus(on_inputs).scaled(square))
        ends = on_outputs.smallest + on_inputs.smallest, on_outputs.largest + on_inputs.largest
        return Multipliers(square * ends[0], square * mean, square * ends[1], exact.frozen, exact.curve)
    operator = transfer_operator(reduced)
    size = math.prod(operator.shape)
    beside = _beside(on_outputs, _gram_levels(multiply(reduced[:-1]).mT), rows, columns)
    if size <= DENSE:
        levels = Levels.of(_without_rounding(operator.spectrum()))
        levels = levels if beside is None else levels.with_others(beside)
        return Multipliers.of(levels.scaled(square))
    ends = operator.eigenvalue_bounds()
    if size <= ITERATED:
        ends = operator.extreme_eigenvalue("smallest").value, operator.extreme_eigenvalue("largest").value
    others = [] if beside is None else [beside.smallest, beside.largest]
    directions = factors[-1].shape[0] * factors[0].shape[1]
    frozen = 0.0 if beside is None else float(beside.counts[beside.values == 0].sum()) / directions
    low, high = min([ends[0], *others]), max([ends[1], *others])
    return Multipliers(square * low, square * mean, square * high, frozen, (), is_exact=size <= ITERATED)


def _gram_levels(matrix: Tensor) -> Levels:
    """The spectrum of M M^T, through the smaller side; what rounding leaves below 0 is 0."""
    small = matrix @ matrix.mT if matrix.shape[0] <= matrix.shape[1] else matrix.mT @ matrix
    values = _without_rounding(torch.linalg.eigvalsh(small))
    return Levels.of(values, zeros=matrix.shape[0] - len(values))


def _without_rounding(eigenvalues: Tensor) -> Tensor:
    """Eigenvalues of a positive semidefinite matrix with those that rounding explains set to zero."""
    noise = len(eigenvalues) * torch.finfo(torch.float64).eps * eigenvalues.abs().max()
    return torch.where(eigenvalues > noise, eigenvalues, 0.0)


def _beside(on_outputs: Levels, on_inputs: Levels, rows: int, columns: int) -> Levels | None:
    """The eigenvalues in directions that W_1 or W_N does not see: there one term is left, or none."""
    parts = []
    if columns:
        parts.append(Levels(on_outputs.values, on_outputs.counts * columns))
    if rows:
        parts.append(Levels(on_inputs.values, on_inputs.counts * rows))
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else parts[0].with_others(parts[1])
