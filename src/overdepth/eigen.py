"""Extreme eigenvalues of a symmetric operator that is known by its products alone (LOBPCG)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_ITERATIONS = 1000
_ROUNDING, _RELATIVE, _OF_VALUE = 1e-14, 1e-9, 1e-4  # residuals to stop at, in parts of the scale and of the value
_STALLED = 100  # iterations without progress of the residual


class RitzValue(NamedTuple):
    """An approximate eigenvalue: of the smallest one an upper bound, of the largest a lower one.

    Attributes:
        value: The Rayleigh quotient of the best vector found.
        residual: ||A x - value x|| of that vector, of norm 1: some eigenvalue is within it.
    """

    value: float
    residual: float


def smallest_eigenvalue(
    apply: Callable[[Tensor], Tensor],
    start: Tensor,
    precondition: Callable[[Tensor], Tensor],
    *,
    scale: float,
) -> RitzValue:
    """The smallest eigenvalue, by the locally optimal block preconditioned conjugate gradient method.

    The basis [X, residuals, last directions] is made orthonormal at every iteration, which keeps the small
    eigenproblem sound at any condition number.

    Args:
        apply: The operator on rows, shape (b, n) to (b, n).
        start: Starting rows, shape (b, n).
        precondition: An approximate inverse on rows.
        scale: An upper bound of the largest eigenvalue. It stops at a residual of 1e-9 of it and 1e-4 of the value,
            or at rounding.

    References:
        Knyazev 2001, SIAM J. Sci. Comput. 23(2); Hetmaniuk & Lehoucq 2006 for the orthonormal basis.
    """
    block = len(start)
    x = _orthonormal(start)
    applied = apply(x)
    x, applied, values = _rotated(x, applied, block)
    directions = x[:0]
    best, since = RitzValue(float(values[0]), float("inf")), 0
    for _ in range(_ITERATIONS):
        residuals = applied - values[:, None] * x
        size = float(residuals[0].norm())
        since = 0 if size < 0.9 * best.residual else since + 1
        if size <= best.residual:
            best = RitzValue(float(values[0]), size)
        if size <= max(_ROUNDING * scale, min(_RELATIVE * scale, _OF_VALUE * float(values[0]))) or since > _STALLED:
            break
        new = torch.cat([precondition(residuals), directions])
        new = new - (new @ x.mT) @ x
        new = _orthonormal(new - (new @ x.mT) @ x)
        new = new - (new @ x.mT) @ x
        basis = torch.cat([x, new])
        applied_basis = torch.cat([applied, apply(new)])
        small = basis @ applied_basis.mT
        values_all, vectors = torch.linalg.eigh((small + small.mT) / 2)
        values, chosen = values_all[:block], vectors[:, :block]
        directions = chosen[block:].mT @ new
        x, applied = chosen.mT @ basis, chosen.mT @ applied_basis
    return best


def _rotated(x: Tensor, applied: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
    small = x @ applied.mT
    values, vectors = torch.linalg.eigh((small + small.mT) / 2)
    return vectors.mT @ x, vectors.mT @ applied, values[:block]


def _orthonormal(rows: Tensor) -> Tensor:
    """An orthonormal basis of the span of rows, less what is dependent to rounding."""
    norms = rows.norm(dim=1, keepdim=True)
    rows = rows[(norms > 0).squeeze(1)] / norms[norms > 0][:, None]
    for _ in range(2):
        values, vectors = torch.linalg.eigh(rows @ rows.mT)
        kept = values > 1e-14 * values[-1]
        rows = (vectors[:, kept] / values[kept].sqrt()).mT @ rows
    return rows
