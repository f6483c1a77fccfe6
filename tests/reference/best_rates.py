"""Best learning rates of a sweep in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr


class Found(NamedTuple):
    """A group at its best learning rate."""

    settings: tuple[Any, ...]
    lr: float | None
    gap: float
    low: float
    high: float
    seeds: int
    runs: int
    diverged: int
    missing: int


def final_gap(data: xr.Dataset, run: int) -> float:
    """Infinite for a run that diverged, NaN for one that has not come to the last step."""
    if math.isfinite(float(data["diverged_at"].values[run])):
        return math.inf
    return float(data["loss"].values[run, -1] - data["optimal_loss"].values[run])


def best_rates(data: xr.Dataset, by: Sequence[str], *, tuned: Sequence[str] = ()) -> list[Found]:
    """For every group the lowest median over runs that differ in the seed alone; of equal ones the lowest rate."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for run in range(data.sizes["run"]):
        groups.setdefault(tuple(_plain(data[name].values[run]) for name in by), []).append(run)
    found = []
    for settings in sorted(groups, key=_ordered):
        runs = groups[settings]
        cells: dict[tuple[Any, ...], list[float]] = {}
        for run in runs:
            gap = final_gap(data, run)
            if not math.isnan(gap):
                key = (float(data["lr"].values[run]), *(_plain(data[name].values[run]) for name in tuned))
                cells.setdefault(key, []).append(gap)
        best: tuple[float, tuple[Any, ...]] | None = None
        for key, gaps in cells.items():
            ordered = sorted(gaps)
            middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
            if best is None or (middle, _ordered(key)) < (best[0], _ordered(best[1])):
                best = (middle, key)
        gone = sum(math.isfinite(float(data["diverged_at"].values[run])) for run in runs)
        known = sum(len(gaps) for gaps in cells.values())
        counts = (known, gone, len(runs) - known)
        if best is None or math.isinf(best[0]):
            seeds = len(cells[best[1]]) if best else 0
            found.append(Found(settings, None, math.inf if best else math.nan, math.nan, math.nan, seeds, *counts))
        else:
            gaps = cells[best[1]]
            stayed = [gap for gap in gaps if math.isfinite(gap)]
            found.append(Found(settings, best[1][0], best[0], min(stayed), max(stayed), len(gaps), *counts))
    return found


def _ordered(settings: tuple[Any, ...]) -> tuple[Any, ...]:
    """NaN comes last."""
    return tuple((value == "nan", value) for value in settings)


def _plain(value: Any) -> Any:
    """A value that is equal to itself."""
    if isinstance(value, (float, np.floating)) and math.isnan(value):
        return "nan"
    return value.item() if isinstance(value, np.generic) else value
