r"""Rates of chains of numbers, and of the chains of matrices that fall apart into such.

A chain w_N ... w_1 of numbers has the transfer operator T = sum_j w^2 / w_j^2. Its flow keeps the differences of the
w_j^2, so that w_j^2 = x + c_j with offsets c_j >= 0 (the smallest is 0) and one unknown x >= 0, w^2 = p(x) and
T = p'(x) with p(x) = prod_j (x + c_j). Both increase with x: while |w| stays above a margin, T stays above p'(x*) with
p(x*) = margin^2. The same holds for the modes of matrices whose imbalances are multiples of the identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overdepth._checks import wide_factors
from overdepth.chain import imbalance, product
from overdepth.theory.arguments import check_margin

_NEWTON = 200
_LOG_TINY = -700.0  # e to this is still a normal number
_ROUNDING = 1e-14  # of the squared norms of two neighbours: what their imbalance may be off
_HOMOGENEOUS = 1e-12  # the same, times the width: what may be rounding in an imbalance


def scalar_rate(weights: Tensor, margin: Tensor | float | None = None) -> Tensor:
    """The smallest transfer operator that a chain of numbers can have while its product stays above a margin; exact.

    Args:
        weights: The numbers of each chain, shape (..., N), in any order; leading dimensions are a batch.
        margin: A lower bound of ``|product|`` for all time, >= 0, of a shape that broadcasts with the batch; the
            current product by default, for which the result is the current T itself.

    Returns:
        alpha*, shape (...), float64: ``gap(t) <= exp(-alpha* pl t) gap(0)`` while the margin holds.

    Raises:
        ValueError: If a number is not finite, there is none, or a margin is negative.

    Example:
        >>> import torch
        >>> from overdepth.theory import scalar_rate
        >>> scalar_rate(torch.tensor([3.0, 1.0]), margin=2.0)  # sqrt((9 - 1)^2 + 4 * 2^2)
        tensor(8.9443, dtype=torch.float64)

    References:
        Min, Vidal & Mallada, ICML 2023, for deep scalar networks; the exact value is the root of their polynomial.
    """
    numbers = _numbers(weights)
    offsets, least = _offsets(numbers), check_margin(margin, numbers.prod(-1).abs())
    return slope(offsets, least)


def scalar_rate_bound(weights: Tensor, margin: Tensor | float | None = None) -> Tensor:
    """A closed lower bound of :func:`scalar_rate`: sqrt((prod of the cumulative imbalances)^2 + (N margin^{2-2/N})^2).

    The cumulative imbalances are w_j^2 - min_i w_i^2 for all j but the smallest. Arguments, result and errors as
    :func:`scalar_rate`; exact for two numbers and for balanced ones, arbitrarily loose otherwise.

    References:
        Min, Vidal & Mallada, ICML 2023, with the exponent on the margin alone.
    """
    numbers = _numbers(weights)
    offsets, least = _offsets(numbers), check_margin(margin, numbers.prod(-1).abs())
    depth = numbers.shape[-1]
    cumulative = offsets.sort(-1).values[..., 1:].prod(-1)
    return torch.hypot(cumulative, depth * least ** (2 - 2 / depth))


def homogeneous_rate(factors: Sequence[Tensor], margin: float | None = None) -> float:
    """A lower bound of the transfer operator's spectrum where every imbalance is a multiple of the identity.

    The singular modes then are chains of numbers. Exact where W_e is square; elsewhere only one term of p' survives
    (there is no factor N).

    Args:
        factors: W_1, ..., W_N.
        margin: A lower bound of sigma_min(W_e), the min(k, d)-th singular value, for all time; the current one by
            default.

    Raises:
        ValueError: If an imbalance is no multiple of the identity but for rounding, or a hidden width is below
            min(k, d).

    Example:
        >>> import torch
        >>> from overdepth.theory import homogeneous_rate
        >>> round(homogeneous_rate([2 * torch.eye(2), torch.eye(2)]), 9)  # sqrt((4 - 1)^2 + 4 * 2^2)
        5.0

    References:
        Min, Vidal & Mallada, ICML 2023, for homogeneous imbalance; the factor N needs k = d.
    """
    wide = wide_factors(factors)
    offsets = homogeneous_offsets(wide)
    current = torch.linalg.svdvals(product(wide))[-1]
    return float(homogeneous_slope(offsets, check_margin(margin, current), wide))


def homogeneous_offsets(factors: Sequence[Tensor]) -> Tensor:
    """The offsets c_N, ..., c_1 of a homogeneous chain, the output's first, less what rounding may have added.

    What is taken for rounding is measured by the two factors that an imbalance lies between: beside a large factor
    elsewhere in the chain everything would look like it.

    Raises:
        ValueError: If it is not homogeneous.
    """
    smaller = min(factors[-1].shape[0], factors[0].shape[1])
    squares = [float(f.square().sum()) for f in factors]
    differences, noises = [], []
    for j, matrix in enumerate(imbalance(factors), 1):
        if len(matrix) < smaller:
            raise ValueError(
                f"the hidden width {len(matrix)} between factors {j - 1} and {j} is below min(k, d) = {smaller}; the "
                f"homogeneous rate needs chains that do not lower the rank."
            )
        multiple = matrix.diagonal().mean()
        rest = torch.linalg.matrix_norm(matrix - multiple * torch.eye(len(matrix), dtype=matrix.dtype))
        size = len(matrix) * (squares[j - 1] + squares[j])
        if float(rest) > _HOMOGENEOUS * size:
            raise ValueError(
                f"the imbalance between factors {j - 1} and {j} is no multiple of the identity (it differs by "
                f"{float(rest):.2g}); use three_layer_rate, chain_rate or certify."
            )
        differences.append(multiple)
        noises.append(rest + _ROUNDING * size)
    if not differences:
        return torch.zeros(1, dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64, device=differences[0].device)
    offsets = torch.cat([zero, torch.stack(differences).cumsum(0)]).flip(0)  # w_l^2 up to a constant, output first
    noise = torch.cat([zero, torch.stack(noises).cumsum(0)]).flip(0)
    least = int(offsets.argmin())
    return (offsets - offsets[least] - (noise - noise[least]).abs()).clamp_min(0.0)


def homogeneous_slope(offsets: Tensor, margin: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """The bound for margins of any shape; see :func:`homogeneous_rate`."""
    k, d = factors[-1].shape[0], factors[0].shape[1]
    if k == d:
        return slope(offsets, margin)
    shifted = root(offsets, margin)[..., None] + offsets
    return shifted[..., :-1].prod(-1) if k < d else shifted[..., 1:].prod(-1)


def slope(offsets: Tensor, margin: Tensor) -> Tensor:
    """p'(x*) with p(x*) = margin^2, without a division."""
    shifted = root(offsets, margin)[..., None] + offsets
    ones = torch.ones_like(shifted[..., :1])
    before = torch.cat([ones, shifted[..., :-1]], -1).cumprod(-1)
    after = torch.cat([ones, shifted[..., 1:].flip(-1)], -1).cumprod(-1).flip(-1)
    return (before * after).sum(-1)


