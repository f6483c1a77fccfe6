"""Quadratic losses with the constants of the theory, and whitening.

Every loss here is f(W) = f* + <(W - W*) S, W - W*> / 2 with a covariance S: the gradient is (W - W*) S, the strong
convexity its smallest and the smoothness its largest eigenvalue. Written this way, the gap f(W) - f* loses no digits
near the minimizer, where the sum of squares itself would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overdepth._checks import all_finite, check_matrix, shape

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Loss:
    r"""A quadratic loss of the end-to-end weight, f(W) = f* + <(W - W*) S, W - W*> / 2.

    Made by :func:`least_squares` and :func:`matrix_distance`. Everything is float64.

    Attributes:
        minimizer: W*, shape (k, d); the one of smallest norm if there are several.
        optimal_value: f*.
        covariance: S, shape (d, d), symmetric and positive semidefinite.
        smoothness: K, the largest eigenvalue of S.
    """

    minimizer: Tensor
    optimal_value: float
    covariance: Tensor
    smoothness: float
    _smallest: float = field(repr=False)  # the smallest eigenvalue of S; 0 for data that leave directions unseen
    _why_not: str = field(default="", repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(k, d), the shape of the weights."""
        return (int(self.minimizer.shape[0]), int(self.minimizer.shape[1]))

    @property
    def strong_convexity(self) -> float:
        """Mu, the smallest eigenvalue of S.

        Raises:
            ValueError: If S has no full rank: the loss is then flat in some direction, and bounds of singular values
                along the flow do not exist.
        """
        if self._smallest == 0:
            raise ValueError(
                f"strong_convexity is asked of a loss with {self._why_not}, expected full column rank; give whitened "
                f"data, fewer features or more examples (the flow itself needs no strong convexity)."
            )
        return self._smallest

    @property
    def pl(self) -> float:
        """Gamma in ||grad f||_F^2 >= gamma (f - f*): twice the strong convexity, and refused where that is."""
        return 2 * self.strong_convexity

    def gap(self, weight: Tensor) -> Tensor:
        """f(W) - f*, without cancellation, shape (...) for weights (..., k, d).

        Raises:
            ValueError: If the shape does not fit.
        """
        away = self._away(weight)
        return ((away @ self.covariance) * away).sum(dim=(-2, -1)) / 2

    def value(self, weight: Tensor) -> Tensor:
        """f(W), shape (...) for weights (..., k, d).

        Raises:
            ValueError: If the shape does not fit.
        """
        return self.optimal_value + self.gap(weight)

    def gradient(self, weight: Tensor) -> Tensor:
        """The gradient (W - W*) S, in the shape of the weights (..., k, d).

        Raises:
            ValueError: If the shape does not fit.
        """
        return self._away(weight) @ self.covariance

    def _away(self, weight: Tensor) -> Tensor:
        check_matrix(weight, "weight")
        if tuple(weight.shape[-2:]) != self.shape:
            raise ValueError(f"weight has shape {shape(weight)}, expected (..., {self.shape[0]}, {self.shape[1]}).")
        return weight.double() - self.minimizer


@dataclass(frozen=True, eq=False, kw_only=True)
class LeastSquares(Loss):
    """Least squares, with the data at hand for stochastic gradients.

    Attributes:
        X: Features, shape (m, d).
        Y: Targets, shape (m, k).
    """

    X: Tensor = field(repr=False)
    Y: Tensor = field(repr=False)


def least_squares(X: Tensor, Y: Tensor) -> LeastSquares:
    r"""The loss of linear regression, f(W) = \|Y - X W^T\|_F^2 / (2 m).

    Args:
        X: Features, shape (m, d), one example a row.
        Y: Targets, shape (m, k).

    Returns:
        The loss with its minimizer and constants; S = X^T X / m.

    Raises:
        ValueError: If shapes do not fit or an entry is not finite. Data without full column rank are accepted;
            only ``strong_convexity`` and ``pl`` are refused.

    Example:
        >>> import torch
        >>> from overdepth.theory import least_squares
        >>> loss = least_squares(torch.tensor([[1.0], [2.0]]), torch.tensor([[2.0], [5.0]]))
        >>> loss.minimizer
        tensor([[2.4000]], dtype=torch.float64)
        >>> round(loss.strong_convexity, 6), round(loss.pl, 6), round(loss.optimal_value, 6)
        (2.5, 5.0, 0.05)
    """
    features, targets = float64_matrix(X, "X"), float64_matrix(Y, "Y")
    m, d = features.shape
    if targets.shape[0] != m:
        raise ValueError(f"Y has shape {shape(Y)} and X has shape {shape(X)}; one row of each is an example.")
    u, s, vh = torch.linalg.svd(features, full_matrices=False)
    rank = _rank(features, s)
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    minimizer = ((u.mT @ targets).mT / s) @ vh
    residual = targets - features @ minimizer.mT
    return LeastSquares(
        X=features,
        Y=targets,
        minimizer=minimizer,
        optimal_value=float((residual**2).sum() / (2 * m)),
        covariance=(vh.mT * (s**2 / m)) @ vh,
        smoothness=float(s[0] ** 2 / m) if rank else 0.0,
        _smallest=float(s[-1] ** 2 / m) if rank == d else 0.0,
        _why_not=f"X of shape {shape(features)} and rank {rank}",
    )


