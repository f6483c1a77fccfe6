"""Margins: how small a singular value of W_e can become on the way down.

For a strongly convex loss f the gap bounds the distance to the minimizer, and Weyl's inequality the singular values:
what holds for the gap of the start holds for all time, since the loss does not increase.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from overdepth._checks import check_matrix, check_nonnegative, check_positive, check_size


def margin(
    minimizer: Tensor,
    gap: float,
    *,
    strong_convexity: float,
    index: int | None = None,
    covariance: Tensor | None = None,
) -> float:
    r"""A lower bound of the index-th singular value of W_e(t) for all t >= 0, from the gap at the start.

    .. math:: [\sigma_i(W^*) - \sqrt{2 \, \mathrm{gap} / \mu}]_+

    For least squares, ||Y - X W^T||_F^2 / (2 m), the covariance S = X^T X / m gives a second form,
    [sigma_i(W* S^{1/2}) - sqrt(2 gap)]_+ / sqrt(lambda_max(S)); the larger of the two counts.

    Args:
        minimizer: W*, shape (k, d).
        gap: f(W(0)) - f*, >= 0.
        strong_convexity: mu > 0 of f.
        index: i, from 1 (the largest) to min(k, d); the smallest by default.
        covariance: S, shape (d, d), of a least squares loss.

    Raises:
        ValueError: If an argument is out of its range or shapes do not fit.

    Example:
        >>> import torch
        >>> from overdepth.theory import margin
        >>> round(margin(torch.diag(torch.tensor([3.0, 2.0])), 0.5, strong_convexity=1.0), 9)
        1.0

    References:
        Min, Vidal & Mallada, ICML 2023.
    """
    check_nonnegative(gap, "gap")
    check_positive(strong_convexity, "strong_convexity")
    at = margin_of_gap(minimizer, strong_convexity, index, covariance)
    return float(at(torch.tensor(gap, dtype=torch.float64)))


def margin_from_distance(
    weight: Tensor, minimizer: Tensor, *, strong_convexity: float, smoothness: float, index: int | None = None
) -> float:
    r"""The same from the distance at the start, the form of the paper; never above :func:`margin`.

    .. math:: [\sigma_i(W^*) - \sqrt{K / \mu} \, ||W(0) - W^*||_F]_+

    Args:
        weight: W_e(0), shape (k, d).
        minimizer: W*, same shape.
        strong_convexity: mu > 0.
        smoothness: K >= mu.
        index: i, from 1 to min(k, d); the smallest singular value by default.

    Raises:
        ValueError: If an argument is out of its range or shapes do not fit.

    Example:
        >>> import torch
        >>> from overdepth.theory import margin_from_distance
        >>> found = margin_from_distance(torch.eye(2), 2 * torch.eye(2), strong_convexity=1.0, smoothness=1.0)
        >>> round(found, 6)  # 2 - sqrt(2)
        0.585786

    References:
        Min, Vidal & Mallada, ICML 2023.
    """
    check_convexity(strong_convexity, smoothness)
    check_matrix(weight, "weight")
    if weight.shape != minimizer.shape:
        raise ValueError(f"weight has shape {tuple(weight.shape)} and minimizer {tuple(minimizer.shape)}.")
    distance = float(torch.linalg.matrix_norm(weight.double() - minimizer.double()))
    sigma = float(_singular(minimizer.double(), index))
    return max(sigma - math.sqrt(smoothness / strong_convexity) * distance, 0.0)


def margin_of_gap(
    minimizer: Tensor,
    strong_convexity: float,
    index: int | None = None,
    covariance: Tensor | None = None,
    *,
    qualified_name: str = "minimizer",
) -> Callable[[Tensor], Tensor]:
    """:func:`margin` as a function of gaps of any shape; decomposes the minimizer once."""
    check_matrix(minimizer, qualified_name)
    wide = minimizer.detach().double()
    if not bool(wide.isfinite().all()):
        raise ValueError(f"{qualified_name} of shape {tuple(minimizer.shape)} has non-finite entries.")
    sigma = _singular(wide, index)
    if covariance is None:
        return lambda gaps: (sigma - (2 * gaps / strong_convexity).sqrt()).clamp_min(0.0)
    d = wide.shape[1]
    check_matrix(covariance, "covariance")
    if tuple(covariance.shape) != (d, d):
        raise ValueError(f"covariance has shape {tuple(covariance.shape)}, expected ({d}, {d}).")
    values, vectors = covariance_eigenvalues(covariance)
    from_data = _singular(wide @ (vectors * values.clamp_min(0.0).sqrt()), index)

    def larger(gaps: Tensor) -> Tensor:
        first = sigma - (2 * gaps / strong_convexity).sqrt()
        return torch.maximum(first, (from_data - (2 * gaps).sqrt()) / values[-1].sqrt()).clamp_min(0.0)

    return larger


def covariance_eigenvalues(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalues of a covariance, ascending, and its eigenvectors.

    Raises:
        ValueError: If it is not symmetric, positive semidefinite and other than 0.
    """
    check_matrix(covariance, "covariance")
    wide = covariance.detach().double()
    size = wide.abs().max()
    square = wide.shape[0] == wide.shape[1]
    if not square or not bool(size.isfinite()) or bool((wide - wide.mT).abs().max() > 1e-6 * size):
        raise ValueError(f"covariance of shape {tuple(wide.shape)} is not finite and symmetric, expected X^T X / m.")
    values, vectors = torch.linalg.eigh((wide + wide.mT) / 2)
    if values[0] < -1e-6 * size or size == 0:
        raise ValueError(
            f"covariance has eigenvalues {float(values[0]):.3g} to {float(values[-1]):.3g}, expected >= 0, not all 0."
        )
    return values, vectors


def check_convexity(strong_convexity: float, smoothness: float) -> None:
    """Checks 0 < mu <= K.

    Raises:
        ValueError: If it does not hold.
    """
    check_positive(strong_convexity, "strong_convexity")
    check_positive(smoothness, "smoothness")
    if smoothness < strong_convexity:
        raise ValueError(f"smoothness is {smoothness!r}, below strong_convexity {strong_convexity!r}.")


def _singular(matrix: Tensor, index: int | None) -> Tensor:
    smaller = min(matrix.shape)
    which = smaller if index is None else check_size(index, "index")
    if which > smaller:
        raise ValueError(f"index is {which}, above min(k, d) = {smaller}.")
    values: Tensor = torch.linalg.svdvals(matrix)
    return values[which - 1]
