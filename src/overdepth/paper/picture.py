"""Interactive figures of gap curves, drawn alike everywhere: a colour a depth, a dash an arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from overdepth.lab.problem import Array

COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")  # Okabe & Ito
MAX_POINTS = 400


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
    chosen = _thinned(steps)
    figure = _figure(title, x=unit, y="loss minus optimal loss")
    for curve in curves:
        _add(figure, steps[chosen], curve, curve.values[:, chosen])
    buttons = [
        {"label": f"{kind} {unit}", "method": "relayout", "args": [{"xaxis.type": kind, "xaxis.autorange": True}]}
        for kind in ("linear", "log")
    ]
    menu = {"type": "buttons", "direction": "right", "x": 1.0, "xanchor": "right", "y": 1.12, "buttons": buttons}
    figure.update_layout(updatemenus=[menu])
    return figure


def learning_rate_figure(rates: Sequence[float], curves: Sequence[Curve], *, title: str) -> go.Figure:
    """A final gap against the learning rate, both logarithmic."""
    figure = _figure(title, x="learning rate", y="gap at the last iteration")
    for curve in curves:
        _add(figure, np.asarray(rates), curve, curve.values, mode="lines+markers")
    figure.update_xaxes(type="log", exponentformat="power")
    return figure


def _figure(title: str, *, x: str, y: str) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "x": 0.01},
        legend={"orientation": "h", "y": -0.2},
        margin={"l": 60, "r": 15, "t": 70, "b": 40},
        height=560,
        hovermode="x unified",
    )
    figure.update_xaxes(title_text=x)
    figure.update_yaxes(title_text=y, type="log", exponentformat="power")
    return figure


def _add(figure: go.Figure, x: Array, curve: Curve, values: Array, *, mode: str = "lines") -> None:
    drawn = np.where(values > 0, values, np.nan)  # a logarithmic axis has no place for the others
    finite = np.isfinite(drawn).all(axis=0)
    median, low, high = np.full(len(x), np.nan), np.full(len(x), np.nan), np.full(len(x), np.nan)
    if finite.any():
        median[finite] = np.median(drawn[:, finite], axis=0)
        low[finite], high[finite] = drawn[:, finite].min(axis=0), drawn[:, finite].max(axis=0)
    color = COLORS[curve.color % len(COLORS)]
    if len(values) > 1 and finite.any():
        figure.add_trace(
            go.Scatter(
                x=np.concatenate([x[finite], x[finite][::-1]]),
                y=_rounded(np.concatenate([low[finite], high[finite][::-1]])),
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
            x=x,
            y=_rounded(median),
            mode=mode,
            name=curve.label,
            legendgroup=curve.label,
            line={"color": color, "dash": curve.dash, "width": curve.width},
            hovertemplate="%{y:.4g}",
        )
    )


def _rounded(values: Array) -> list[float | None]:
    """Five significant digits, None for NaN: keeps the page small, and valid JSON."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values]


def _thinned(steps: Array) -> np.ndarray:
    """At most about ``MAX_POINTS`` of the recorded steps, dense in both a linear and a logarithmic view."""
    if len(steps) <= MAX_POINTS:
        return np.arange(len(steps))
    linear = np.linspace(0, len(steps) - 1, MAX_POINTS // 2)
    logarithmic = np.geomspace(1, len(steps) - 1, MAX_POINTS // 2)
    return np.unique(np.concatenate([linear, logarithmic, [0]]).astype(np.intp))
