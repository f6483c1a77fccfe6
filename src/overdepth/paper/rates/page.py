"""The page of ``overdepth rates``, its figures as JSON, and its curves as NetCDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from overdepth.paper.picture import Curve, gap_figure
from overdepth.paper.rates.objective import Objective
from overdepth.paper.rates.path import FALL
from overdepth.paper.rates.study import CURVES, Result, curves_of
from overdepth.paper.rendering import embedded, write_json, write_netcdf, write_page

FLOW, CERTIFIED, ADAPTIVE, FROZEN = CURVES
_LOOK = {
    FLOW: ("flow", 0, "solid", 3.0),
    CERTIFIED: ("certified", 2, "solid", 2.0),
    ADAPTIVE: ("certified, margin refreshed", 1, "dash", 2.0),
    FROZEN: ("frozen (NTK), no bound", 3, "dot", 2.0),
}
_DASHES = ("solid", "dash", "dot", "dashdot")


def write_report(
    folder: Path, results: Sequence[Result], objective: Objective, *, command: str, shows: str = ""
) -> None:
    """Writes ``index.html``, ``rates.json`` and ``curves.nc`` into an existing, empty folder.

    Args:
        folder: Where to write.
        results: From :func:`study`, at least one.
        objective: What they descend.
        command: The command line that makes this report.
        shows: A sentence on what these starts show together.
    """
    write_json(folder / "rates.json", [result.to_json(objective) for result in results])
    write_netcdf(folder / "curves.nc", curves_of(results, objective))
    write_page(
        folder / "index.html",
        "rates/page.html",
        results=results,
        objective=objective,
        together=embedded(all_flows(results)) if len(results) > 1 else "",
        pictures=[embedded(one_start(result)) for result in results],
        points=sum(int(np.isfinite(result.curves[FLOW]).sum()) for result in results),
        violations=sum(result.violations for result in results),
        shows=shows,
        command=command,
    )


def all_flows(results: Sequence[Result]) -> go.Figure:
    """The flows of all starts, and their certified envelopes, thin, in the same colours."""
    figure = go.Figure()
    for index, result in enumerate(results):
        color, dash = index, _DASHES[index // 8 % len(_DASHES)]
        curves = [Curve(result.start.name, _drawn(result, FLOW)[None], color, dash, 2.5)]
        if not result.certificate.is_vacuous:
            curves.append(Curve(f"{result.start.name}, certified", _drawn(result, ADAPTIVE)[None], color, "dot", 1.3))
        part = gap_figure(
            result.times[_seen(result)], curves, title="All starts: the flow (thick) and what is certified", unit="time"
        )
        if index == 0:
            figure = part
        else:
            figure.add_traces(part.data)
        figure.data[-1].showlegend = len(curves) == 1
        figure.data[-len(curves)].showlegend = True
    _cut(figure, results)
    figure.update_layout(height=480, hovermode="closest")
    return figure


def one_start(result: Result) -> go.Figure:
    """The flow of one start with its envelopes and the frozen prediction."""
    curves = []
    for name, (label, color, dash, width) in _LOOK.items():
        vacuous = ", vacuous" if name == CERTIFIED and result.certificate.is_vacuous else ""
        curves.append(Curve(label + vacuous, _drawn(result, name)[None], color, dash, width))
    figure = gap_figure(result.times[_seen(result)], curves, title=result.start.name, unit="time")
    _cut(figure, [result])
    figure.layout.updatemenus = ()
    figure.update_layout(height=380, margin={"t": 45, "r": 10}, title={"font": {"size": 15}})
    figure.update_layout(legend={"font": {"size": 11}, "y": -0.22})
    return figure


def _drawn(result: Result, name: str) -> np.ndarray:
    """A curve as far down as the picture goes."""
    values = result.curves[name][_seen(result)]
    return np.where(values >= _bottom(result), values, np.nan)


def _seen(result: Result) -> np.ndarray:
    """Which of the times, which are those of all starts, are this one's."""
    return result.times <= result.horizon.time


def _bottom(result: Result) -> float:
    gap = result.curves[FLOW]
    return 0.3 * max(FALL * result.certificate.gap, float(np.nanmin(gap)))


def _cut(figure: go.Figure, results: Sequence[Result]) -> None:
    low = min(_bottom(result) for result in results)
    high = 2 * max(result.certificate.gap for result in results)
    figure.update_yaxes(range=[float(np.log10(low)), float(np.log10(high))], dtick=2)
