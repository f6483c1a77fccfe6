r"""The end-to-end rule by matrix products alone, from step to step.

Between two steps a weight hardly turns, so that the singular vectors U of the last step still serve. At every step the
rows of U^T W are measured: their lengths are the singular values, their directions the rows of V^T, and what V V^T has
beside its diagonal says by how much the basis has turned away. To first order the rule computed in this basis errs by

    E = sqrt(2) || offdiag(V V^T) * w ||_F / || M ||_F,    w_rs = min(f_r, f_s),  f_r = || M_r - M_0 ||,

at most, in the Hilbert-Schmidt norm of the preconditioner, relative to its own: M_r is row r of Claim 1's eigenvalues
and M_0 that of a zero singular value. (Below depth 2, w_rs = sigma_r sigma_s min(f_r / sigma_r^2, f_s / sigma_s^2), and
the small singular values, which matter more there, add their own error of second order.)
This is the root mean square error of the update over gradients without a preferred direction.

Why: with F = offdiag(U^T W W^T U) the true basis is U turned by F_rs / (sigma_s^2 - sigma_r^2). Turning u_r towards u_t
changes the preconditioner by ||M_r - M_t|| times that angle. M as a function of sigma^2 is a sum of concave powers, so
that ||M_r - M_t|| <= |sigma_r^2 - sigma_t^2| min(f_r / sigma_r^2, f_t / sigma_t^2): close singular values, however fast
their vectors turn, do no harm. On the right the same argument for f / sigma^2 gives min(f_r, f_t) / (sigma_r sigma_t).
The left bound is the smaller one from depth 2 on and the larger one below, hence the sqrt(2) and the two cases.

While E is at most ``TOLERANCE`` the basis is kept. Above, it is turned to first order (with Newton-Schulz iterations to
keep it orthonormal) and measured again; where turning does not help, W has turned too far and is decomposed anew. What
a decomposition in float32 errs by itself, the method errs as well: at condition numbers of 1e6 and beyond, and for
singular values that are 0 but for rounding, E may stay above the tolerance or miss it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from overdepth.gemm import matmul, matmul_transposed
from overdepth.rule import in_coordinates, inside_and_beside, without_noise

TOLERANCE = 1e-2
_TURNS = 2  # turns before a decomposition
_LARGEST_TURN = 0.5  # in the spectral norm, well inside what three Newton-Schulz iterations make orthonormal
_NEWTON_SCHULZ = 3
_POWER_ITERATIONS = 6


class Tracked(NamedTuple):
    """A preconditioned gradient, the basis (..., m, m) that it was computed in, and the bound E of its error (...)."""

    update: Tensor
    basis: Tensor
    error: Tensor


class _Coordinates(NamedTuple):
    basis: Tensor
    singular: Tensor
    right: Tensor
    inside: Tensor
    beside: Tensor


def tracked_update(weight: Tensor, grad: Tensor, depth: float, basis: Tensor | None) -> Tracked:
    """The end-to-end rule in the basis of the last step, turned where it has to be; in float32.

    Args:
        weight: W, shape (..., k, d), finite, float32.
        grad: The gradient, same shape and dtype.
        depth: N, real and > 1, or ``math.inf``.
        basis: Of the last step, shape (..., m, m) with m = min(k, d); None decomposes.

    Raises:
        RuntimeError: If the weight is not finite.
    """
    if weight.shape[-2] > weight.shape[-1]:
        found = tracked_update(weight.mT, grad.mT, depth, basis)
        return found._replace(update=found.update.mT)
    here = _coordinates(weight, _decomposed(weight) if basis is None else basis, depth)
    overlaps, error = _error(here, weight.shape[-1], depth)
    turns, stale = _TURNS, ~(error <= TOLERANCE)
    while basis is not None and bool(stale.any()):
        fresh = _turned(here, overlaps) if turns else _decomposed(weight)
        here = _coordinates(weight, torch.where(stale[..., None, None], fresh, here.basis), depth)
        before, (overlaps, error) = error, _error(here, weight.shape[-1], depth)
        if not turns:
            break
        turns, stale = turns - 1 if bool((error <= before / 2)[stale].all()) else 0, ~(error <= TOLERANCE)
    update = in_coordinates(here.basis, here.right, here.inside, here.beside, grad, matmul)
    return Tracked(update, here.basis, error)


def by_decomposition(weight: Tensor, grad: Tensor, depth: float) -> Tensor:
    """The end-to-end rule through the eigenvectors of the smaller side's Gram matrix; shapes as above, in float32."""
    if weight.shape[-2] > weight.shape[-1]:
        return by_decomposition(weight.mT, grad.mT, depth).mT
    here = _coordinates(weight, _decomposed(weight), depth)
    return in_coordinates(here.basis, here.right, here.inside, here.beside, grad, matmul)


