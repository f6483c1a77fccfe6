"""What the explorer's figures share: the report's style, sizes that a projector shows, and axes that stand still."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from overdepth.paper.picture import COLORS

if TYPE_CHECKING:
    from overdepth.lab.problem import Array

HEIGHT = 340
PLOTLY = {"displayModeBar": False}
"""Of Plotly in the page: a lecture needs no buttons."""
INK = "#5f6b7a"
"""Of marks that belong to no curve; legible on white and on black."""


@dataclass(frozen=True)
class Picture:
    """A figure between its heading and the words under it."""

    title: str
    caption: str
    figure: go.Figure


@dataclass(frozen=True)
class Shown:
    """What a view shows.

    Attributes:
        text: A few sentences with the numbers, Markdown.
        pictures: Figures with their words.
    """

    text: str
    pictures: list[Picture]


def figure(*, x: str, y: str, log_x: bool = False, log_y: bool = True) -> go.Figure:
    """Axes without a curve, the legend above them, where there is room for as many lines as it needs.

    The report's figures come with a template of Plotly's, which takes twenty times as long to build as all the rest.
    """
    axes: dict[str, dict[str, object]] = {}
    for name, label, logarithmic in (("xaxis", x, log_x), ("yaxis", y, log_y)):
        axes[name] = {
            "title": {"text": label},
            "type": "log" if logarithmic else "linear",
            "exponentformat": "power",
            "gridcolor": "#dfe5ee",
            "zerolinecolor": "#c3cddb",
            "automargin": True,
        }
        if logarithmic:
            axes[name]["dtick"] = 1
    return go.Figure(
        layout={
            "template": "none",
            "font": {"size": 14, "color": "#24313f"},
            "legend": {"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0.0, "font": {"size": 13}},
            "margin": {"l": 60, "r": 15, "t": 10, "b": 45},
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "height": HEIGHT,
            "hovermode": "closest",
            "autosize": True,
            **axes,
        }
    )


def fit_decades(found: go.Figure, low: float, high: float) -> None:
    """Sets a logarithmic y axis to a range with at most eight decades between the numbers beside it."""
    bottom, top = math.log10(low), math.log10(high)
    found.update_yaxes(range=[bottom, top], dtick=max(1, math.ceil((top - bottom) / 8)))


def add_mark(found: go.Figure, x: float, y: float, name: str, *, color: int = 5) -> None:
    """A single point that stands out."""
    marker = {"symbol": "star", "size": 14, "color": COLORS[color], "line": {"width": 1, "color": "black"}}
    found.add_trace(go.Scatter(x=[x], y=[y], mode="markers", name=name, marker=marker))


def add_line(
    found: go.Figure, x: Array, y: Array, name: str, *, color: int, dash: str = "solid", width: float = 2.0
) -> None:
    """A closed or folded line, of which :func:`overdepth.paper.picture.add_curve` would take x for a function's."""
    line = {"color": COLORS[color % len(COLORS)], "dash": dash, "width": width}
    found.add_trace(go.Scatter(x=x, y=y, mode="lines", name=name, line=line, hoverinfo="skip"))
