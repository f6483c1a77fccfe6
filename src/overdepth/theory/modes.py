r"""Closed forms for one mode: a deep scalar network u = w_N ... w_1 under the flow of (s - u)^2 / 2.

A matrix network whose factors share the singular vectors of its target (:func:`spectral_factors`) is a set of such
modes, each with a singular value s of the target, and balanced factors of a small weight come close to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overdepth.theory.integration import check_integrator, check_times, integrate

Array = NDArray[np.float64]
Times = Sequence[float] | Tensor | Array | float


def two_layer_mode(times: Times, a: float, b: float, target: float) -> Tensor:
    r"""u(t) = a(t) b(t) of two scalar layers, in closed form, for any signs and any imbalance.

    With R = sqrt(4 s^2 + (a^2 - b^2)^2), both (a+b)^2 and (a-b)^2 follow a logistic law with rate R,
    V' = 2 s V - (V^2 - (a^2-b^2)^2) / 2 and the same with -s, and u is a quarter of their difference. So the error
    decays like e^{-R t} in the end: the imbalance speeds it up.

    Args:
        times: Any shape, or a number, >= 0.
        a: A weight at time 0.
        b: The other one.
        target: s.

    Returns:
        u, in the shape of the times, float64.

    Raises:
        ValueError: If an argument is not finite or a time negative.

    Example:
        >>> from overdepth.theory import two_layer_mode
        >>> two_layer_mode([0.0, 0.5, 1.0, 2.0], a=0.5, b=-0.2, target=1.5)  # starts with the wrong sign
        tensor([-0.1000,  0.0747,  0.3663,  1.3053], dtype=torch.float64)

    References:
        Saxe, McClelland & Ganguli, ICLR 2014; Tarmoun et al., ICML 2021; Min, Vidal & Mallada, ICML 2023.
    """
    t = check_times(times, increasing=False)
    for name, number in (("a", a), ("b", b), ("target", target)):
        check_finite(number, name)
    difference = (a - b) * (a + b)
    plus = _square(t, (a + b) ** 2, target, difference)
    minus = _square(t, (a - b) ** 2, -target, difference)
    return torch.from_numpy(np.asarray((plus - minus) / 4))


def logistic_mode(times: Times, start: float, target: float) -> Tensor:
    r"""u(t) of two balanced scalar layers, u' = 2 |u| (s - u): the logistic curve s / (1 + (s/u_0 - 1) e^{-2 s t}).

    Args:
        times: Any shape, or a number, >= 0.
        start: u_0; a balanced start never changes its sign.
        target: s.

    Returns:
        u, in the shape of the times, float64.

    Raises:
        ValueError: If an argument is not finite or a time negative.

    Example:
        >>> from overdepth.theory import logistic_mode
        >>> logistic_mode([0.0, 5.0, 10.0], start=0.01, target=1.0)
        tensor([0.0100, 0.9955, 1.0000], dtype=torch.float64)

    References:
        Saxe, McClelland & Ganguli, ICLR 2014.
    """
    t = check_times(times, increasing=False)
    check_finite(start, "start")
    check_finite(target, "target")
    sign = -1.0 if start < 0 else 1.0
    return torch.from_numpy(np.asarray(sign * _square(t, 4 * abs(start), sign * target, 0.0) / 4))


def _square(t: Array, start: float, s: float, difference: float) -> Array:
    """V(t) of V' = 2 s V - (V^2 - difference^2) / 2, V(0) = start >= 0, without cancellation.

    With the equilibria V_+ >= 0 >= V_-, V_+ - V_- = 2 R and V_+ V_- = -difference^2, every sum below has terms of one
    sign, and R = 0 is no special case.
    """
    d = abs(difference)
    rate = float(np.hypot(2 * s, d))
    if rate == 0:
        return start / (1 + start * t / 2)
    small = d * (d / (rate + 2 * abs(s)))
    upper, lower = (2 * s + rate, -small) if s >= 0 else (small, 2 * s - rate)
    if start == 0 and lower == 0:
        return np.zeros_like(t)  # at rest
    decay, passed = np.exp(-rate * t), -np.expm1(-rate * t) / rate
    if start <= upper:
        numerator = 2 * start - lower * (upper - start) * passed
        denominator = (start - lower) / rate + (upper - start) / rate * decay
    else:
        numerator = upper / rate * (start - lower) - lower / rate * (start - upper) * decay
        denominator = 2 + (start - upper) * passed
    return numerator / denominator


def deep_mode(
    times: Times,
    weights: Sequence[float] | Tensor | Array,
    target: float,
    *,
    method: str = "DOP853",
    rtol: float = 1e-12,
) -> Tensor:
    r"""u(t) = w_1(t) ... w_N(t) of any deep scalar network, by one ODE for its smallest weight y.

    The imbalances are constant, so that w_k = +-sqrt(c_k + y^2) with c_k = w_k(0)^2 - y(0)^2 >= 0, and
    y' = (s - u) prod w_k over the others; y passes through 0 where u changes its sign. A weight tied with the smallest
    one is \pm y and does so with it.

    Args:
        times: Any shape and order, or a number, >= 0.
        weights: w_1, ..., w_N at time 0, of any signs.
        target: s.
        method: Integrator, as in :func:`flow`; ``"Radau"`` for large weights and long times.
        rtol: Its relative tolerance; the absolute one is 1e-2 of that.

    Returns:
        u, in the shape of the times, float64.

    Raises:
        ValueError: If an argument is not finite, a time negative or there is no weight.
        RuntimeError: If the integrator gives up.

    Example:
        >>> from overdepth.theory import deep_mode
        >>> deep_mode([0.0, 0.5, 1.0, 2.0], [0.5, -0.2, 0.8], target=1.5)
        tensor([-0.0800,  0.0284,  0.1870,  1.3517], dtype=torch.float64)

    References:
        Min, Vidal & Mallada, ICML 2023.
    """
    t = check_times(times, increasing=False)
    check_finite(target, "target")
    check_integrator(method, rtol, 0.0)
    w: Array = torch.as_tensor(weights, dtype=torch.float64).detach().cpu().numpy()
    if w.ndim != 1 or len(w) == 0 or not np.isfinite(w).all():
        raise ValueError(f"weights is {weights!r}, expected a sequence of finite numbers, one a layer.")
    smallest = int(np.abs(w).argmin())
    others = np.delete(w, smallest)
    y = w[smallest]
    offsets = (np.abs(others) - abs(y)) * (np.abs(others) + abs(y))
    is_tied = offsets == 0
    signs = np.where(others < 0, -1.0, 1.0)
    tied_sign = float(np.prod(signs[is_tied]) * (-1.0 if y < 0 else 1.0) ** is_tied.sum())
    tied, free_sign, free = int(is_tied.sum()), float(np.prod(signs[~is_tied])), offsets[~is_tied]

    def field(state: Array) -> Array:
        (small,) = state
        rest = tied_sign * small**tied * free_sign * np.sqrt(free + small**2).prod()
        return np.array([rest * (target - rest * small)])

    def product_of(small: Array) -> Array:
        rest = np.sqrt(free + small[:, None] ** 2).prod(axis=1)
        result: Array = tied_sign * small ** (tied + 1) * free_sign * rest
        return result

    distinct, inverse = np.unique(t.ravel(), return_inverse=True)
    solution = integrate(field, np.array([y]), distinct, method=method, rtol=rtol, atol=1e-2 * rtol)
    return torch.from_numpy(product_of(solution.states[:, 0])[inverse].reshape(t.shape))


def check_finite(number: object, qualified_name: str) -> None:
    """Checks that a number is real and finite.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(number, bool) or not isinstance(number, Real) or not np.isfinite(float(number)):
        raise ValueError(f"{qualified_name} is {number!r}, expected a finite number.")
