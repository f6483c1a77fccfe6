"""Autonomous ODEs by SciPy's integrators, exact at the output times.

``solve_ivp(..., t_eval=times)`` returns the interpolant between steps, which at rtol 1e-11 is good to about 1e-7 here.
A step therefore ends at every output time; explicit methods go on with the step size they had.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
import scipy  # its parts are loaded when they are used
import torch
from numpy.typing import NDArray
from torch import Tensor

from overdepth._checks import check_choice, check_nonnegative

Array = NDArray[np.float64]
Field = Callable[[Array], Array]

METHODS = ("DOP853", "RK45", "Radau", "BDF", "LSODA")
"""Of :mod:`scipy.integrate`."""
_EXPLICIT = ("DOP853", "RK45")
_SMALLEST_RTOL = 100 * float(np.finfo(np.float64).eps)  # SciPy's own limit


class Solution(NamedTuple):
    """States at the output times, shape (T, n), and the number of evaluations of the field."""

    states: Array
    evaluations: int


def integrate(field: Field, start: Array, times: Array, *, method: str, rtol: float, atol: float) -> Solution:
    """Integrates y' = field(y) from ``start`` at time 0.

    Args:
        field: The right-hand side; it must return a new array at each call.
        start: y(0), shape (n,).
        times: Output times, increasing, the first >= 0.
        method: One of ``METHODS``.
        rtol: Relative tolerance of a step.
        atol: Absolute tolerance of a step.

    Returns:
        The states at ``times``.

    Raises:
        RuntimeError: If the integrator gives up before the last time.
    """
    states = np.empty((len(times), len(start)))
    time, state, evaluations, message = 0.0, np.array(start, dtype=np.float64), 0, None
    step: float | None = None
    solver_of = getattr(scipy.integrate, method)
    # A trial step may overflow: it is then rejected. LSODA says by a warning, too, that it gives up.
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, message="lsoda")
        for i, end in enumerate(times):
            if end > time:
                first = {} if step is None else {"first_step": min(step, float(end) - time)}
                try:
                    solver = solver_of(lambda _, y: field(y), time, state, end, rtol=rtol, atol=atol, **first)
                    while solver.status == "running":
                        time = float(solver.t)
                        message = solver.step()
                        stuck = solver.status == "running" and solver.t - time <= 10 * np.spacing(time)
                        if stuck and method not in _EXPLICIT:  # those see to it, and may begin with a tiny step
                            solver.status, message = "failed", "time does not advance"  # LSODA would go on for ever
                except (ValueError, np.linalg.LinAlgError) as error:  # a Jacobian that is not finite
                    raise _gave_up(method, time, times, str(error)) from error
                if solver.status == "failed" or not np.isfinite(solver.y).all():
                    raise _gave_up(method, time, times, message or "the state is not finite")
                evaluations += int(solver.nfev)
                if method in _EXPLICIT:
                    step = float(solver.h_abs)  # what the last step's error suggests for the next
                time, state = float(end), solver.y
            states[i] = state
    return Solution(states, evaluations)


def check_times(times: Tensor | Sequence[float] | Array | float, *, increasing: bool = True) -> Array:
    """Returns times as float64.

    Raises:
        ValueError: If they are not finite and >= 0 or, with ``increasing``, not a strictly increasing vector.
    """
    array: Array = torch.as_tensor(times, dtype=torch.float64).detach().cpu().numpy()
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError(f"times is {_short(array)}, expected finite numbers >= 0; the factors are those at time 0.")
    if increasing and (array.ndim != 1 or len(array) == 0 or (np.diff(array) <= 0).any()):
        raise ValueError(f"times is {_short(array)}, expected an increasing sequence of numbers such as [0.0, 1.0].")
    return array


def check_integrator(method: str, rtol: object, atol: object) -> None:
    """Checks what an integrator is asked for.

    Raises:
        ValueError: If the method is not known, or a tolerance is out of its range.
    """
    check_choice(method, "method", METHODS)
    if isinstance(rtol, bool) or not isinstance(rtol, Real) or not _SMALLEST_RTOL <= float(rtol) < 1:
        raise ValueError(f"rtol is {rtol!r}, expected a number from {_SMALLEST_RTOL:.1e} to 1.")
    check_nonnegative(atol, "atol")


def _gave_up(method: str, time: float, times: Array, message: str) -> RuntimeError:
    return RuntimeError(
        f"{method} gave up at time {time:.6g} of {float(times[-1]):.6g} ({message.strip().rstrip('.')}); try "
        f"method='Radau' for a stiff problem, or look whether the loss is bounded below."
    )


def _short(array: Array) -> str:
    return str(array.tolist()) if array.size <= 6 else f"an array of shape {array.shape} from {array.min()}"
