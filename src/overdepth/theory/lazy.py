r"""The lazy certificate: where the start's transfer operator is large beside the gap, the layers hardly move.

If for some theta in (0, 1], with alpha = theta lambda_min(T(0)) and R = 2 sqrt(gap / (alpha pl)),

    sqrt(lambda_min(T(0))) - sqrt(sum_j e_j^2) >= sqrt(alpha),
    e_j = prod_{i != j} (||W_i||_2 + R) - prod_{i != j} ||W_i||_2,

then lambda_min(T(t)) >= alpha for all time and all factors together stay within R of their start: the path is no longer
than R since sqrt(gap) falls at least at sqrt(alpha pl) / 2 times its speed, and within R the smallest singular value of
the Jacobian changes by sqrt(sum_j e_j^2) at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from overdepth._checks import check_nonnegative, check_positive, wide_factors
from overdepth.transfer import DENSE_LIMIT, TransferOperator, transfer_operator

_GRID = 4000
_SMALLEST = 1e-8


class LazyRate(NamedTuple):
    """A lazy certificate; all are 0 where nothing is certified.

    Attributes:
        alpha: The bound of lambda_min(T(t)).
        theta: Its part of lambda_min(T(0)).
        radius: How far all factors together move at most, in the Frobenius norm.
    """

    alpha: float
    theta: float
    radius: float


def lazy_rate(factors: Sequence[Tensor], *, gap: float, pl: float) -> LazyRate:
    """The largest rate that the start certifies for any depth, sizes and imbalances.

    Args:
        factors: W_1, ..., W_N.
        gap: f(W(0)) - f*, >= 0.
        pl: gamma > 0 with ||grad f||_F^2 >= gamma (f - f*); twice the strong convexity.

    Raises:
        ValueError: If an argument is out of its range, the factors do not chain, or they are not finite.

    Example:
        >>> import torch
        >>> from overdepth.theory import lazy_rate
        >>> rate = lazy_rate([torch.eye(2)] * 3, gap=1e-3, pl=2.0)
        >>> round(rate.alpha, 2), round(rate.radius, 3)
        (2.68, 0.027)
    """
    wide = wide_factors(factors)
    check_nonnegative(gap, "gap")
    check_positive(pl, "pl")
    minimum = certified_minimum(transfer_operator(wide))
    return lazy_certificate(spectral_norms(wide), minimum, gap=gap, pl=pl, reach=2.0)


def spectral_norms(factors: Sequence[Tensor]) -> Tensor:
    """||W_1||_2, ..., ||W_N||_2, through the smaller Gram matrices."""
    grams = (f @ f.mT if f.shape[0] <= f.shape[1] else f.mT @ f for f in factors)
    return torch.stack([torch.linalg.eigvalsh(gram)[-1] for gram in grams]).sqrt()


def frozen_rate(factors: Sequence[Tensor]) -> float:
    """lambda_min(T) at the start: the rate of the frozen (NTK) prediction, exp(-rate pl t). **No bound**: T moves.

    Raises:
        ValueError: If the factors do not chain or are not finite.

    Example:
        >>> import torch
        >>> from overdepth.theory import frozen_rate
        >>> frozen_rate([2 * torch.eye(2), torch.eye(2)])
        5.0
    """
    return transfer_operator(factors).min_eigenvalue()


def certified_minimum(operator: TransferOperator) -> float:
    """A proved lower bound of lambda_min(T): the eigenvalue itself less its rounding where it is computed exactly."""
    lower, upper = operator.eigenvalue_bounds()
    if operator.depth <= 2 or operator.shape[0] * operator.shape[1] > DENSE_LIMIT:
        return lower
    return max(operator.min_eigenvalue() - 1e-12 * upper, lower, 0.0)


def lazy_certificate(norms: Tensor, minimum: float, *, gap: float, pl: float, reach: float) -> LazyRate:
    """The certificate for paths of at most ``reach * sqrt(gap / (alpha pl))``, 2 for the flow, from spectral norms."""
    if minimum <= 0:
        return LazyRate(0.0, 0.0, 0.0)
    ones = torch.ones_like(norms)

    def feasible(theta: Tensor) -> Tensor:
        radius = reach * (gap / (theta * minimum * pl)).sqrt()
        moved = torch.zeros_like(theta)
        for j in range(len(norms)):
            others = torch.where(torch.arange(len(norms)) == j, ones, norms)
            grown = torch.where(torch.arange(len(norms)) == j, ones, norms + radius[:, None])
            moved += (grown.prod(-1) - others.prod(-1)).square()
        return math.sqrt(minimum) - moved.sqrt() >= (theta * minimum).sqrt()

    grid = torch.logspace(math.log10(_SMALLEST), 0, _GRID, dtype=torch.float64)
    good = feasible(grid).nonzero()
    if len(good) == 0:
        return LazyRate(0.0, 0.0, 0.0)
    last = int(good[-1])
    low, high = float(grid[last]), float(grid[min(last + 1, _GRID - 1)])
    for _ in range(60):
        middle = (low + high) / 2
        if bool(feasible(torch.tensor([middle], dtype=torch.float64))):
            low = middle
        else:
            high = middle
    alpha = low * minimum
    return LazyRate(alpha, low, reach * math.sqrt(gap / (alpha * pl)))
