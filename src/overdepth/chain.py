"""Chains of factors: the product, its imbalance, and the balanced split of a weight.

A chain is a list of matrices in the order in which they act on the input: ``factors[0]`` is W_1 of shape
(n_1, n_0), ``factors[-1]`` is W_N of shape (n_N, n_{N-1}); the end-to-end weight is W_e = W_N ... W_1.
Leading dimensions are batch dimensions throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from overdepth._checks import check_depth, check_factors, check_matrix, check_size, shape, working_dtype


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
    widths = [factors[0].shape[-1], *(f.shape[-2] for f in factors)]
    # Growing from the input costs n_0 * n_{j-1} * n_j a factor, from the output n_N * n_{j-1} * n_j.
    if widths[0] <= widths[-1]:
        result = factors[0]
        for factor in factors[1:]:
            result = factor @ result
    else:
        result = factors[-1]
        for factor in reversed(factors[:-1]):
            result = result @ factor
    return result


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
    return [f.to(weight.dtype) for f in split(weight, depth, width)]


def split(weight: Tensor, depth: int, width: int | None) -> list[Tensor]:
    """The factors of :func:`balanced_factors` before they are rounded: float64, never the weight's own memory."""
    check_matrix(weight, "weight")
    check_depth(depth)
    small = min(weight.shape[-2:])
    width = check_width(width, default=small)
    if not torch.isfinite(weight).all():
        raise ValueError(f"weight of shape {shape(weight)} has non-finite entries; it cannot be split into factors.")
    if depth == 1:
        return [weight.to(torch.float64, copy=True)]
    u, s, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    if width < small:
        rank = int((s > max(weight.shape[-2:]) * torch.finfo(weight.dtype).eps * s[..., :1]).sum(-1).max())
        if rank > width:
            raise ValueError(
                f"width is {width}, below the rank {rank} of the weight of shape {shape(weight)}: "
                f"no product of that width equals it; use width >= {rank}."
            )
        u, s, vh = u[..., :width], s[..., :width], vh[..., :width, :]
    root = s ** (1.0 / depth)
    pad = width - root.shape[-1]
    root_u = torch.nn.functional.pad(u * root[..., None, :], (0, pad))
    root_vh = torch.nn.functional.pad(root[..., :, None] * vh, (0, 0, 0, pad))
    middle = torch.diag_embed(torch.nn.functional.pad(root, (0, pad)))
    return [root_vh, *(middle.clone() for _ in range(depth - 2)), root_u]


def check_width(width: object, *, default: int, qualified_name: str = "width") -> int:
    """Returns the hidden width, or ``default`` for None.

    Raises:
        ValueError: If it is not an integer >= 1.
    """
    if width is None:
        return default
    return check_size(width, qualified_name, remedy=", or None for min(out, in)")
