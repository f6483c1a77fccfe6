"""Matrices in closed form: spectral initialization, and two layers of homogeneous imbalance by a Riccati equation."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overdepth._checks import shape
from overdepth.chain import check_width, imbalance
from overdepth.theory.gradient_flow import float64_factors
from overdepth.theory.integration import check_times
from overdepth.theory.losses import float64_matrix

Array = NDArray[np.float64]


def spectral_factors(
    target: Tensor, strengths: Sequence[float] | Sequence[Sequence[float]] | Tensor, *, width: int | None = None
) -> list[Tensor]:
    r"""Factors that share the singular vectors of a target, so that the flow of ||Y - W||_F^2 / 2 falls into modes.

    With Y = U S V^T, W_1 = diag(w_1) V^T, W_N = U diag(w_N) and the factors between are diag(w_j). Mode i is the deep
    scalar network w_N[i] ... w_1[i] with target S[i]: :func:`deep_mode`.

    Args:
        target: Y, shape (k, d).
        strengths: w_1, ..., w_N: one number a layer for all modes, or shape (N, min(k, d)), any signs. Modes come in
            the order of falling singular values.
        width: Hidden width, at least min(k, d), the default.

    Returns:
        N factors in the order in which they act on the input, float64.

    Raises:
        ValueError: If shapes do not fit, an entry is not finite or the width is below min(k, d).

    Example:
        >>> import torch, overdepth as od
        >>> from overdepth.theory import spectral_factors
        >>> factors = spectral_factors(torch.diag(torch.tensor([3.0, 2.0])), strengths=[0.1, 0.2])
        >>> od.product(factors)
        tensor([[0.0200, 0.0000],
                [0.0000, 0.0200]], dtype=torch.float64)

    References:
        Saxe, McClelland & Ganguli, ICLR 2014; Min, Vidal & Mallada, ICML 2023.
    """
    wide = float64_matrix(target, "target")
    small = min(wide.shape)
    w = torch.as_tensor(strengths, dtype=torch.float64).detach().cpu()
    if w.ndim == 1:
        w = w[:, None].expand(-1, small)
    if w.ndim != 2 or w.shape[0] == 0 or w.shape[1] != small or not bool(torch.isfinite(w).all()):
        raise ValueError(
            f"strengths has shape {shape(w)}, expected finite numbers of shape (N,) or (N, {small}): one a layer, or "
            f"one a layer and mode of a target of shape {shape(wide)}."
        )
    hidden = check_width(width, default=small)
    if hidden < small:
        raise ValueError(f"width is {hidden}, expected at least {small}, the modes of a target of shape {shape(wide)}.")
    u, _, vh = torch.linalg.svd(wide, full_matrices=False)
    if len(w) == 1:
        return [(u * w[0]) @ vh]
    pad = (0, hidden - small)
    first = torch.nn.functional.pad(w[0, :, None] * vh, (0, 0, *pad))
    between = [torch.diag_embed(torch.nn.functional.pad(row, pad)) for row in w[1:-1]]
    return [first, *between, torch.nn.functional.pad(u * w[-1], pad)]


def riccati(factors: Sequence[Tensor], target: Tensor, times: Sequence[float] | Tensor | Array | float) -> Tensor:
    r"""W(t) of two layers whose imbalance is a multiple of the identity, in closed form, for ||Y - W||_F^2 / 2.

    The factors need not share the target's singular vectors, and may be rectangular or of low rank; balanced ones are
    the case 0. With D_1 = W_2^T W_2 - W_1 W_1^T = lambda I, Z = [W_2; W_1^T] and
    S = [[0, Y], [Y^T, 0]] + (lambda / 2) diag(I_k, -I_d), M = Z Z^T obeys M' = S M + M S - M^2, whence

    .. math:: M(t) = e^{S t} Z_0 (I + Z_0^T [\int_0^t e^{2 S \tau} d\tau] Z_0)^{-1} Z_0^T e^{S t}

    and W is its upper right block. Over long times it is applied in pieces, in which nothing overflows.

    Args:
        factors: W_1, shape (h, d), and W_2, shape (k, h).
        target: Y, shape (k, d).
        times: A number >= 0, or an increasing sequence of T of them.

    Returns:
        W, shape (k, d), or (T, k, d); float64.

    Raises:
        ValueError: If there are not two factors, shapes do not fit, or the imbalance is no multiple of the identity.

    Example:
        >>> import torch
        >>> from overdepth.theory import riccati
        >>> riccati([torch.eye(2) / 2, torch.eye(2) / 2], torch.tensor([[1.0, 2.0], [0.0, 1.0]]), times=1.0)
        tensor([[0.9310, 1.8097],
                [0.1215, 0.9310]], dtype=torch.float64)

    References:
        Fukumizu, 1998; Min, Vidal & Mallada, ICML 2023. The order of factors is the reverse of theirs.
    """
    chain = float64_factors(factors)
    y = float64_matrix(target, "target")
    if len(chain) != 2:
        raise ValueError(f"factors has {len(chain)} matrices, expected two; use flow() for other depths.")
    lower, upper = chain
    k, d = int(upper.shape[0]), int(lower.shape[1])
    if tuple(y.shape) != (k, d):
        raise ValueError(f"target has shape {shape(y)} and the factors' product ({k}, {d}); they must be the same.")
    multiple = _homogeneous(chain)
    outputs = check_times(times, increasing=np.ndim(np.asarray(times)) > 0)
    s = np.zeros((k + d, k + d))
    s[:k, k:], s[k:, :k] = y.numpy(), y.numpy().T
    s[np.diag_indices(k + d)] = multiple / 2 * np.repeat([1.0, -1.0], [k, d])
    rates, basis = np.linalg.eigh(s)
    z = basis.T @ np.vstack([upper.numpy(), lower.numpy().T])
    weights, now = [], 0.0
    for end in np.atleast_1d(outputs):
        z = _advance(z, rates, float(end) - now)
        now = float(end)
        whole = basis @ z
        weights.append(whole[:k] @ whole[k:].T)
    return torch.from_numpy(np.stack(weights) if outputs.ndim else weights[0])


_PIECE = 2.0  # of rate * time; e^4 is then the largest ratio in the matrix to be decomposed


def _advance(z: Array, rates: Array, time: float) -> Array:
    """A root Z(t) of M(t) from a root Z_0, in the eigenbasis of S; rotated by some orthogonal matrix, as M is not."""
    pieces = math.ceil(float(np.abs(rates).max()) * time / _PIECE)
    if pieces == 0:
        return z
    exponent = rates * (time / pieces)
    grown = np.exp(exponent)[:, None]
    # (e^{2x} - 1) / (2x) times the duration; an eigenvalue 0 has the duration itself
    ratio = np.divide(np.expm1(2 * exponent), 2 * exponent, out=np.ones_like(exponent), where=exponent != 0)
    weight = (time / pieces) * ratio[:, None]
    for _ in range(pieces):
        root = np.linalg.cholesky(np.eye(z.shape[1]) + z.T @ (weight * z))
        z = np.linalg.solve(root, (grown * z).T).T
    return z


def _homogeneous(factors: Sequence[Tensor]) -> float:
    """The imbalance as a number."""
    (difference,) = imbalance(factors)
    multiple = float(difference.diagonal().mean())
    identity = torch.eye(len(difference), dtype=difference.dtype)
    apart = float((difference - multiple * identity).abs().max())
    size = sum(float((factor**2).sum()) for factor in factors)
    if apart > _HOMOGENEOUS * size:
        raise ValueError(
            f"factors have an imbalance W_2^T W_2 - W_1 W_1^T that is {apart:.3g} away from {multiple:.3g} times the "
            f"identity, expected a multiple of the identity; use flow() for other factors."
        )
    return multiple


_HOMOGENEOUS = 1e-10  # relative to the squared factors: above what rounding leaves, below what changes W(t)