def matrix_distance(target: Tensor) -> Loss:
    r"""Half the squared distance to a matrix, f(W) = \|Y - W\|_F^2 / 2: least squares on whitened data.

    Args:
        target: Y, shape (k, d).

    Returns:
        The loss; strong convexity and smoothness are 1, pl is 2.

    Raises:
        ValueError: If the target is no matrix or has an entry that is not finite.

    Example:
        >>> import torch
        >>> from overdepth.theory import matrix_distance
        >>> matrix_distance(torch.eye(2)).value(torch.zeros(2, 2))
        tensor(1., dtype=torch.float64)
    """
    wide = float64_matrix(target, "target")
    identity = torch.eye(wide.shape[1], dtype=torch.float64)
    return Loss(minimizer=wide, optimal_value=0.0, covariance=identity, smoothness=1.0, _smallest=1.0)


@dataclass(frozen=True, eq=False)
class Whitening:
    """Whitened data and the way back.

    Attributes:
        data: X S^{-1/2}, shape (m, d), with data^T data / m = I.
        transform: S^{-1/2}, shape (d, d), symmetric.
        inverse: S^{1/2}, shape (d, d).
    """

    data: Tensor
    transform: Tensor
    inverse: Tensor

    def to_original(self, weight: Tensor) -> Tensor:
        """The weight (..., k, d) that does to the original data what ``weight`` does to the whitened ones."""
        return weight.double() @ self.transform

    def to_whitened(self, weight: Tensor) -> Tensor:
        """The inverse of :meth:`to_original`."""
        return weight.double() @ self.inverse


def whiten(X: Tensor) -> Whitening:
    r"""Whitens data: \tilde X = X S^{-1/2} with S = X^T X / m, so that \tilde X^T \tilde X / m = I.

    Predictions carry over by \tilde X \tilde W^T = X (\tilde W S^{-1/2})^T. Columns are not centred: subtract their
    means before, or have a column of ones among them.

    Args:
        X: Features, shape (m, d), of full column rank.

    Returns:
        The whitened data, and ``to_original`` and ``to_whitened`` for weights.

    Raises:
        ValueError: If X has no full column rank or an entry that is not finite.

    Example:
        >>> import torch
        >>> from overdepth.theory import least_squares, whiten
        >>> X, Y = torch.tensor([[1.0, 2.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([[1.0], [0.0], [3.0]])
        >>> white = whiten(X)
        >>> loss = least_squares(white.data, Y)
        >>> round(loss.strong_convexity, 12), round(loss.smoothness, 12)
        (1.0, 1.0)
        >>> torch.allclose(white.to_original(loss.minimizer), least_squares(X, Y).minimizer)
        True
    """
    features = float64_matrix(X, "X")
    m, d = features.shape
    u, s, vh = torch.linalg.svd(features, full_matrices=False)
    rank = _rank(features, s)
    if rank < d:
        raise ValueError(
            f"X has shape {shape(X)} and rank {rank}, expected full column rank {d}; drop dependent features or give "
            f"more examples."
        )
    scale = s / math.sqrt(m)
    return Whitening(data=math.sqrt(m) * u @ vh, transform=(vh.mT / scale) @ vh, inverse=(vh.mT * scale) @ vh)


def float64_matrix(matrix: Tensor, name: str) -> Tensor:
    """A single matrix in float64 on the CPU, in its own memory.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it is empty, batched or not finite.
    """
    check_matrix(matrix, name)
    if matrix.ndim != 2:
        raise ValueError(f"{name} has shape {shape(matrix)}, expected a single matrix, no batch.")
    if not all_finite(matrix):
        raise ValueError(f"{name} of shape {shape(matrix)} has non-finite entries, expected finite ones.")
    return matrix.detach().double().cpu().contiguous().clone()


def _rank(matrix: Tensor, singular: Tensor) -> int:
    return int((singular > max(matrix.shape) * torch.finfo(torch.float64).eps * singular[0]).sum())
