"""Heat maps: the final gap, and the fraction of runs that diverged, over learning rate and depth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from overdepth.lab.problem import Array
from overdepth.paper.picture import blank_figure
from overdepth.sweeps.show.grids import Grid
from overdepth.sweeps.show.labels import escaped

DIVERGED_COLOR = "#8c959f"
GAP_COLORS = "Viridis_r"
FRACTION_COLORS = [[0.0, "rgba(213,94,0,0.04)"], [1.0, "rgba(213,94,0,1)"]]
LINE_HEIGHT, LEAST, MOST = 40, 270, 640


def color_range(grids: Sequence[Grid], *, start: float, resolution: float) -> tuple[float, float]:
    """The powers of ten between which colours change: from the lowest gap to that of the start.

    What lies below the resolution of the training, or ends above the start, is drawn as these are.

    Args:
        grids: That share the colours.
        start: The median gap at step 0.
        resolution: Gaps below are rounding.
    """
    gaps = np.concatenate([grid.median[np.isfinite(grid.median)] for grid in grids] or [np.array([])])
    gaps = gaps[gaps > 0]
    if not len(gaps):
        return -1.0, 0.0
    low, high = float(gaps.min()), float(gaps.max())
    if start > 0:
        low, high = max(low, min(resolution, high)), min(high, max(start, low))
    low, high = math.log10(low), math.log10(high)
    return (low, high) if high - low > 0.1 else (low - 0.05, high + 0.05)


def gap_map(grid: Grid, span: tuple[float, float]) -> go.Figure:
    """The median final gap, logarithmic; what diverged is grey with a cross, the best rate of every line has a ring.

    Args:
        grid: What is drawn.
        span: From :func:`color_range`.
    """
    figure = _blank(grid)
    stayed = np.isfinite(grid.median)
    diverged = np.isinf(grid.median)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponents = np.where(stayed, np.log10(np.maximum(grid.median, 10 ** (span[0] - 1))), np.nan)
    gaps = np.stack([grid.median, grid.low, grid.high, grid.seeds, grid.seeds_diverged], axis=-1)
    divergences = np.stack([grid.seeds, grid.seeds_diverged, grid.when], axis=-1)
    figure.add_trace(
        go.Heatmap(
            x=grid.rates,
            y=grid.lines,
            z=_packed(exponents),
            customdata=_packed(gaps),
            zmin=span[0],
            zmax=span[1],
            colorscale=GAP_COLORS,
            colorbar={"thickness": 12, "title": {"text": "gap"}, **_decades(span)},
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate=_where(grid)
            + "gap %{customdata[0]:.4g} (%{customdata[1]:.4g} to %{customdata[2]:.4g})<br>"
            + "%{customdata[4]} of %{customdata[3]} seeds diverged<extra></extra>",
        )
    )
    if diverged.any():
        figure.add_trace(
            go.Heatmap(
                x=grid.rates,
                y=grid.lines,
                z=_packed(np.where(diverged, 1.0, np.nan)),
                customdata=_packed(divergences),
                colorscale=[[0, DIVERGED_COLOR], [1, DIVERGED_COLOR]],
                showscale=False,
                xgap=1,
                ygap=1,
                hoverongaps=False,
                hovertemplate=_where(grid)
                + "diverged: %{customdata[1]} of %{customdata[0]} seeds, at step %{customdata[2]:,.0f} (median)"
                + "<extra></extra>",
            )
        )
        _mark(figure, grid, diverged, "x-thin", "diverged")
    some = stayed & (grid.seeds_diverged > 0)
    if some.any():
        _mark(figure, grid, some, "line-ne", "some seeds diverged")
    lines = np.flatnonzero(stayed.any(axis=1))
    best = np.zeros_like(stayed)
    best[lines, np.nanargmin(np.where(stayed, grid.median, np.inf)[lines], axis=1) if len(lines) else []] = True
    if len(grid.rates) > 1 and len(lines):
        _mark(figure, grid, best, "circle-open", "best of its line")
    return figure


def divergence_map(grid: Grid) -> go.Figure:
    """The fraction of runs that diverged; in the hover the median step at which they did.

    Args:
        grid: What is drawn.
    """
    figure = _blank(grid)
    told = [["" if np.isnan(when) else f", at step {when:,.0f} (median)" for when in line] for line in grid.all_when]
    figure.add_trace(
        go.Heatmap(
            x=grid.rates,
            y=grid.lines,
            z=_packed(grid.fraction),
            customdata=_packed(grid.runs),
            text=told,
            zmin=0,
            zmax=1,
            colorscale=FRACTION_COLORS,
            colorbar={"thickness": 12, "title": {"text": "diverged"}, "tickformat": ".0%", "dtick": 0.25},
            xgap=1,
            ygap=1,
            hoverongaps=False,
            hovertemplate=_where(grid) + "%{z:.0%} of %{customdata} runs diverged%{text}<extra></extra>",
        )
    )
    return figure


def _where(grid: Grid) -> str:
    """The first line of what is told of a place."""
    return f"lr %{{x}}, {escaped(grid.rows_by)} %{{y}}<br>"


def _blank(grid: Grid) -> go.Figure:
    height = min(max(135 + LINE_HEIGHT * len(grid.lines), LEAST), MOST)
    figure = blank_figure("", x="learning rate", y=escaped(grid.rows_by), log_y=False, height=height)
    figure.update_layout(hovermode="closest", margin={"t": 30, "b": 30})
    tools = ["zoom", "pan", "select", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]
    figure.update_layout(showlegend=False, modebar={"remove": tools})
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=grid.rates, showgrid=False)
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=grid.lines, showgrid=False)
    return figure


def _mark(figure: go.Figure, grid: Grid, where: np.ndarray, symbol: str, name: str) -> None:
    """Marks that are seen on every colour: white under black."""
    lines, columns = np.nonzero(where)
    x, y = [grid.rates[i] for i in columns], [grid.lines[i] for i in lines]
    size = 13 if symbol == "circle-open" else 8
    for color, width in (("white", 4), ("black", 1.5)):
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="markers",
                name=name,
                marker={"symbol": symbol, "size": size, "color": color, "line": {"color": color, "width": width}},
                hoverinfo="skip",
            )
        )


def _decades(span: tuple[float, float]) -> dict[str, object]:
    """Ticks of the colours: whole powers of ten, or where there are too few of them the two ends."""
    step = max(1, math.ceil((span[1] - span[0]) / 6))
    powers = list(range(math.ceil(span[0]), math.floor(span[1]) + 1, step))
    if len(powers) < 2:
        return {"tickvals": list(span), "ticktext": [f"{10**end:.2g}" for end in span]}
    return {"tickvals": powers, "ticktext": [f"10<sup>{power}</sup>" for power in powers]}


def _packed(values: Array) -> np.ndarray:
    """Single precision, which pages hold as base64; infinities are none of its numbers for a browser."""
    with np.errstate(over="ignore"):
        packed = np.asarray(values, dtype=np.float32)
    return np.where(np.isfinite(packed), packed, np.float32(np.nan))
