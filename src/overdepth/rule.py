"""The end-to-end rule: what gradient descent on N balanced factors does to their product (Theorem 1).

With W = U S V^T the rule multiplies the gradient's component along u_r v_{r'}^T by

    sum_{j=1}^N sigma_r^{2(N-j)/N} sigma_{r'}^{2(j-1)/N} = (a - b) / (a^{1/N} - b^{1/N})

with a = sigma_r^2 and b = sigma_{r'}^2 (Claim 1), where sigma is 0 beyond min(k, d) and 0^0 = 1. The right-hand side
makes sense for every real N >= 1; divided by N it tends to the logarithmic mean (a - b) / (log a - log b) as N grows,
which is what depth ``math.inf`` means here.

**Rank tolerance.** a -> a^{1/N} is only Hoelder continuous at 0: rounding noise of relative size 1e-11 in a null
singular value moves the result by 4e-5 at N = 5. Singular values up to ``rank_rtol`` times the largest are therefore
taken as zero. The default sits just above the noise that storing a float32 or float64 matrix leaves in its null
directions: 4 units of float32 rounding for float32 and below (the decomposition runs in float64, so only the input's
rounding counts; a condition number of 1e6 is still resolved), max(k, d) units of float64 rounding for float64. A
bfloat16 weight is taken at its word: rounding to 8 bits gives a matrix full rank, and to undo that would freeze
directions that training may need. Weights that carry larger errors, those of an ODE solver say, deserve a larger
tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from overdepth._checks import check_depth, check_matrix, check_rank_rtol, shape


def end_to_end_update(
    weight: Tensor,
    grad: Tensor,
    depth: float,
    *,
    check_finite: bool = True,
    rank_rtol: float | None = None,
    allow_frozen_directions: bool = False,
) -> Tensor:
    r"""Preconditions a gradient as an N-factor parametrization of the weight would.

    .. math:: \sum_{j=1}^N [W W^T]^{(N-j)/N} \, G \, [W^T W]^{(j-1)/N}

    A step W - lr * update equals a gradient-descent step on balanced factors up to O(lr^2). A single output (or
    input) uses Claim 2, ||w||^{2-2/N} (g + (N-1) <g, u> u) with u = w / ||w||, without a decomposition; a matrix is
    decomposed through its smaller side, in float64.

    Args:
        weight: W, shape (..., k, d); leading dimensions are a batch.
        grad: G, the loss's gradient at W, same shape.
        depth: N, any real number >= 1; 1 returns ``grad`` itself. ``math.inf`` is the limit of the sum divided by N.
        check_finite: Check that the inputs are finite. Without the check nothing depends on the data, and the
            function runs under ``torch.func.vmap`` and ``torch.compile(fullgraph=True)``.
        rank_rtol: Singular values up to this fraction of the largest count as zero; the default and its reason are
            in the module's docstring. A single output needs none.
        allow_frozen_directions: At infinite depth a direction with one null side does not move: a weight that is not
            square, or not of full rank, keeps its row or column space forever, and a single output can only be
            rescaled. Such weights are refused unless this is set. (Rank is checked only with ``check_finite``.)

    Returns:
        The preconditioned gradient, shape and dtype of ``grad``.

    Raises:
        ValueError: If shapes do not fit, an entry is not finite, depth < 1, ``rank_rtol`` is not in [0, 1), or
            infinite depth would freeze directions.

    Example:
        >>> import torch, overdepth as od
        >>> w, g = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])
        >>> od.end_to_end_update(w, g, depth=2)  # 5 * (g + <g, u> u)
        tensor([[6.8000, 2.4000]])

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 1, Claims 1 and 2.
    """
    _check_arguments(weight, grad, depth, check_finite=check_finite, rank_rtol=rank_rtol)
    if depth == 1:
        return grad
    if math.isinf(depth) and not allow_frozen_directions:
        _refuse_frozen_directions(weight, rank_rtol, check_rank=check_finite)
    if min(weight.shape[-2:]) == 1:
        update = single_output_update(weight.double(), grad.double(), single_output_coefficients(depth))
    else:
        update = _matrix_update(weight, grad.double(), depth, rank_rtol)
    return update.to(grad.dtype)


def end_to_end_spectrum(weight: Tensor, depth: float, *, rank_rtol: float | None = None) -> Tensor:
    r"""The eigenvalues of the end-to-end rule (Claim 1): the learning-rate multiplier of every direction.

    Entry (r, r') belongs to the eigenvector u_r v_{r'}^T and is
    sum_{j=1}^N sigma_r^{2(N-j)/N} sigma_{r'}^{2(j-1)/N}, with sigma in descending order, 0 beyond min(k, d), and
    0^0 = 1. Its mean is a guide to how a learning rate carries over from the plain model.

    Args:
        weight: W, shape (..., k, d).
        depth: N, any real number >= 1, or ``math.inf`` (the limit of the eigenvalues divided by N).
        rank_rtol: As in :func:`end_to_end_update`.

    Returns:
        The eigenvalues, shape (..., k, d), in the weight's dtype.

    Raises:
        ValueError: If the weight is no matrix or not finite, or depth < 1.

    Example:
        >>> import torch, overdepth as od
        >>> od.end_to_end_spectrum(torch.diag(torch.tensor([3.0, 1.0])), depth=2)  # sigma_r + sigma_r'
        tensor([[6., 4.],
                [4., 2.]])

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Claim 1.
    """
    _check_arguments(weight, None, depth, check_finite=True, rank_rtol=rank_rtol)
    k, d = weight.shape[-2:]
    singular = torch.linalg.svdvals(weight.double())
    singular = without_noise(singular, default_rank_rtol(weight, rank_rtol))
    small = singular.shape[-1]
    left = torch.nn.functional.pad(singular, (0, k - small))
    right = torch.nn.functional.pad(singular, (0, d - small))
    return multipliers(left[..., :, None], right[..., None, :], depth).to(weight.dtype)


class SingleOutputCoefficients(NamedTuple):
    """Claim 2 written as ||w||^power * (across * g + along * <g, u> u); numbers, or tensors with one entry a weight."""

    power: float | Tensor
    across: float | Tensor
    along: float | Tensor


def single_output_coefficients(depth: float) -> SingleOutputCoefficients:
    """The coefficients of :func:`single_output_update` at a depth, infinite depth being the limit of the rule / N."""
    if math.isinf(depth):
        return SingleOutputCoefficients(power=2.0, across=0.0, along=1.0)
    return SingleOutputCoefficients(power=2.0 - 2.0 / depth, across=1.0, along=depth - 1.0)


def single_output_update(weight: Tensor, grad: Tensor, coefficients: SingleOutputCoefficients) -> Tensor:
    """Claim 2 for weights (..., 1, d) or (..., k, 1), unchecked: the kernel of the rule and of the sweep engine.

    It computes in the dtype of its arguments, whose range must hold the squares of the weight.
    """
    power, across, along = coefficients
    norm = torch.linalg.vector_norm(weight, dim=(-2, -1), keepdim=True)
    unit = weight / norm.clamp_min(torch.finfo(weight.dtype).tiny)
    projection = (grad * unit).sum(dim=(-2, -1), keepdim=True)
    update: Tensor = norm**power * (across * grad + (along * projection) * unit)
    return update


def _matrix_update(weight: Tensor, grad: Tensor, depth: float, rank_rtol: float | None) -> Tensor:
    """The rule through the smaller side; ``grad`` and result in float64.

    With k <= d and V the d x k right singular vectors, G splits into G V V^T, whose coordinates U^T G V meet the
    multipliers of Claim 1 (`inside`), and the rest, which lies beside V and meets those of (sigma_r, 0). Where
    sigma_{r'} = 0 both are equal, so that it does not matter what the decomposition puts into row r' of V^T.
    """
    if weight.shape[-2] > weight.shape[-1]:
        return _matrix_update(weight.mT, grad.mT, depth, rank_rtol).mT
    u, singular, vh = smaller_side_svd(weight, default_rank_rtol(weight, rank_rtol))
    return in_coordinates(u, vh, *inside_and_beside(singular, depth), grad)


def inside_and_beside(singular: Tensor, depth: float) -> tuple[Tensor, Tensor]:
    """Claim 1's eigenvalues of k singular values (..., k): among each other (..., k, k), and against 0 (..., k, 1)."""
    left = singular[..., :, None]
    return multipliers(left, singular[..., None, :], depth), multipliers(left, torch.zeros_like(left), depth)


def in_coordinates(
    u: Tensor,
    vh: Tensor,
    inside: Tensor,
    beside: Tensor,
    grad: Tensor,
    matmul: Callable[[Tensor, Tensor], Tensor] = torch.matmul,
) -> Tensor:
    """Multiplies a gradient (..., k, d), k <= d, by Claim 1's eigenvalues in the bases U (k, k) and V^T (k, d)."""
    rotated = matmul(u.mT, grad)
    coordinates = matmul(rotated, vh.mT)
    return matmul(u, beside * rotated + matmul((inside - beside) * coordinates, vh))


def smaller_side_svd(weight: Tensor, rtol: float) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD in float64 of (..., k, d), k <= d: U, S, V^T, with noise in S (and its rows of V^T) set to zero.

    Below float64 the eigendecomposition of the k x k Gram matrix, in float64, is accurate enough and several times
    faster: it squares the condition number, so that at 1e6 the smallest direction is good to 1e-5 and the update, to
    which that direction contributes little, to 1e-6. A float64 matrix leaves no such room.
    """
    if weight.dtype == torch.float64:
        u, singular, vh = torch.linalg.svd(weight, full_matrices=False)
        return u, without_noise(singular, rtol), vh
    wide = weight.double()
    values, u = torch.linalg.eigh(wide @ wide.mT)
    singular = without_noise(values.clamp_min(0.0).sqrt(), rtol)
    inverse = torch.where(singular > 0, 1.0 / singular, 0.0)
    return u, singular, inverse[..., :, None] * (u.mT @ wide)


def multipliers(left: Tensor, right: Tensor, depth: float) -> Tensor:
    """Claim 1's eigenvalues for singular values that broadcast; of infinite depth, their limit after division by N.

    With m = max(a, b) and L = log(m / min(a, b)), the quotient is m^{1-1/N} expm1(-L) / expm1(-L/N): no cancellation
    at a = b (where it is N), and no special case at b = 0 (where L is infinite and it is 1).
    """
    if depth == 1:
        return torch.ones_like(left * right)
    if depth in (2, 3):  # the sum itself, several times faster
        x, y = left ** (2.0 / depth), right ** (2.0 / depth)
        return x + y if depth == 2 else (x + y) * x + y * y
    log_ratio = 2.0 * (torch.log(left) - torch.log(right)).abs()  # inf where one is 0, NaN where both are
    per_depth = log_ratio / depth if math.isfinite(depth) else log_ratio
    denominator = -torch.expm1(-per_depth) if math.isfinite(depth) else log_ratio
    limit = depth if math.isfinite(depth) else 1.0
    is_equal = ~(denominator > 0)  # equal, or so close that the quotient rounds to its limit
    quotient = -torch.expm1(-log_ratio) / torch.where(is_equal, 1.0, denominator)
    power = 2.0 - 2.0 / depth
    return torch.maximum(left**power, right**power) * torch.where(is_equal, limit, quotient)


def without_noise(singular: Tensor, rtol: float) -> Tensor:
    """Sets singular values at or below ``rtol`` times the largest to exactly zero."""
    return torch.where(singular > rtol * singular.amax(dim=-1, keepdim=True), singular, 0.0)


def default_rank_rtol(weight: Tensor, rank_rtol: float | None = None) -> float:
    """What is asked, or the relative size up to which a singular value of this type counts as noise."""
    if rank_rtol is not None:
        return rank_rtol
    if weight.dtype == torch.float64:
        return max(weight.shape[-2:]) * torch.finfo(torch.float64).eps
    return 4 * torch.finfo(torch.float32).eps


def _check_arguments(
    weight: Tensor, grad: Tensor | None, depth: float, *, check_finite: bool, rank_rtol: float | None
) -> None:
    check_depth(depth, allow_real=True)
    check_matrix(weight, "weight")
    check_rank_rtol(rank_rtol)
    if grad is not None:
        check_matrix(grad, "grad")
        if grad.shape != weight.shape:
            raise ValueError(
                f"grad has shape {shape(grad)} and weight has shape {shape(weight)}; "
                f"the gradient must have the shape of the weight."
            )
    if not check_finite:
        return
    for name, tensor in (("weight", weight), ("grad", grad)):
        if tensor is not None and not bool(torch.isfinite(tensor).all()):
            raise ValueError(
                f"{name} of shape {shape(tensor)} has non-finite entries; lower the learning rate, or look where the "
                f"first NaN or infinity arises."
            )


def _refuse_frozen_directions(weight: Tensor, rank_rtol: float | None, *, check_rank: bool) -> None:
    k, d = weight.shape[-2:]
    reason = None
    if min(k, d) == 1 and max(k, d) > 1:
        reason = "a single output or input can only be rescaled"
    elif k != d:
        reason = "a weight that is not square keeps its row or column space"
    elif check_rank:
        spectrum = without_noise(torch.linalg.svdvals(weight.double()), default_rank_rtol(weight, rank_rtol))
        if not bool((spectrum > 0).all()):
            reason = "a weight without full rank keeps its row and column space"
    if reason is not None:
        raise ValueError(
            f"depth is infinite and weight has shape {shape(weight)}: {reason}; "
            f"use a finite depth, or allow_frozen_directions=True if that is wanted."
        )
