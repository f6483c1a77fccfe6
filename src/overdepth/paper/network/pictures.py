"""The network's pictures: batch losses, learning rates, standard deviations of the new matrices."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from overdepth.lab.curves import select
from overdepth.paper.item import Picture
from overdepth.paper.network.curves import MEASURES, WINDOW, Measure, curves_of, times_by_std, tuned, tuned_curve
from overdepth.paper.network.model import STD
from overdepth.paper.network.penalty import PENALTIES
from overdepth.paper.network.training import Arm
from overdepth.paper.picture import Curve, add_curve, blank_figure, thinned

LABELS: dict[Arm, str] = {
    "plain": "plain",
    "matched": "plain, same start",
    "product": "two matrices, penalty on product",
    "factors": "two matrices, penalty on both",
    "old": "two matrices, penalty on old",
}
_STYLE: dict[Arm, tuple[int, str]] = {  # colour (depth), dash
    "plain": (1, "solid"),
    "matched": (1, "dot"),
    "product": (2, "solid"),
    "factors": (2, "dash"),
    "old": (2, "dot"),
}


def pictures(data: xr.Dataset) -> list[Picture]:
    """Both losses by iteration; the final cross-entropy by learning rate; the time by standard deviation."""
    about = f"Smoothed: {data.attrs['smoothing']}. Each at its best learning rate; median and range over seeds."
    return [
        Picture(f"Cross-entropy of the batches by iteration. {about}", _losses(data, "cross_entropy")),
        Picture(
            f"The same for the total loss, which contains the penalty, each its own. {about}",
            _losses(data, "total_loss"),
        ),
        Picture(
            f"Cross-entropy at the last iteration (mean of {WINDOW} batches) by learning rate of the first epoch. "
            "Learning rates at which a seed diverged are missing.",
            _rates(data),
        ),
        Picture(
            "Iterations to the plain network's final cross-entropy, by the new matrices' standard deviation; what is "
            "missing never got there.",
            _stds(data),
        ),
    ]


def _seeds(data: xr.Dataset) -> list[int]:
    return [int(seed) for seed in np.unique(data["seed"].values)]


def _losses(data: xr.Dataset, measure: Measure) -> go.Figure:
    figure = blank_figure(f"Figure 5, right: {MEASURES[measure]}", x="iteration", y=MEASURES[measure])
    steps = data["step"].values
    chosen = thinned(steps)
    for arm, (color, dash) in _STYLE.items():
        rates = dict.fromkeys(f"{tuned(data, measure, arm, seed):g}" for seed in _seeds(data))
        values = np.stack([tuned_curve(data, measure, arm, seed)[chosen] for seed in _seeds(data)])
        add_curve(figure, steps[chosen], Curve(f"{LABELS[arm]}, lr {', '.join(rates)}", values, color, dash))
    return figure


def _rates(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Sensitivity to the learning rate", x="learning rate", y="cross-entropy", log_x=True)
    rates = np.unique(select(data, std=STD)["lr"].values)
    for arm, (color, dash) in _STYLE.items():
        final = [curves_of(select(data, arm=arm, std=STD, lr=rate), "cross_entropy")[:, -1] for rate in rates]
        add_curve(figure, rates, Curve(LABELS[arm], np.stack(final, axis=1), color, dash), mode="lines+markers")
    return figure


def _stds(data: xr.Dataset) -> go.Figure:
    title = "Sensitivity to the new matrices' start"
    figure = blank_figure(title, x="standard deviation", y="iterations", log_x=True)
    for penalty in PENALTIES:
        times = [times_by_std(data, "cross_entropy", penalty, seed) for seed in _seeds(data)]
        stds = sorted({std for found in times for std in found})
        values = np.array([[found.get(std, np.nan) for std in stds] for found in times]).reshape(len(times), -1)
        color, dash = _STYLE[penalty]
        add_curve(figure, np.array(stds), Curve(LABELS[penalty], values, color, dash), mode="lines+markers")
    return figure
