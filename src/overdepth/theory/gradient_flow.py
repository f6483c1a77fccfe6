"""Gradient flow of a chain of factors, and of its product."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overdepth._checks import check_choice, check_depth, check_factors, check_nonnegative, shape
from overdepth.chain import multiply
from overdepth.theory.flow_fields import EndToEndField, FlowField, LayersField, PreconditionedField, array_gradient
from overdepth.theory.integration import check_integrator, check_times, integrate
from overdepth.theory.losses import Loss, float64_matrix

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[np.float64]
KINDS = ("layers", "end_to_end", "preconditioned")


def flow(
    factors: Sequence[Tensor] | Tensor,
    gradient: Loss | Callable[[Tensor], Tensor],
    times: Sequence[float] | Tensor | Array,
    *,
    kind: str = "layers",
    depth: float | None = None,
    loss: Loss | Callable[[Tensor], Tensor] | None = None,
    method: str = "DOP853",
    rtol: float = 1e-10,
    atol: float = 1e-12,
    weight_decay: float = 0.0,
) -> xr.Dataset:
    r"""Integrates gradient flow, the limit of gradient descent at small steps, in one of three forms.

    With G the loss's gradient at the end-to-end weight and lambda the weight decay of the factors,

    - ``"layers"``: dW_j/dt = -(W_N..W_{j+1})^T G (W_{j-1}..W_1)^T - lambda W_j, for any factors;
    - ``"end_to_end"``: Theorem 1, dW/dt = -lambda N W - sum_j [W W^T]^{(N-j)/N} G [W^T W]^{(j-1)/N}: what balanced
      factors do to their product, from the product of those given. N may be real if one weight is given;
    - ``"preconditioned"``: dW/dt = -lambda N W - T(G), with the transfer operator T of the factors, which move along:
      exact for any factors, balanced or not.

    Time is learning rate times steps. Every output time ends a step of the integrator, so that values are as accurate
    as it is, not interpolated.

    Args:
        factors: W_1, ..., W_N in the order in which they act on the input, at time 0; for ``"end_to_end"`` also a
            single weight of shape (k, d).
        gradient: A :class:`Loss` (fast), or a function from W, shape (k, d), float64, to the gradient.
        times: Output times, increasing, the first >= 0.
        kind: ``"layers"``, ``"end_to_end"`` or ``"preconditioned"``.
        depth: N, real and >= 1, if ``factors`` is a single weight.
        loss: The loss as function of W, or a :class:`Loss`; that of ``gradient`` if it is one.
        method: ``"DOP853"`` or ``"RK45"``; for stiff problems (a large ratio of the fastest to the slowest rate)
            ``"Radau"``, ``"BDF"`` or ``"LSODA"``.
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.
        weight_decay: Lambda >= 0, on every factor.

    Returns:
        A dataset over ``time`` with ``weight`` (time, row, column); ``loss`` if known, and ``gap`` = f - f* of a
        :class:`Loss`; ``factor_1``, ..., ``factor_N`` and ``imbalance_error``, the largest entry of
        D_j(t) - exp(-2 lambda t) D_j(0), if there are factors; ``product_error``, the largest entry of W minus the
        factors' product, for ``"preconditioned"``. Attributes: what was asked, and the number of evaluations.

    Raises:
        TypeError: If ``gradient`` is no function.
        ValueError: If an argument is out of its range, shapes do not fit, or the factors are not finite.
        RuntimeError: If the integrator gives up; the message has the time it reached.

    Example:
        >>> import torch, overdepth as od
        >>> from overdepth.theory import flow, matrix_distance
        >>> factors = od.balanced_factors(torch.tensor([[0.1]]), depth=3)
        >>> path = flow(factors, matrix_distance(torch.tensor([[1.0]])), times=[0.0, 1.0, 2.0, 4.0])
        >>> path.loss.values.round(4)
        array([0.405 , 0.1849, 0.0053, 0.    ])
        >>> bool(path.imbalance_error.max() < 1e-9)
        True

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 1; Min, Vidal & Mallada, ICML 2023.
    """
    check_choice(kind, "kind", KINDS)
    check_integrator(method, rtol, atol)
    check_nonnegative(weight_decay, "weight_decay")
    outputs = check_times(times)
    if isinstance(factors, Tensor):
        chain, order = None, _check_single(factors, kind, depth)
        weight = float64_matrix(factors, "factors")
    else:
        if depth is not None:
            raise ValueError(f"depth is {depth!r} beside a list of {len(factors)} factors; leave it out.")
        chain = float64_factors(factors)
        weight, order = multiply(chain), float(len(chain))
    gradient_of = array_gradient(gradient, weight)
    field: FlowField
    if chain is None or kind == "end_to_end":
        field = EndToEndField(weight, order, gradient_of, weight_decay=weight_decay)
    elif kind == "layers":
        field = LayersField(chain, gradient_of, weight_decay=weight_decay)
    else:
        field = PreconditionedField(chain, gradient_of, weight_decay=weight_decay)
    solution = integrate(field, field.start, outputs, method=method, rtol=rtol, atol=atol)
    weights = field.weight_of(solution.states)
    variables: dict[str, tuple[tuple[str, ...], Array]] = {"weight": (("time", "row", "column"), weights)}
    variables |= _losses(loss if loss is not None else gradient, weights, is_loss=loss is not None)
    if isinstance(field, LayersField):
        variables |= _of_factors(field, solution.states, outputs, weight_decay)
    asked = {"kind": kind, "depth": order, "method": method, "rtol": rtol, "atol": atol, "weight_decay": weight_decay}
    import xarray as xr  # takes longer to load than all else here

    return xr.Dataset(variables, coords={"time": outputs}, attrs={**asked, "evaluations": solution.evaluations})


def _losses(
    loss: Loss | Callable[[Tensor], Tensor], weights: Array, *, is_loss: bool
) -> dict[str, tuple[tuple[str, ...], Array]]:
    batch = torch.from_numpy(np.ascontiguousarray(weights))
    if isinstance(loss, Loss):
        gap = loss.gap(batch).numpy()
        return {"loss": (("time",), loss.optimal_value + gap), "gap": (("time",), gap)}
    if not is_loss:
        return {}
    return {"loss": (("time",), np.array([float(torch.as_tensor(loss(weight)).detach()) for weight in batch]))}


def _of_factors(
    field: LayersField, states: Array, times: Array, weight_decay: float
) -> dict[str, tuple[tuple[str, ...], Array]]:
    factors = field.split(states)
    depth = len(factors)
    names = ["column", *(f"width_{j}" for j in range(1, depth)), "row"]
    variables: dict[str, tuple[tuple[str, ...], Array]] = {
        f"factor_{j + 1}": (("time", names[j + 1], names[j]), factor) for j, factor in enumerate(factors)
    }
    error = np.zeros(len(times))
    decayed = np.exp(-2 * weight_decay * times)[:, None, None]
    pairs = itertools.pairwise(factors), itertools.pairwise(field.split(field.start))
    for now, start in zip(*pairs, strict=True):
        error = np.maximum(error, np.abs(_imbalance(*now) - decayed * _imbalance(*start)).max(axis=(-2, -1)))
    variables["imbalance_error"] = (("time",), error)
    if isinstance(field, PreconditionedField):
        apart = field.weight_of(states) - LayersField.weight_of(field, states)
        variables["product_error"] = (("time",), np.abs(apart).max(axis=(-2, -1)))
    return variables


def _imbalance(lower: Array, upper: Array) -> Array:
    """D_j = W_{j+1}^T W_{j+1} - W_j W_j^T, shape (..., n_j, n_j)."""
    difference: Array = upper.swapaxes(-1, -2) @ upper - lower @ lower.swapaxes(-1, -2)
    return difference


def float64_factors(factors: Sequence[Tensor]) -> list[Tensor]:
    """A single chain in float64 on the CPU, in its own memory.

    Raises:
        ValueError: If the factors do not chain, are batched, or have non-finite entries.
    """
    check_factors(factors)
    return [float64_matrix(factor, f"factors[{j}]") for j, factor in enumerate(factors)]


def _check_single(weight: Tensor, kind: str, depth: float | None) -> float:
    if kind != "end_to_end" or depth is None:
        raise ValueError(
            f"factors is a single tensor of shape {shape(weight)} with kind {kind!r} and depth {depth!r}; a single "
            f"weight goes with kind='end_to_end' and a depth, the other kinds need a list of factors."
        )
    check_depth(depth, allow_real=True)
    if math.isinf(depth):
        raise ValueError("depth is inf, expected a finite number; use a large depth, and time divided by it.")
    return float(depth)
