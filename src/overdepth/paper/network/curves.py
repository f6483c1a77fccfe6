"""Questions to the network's batch losses: smoothed curves, tuned learning rates, times."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import xarray as xr
from numpy.lib.stride_tricks import sliding_window_view

from overdepth.lab.curves import Ratio, catch_up, first_step, ratio_of_times, select
from overdepth.lab.problem import Array
from overdepth.paper.network.model import STD
from overdepth.paper.network.penalty import Penalty
from overdepth.paper.network.training import Arm

WINDOW = 100
INSENSITIVE = 1.25

Measure = Literal["cross_entropy", "total_loss"]
MEASURES: dict[Measure, str] = {"cross_entropy": "cross-entropy", "total_loss": "total loss"}


def smoothed(losses: Array, window: int = WINDOW) -> Array:
    """The mean of the last ``window`` batch losses, at the beginning of all there are; shape (..., steps)."""
    padded = np.concatenate([np.zeros((*losses.shape[:-1], window - 1)), losses.astype(np.float64)], axis=-1)
    counts = np.minimum(np.arange(1, losses.shape[-1] + 1), window)
    return np.asarray(sliding_window_view(padded, window, axis=-1).sum(axis=-1) / counts)  # a spike leaves no trace


def curves_of(data: xr.Dataset, measure: Measure) -> Array:
    """Smoothed losses, shape (run, step)."""
    return smoothed(data[measure].transpose("run", "step").values)


def tuned(data: xr.Dataset, measure: Measure, arm: Arm, seed: int) -> float:
    """The learning rate whose smoothed loss is lowest at the last step, new matrices drawn like the old; or NaN."""
    part = select(data, arm=arm, seed=seed, std=STD)
    final = curves_of(part, measure)[:, -1]
    return math.nan if np.isnan(final).all() else float(part["lr"].values[np.nanargmin(final)])


def curve(data: xr.Dataset, measure: Measure, arm: Arm, seed: int, lr: float, std: float = STD) -> Array:
    """A run's smoothed loss; NaN if there is no such run."""
    part = select(data, arm=arm, seed=seed, lr=lr, std=std)
    return curves_of(part, measure)[0] if part.sizes["run"] else np.full(data.sizes["step"], np.nan)


def tuned_curve(data: xr.Dataset, measure: Measure, arm: Arm, seed: int) -> Array:
    """A run's smoothed loss at the tuned learning rate."""
    return curve(data, measure, arm, seed, tuned(data, measure, arm, seed))


def acceleration(data: xr.Dataset, measure: Measure, arm: Arm, reference: Arm, seed: int) -> float:
    """C(arm over reference), both tuned."""
    a, b = (tuned_curve(data, measure, each, seed) for each in (arm, reference))
    return catch_up(a, b, data["step"].values)


def times_by_std(data: xr.Dataset, measure: Measure, penalty: Penalty, seed: int) -> dict[float, float]:
    """Iterations to the tuned plain network's final smoothed loss, by the new matrices' std, at the tuned lr.

    NaN where it is not reached, everywhere if every learning rate of the plain network diverged.
    """
    level = float(tuned_curve(data, measure, "plain", seed)[-1])
    lr = tuned(data, measure, penalty, seed)
    part = select(data, arm=penalty, seed=seed, lr=lr)
    stds = np.unique(part["std"].values).tolist()
    return {s: first_step(curve(part, measure, penalty, seed, lr, s), part["step"].values, level) for s in stds}


def sensitivity(data: xr.Dataset, measure: Measure, penalty: Penalty, seed: int) -> Ratio:
    """Largest / smallest of these times; a bound of it where one is not reached within the horizon."""
    times = list(times_by_std(data, measure, penalty, seed).values())
    known = [time for time in times if not math.isnan(time)]
    if not known:
        return Ratio(math.nan)
    largest = max(known) if len(known) == len(times) else math.nan
    return ratio_of_times(largest, min(known), float(data["step"].values[-1]), 0.0, INSENSITIVE)
