"""Curves of the groups at their best learning rates, and what each ends with at the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from overdepth.lab.problem import Array
from overdepth.paper.picture import Curve, add_curve, blank_figure, gap_figure
from overdepth.sweeps.show.best import Best, Grouping, Settings
from overdepth.sweeps.show.grids import MAX_RATES, rate_axis
from overdepth.sweeps.show.labels import escaped, label, looks, text


def gap_band(gaps: Array) -> Array:
    """Smallest, median and largest gap over seeds, in which a run that diverged counts as infinite.

    Args:
        gaps: Shape (seeds, steps), NaN where a run diverged.

    Returns:
        Shape (3, steps), or (1, steps) for one seed; NaN where half of the seeds or more diverged. The largest is that
        of the seeds that did not.
    """
    if len(gaps) == 1:
        return gaps
    filled = np.sort(np.where(np.isnan(gaps), np.inf, gaps), axis=0)
    low, high = filled[(len(gaps) - 1) // 2], filled[len(gaps) // 2]
    median = np.where(low == high, low, low / 2 + high / 2)
    with np.errstate(invalid="ignore"):
        largest = np.where(np.isfinite(filled), filled, -np.inf).max(axis=0)
    band = np.stack([filled[0], median, largest])
    return np.where(np.isfinite(median), band, np.nan)


def best_curves(grouping: Grouping, shown: Sequence[Best], *, title: str) -> go.Figure:
    """Gaps against steps of groups at their best learning rates: median and range over seeds.

    Args:
        grouping: Of the runs.
        shown: Which of its groups.
        title: Of the figure.
    """
    runs = grouping.runs
    data = runs.source.data
    steps = runs.source.read(data["step"])[: runs.position + 1]
    drawn = [best for best in shown if best.lr is not None]
    rows = np.concatenate([best.members for best in drawn]) if drawn else np.array([], dtype=np.int64)
    gaps = runs.source.losses(rows)[:, : runs.position + 1]
    gaps = gaps - np.asarray(runs.source.read(data["optimal_loss"]))[rows, None]
    parts = np.split(gaps, np.cumsum([len(best.members) for best in drawn])[:-1]) if drawn else []
    curves = [
        Curve(_name(best), gap_band(part), color, dash)
        for best, part, (color, dash) in zip(drawn, parts, looks([best.settings for best in drawn]), strict=True)
    ]
    figure = gap_figure(steps, curves, title=title)
    return _marked(figure, {_name(best): best.settings for best in drawn})


def sensitivity(grouping: Grouping, shown: Sequence[Best], *, title: str) -> go.Figure:
    """The gap at the last step against the learning rate: median and range over seeds, what else is tuned at its best.

    Learning rates at which half of the seeds or more diverged are missing.

    Args:
        grouping: Of the runs.
        shown: Which of its groups.
        title: Of the figure.
    """
    figure = blank_figure(title, x="learning rate", y="gap at the last step", log_x=True)
    found = grouping.statistics
    drawn = [best for best in shown if best.lr is not None]
    for best, (color, dash) in zip(drawn, looks([best.settings for best in drawn]), strict=True):
        cells = np.flatnonzero(grouping.group == best.number)
        axis = rate_axis(grouping.lr[cells], MAX_RATES)
        order = np.lexsort((found.median[cells], axis.index))
        lowest = cells[order[np.unique(axis.index[order], return_index=True)[1]]]
        values = np.stack([found.low[lowest], found.median[lowest], found.high[lowest]])
        values[:, ~np.isfinite(values[1])] = np.nan
        name = escaped(label(best.settings) or "all runs")
        add_curve(figure, grouping.lr[lowest], Curve(name, values, color, dash), mode="lines+markers")
    figure.update_layout(hovermode="closest")
    return _marked(figure, {escaped(label(best.settings) or "all runs"): best.settings for best in drawn})


def _name(best: Best) -> str:
    """A group with what was chosen for it."""
    return escaped(label({**best.settings, "lr": best.lr, **best.chosen}))


def _marked(figure: go.Figure, settings: dict[str, Settings]) -> go.Figure:
    """Tells the page whose traces these are, so that it can hide them; on a phone the legend is a long one."""
    figure.update_layout(legend={"yref": "container", "y": 0.0, "yanchor": "bottom"}, margin={"b": 60})
    figure.update_layout(modebar={"remove": ["select2d", "lasso2d"]})
    for trace in figure.data:
        trace.meta = {name: text(value) for name, value in settings[trace.legendgroup].items()}
    return figure
