"""Right-hand sides of the flows, in NumPy on one flat vector.

The integrators call them some ten thousand times on small matrices, where the cost is that of calls: products go to
BLAS by ``numpy.dot`` into the result itself, and torch is not touched unless the user's gradient needs it.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from overdepth._checks import shape
from overdepth.rule import (
    in_coordinates,
    inside_and_beside,
    single_output_coefficients,
    single_output_update,
    smaller_side_svd,
)
from overdepth.theory.losses import Loss

Array = NDArray[np.float64]


def array_gradient(gradient: Loss | Callable[[Tensor], Tensor], at: Tensor) -> Callable[[Array], Array]:
    """The gradient as a function of arrays, tried once at the start.

    Raises:
        TypeError: If ``gradient`` is no function, or returns no tensor.
        ValueError: If its value has another shape than the weight, or is not finite.
    """
    if isinstance(gradient, Loss):
        _check_gradient(gradient.gradient(at), at)
        return _quadratic(gradient)
    if not callable(gradient):
        raise TypeError(f"gradient is a {type(gradient).__name__}, expected a Loss or a function of the weight.")
    _check_gradient(gradient(at.clone()), at)
    return lambda weight: gradient(torch.from_numpy(weight)).detach().double().cpu().numpy()


def _quadratic(loss: Loss) -> Callable[[Array], Array]:
    minimizer, covariance = loss.minimizer.numpy(), np.ascontiguousarray(loss.covariance.numpy())
    if np.array_equal(covariance, np.eye(len(covariance))):
        return lambda weight: weight - minimizer
    return lambda weight: np.dot(weight - minimizer, covariance)


def _check_gradient(grad: object, weight: Tensor) -> None:
    if not isinstance(grad, Tensor):
        raise TypeError(f"gradient returned a {type(grad).__name__}, expected a torch.Tensor.")
    if grad.shape != weight.shape:
        raise ValueError(
            f"gradient returned shape {shape(grad)} for a weight of shape {shape(weight)}; they must be the same."
        )
    if not bool(torch.isfinite(grad).all()):
        raise ValueError(f"gradient returned non-finite entries at the start, a weight of shape {shape(weight)}.")


class FlowField(ABC):
    """y' = field(y) for a flat state; ``weight_of`` finds the end-to-end weight in states (T, n)."""

    start: Array

    @abstractmethod
    def __call__(self, state: Array) -> Array:
        """The derivative, a new array."""

    @abstractmethod
    def weight_of(self, states: Array) -> Array:
        """End-to-end weights, shape (T, k, d)."""


class LayersField(FlowField):
    """dW_j/dt = -(dloss/dW_j + weight_decay W_j) for all factors."""

    def __init__(
        self, factors: Sequence[Tensor], gradient: Callable[[Array], Array], *, weight_decay: float = 0.0
    ) -> None:
        self.shapes = [(int(f.shape[0]), int(f.shape[1])) for f in factors]
        self.start = np.concatenate([f.numpy().ravel() for f in factors])
        self._ends = [0, *itertools.accumulate(rows * columns for rows, columns in self.shapes)]
        self._gradient = gradient
        self._decay = weight_decay

    def split(self, state: Array) -> list[Array]:
        """Views of the factors in a state (..., n), shapes (..., n_j, n_{j-1})."""
        lead = state.shape[:-1]
        pairs = itertools.pairwise(self._ends)
        return [state[..., a:b].reshape(*lead, *size) for (a, b), size in zip(pairs, self.shapes, strict=True)]

    @override
    def weight_of(self, states: Array) -> Array:
        factors = self.split(states)
        weight = factors[0]
        for factor in factors[1:]:
            weight = factor @ weight
        return weight

    @override
    def __call__(self, state: Array) -> Array:
        factors = self.split(state)
        below = self._below(factors)
        result = np.empty_like(state)
        self._descend(factors, below, -self._gradient(below[-1]), self.split(result))
        if self._decay:
            result -= self._decay * state
        return result

    @staticmethod
    def _below(factors: list[Array]) -> list[Array]:
        """W_j ... W_1 for j = 1, ..., N."""
        products = [factors[0]]
        for factor in factors[1:]:
            products.append(np.dot(factor, products[-1]))
        return products

    @staticmethod
    def _descend(factors: list[Array], below: list[Array], descent: Array, out: list[Array]) -> None:
        """Writes (W_N ... W_{j+1})^T (-G) (W_{j-1} ... W_1)^T for every j."""
        for j in range(len(factors) - 1, 0, -1):
            np.dot(descent, below[j - 1].T, out=out[j])
            descent = np.dot(factors[j].T, descent)
        out[0][...] = descent


