"""Interactive figures of curves, drawn alike everywhere: a colour a depth, a dash an arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

if TYPE_CHECKING:
    from overdepth.lab.problem import Array


COLORS = ("#737373", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")  # Okabe & Ito
MAX_POINTS = 300


@dataclass(frozen=True)
class Curve:
    """A line with a band.

    Attributes:
        label: In the legend.
        values: Shape (seeds, points); the median over seeds is drawn, the band spans them. NaN is not drawn.
        color: Index of its colour: the depth, wherever there is one.
        dash: Plotly's name of the dash.
        width: Of the line, in pixels.
    """

    label: str
    values: Array
    color: int
    dash: str = "solid"
    width: float = 2.0


def gap_figure(steps: Array, curves: Sequence[Curve], *, title: str, unit: str = "iterations") -> go.Figure:
    """Gaps, logarithmic, against iterations or time, linear or logarithmic by a button."""
    chosen = thinned(steps)
    figure = blank_figure(title, x=unit, y="loss minus optimal loss")
    for curve in curves:
        thin = replace(curve, values=curve.values[:, chosen])
        add_curve(figure, steps[chosen], thin)
    buttons = [
        {"label": f"{kind} {unit}", "method": "relayout", "args": [{"xaxis.type": kind, "xaxis.autorange": True}]}
        for kind in ("linear", "log")
    ]
    menu = {"type": "buttons", "direction": "right", "x": 1.0, "xanchor": "right", "y": 1.12, "buttons": buttons}
    figure.update_layout(updatemenus=[menu])
    return figure


def learning_rate_figure(rates: Sequence[float], curves: Sequence[Curve], *, title: str) -> go.Figure:
    """A final gap against the learning rate, both logarithmic."""
    figure = blank_figure(title, x="learning rate", y="gap at the last iteration", log_x=True)
    for curve in curves:
        add_curve(figure, np.asarray(rates), curve, mode="lines+markers")
    return figure


def blank_figure(
    title: str, *, x: str, y: str, log_x: bool = False, log_y: bool = True, height: int = 560
) -> go.Figure:
    """Axes in the report's style, without a curve; its page gives it the colours of the reader's theme."""
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.01},
        legend={"orientation": "h", "y": -0.2},
        margin={"l": 60, "r": 15, "t": 70, "b": 40},
        height=height,
        hovermode="x unified",
    )
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y)
    for axis, logarithmic in ((figure.layout.xaxis, log_x), (figure.layout.yaxis, log_y)):
        if logarithmic:
            axis.update(type="log", exponentformat="power")
    return figure


def add_curve(figure: go.Figure, x: Array, curve: Curve, *, mode: str = "lines") -> None:
    """Draws a curve: the median over seeds as a line, their range as a band.

    Args:
        figure: From :func:`blank_figure`.
        x: Shape (points,).
        curve: What to draw.
        mode: Plotly's: "lines", "markers" or "lines+markers".
    """
    values = np.asarray(curve.values, dtype=np.float64)
    if figure.layout.yaxis.type == "log":
        values = np.where(values > 0, values, np.nan)  # a logarithmic axis has no place for the others
    finite = np.isfinite(values).all(axis=0)
    median, low, high = np.full(len(x), np.nan), np.full(len(x), np.nan), np.full(len(x), np.nan)
    if finite.any():
        median[finite] = np.median(values[:, finite], axis=0)
        low[finite], high[finite] = values[:, finite].min(axis=0), values[:, finite].max(axis=0)
    color = COLORS[curve.color % len(COLORS)]
    if len(values) > 1 and finite.any():
        figure.add_trace(
            go.Scatter(
                x=_packed(np.concatenate([x[finite], x[finite][::-1]])),
                y=_packed(np.concatenate([low[finite], high[finite][::-1]])),
                mode="lines",
                fill="toself",
                fillcolor=color,
                opacity=0.12,
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=curve.label,
            )
        )
    figure.add_trace(
        go.Scatter(
            x=_packed(x),
            y=_packed(median),
            mode=mode,
            name=curve.label,
            legendgroup=curve.label,
            line={"color": color, "dash": curve.dash, "width": curve.width},
            hovertemplate="%{y:.4g}",
        )
    )


def _packed(values: Array) -> np.ndarray:
    """Single precision, which pages hold as base64: half as long as digits. What it cannot hold becomes NaN."""
    with np.errstate(over="ignore"):
        packed = np.asarray(values, dtype=np.float32)
    return np.where(np.isfinite(packed) & ((packed != 0) | (np.asarray(values) == 0)), packed, np.float32(np.nan))


def thinned(steps: Array) -> np.ndarray:
    """At most about ``MAX_POINTS`` of the recorded steps, dense in both a linear and a logarithmic view."""
    if len(steps) <= MAX_POINTS:
        return np.arange(len(steps))
    linear = np.linspace(0, len(steps) - 1, MAX_POINTS // 2)
    logarithmic = np.geomspace(1, len(steps) - 1, MAX_POINTS // 2)
    return np.unique(np.concatenate([linear, logarithmic, [0]]).astype(np.intp))
