"""Questions to ask of a sweep's loss curves: which learning rate was best, when a level was reached, who caught up.

The statistics are defined for one problem, scaling and seed; ``steps`` are the recorded steps, the last one being the
horizon T.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from overdepth.lab.problem import Array

Steps = NDArray[np.int64]


def select(data: xr.Dataset, **settings: Any) -> xr.Dataset:
    """The runs whose settings have the given values; None stands for a ``norm`` that was not set.

    Instead of a value, a predicate on the whole column may be given, as in ``norm=np.isfinite``.

    Example:
        >>> import overdepth as od
        >>> from overdepth.lab.curves import select
        >>> problem = od.lab.load_problem("breast-cancer")
        >>> data = od.lab.sweep(problem, od.lab.grid(depth=[1, 2], lr=[1e-3, 1e-2]), steps=10)
        >>> select(data, depth=2).lr.values
        array([0.001, 0.01 ])
    """
    chosen = np.ones(data.sizes["run"], dtype=bool)
    for name, value in settings.items():
        column = data[name].values
        if callable(value):
            chosen &= value(column)
        else:
            chosen &= np.isnan(column) if value is None else column == value
    return data.isel(run=np.flatnonzero(chosen))


def gaps(data: xr.Dataset) -> Array:
    """Loss minus optimal loss, shape (run, step)."""
    return np.asarray((data["loss"] - data["optimal_loss"]).transpose("run", "step").values)


def best_run(data: xr.Dataset) -> int | None:
    """Position of the run with the lowest loss at the horizon among those that stayed finite; None if none did."""
    final = data["loss"].isel(step=-1).values
    return None if np.isnan(final).all() else int(np.nanargmin(final))


def first_step(gap: Array, steps: Steps, level: float) -> float:
    """The first step at which ``gap`` is at most ``level``; NaN if there is none.

    Between the last record above the level and the first one at most at it, the logarithm of the gap is interpolated.
    """
    reached = np.flatnonzero(gap <= level)
    if not len(reached):
        return math.nan
    at = int(reached[0])
    if at == 0 or not gap[at] > 0:
        return float(steps[at])
    above, below = math.log(gap[at - 1] / level), math.log(gap[at] / level)
    return float(steps[at - 1] + (steps[at] - steps[at - 1]) * above / (above - below))


def catch_up(gap: Array, reference: Array, steps: Steps) -> float:
    """T / (first step at which ``gap`` is at most the reference's at T); 0 if never, NaN if either diverged by T."""
    if math.isnan(reference[-1]) or math.isnan(gap[-1]):
        return math.nan
    reached = first_step(gap, steps, float(reference[-1]))
    return 0.0 if math.isnan(reached) else float(steps[-1]) / max(reached, 1.0)


class Ratio(NamedTuple):
    """A ratio, or a bound of it; NaN where nothing is known."""

    value: float
    is_bound: bool = False


def ratio_of_times(first: float, second: float, horizon: float, low: float, high: float) -> Ratio:
    """``first`` / ``second`` for two times of which one may lie beyond the horizon (NaN).

    A time beyond the horizon leaves a bound of the ratio, which is returned where it decides that the ratio lies
    outside [low, high].
    """
    if math.isnan(first) and math.isnan(second):
        return Ratio(math.nan)
    if math.isnan(second):
        upper = first / horizon
        return Ratio(upper, is_bound=True) if upper < low else Ratio(math.nan)
    if math.isnan(first):
        lower = horizon / max(second, 1.0)
        return Ratio(lower, is_bound=True) if lower > high else Ratio(math.nan)
    return Ratio(max(first, 1.0) / max(second, 1.0))


def mean_log_ratio(gap: Array, reference: Array, steps: Steps, *, points: int = 50) -> float:
    """Mean of log10(gap / reference) over log-spaced recorded steps of the first tenth of the horizon."""
    first = steps[steps > 0][0]
    last = max(steps[-1] / 10, first)
    wanted = np.geomspace(first, last, points)
    chosen = np.unique(np.abs(steps[:, None] - wanted).argmin(axis=0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.log10(gap[chosen] / reference[chosen])
    return float(np.mean(ratios))
