"""The metric, the line integral and the momentum coefficients, written down as literally as possible."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from tests.reference.linear_algebra import Array, claim_2, theorem_1


def metric(weight: Array, depth: int) -> Array:
    """The matrix of g_N on row-major vectors: the inverse of A_N, one column for each basis matrix."""
    size = weight.size
    operator = np.zeros((size, size))
    for index in range(size):
        basis = np.zeros(size)
        basis[index] = 1.0
        operator[:, index] = theorem_1(weight, basis.reshape(weight.shape), depth, 1e-12).reshape(-1)
    inverse: Array = np.linalg.inv(operator).astype(np.float64)
    return inverse


def polygon(e: Array, n: Array, inner: float, outer: float, pieces: int) -> Array:
    """Gamma_{r,R} as a closed polygon, shape (4 * pieces + 1, d)."""
    corners = [-(outer - (outer - inner) * i / pieces) * e for i in range(pieces)]
    corners += [
        -inner * math.cos(math.pi * i / pieces) * e + inner * math.sin(math.pi * i / pieces) * n for i in range(pieces)
    ]
    corners += [(inner + (outer - inner) * i / pieces) * e for i in range(pieces)]
    corners += [
        outer * math.cos(math.pi * i / pieces) * e + outer * math.sin(math.pi * i / pieces) * n for i in range(pieces)
    ]
    return np.stack([*corners, corners[0]])


def line_integral(gradient: Callable[[Array], Array], corners: Array, depth: float) -> float:
    """Of the rule's field along a polygon, by the midpoint rule."""
    total = 0.0
    for start, end in itertools.pairwise(corners):
        middle = 0.5 * (start + end)
        total += float(claim_2(middle, gradient(middle), depth) @ (end - start))
    return total


def descent_on_two_factors(
    gradient: Callable[[Array], Array], first: Array, second: float, lr: float, steps: int
) -> tuple[Array, Array, Array]:
    """Records w_1 (T + 1, d), w_2 (T + 1,) and the gradients (T, d) of gradient descent on w = w_2 w_1."""
    firsts, seconds, grads = [first], [second], []
    for _ in range(steps):
        g = gradient(seconds[-1] * firsts[-1])
        grads.append(g)
        new_first = firsts[-1] - lr * seconds[-1] * g
        new_second = seconds[-1] - lr * float(g @ firsts[-1])
        firsts.append(new_first)
        seconds.append(new_second)
    return np.stack(firsts), np.array(seconds), np.stack(grads)


def first_order_coefficients(rho: Sequence[float], gamma: Sequence[float]) -> tuple[Array, Array]:
    """mu (T, T) and nu (T,): every product written out."""
    steps = len(rho)
    mu, nu = np.zeros((steps, steps)), np.zeros(steps)
    for t in range(steps):
        nu[t] = gamma[t] * math.prod(1 - gamma[s] for s in range(t))
        for tau in range(t):
            mu[t, tau] = -gamma[t] * rho[tau] * math.prod(1 - gamma[s] for s in range(tau + 1, t))
    return mu, nu


def momentum_form(start: Array, rates: Array, mu: Array, last: Array, grads: Array) -> Array:
    """w_{t+1} = w_t - rates_t g_t - sum_{tau<t} mu_{t,tau} g_tau - last_t, step by step."""
    weights = [start]
    for t in range(len(grads)):
        step = -rates[t] * grads[t] - last[t]
        for tau in range(t):
            step = step - mu[t, tau] * grads[tau]
        weights.append(weights[-1] + step)
    return np.stack(weights)
