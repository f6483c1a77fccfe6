"""Gradient flow by the classical Runge-Kutta method with many small steps, and the scalar network written down.

NumPy float64, the library's order of factors; nothing is shared with the library, nor with SciPy's integrators.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tests.reference.linear_algebra import Array, layer_gradients, product

Gradient = Callable[[Array], Array]
Chain = list[Array]


def layer_flow(
    factors: Sequence[Array], gradient: Gradient, time: float, steps: int, weight_decay: float = 0.0
) -> Chain:
    """The factors at ``time`` under dW_j/dt = -(dloss/dW_j + weight_decay W_j)."""

    def field(chain: Chain) -> Chain:
        grads = layer_gradients(chain, gradient(product(chain)))
        return [-g - weight_decay * w for w, g in zip(chain, grads, strict=True)]

    def moved(chain: Chain, slope: Chain, by: float) -> Chain:
        return [w + by * s for w, s in zip(chain, slope, strict=True)]

    h, chain = time / steps, list(factors)
    for _ in range(steps):
        k1 = field(chain)
        k2 = field(moved(chain, k1, h / 2))
        k3 = field(moved(chain, k2, h / 2))
        k4 = field(moved(chain, k3, h))
        chain = [w + h / 6 * (a + 2 * b + 2 * c + d) for w, a, b, c, d in zip(chain, k1, k2, k3, k4, strict=True)]
    return chain


def scalar_flow(weights: Sequence[float], target: float, time: float, steps: int) -> float:
    """The product of scalar layers at ``time``, for the loss (target - u)^2 / 2."""

    def field(w: list[float]) -> list[float]:
        away = target - math.prod(w)
        return [away * math.prod(w[:j] + w[j + 1 :]) for j in range(len(w))]

    def moved(w: list[float], slope: list[float], by: float) -> list[float]:
        return [a + by * b for a, b in zip(w, slope, strict=True)]

    h, w = time / steps, list(weights)
    for _ in range(steps):
        k1 = field(w)
        k2 = field(moved(w, k1, h / 2))
        k3 = field(moved(w, k2, h / 2))
        k4 = field(moved(w, k3, h))
        w = [x + h / 6 * (a + 2 * b + 2 * c + d) for x, a, b, c, d in zip(w, k1, k2, k3, k4, strict=True)]
    return math.prod(w)


def least_squares(X: Array, Y: Array) -> Gradient:
    """The gradient of ||Y - X W^T||_F^2 / (2 m), examples as rows."""
    return lambda weight: -(Y - X @ weight.T).T @ X / len(X)
