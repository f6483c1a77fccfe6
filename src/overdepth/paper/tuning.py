"""Arms of a figure at their best learning rates: each seed's own, the lowest loss at the horizon among finite runs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import xarray as xr

from overdepth.lab.curves import Steps, best_run, catch_up, gaps, select
from overdepth.lab.problem import Array
from overdepth.paper.item import LEARNING_RATES
from overdepth.paper.picture import Curve

RESOLUTION = float(np.finfo(np.float32).eps)
"""Of the training, relative to the gap at the start: below it gaps are rounding."""


def caught_up(gap: Array, reference: Array, steps: Steps) -> float:
    """The catch-up, as far as it says something: NaN too where both are rounding by the horizon."""
    if max(gap[-1], reference[-1]) < RESOLUTION * reference[0]:
        return math.nan
    return catch_up(gap, reference, steps)


class Tuned(NamedTuple):
    """The gap curve of a seed at its best learning rate, and that rate; NaN if it diverged at every rate."""

    gap: Array
    lr: float


def tuned(arm: xr.Dataset, seed: int) -> Tuned:
    """What a seed's best learning rate gives, among the runs of one arm that differ in seed and rate alone."""
    part = select(arm, seed=seed)
    best = best_run(part)
    if best is None:
        return Tuned(np.full(part.sizes["step"], np.nan), float("nan"))
    return Tuned(gaps(part)[best], float(part["lr"].values[best]))


def tuned_curve(label: str, arm: xr.Dataset, *, color: int, dash: str = "solid") -> Curve:
    """The gaps of all seeds, each at its best rate, which the label names."""
    best = [tuned(arm, seed) for seed in np.unique(arm["seed"].values).tolist()]
    rates = ", ".join(f"{rate:g}" for rate in dict.fromkeys(lr for _, lr in best))
    return Curve(f"{label}, lr {rates}", np.stack([gap for gap, _ in best]), color=color, dash=dash)


def rate_curve(label: str, arm: xr.Dataset, *, color: int, dash: str = "solid") -> Curve:
    """The gaps at the last iteration over the grid of learning rates."""
    final = [gaps(select(arm, lr=rate))[:, -1] for rate in LEARNING_RATES]
    return Curve(label, np.stack(final, axis=1), color=color, dash=dash)
