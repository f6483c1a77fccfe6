"""How far gradient descent, with and without noise, is from gradient flow at the same time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overdepth._checks import check_nonnegative, check_positive, check_size
from overdepth.chain import multiply
from overdepth.theory.flow_fields import LayersField, array_gradient
from overdepth.theory.gradient_flow import float64_factors
from overdepth.theory.integration import check_integrator, integrate
from overdepth.theory.losses import LeastSquares, Loss

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]


def discretization_gap(
    factors: Sequence[Tensor],
    loss: Loss,
    lrs: Sequence[float],
    time: float,
    *,
    batch_size: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    weight_decay: float = 0.0,
    method: str = "DOP853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
) -> xr.Dataset:
    r"""Compares gradient descent on the factors with gradient flow at the time lr * steps.

    Gradient descent is Euler's method for the flow: at a fixed time its distance falls like lr. Stochastic gradients
    add noise, whose effect at a fixed time falls like sqrt(lr / batch_size) only.

    Args:
        factors: W_1, ..., W_N in the order in which they act on the input, at time 0.
        loss: A :class:`Loss`; stochastic gradients need the data of :func:`least_squares`.
        lrs: Learning rates; each takes round(time / lr) steps, and is compared at its own lr * steps.
        time: The time to compare at.
        batch_size: Examples a stochastic gradient is averaged over, drawn with replacement; None for none of it.
        seeds: One stochastic run each.
        weight_decay: On every factor.
        method: Integrator of the flow, as in :func:`flow`.
        rtol: Its relative tolerance.
        atol: Its absolute tolerance.

    Returns:
        A dataset over ``lr`` with ``steps``, ``time``, ``distance`` = ||W_gd - W_flow||_F, ``loss``, ``flow_loss``;
        with ``batch_size`` over (``lr``, ``seed``) also ``noisy_loss``, ``noisy_distance`` (to the flow) and
        ``noise`` (to gradient descent). A run that diverged has infinite values. The attribute ``order`` is the
        slope of log(distance) over log(lr), with at least two learning rates that converged.

    Raises:
        TypeError: If ``loss`` is none of this package.
        ValueError: If an argument is out of its range, or stochastic gradients are asked of a loss without data.
        RuntimeError: If the integrator of the flow gives up.

    Example:
        >>> import torch, overdepth as od
        >>> from overdepth.theory import discretization_gap, matrix_distance
        >>> factors = od.balanced_factors(torch.tensor([[0.5]]), depth=3)
        >>> gap = discretization_gap(factors, matrix_distance(torch.tensor([[1.0]])), [0.01, 0.005], time=1.0)
        >>> gap.steps.values, round(gap.attrs["order"], 1)
        (array([100, 200]), 1.0)
    """
    check_positive(time, "time")
    check_nonnegative(weight_decay, "weight_decay")
    check_integrator(method, rtol, atol)
    if not isinstance(loss, Loss):
        raise TypeError(f"loss is a {type(loss).__name__}, expected a Loss of least_squares or matrix_distance.")
    rates = _check_rates(lrs, time)
    if batch_size is not None:
        _check_noise(loss, check_size(batch_size, "batch_size"), seeds)
    chain = float64_factors(factors)
    exact = LayersField(chain, array_gradient(loss, multiply(chain)), weight_decay=weight_decay)
    steps = np.array([round(time / lr) for lr in rates])
    followed = _flow_at(exact, rates * steps, method, rtol, atol)
    descended = np.stack([_descend(exact, lr, n) for lr, n in zip(rates, steps, strict=True)])
    distance = _distance(descended, followed)
    variables: dict[str, tuple[tuple[str, ...], NDArray[np.generic]]] = {
        "steps": (("lr",), steps),
        "time": (("lr",), rates * steps),
        "distance": (("lr",), distance),
        "loss": (("lr",), _value(loss, descended)),
        "flow_loss": (("lr",), _value(loss, followed)),
    }
    coords: dict[str, Sequence[float] | Array] = {"lr": rates}
    attrs = {"order": _slope(rates, distance), "method": method, "rtol": rtol, "atol": atol}
    if batch_size is not None and isinstance(loss, LeastSquares):
        both = ("lr", "seed")
        noisy = np.stack([[_noisy(chain, loss, lr, n, batch_size, s, weight_decay) for s in seeds]
                          for lr, n in zip(rates, steps, strict=True)])  # fmt: skip
        variables["noisy_loss"] = (both, _value(loss, noisy))
        variables["noisy_distance"] = (both, _distance(noisy, followed[:, None]))
        variables["noise"] = (both, _distance(noisy, descended[:, None]))
        coords["seed"] = list(seeds)
        attrs["batch_size"] = batch_size
    import xarray as xr  # takes longer to load than all else here

    return xr.Dataset(variables, coords=coords, attrs={**attrs, "weight_decay": weight_decay})


def _flow_at(field: LayersField, times: Array, method: str, rtol: float, atol: float) -> Array:
    """The flow's weights at times in any order, some of which may differ by rounding alone."""
    order = np.argsort(times)
    is_new = np.diff(times[order], prepend=-1.0) > 1e-12 * times.max()
    solution = integrate(field, field.start, times[order][is_new], method=method, rtol=rtol, atol=atol)
    place = np.empty(len(times), dtype=np.int64)
    place[order] = np.cumsum(is_new) - 1
    found: Array = field.weight_of(solution.states)[place]
    return found


