"""The page of a comparison: verdicts, table, loss curves with bands, sensitivity to the learning rate, settings."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup

from overdepth.comparison.arm_result import ArmResult
from overdepth.comparison.jobs import Array, Outcome
from overdepth.comparison.measures import Spread
from overdepth.comparison.result import Comparison
from overdepth.comparison.store import write_atomically
from overdepth.comparison.verdict import Kind, Verdict, between
from overdepth.paper.picture import COLORS, Curve, add_curve, blank_figure, thinned
from overdepth.paper.rendering import embedded, write_page

BINS = 4
"""A decade of learning rates, in the picture of the searches."""
Picture = tuple[Markup, str]
_TONES: dict[Kind, str] = {
    "faster": "holds",
    "lower loss": "holds",
    "slower": "fails",
    "higher loss": "fails",
    "unstable": "fails",
    "mixed": "inconclusive",
    "no difference": "soft",
    "not decided": "inconclusive",
}
_RATIOS = (("steps", "speed in steps"), ("time", "speed in time"), ("loss", "plain's last loss over the arm's"))


def write(path: Path, found: Comparison, *, title: str, command: str) -> None:
    """Writes the page, complete or not at all."""
    verdicts = [
        {
            "name": name,
            "verdict": verdict,
            "tone": _TONES[verdict.kind],
            "untuned": found.untuned.get(name),
            "matched": found.matched.get(name),
            "ratios": _ratios(verdict),
        }
        for name, verdict in found.verdicts.items()
    ]
    header, *rows = found.table_rows()
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "page.html"
        write_page(
            made,
            "comparison.html",
            title=title or type_name(found),
            found=found,
            settings=found.settings,
            task=found.task,
            verdicts=verdicts,
            header=header,
            rows=rows,
            pictures=_pictures(found),
            notes=found.notes(),
            command=command,
        )
        write_atomically(path, made.read_bytes())


def type_name(found: Comparison) -> str:
    """What the page is called if nobody says."""
    return f"{found.task.describe_base()}, {found.settings.steps:,} steps"


def _ratios(verdict: Verdict) -> list[tuple[str, str, str]]:
    spreads = [(label, getattr(verdict, name)) for name, label in _RATIOS]
    return [(label, _number(s.median), between(s)) for label, s in spreads if s is not None]


def _number(value: float) -> str:
    return f"{value:.3g}"


def _pictures(found: Comparison) -> list[Picture]:
    seeds = found.settings.seeds
    about = f"Median over {seeds} seeds, the band spans them." if seeds > 1 else "One seed."
    over = "" if found.window == 1 else f" Batch losses, averaged over the last {found.window} steps."
    pictures = []
    forest = _intervals(found)
    if forest is not None:
        pictures.append(
            (
                embedded(forest),
                "Each arm against plain training: to the right of 1 it is better. Dots: the seeds; bars: the median "
                "and its interval. A bar that touches 1 decides nothing.",
            )
        )
    curves = _curves(found, [(r, r.finals) for r in found.results], "Loss, each arm at its own learning rate")
    for result in found.results:
        if any(o is not None for o in result.matched):
            label = f"plain, steps as long as {result.arm.name}"
            _add(curves, found, result.matched, label, _color(found, result), dash="dot")
    pictures.append((embedded(curves), f"{about}{over} A run that diverged is not drawn."))
    if all(math.isfinite(found.step_seconds(result)) for result in found.results):
        timed = _curves(found, [(r, r.finals) for r in found.results], "The same by time", by_time=True)
        pictures.append((embedded(timed), f"{about} Steps times the median seconds of a step, taken in turns."))
    pictures.append(
        (
            embedded(_sensitivity(found)),
            "The last loss of every finished trial of the searches; the line goes through medians. Trials that "
            "diverged or were cut short are missing.",
        )
    )
    if found.untuned:
        base = found.task.base_lr
        rate = "plain training's" if base is None else f"{base:g}"
        plain = found.results[0]
        pairs = [(plain, plain.finals if base is None else plain.untuned)]
        pairs += [(r, r.untuned) for r in found.results[1:] if any(o is not None for o in r.untuned)]
        figure = _curves(found, pairs, f"Control: all arms at one learning rate, {rate}")
        pictures.append((embedded(figure), f"{about} No fair comparison, but the one that is often made."))
    return pictures


def _curves(
    found: Comparison,
    pairs: Sequence[tuple[ArmResult, Sequence[Outcome | None]]],
    title: str,
    *,
    by_time: bool = False,
) -> go.Figure:
    drawn = [curve for _, outcomes in pairs for curve in found.curves(outcomes) if len(curve)]
    positive = bool(drawn) and min(float(c.min()) for c in drawn) > 0
    early = found.window == 1  # curves without noise fall most in their first steps
    figure = blank_figure(title, x="seconds" if by_time else "steps", y="loss", log_x=early, log_y=positive)
    buttons = [
        {"label": f"{kind} scale", "method": "relayout", "args": [{"xaxis.type": kind, "xaxis.autorange": True}]}
        for kind in ("linear", "log")
    ]
    place = {"direction": "right", "x": 1.0, "xanchor": "right", "y": 1.12}
    figure.update_layout(updatemenus=[{"type": "buttons", **place, "active": int(early), "buttons": buttons}])
    for result, outcomes in pairs:
        scale = found.step_seconds(result) if by_time else 1.0
        _add(figure, found, outcomes, result.arm.name, _color(found, result), scale=scale)
    return figure


def _add(
    figure: go.Figure,
    found: Comparison,
    outcomes: Sequence[Outcome | None],
    label: str,
    color: int,
    *,
    dash: str = "solid",
    scale: float = 1.0,
) -> None:
    curves = [curve for curve in found.curves(outcomes) if len(curve)]
    if not curves:
        return
    steps: Array = np.arange(found.window, found.settings.steps + 1, dtype=np.float64)
    chosen = thinned(steps)
    values = np.stack(curves)[:, chosen]
    add_curve(figure, steps[chosen] * scale, Curve(label, values, color, dash))


def _color(found: Comparison, result: ArmResult) -> int:
    return 1 + found.results.index(result)


def _sensitivity(found: Comparison) -> go.Figure:
    """Every finished trial as a dot, and a line through medians: of the learning rates within a quarter of a decade."""
    figure = blank_figure("Sensitivity to the learning rate", x="learning rate", y="last loss", log_x=True)
    least = math.inf
    for result in found.results:
        trials = sorted((t.lr, t.value) for search in result.searches for t in search.tried if t.status == "done")
        if not trials:
            continue
        binned: dict[float, list[tuple[float, float]]] = {}
        for lr, value in trials:
            binned.setdefault(lr if found.settings.lrs else round(BINS * math.log10(lr)), []).append((lr, value))
        centres, medians = np.array([np.median(np.array(held), axis=0) for held in binned.values()]).T
        color = _color(found, result)
        add_curve(figure, centres, Curve(result.arm.name, medians[None], color))
        dots = {"color": COLORS[color % len(COLORS)], "size": 5, "opacity": 0.5}
        lrs, values = zip(*trials, strict=True)
        figure.add_trace(
            go.Scatter(x=lrs, y=values, mode="markers", marker=dots, showlegend=False, legendgroup=result.arm.name)
        )
        least = min(least, *values)
    if not 0 < least < math.inf:
        figure.update_yaxes(type="linear")
    figure.update_layout(hovermode="closest")
    return figure


def _intervals(found: Comparison) -> go.Figure | None:
    """Bars of the intervals, arm by arm and quantity by quantity."""
    rows: list[tuple[str, int, Spread]] = []
    for result in found.results[1:]:
        verdict = found.verdicts[result.arm.name]
        for name, label in _RATIOS:
            spread: Spread | None = getattr(verdict, name)
            if spread is not None and spread.neutral == 1:
                rows.append((f"{result.arm.name}: {label}", _color(found, result), spread))
    if not rows:
        return None
    height = 130 + 34 * len(rows)
    figure = blank_figure("Against plain training", x="ratio", y="", log_x=True, log_y=False, height=height)
    least = min(min(s.values) for *_, s in rows)
    most = max(max(s.values) for *_, s in rows)
    reach = 3.0
    bars = [(max(s.low, least / reach), min(s.high, most * reach)) for *_, s in rows]
    ends = np.log10([1.0, *(end for bar in bars for end in bar)])
    margin = 0.04 * float(np.ptp(ends)) or 0.1
    for (label, color, spread), (low, high) in zip(rows, bars, strict=True):
        line = {"color": COLORS[color % len(COLORS)], "width": 3}
        hover = f"{_number(spread.median)} ({between(spread)})<extra></extra>"
        common = {"showlegend": False, "hovertemplate": hover}
        figure.add_trace(go.Scatter(x=[low, high], y=[label, label], mode="lines", line=line, **common))
        dots = {"color": line["color"], "size": 8, "line": {"color": "white", "width": 1.5}}
        values = list(spread.values)
        figure.add_trace(go.Scatter(x=values, y=[label] * len(values), mode="markers", marker=dots, **common))
        mark = {"color": line["color"], "size": 12, "symbol": "diamond"}
        figure.add_trace(go.Scatter(x=[spread.median], y=[label], mode="markers", marker=mark, **common))
    figure.add_vline(x=1, line={"dash": "dash", "color": "#737373", "width": 1})
    figure.update_xaxes(range=[float(ends.min()) - margin, float(ends.max()) + margin])
    figure.update_yaxes(autorange="reversed", title_text="")
    figure.update_layout(hovermode="closest")
    return figure
