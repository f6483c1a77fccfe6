r"""When a mode is where, for any depth and imbalance between its layers, by one quadrature.

A mode u = w_N ... w_1 with the target s obeys u' = p'(x)(s - u), where x is its smallest squared weight, p(x) = u^2 and
p' the slope of :mod:`overdepth.theory.scalar_chains`. On a list of levels u the times are integrals between neighbours,

    t = \int du / (p'(x(u)) (s - u)),

taken in log u while u is small and in log |s - u| near the target, where either integrand is smooth, by Gauss's rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.interpolate import CubicHermiteSpline

from overdepth.theory.scalar_chains import slope

if TYPE_CHECKING:
    from overdepth.lab.problem import Array

LEVELS = 60
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(6)


def offsets(imbalances: list[float]) -> Array:
    """The offsets c_1, ..., c_N >= 0, the smallest 0, of layers whose squares differ by d_j = w_{j+1}^2 - w_j^2.

    Example:
        >>> from overdepth.explorer.mode_times import offsets
        >>> offsets([1.0, -3.0])
        array([2., 3., 0.])
    """
    found = np.concatenate([[0.0], np.cumsum(np.asarray(imbalances, dtype=np.float64))])
    shifted: Array = found - found.min()
    return shifted


def rate(chain: Array, size: Array) -> Array:
    """The transfer operator of a mode with these offsets (..., N) at |u| = ``size`` (...)."""
    sizes = np.asarray(size, dtype=np.float64)
    found: Array = slope(torch.from_numpy(np.asarray(chain, dtype=np.float64)), torch.from_numpy(sizes)).numpy()
    return found


def mode_path(chain: Array, start: float, target: float, *, fall: float = 1e-8) -> tuple[Array, Array]:
    """Times and the levels u reached then, from the start until the error has fallen to ``fall`` of the target.

    Args:
        chain: Offsets, shape (N,).
        start: u > 0 at time 0, not the target.
        target: s > 0.
        fall: Relative error at which to end.

    Returns:
        Times, from 0 on, and levels, shape (L,) each.

    Raises:
        ValueError: If start or target is not above 0, or they are equal.

    Example:
        >>> from overdepth.explorer.mode_times import mode_path, offsets
        >>> times, levels = mode_path(offsets([0.0]), 0.01, 1.0)  # 2 layers, balanced: the logistic curve
        >>> bool(abs(levels[40] - 1 / (1 + 99 * 2.718281828459045 ** (-2 * times[40]))) < 1e-9)
        True
    """
    if not (start > 0 and target > 0 and start != target):
        raise ValueError(f"start is {start!r} and target is {target!r}, expected two different numbers > 0.")
    half = target / 2
    levels = np.geomspace(start, half, LEVELS) if start < half else np.array([start])
    sign = 1.0 if start < target else -1.0
    error = np.geomspace(abs(target - levels[-1]), fall * target, LEVELS)
    rising = _integrated(np.log(levels), lambda y: np.exp(y) / (rate(chain, np.exp(y)) * (target - np.exp(y))))
    falling = _integrated(-np.log(error), lambda y: 1.0 / rate(chain, target - sign * np.exp(-y)))
    times = np.concatenate([rising, rising[-1] + falling[1:]])
    return times, np.concatenate([levels, target - sign * error[1:]])


def log_error(times: Array, chain: Array, path: tuple[Array, Array], target: float) -> Array:
    """Log |s - u| at given times, interpolated with its exact slope, -p'(x); beyond the path's end that goes on.

    Args:
        times: >= 0, shape (T,).
        chain: The offsets of ``path``.
        path: From :func:`mode_path`.
        target: s.
    """
    reached, levels = path
    slopes = -rate(chain, levels)
    inside = CubicHermiteSpline(reached, np.log(np.abs(target - levels)), slopes)(np.minimum(times, reached[-1]))
    found: Array = inside + slopes[-1] * np.maximum(times - reached[-1], 0.0)
    return found


def _integrated(y: Array, integrand: Callable[[Array], Array]) -> Array:
    """The integral of a function from y_0 to every y."""
    if len(y) == 1:
        return np.zeros(1)
    centre, half = (y[1:] + y[:-1]) / 2, np.diff(y) / 2
    values = integrand(centre[:, None] + half[:, None] * _NODES)
    return np.concatenate([[0.0], np.cumsum(half * (values @ _WEIGHTS))])