def root(offsets: Tensor, margin: Tensor) -> Tensor:
    """x* >= 0 with prod_j (x* + c_j) = margin^2, by Newton's method in y = log x on sum_j log(e^y + c_j).

    The function is convex and increasing in y and starts at or above its root, so that the iterates fall to it.
    """
    offsets = offsets + torch.zeros_like(margin)[..., None]
    margin = margin.expand(offsets.shape[:-1])
    goal = 2 * margin.clamp_min(torch.finfo(torch.float64).tiny).log()
    y = goal / offsets.shape[-1]
    for _ in range(_NEWTON):
        x = y.exp()[..., None]
        terms = x + offsets
        step = (terms.log().sum(-1) - goal) / (x / terms).sum(-1)
        y = (y - step).clamp_min(_LOG_TINY)
        if bool((step.abs() <= 1e-15 * (1 + y.abs())).all()):
            break
    return torch.where(margin > 0, y.exp(), 0.0)


def _numbers(weights: Tensor) -> Tensor:
    numbers = weights.detach().double()
    if numbers.ndim == 0 or numbers.shape[-1] == 0:
        raise ValueError(f"weights has shape {tuple(weights.shape)}, expected (..., N) with N >= 1.")
    if not bool(numbers.isfinite().all()):
        raise ValueError(f"weights of shape {tuple(weights.shape)} has non-finite entries.")
    return numbers


def _offsets(numbers: Tensor) -> Tensor:
    absolute = numbers.abs()
    least = absolute.amin(-1, keepdim=True)
    return (absolute - least) * (absolute + least)  # the difference of the squares, without its cancellation
