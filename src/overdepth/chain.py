"""Chains of factors: the product, its imbalance, and the balanced split of a weight.

A chain is a list of matrices in the order in which they act on the input: ``factors[0]`` is W_1 of shape
(n_1, n_0), ``factors[-1]`` is W_N of shape (n_N, n_{N-1}); the end-to-end weight is W_e = W_N ... W_1.
Leading dimensions are batch dimensions throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from overdepth._checks import (
    all_finite,
    check_depth,
    check_factors,
    check_matrix,
    check_size,
    rounding,
    shape,
    working_dtype,
)


def product(factors: Sequence[Tensor]) -> Tensor:
    """The end-to-end weight W_e = W_N ... W_1.

    The multiplication starts at the side where it is cheaper; the result is differentiable.

    Args:
        factors: W_1, ..., W_N in the order in which they act on the input, shapes (..., n_j, n_{j-1}).

    Returns:
        W_e, shape (..., n_N, n_0).

    Raises:
        ValueError: If the list is empty or two neighbouring shapes do not chain.

    Example:
        >>> import torch, overdepth as od
        >>> od.product([torch.ones(3, 2), torch.ones(1, 3)])
        tensor([[3., 3.]])
    """
    check_factors(factors)
    return multiply(factors)


def multiply(factors: Sequence[Tensor], matmul: Callable[[Tensor, Tensor], Tensor] = torch.matmul) -> Tensor:
    """:func:`product` of factors that are known to chain, by a matrix product of choice."""
    widths = [factors[0].shape[-1], *(f.shape[-2] for f in factors)]
    # Growing from the input costs n_0 * n_{j-1} * n_j a factor, from the output n_N * n_{j-1} * n_j.
    if widths[0] <= widths[-1]:
        result = factors[0]
        for factor in factors[1:]:
            result = matmul(factor, result)
    else:
        result = factors[-1]
        for factor in reversed(factors[:-1]):
            result = matmul(result, factor)
    return result


def factor_gradients(
    factors: Sequence[Tensor], grad: Tensor, matmul: Callable[[Tensor, Tensor], Tensor] = torch.matmul
) -> list[Tensor]:
    """(W_N ... W_{j+1})^T G (W_{j-1} ... W_1)^T for every factor of a chain that is known to fit its gradient G.

    For N >= 2 these are 3 N - 4 products, the fewest there are.
    """
    below = [factors[0]]  # W_j ... W_1 for j = 1 .. N - 1
    for factor in factors[1:-1]:
        below.append(matmul(factor, below[-1]))
    above, found = grad, []
    for j in range(len(factors) - 1, 0, -1):
        found.append(matmul(above, below[j - 1].mT))
        above = matmul(factors[j].mT, above)
    return [above, *found[::-1]]


def imbalance(factors: Sequence[Tensor]) -> list[Tensor]:
    """The imbalance D_j = W_{j+1}^T W_{j+1} - W_j W_j^T of every pair of neighbours.

    Gradient flow keeps every D_j constant; D_j = 0 for all j is the assumption (balancedness) under which the
    end-to-end rule is exact.

    Args:
        factors: W_1, ..., W_N, shapes (..., n_j, n_{j-1}).

    Returns:
        N - 1 symmetric matrices D_1, ..., D_{N-1}; D_j has shape (..., n_j, n_j).

    Raises:
        ValueError: If the list is empty or two neighbouring shapes do not chain.

    Example:
        >>> import torch, overdepth as od
        >>> od.imbalance([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])])
        [tensor([[4.]])]

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Equation 7.
    """
    check_factors(factors)
    dtype = factors[0].dtype
    wide = [f.to(working_dtype(dtype)) for f in factors]
    return [(upper.mT @ upper - lower @ lower.mT).to(dtype) for lower, upper in itertools.pairwise(wide)]


def balanced_factors(weight: Tensor, depth: int, width: int | None = None) -> list[Tensor]:
    """Splits a weight into balanced factors: the product is the weight, the imbalance zero.

    With the thin singular value decomposition W = U S V^T, W_1 = [S^{1/N} V^T; 0], the factors between are
    diag(S^{1/N}, 0) and W_N = [U S^{1/N}, 0]: all factors share the singular values' N-th roots.

    Args:
        weight: W_e, shape (..., k, d). bfloat16 and float16 are rounded once, at the end.
        depth: Number of factors N, an integer >= 1.
        width: Hidden width n_1 = ... = n_{N-1}. Default: min(k, d), which loses no expressiveness.

    Returns:
        N factors in the order in which they act on the input, in the weight's dtype; depth 1 gives a copy of it.

    Raises:
        ValueError: If the weight is no matrix or not finite, depth or width is no integer >= 1, or the width is
            below the rank of the weight, so that no product of that width equals it.

    Example:
        >>> import torch, overdepth as od
        >>> factors = od.balanced_factors(torch.tensor([[3.0, 4.0]]), depth=2)
        >>> [tuple(f.shape) for f in factors]
        [(1, 2), (1, 1)]
        >>> torch.allclose(od.product(factors), torch.tensor([[3.0, 4.0]]))
        True

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Section 5 and Appendix A.1.
    """
    return split(weight, depth, width, dtype=weight.dtype)


def split(
    weight: Tensor, depth: int, width: int | None, *, dtype: torch.dtype = torch.float64, truncate: bool = False
) -> list[Tensor]:
    """The factors of :func:`balanced_factors`, rounded once to ``dtype``; never the weight's own memory.

    ``truncate`` keeps the best approximation of rank ``width`` where the weight has a larger rank.
    """
    check_matrix(weight, "weight")
    check_depth(depth)
    small = min(weight.shape[-2:])
    width = check_width(width, default=small)
    if not all_finite(weight):
        raise ValueError(f"weight of shape {shape(weight)} has non-finite entries; it cannot be split into factors.")
    if depth == 1:
        return [weight.to(dtype, copy=True)]
    if weight.shape[-2] > weight.shape[-1]:
        return [f.mT.contiguous() for f in reversed(_split_wide(weight.mT, depth, width, dtype, truncate))]
    return [f.contiguous() for f in _split_wide(weight, depth, width, dtype, truncate)]


def _split_wide(weight: Tensor, depth: int, width: int, dtype: torch.dtype, truncate: bool) -> list[Tensor]:
    """The balanced split of a weight with k <= d."""
    u, s, rows = _left_singular(weight)
    small = s.shape[-1]
    if width < small:
        eps = rounding(weight.dtype)
        rank = int((s > weight.shape[-1] * eps * s[..., :1]).sum(-1).max())
        if rank > width and not truncate:
            raise ValueError(
                f"width is {width}, below the rank {rank} of the weight of shape {shape(weight)}: "
                f"no product of that width equals it; use width >= {rank}."
            )
        u, s = u[..., :width], s[..., :width]
    # What the decomposition's own rounding leaves in place of a zero would have a large root.
    s = torch.where(s > max(weight.shape[-2:]) * torch.finfo(torch.float64).eps * s[..., :1], s, 0.0)
    root = s ** (1.0 / depth)
    pad = max(width - small, 0)
    # Rows s v^T of U^T W, scaled to s^{1/N} v^T; a null direction has no row.
    scale = torch.where(s > 0, root / torch.where(s > 0, s, 1.0), 0.0)
    rows_first = weight.stride(-1) >= weight.stride(-2)  # a transposed view: what is returned will be transposed too
    sizes = (weight.shape[-1], width) if rows_first else (width, weight.shape[-1])
    first = weight.new_zeros(*weight.shape[:-2], *sizes, dtype=dtype)
    first = first.mT if rows_first else first
    for columns in range(0, weight.shape[-1], _BLOCK):
        block = slice(columns, columns + _BLOCK)
        first[..., : s.shape[-1], block] = (scale[..., :, None] * rows(block)[..., : s.shape[-1], :]).to(dtype)
    middle = torch.diag_embed(torch.nn.functional.pad(root, (0, pad))).to(dtype)
    last = torch.nn.functional.pad(u * root[..., None, :], (0, pad)).to(dtype)
    return [first, *(middle.clone() for _ in range(depth - 2)), last]


_BLOCK = 1024  # columns that are in float64 at a time


def _left_singular(weight: Tensor) -> tuple[Tensor, Tensor, Callable[[slice], Tensor]]:
    """U (k, k) and the singular values of a weight with k <= d, falling, and columns of U^T W, in float64.

    For float32 and below, U comes from the Gram matrix in float64: ten times faster, and no less accurate after
    rounding, since U U^T W = W for any orthogonal U, and the singular values are the rows' norms of U^T W. Only
    singular values that are lost beside the largest in the weight's own type need the decomposition itself.
    """
    if weight.dtype != torch.float64:
        u, s, rows = _from_gram(weight)
        if bool((s[..., -1] > torch.finfo(torch.float32).eps * s[..., 0]).all()):
            return u, s, rows
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    scaled = s[..., :, None] * vh
    return u, s, lambda block: scaled[..., block]


def _from_gram(weight: Tensor) -> tuple[Tensor, Tensor, Callable[[slice], Tensor]]:
    smallest, largest = weight.aminmax(dim=-1)
    scale = torch.maximum(smallest.abs(), largest.abs()).amax(-1).double()[..., None, None]
    scale = torch.where(scale > 0, scale, 1.0)  # so that no square of what float32 holds under- or overflows

    def columns(block: slice) -> Tensor:
        return weight[..., block].double().div_(scale)  # of a copy, since float64 does not come here

    blocks = [slice(start, start + _BLOCK) for start in range(0, weight.shape[-1], _BLOCK)]
    gram = _total(c @ c.mT for c in map(columns, blocks))
    u = torch.linalg.eigh(gram).eigenvectors.flip(-1)
    s = _total((u.mT @ c).square_().sum(-1) for c in map(columns, blocks)).sqrt()
    s, order = s.sort(dim=-1, descending=True)  # rounding may have swapped neighbours
    u = u.gather(-1, order[..., None, :].expand_as(u))
    return u, s * scale[..., 0], lambda block: (u.mT @ columns(block)).mul_(scale)


def _total(terms: Iterable[Tensor]) -> Tensor:
    """Their sum, in the memory of the first: many small allocations between large ones would scatter the heap."""
    terms = iter(terms)
    total = next(terms)
    for term in terms:
        total += term
    return total


def check_width(width: object, *, default: int, qualified_name: str = "width") -> int:
    """Returns the hidden width, or ``default`` for None.

    Raises:
        ValueError: If it is not an integer >= 1.
    """
    if width is None:
        return default
    return check_size(width, qualified_name, remedy=", or None for min(out, in)")
