"""The view of the user's own sweep: loss curves by any setting, and what is left of the gap by any other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from overdepth.explorer.controls import Choice, Control, Text, Values
from overdepth.explorer.drawing import Picture, Shown, figure
from overdepth.explorer.sweep_files import data_sets, read_sweep, varying
from overdepth.lab.curves import best_run, gaps, select
from overdepth.lab.run import RUN_FIELDS
from overdepth.paper.picture import Curve, add_curve, thinned

AUTO = "auto"
COLORED = ("depth", "method", "init", "width", "scale", "norm", "weight_decay", "lr", "seed")
NUMBERS = ("lr", "scale", "width", "depth", "weight_decay", "seed")
MOST_GROUPS = 8
DASHES = ("solid", "dash", "dot", "dashdot")

CONTROLS: tuple[Control, ...] = (
    Text("sweep", "folder of a sweep or a report, or a .nc file", placeholder="report"),
    Choice("color", "a colour for every", {AUTO: "setting that differs"} | {name: name for name in COLORED}, AUTO),
    Choice("runs", "runs", {"best": "the best of each seed", "all": "all: median and range"}, "best"),
    Choice("x", "last picture by", {name: name for name in NUMBERS}, "lr"),
)


def further(values: Values) -> list[Control]:
    """A choice among the data sets of a folder that holds several; nothing where the path is no good."""
    try:
        names = list(data_sets(str(values["sweep"]))) if values["sweep"] else []
    except ValueError:
        return []
    return [Choice("item", "data set", {name: name for name in names}, names[0])] if len(names) > 1 else []


def show(values: Values) -> Shown:
    """The view.

    Raises:
        ValueError: If the path leads to no sweep.
    """
    place = str(values["sweep"])
    if not place:
        return Shown(
            "Give the folder of a sweep or of a report above, or start with `overdepth explore --sweep DIR`.", []
        )
    found = data_sets(place)
    name = str(values.get("item", ""))
    data = read_sweep(found.get(name, next(iter(found.values()))))
    color, best = color_of(data, str(values["color"])), values["runs"] == "best"
    x = str(values["x"])
    pictures = [
        Picture(
            f"Loss minus optimal loss, by {color}",
            ("Of every seed the run with the lowest final loss" if best else "All runs")
            + ": median and range. Diverged runs are not drawn.",
            curves(data, color, best=best),
        ),
        Picture(f"Final gap, by {x}", "What is left at the last step: median and range.", final(data, color, x)),
    ]
    return Shown(_text(data, color), pictures)


def color_of(data: xr.Dataset, asked: str) -> str:
    """The field that sets the colour: the one that was asked for, or the first that differs between runs.

    Raises:
        ValueError: If the data set does not have it.
    """
    if asked != AUTO:
        if asked not in data.coords:
            raise ValueError(f"the data set has no {asked!r}; choose one of {', '.join(_fields(data))}.")
        return asked
    differing = varying(data, COLORED)
    return differing[0] if differing else "depth"


def groups(data: xr.Dataset, color: str) -> list[tuple[str, int, str, xr.Dataset]]:
    """The runs by field and by objective: label, index of the colour, dash, runs; at most ``MOST_GROUPS`` values."""
    found = []
    objectives = sorted(set(data["objective"].values.tolist())) if "objective" in data.coords else [None]
    for index, value in enumerate(_values(data, color)[:MOST_GROUPS]):
        own = data if color not in data.coords else select(data, **{color: None if value != value else value})
        for dash, objective in zip(DASHES, objectives, strict=False):
            part = own if objective is None else select(own, objective=objective)
            if part.sizes["run"]:
                label = f"{color} {_short(value)}" + (f", {objective}" if len(objectives) > 1 else "")
                found.append((label, _color(color, value, index), dash, part))
    return found


def curves(data: xr.Dataset, color: str, *, best: bool) -> go.Figure:
    """The gaps over the steps."""
    picture = figure(x="step", y="loss minus optimal loss", log_x=True)
    steps = data["step"].values
    kept = thinned(steps)
    for label, index, dash, part in groups(data, color):
        chosen = gaps(part.isel(run=list(_best_of_seeds(part)))) if best else gaps(part)
        chosen = chosen[np.isfinite(chosen[:, -1])]
        if len(chosen):
            curve = Curve(label, chosen[:, kept], color=index, dash=dash)
            add_curve(picture, np.maximum(steps[kept], 1), curve)
    return picture


def final(data: xr.Dataset, color: str, x: str) -> go.Figure:
    """The gap at the last step against a number, a line a group."""
    picture = figure(x=x, y="gap at the last step", log_x=x in ("lr", "scale"))
    for label, index, dash, part in groups(data, color):
        if x not in part.coords:
            continue
        left, column = gaps(part)[:, -1], np.asarray(part[x].values, dtype=np.float64)
        points = np.unique(column)
        table = np.full((3, len(points)), np.nan)
        for i, point in enumerate(points):
            own = left[(column == point) & np.isfinite(left)]
            if len(own):
                table[:, i] = own.min(), np.median(own), own.max()
        curve = Curve(label, table, color=index, dash=dash)
        add_curve(picture, points, curve, mode="lines+markers")
    return picture


def _color(field: str, value: object, index: int) -> int:
    """A depth has its own colour, as everywhere; the others count from 1."""
    return int(value) if field == "depth" and isinstance(value, float) and np.isfinite(value) else index + 1


def _best_of_seeds(part: xr.Dataset) -> Iterator[int]:
    """Position of the best run of every seed, of those that have one that stayed finite."""
    seeds = part["seed"].values if "seed" in part.coords else np.zeros(part.sizes["run"])
    for seed in np.unique(seeds):
        own = np.flatnonzero(seeds == seed)
        if (position := best_run(part.isel(run=own))) is not None:
            yield int(own[position])


def _values(data: xr.Dataset, color: str) -> list[object]:
    if color not in data.coords:
        return [""]
    values = np.unique(data[color].values)
    return list(values.tolist())


def _text(data: xr.Dataset, color: str) -> str:
    diverged = int(np.isfinite(np.asarray(data["diverged_at"].values, dtype=np.float64)).sum())
    differing = varying(data, _fields(data))
    count = len(_values(data, color))
    problem = data.attrs.get("problem", "")
    said = [
        f"**{data.sizes['run']:,}** runs" + (f" on {problem}" if problem else "") + f", {diverged:,} of them diverged.",
        f"They differ in {', '.join(differing)}." if differing else "They have the same settings.",
    ]
    if count > MOST_GROUPS:
        said.append(f"The first {MOST_GROUPS} of {count} values of {color} are drawn.")
    return " ".join(said)


def _fields(data: xr.Dataset) -> Sequence[str]:
    return [name for name in (*RUN_FIELDS, "objective") if name in data.coords]


def _short(value: object) -> str:
    if isinstance(value, float):
        return "not set" if value != value else f"{value:g}"
    return str(value)