class PreconditionedField(LayersField):
    """dW/dt = -T(G(W)) - weight_decay N W, with the factors that T is made of moving under the same G.

    The state is the factors and then W. T(G) = sum_j (W_N ... W_{j+1}) (layer gradient j) (W_{j-1} ... W_1).
    """

    def __init__(
        self, factors: Sequence[Tensor], gradient: Callable[[Array], Array], *, weight_decay: float = 0.0
    ) -> None:
        super().__init__(factors, gradient, weight_decay=weight_decay)
        self.size = len(self.start)
        self._shape = (self.shapes[-1][0], self.shapes[0][1])
        self.start = np.concatenate([self.start, super().weight_of(self.start).ravel()])

    @override
    def weight_of(self, states: Array) -> Array:
        return states[..., self.size :].reshape(*states.shape[:-1], *self._shape)

    @override
    def __call__(self, state: Array) -> Array:
        weight = self.weight_of(state)
        factors = self.split(state)
        below = self._below(factors)
        result = np.empty_like(state)
        out = self.split(result)
        self._descend(factors, below, -self._gradient(weight), out)
        change = out[0]
        for j in range(1, len(factors)):
            change = np.dot(factors[j], change) + np.dot(out[j], below[j - 1])
        self.weight_of(result)[...] = change
        if self._decay:
            result[: self.size] -= self._decay * state[: self.size]
            result[self.size :] -= self._decay * len(factors) * state[self.size :]
        return result


class EndToEndField(FlowField):
    """Theorem 1, dW/dt = -weight_decay N W - sum_j [W W^T]^{(N-j)/N} G [W^T W]^{(j-1)/N}, for real N.

    The flow keeps the rank. What the integrator's error puts into null directions would, by the roots, become an
    error of a much larger size (1e-11 becomes 4e-5 at N = 5); so singular values beyond the rank of the start
    are taken as zero throughout.
    """

    def __init__(
        self, weight: Tensor, depth: float, gradient: Callable[[Array], Array], *, weight_decay: float = 0.0
    ) -> None:
        self.start = weight.numpy().ravel().copy()
        self._shape = (int(weight.shape[0]), int(weight.shape[1]))
        self._depth, self._gradient, self._decay = float(depth), gradient, float(weight_decay)
        self.rank = int(torch.linalg.matrix_rank(weight))

    @override
    def weight_of(self, states: Array) -> Array:
        return states.reshape(*states.shape[:-1], *self._shape)

    @override
    def __call__(self, state: Array) -> Array:
        weight = self.weight_of(state)
        grad = self._gradient(weight)
        update: Array = self._update(torch.from_numpy(weight), torch.from_numpy(grad)).numpy()
        change = -update.ravel()
        if self._decay:
            change -= self._decay * self._depth * state
        return change

    def _update(self, weight: Tensor, grad: Tensor) -> Tensor:
        if self._depth == 1:
            return grad
        if min(self._shape) == 1:
            return single_output_update(weight, grad, single_output_coefficients(self._depth))
        if weight.shape[0] > weight.shape[1]:
            return self._of_wide(weight.mT, grad.mT).mT
        return self._of_wide(weight, grad)

    def _of_wide(self, weight: Tensor, grad: Tensor) -> Tensor:
        u, singular, vh = smaller_side_svd(weight, 0.0)
        singular[self.rank :] = 0.0
        return in_coordinates(u, vh, *inside_and_beside(singular, self._depth), grad)