def _descend(field: LayersField, lr: float, steps: int) -> Array:
    state = field.start.copy()
    with np.errstate(over="ignore", invalid="ignore"):  # of a run that diverges
        for _ in range(steps):
            state += lr * field(state)
        return field.weight_of(state)


def _noisy(
    factors: list[Tensor], loss: LeastSquares, lr: float, steps: int, batch_size: int, seed: int, weight_decay: float
) -> Array:
    field = LayersField(factors, _stochastic(loss, batch_size, seed), weight_decay=weight_decay)
    return _descend(field, lr, steps)


def _stochastic(loss: LeastSquares, batch_size: int, seed: int) -> Callable[[Array], Array]:
    """The gradient on examples that are drawn anew at every call."""
    X, Y, rng = loss.X.numpy(), loss.Y.numpy(), np.random.default_rng(seed)

    def gradient(weight: Array) -> Array:
        chosen = rng.integers(len(X), size=batch_size)
        features = X[chosen]
        grad: Array = (features @ weight.T - Y[chosen]).T @ features / batch_size
        return grad

    return gradient


def _distance(one: Array, other: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        norm = np.linalg.norm(one - other, axis=(-2, -1))
    return np.where(np.isfinite(norm), norm, np.inf)


def _value(loss: Loss, weights: Array) -> Array:
    value: Array = loss.value(torch.from_numpy(np.ascontiguousarray(weights))).numpy()
    return np.where(np.isfinite(value), value, np.inf)


def _slope(rates: Array, distance: Array) -> float:
    fine = np.isfinite(distance) & (distance > 0)
    if len(np.unique(rates[fine])) < 2:
        return math.nan
    return float(np.polyfit(np.log(rates[fine]), np.log(distance[fine]), 1)[0])


def _check_rates(lrs: Sequence[float], time: float) -> Array:
    if len(lrs) == 0:
        raise ValueError("lrs is empty, expected at least one learning rate.")
    for i, lr in enumerate(lrs):
        check_positive(lr, f"lrs[{i}]")
        if round(time / lr) == 0:
            raise ValueError(f"lrs[{i}] is {lr!r} and time is {time!r}: not one step; use a smaller learning rate.")
    return np.array([float(lr) for lr in lrs])


def _check_noise(loss: Loss, batch_size: int, seeds: Sequence[int]) -> None:
    if not isinstance(loss, LeastSquares):
        raise ValueError(
            f"batch_size is {batch_size} with a loss without data; use least_squares(X, Y), or batch_size=None."
        )
    if len(seeds) == 0 or not all(_is_seed(seed) for seed in seeds):
        raise ValueError(f"seeds is {seeds!r}, expected at least one integer >= 0, one a run.")


def _is_seed(seed: object) -> bool:
    return not isinstance(seed, bool) and isinstance(seed, Integral) and int(seed) >= 0