def _decomposed(weight: Tensor) -> Tensor:
    basis: Tensor = torch.linalg.eigh(matmul_transposed(weight, weight)).eigenvectors
    return basis


def _coordinates(weight: Tensor, basis: Tensor, depth: float) -> _Coordinates:
    """The rows of U^T W have the singular values for norms."""
    rows = matmul(basis.mT, weight)
    lengths = rows.norm(dim=-1)
    singular = without_noise(lengths, 4 * torch.finfo(torch.float32).eps)
    singular = torch.where(lengths.isfinite(), singular, torch.nan)  # an overflow is no zero: E has to show it
    right = torch.where(singular > 0, 1 / singular, 0.0)[..., :, None] * rows
    return _Coordinates(basis, singular, right, *inside_and_beside(singular, depth))


def _error(here: _Coordinates, d: int, depth: float) -> tuple[Tensor, Tensor]:
    """V V^T without its diagonal, and the bound E of the error."""
    _, singular, right, inside, beside = here
    overlaps = matmul_transposed(right, right)
    overlaps.diagonal(dim1=-2, dim2=-1).zero_()
    outside = (d - singular.shape[-1]) * beside[..., 0].square()
    from_null = ((inside - beside.mT).square().sum(-1) + outside).sqrt()
    shifts = torch.zeros_like(singular)
    if depth >= 2:
        weighted = overlaps * torch.minimum(from_null[..., :, None], from_null[..., None, :])
    else:
        rate = torch.where(singular > 0, from_null / singular.square(), 0.0)
        moved, gaps = _moved_and_gaps(here, overlaps)
        weighted = moved * torch.minimum(rate[..., :, None], rate[..., None, :])
        largest = torch.maximum(moved.abs(), gaps.abs())
        shifts = torch.where(largest > 0, moved.square() / largest, 0.0).sum(-1)
        shifts = rate * torch.minimum(shifts, singular.square())
    norm = (inside.square().sum((-2, -1)) + outside.sum(-1)).sqrt()
    error = (2 * weighted.square().sum((-2, -1))).sqrt() + shifts.norm(dim=-1)
    return overlaps, error / norm.clamp_min(torch.finfo(norm.dtype).tiny)


def _moved_and_gaps(here: _Coordinates, overlaps: Tensor) -> tuple[Tensor, Tensor]:
    """F, what U^T W W^T U has beside its diagonal, and the differences sigma_s^2 - sigma_r^2."""
    values = here.singular.square()
    moved = overlaps * (here.singular[..., :, None] * here.singular[..., None, :])
    return moved, values[..., None, :] - values[..., :, None]


def _turned(here: _Coordinates, overlaps: Tensor) -> Tensor:
    """The basis turned by Jacobi's angle for every pair at once, made orthonormal again."""
    moved, gaps = _moved_and_gaps(here, overlaps)
    turn = torch.triu(0.5 * torch.atan2(2 * moved * gaps.sign(), gaps.abs()), 1)
    turn = turn - turn.mT
    vector = torch.ones_like(turn[..., :1])
    for _ in range(_POWER_ITERATIONS):
        vector = torch.nn.functional.normalize(turn @ vector, dim=-2)
    size = (turn @ vector).norm(dim=(-2, -1), keepdim=True)
    turn = turn * (_LARGEST_TURN / size.clamp_min(_LARGEST_TURN))
    basis = here.basis + matmul(here.basis, turn)
    for _ in range(_NEWTON_SCHULZ):
        basis = 1.5 * basis - 0.5 * matmul(basis, matmul(basis.mT, basis))
    return basis
