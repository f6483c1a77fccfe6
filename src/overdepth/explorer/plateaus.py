"""The view of modes: a deep linear network learns its target's singular values one by one, each after a wait."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from overdepth.explorer.controls import Control, Slider, Values, decades, evenly
from overdepth.explorer.drawing import Picture, Shown, add_mark, figure, fit_decades
from overdepth.explorer.mode_times import log_error, mode_path, offsets
from overdepth.paper.picture import Curve, add_curve
from overdepth.theory.hitting import escape_time

if TYPE_CHECKING:
    from overdepth.lab.problem import Array

DEPTHS = (1, 2, 3, 4, 5, 6)
STARTS = decades(-6, -1)
MODES = 4
LEARNED = 0.9
"""Of its target: where a mode counts as learned."""

CONTROLS: tuple[Control, ...] = (
    Slider("depth", "depth N", DEPTHS, 3),
    Slider("start", "size of all modes at the start", STARTS, 0.001),
    Slider("largest", "largest singular value", evenly(0.5, 5, 0.1), 2),
    Slider("ratio", "each next one, over the one before", evenly(0.2, 0.95, 0.05), 0.6),
    Slider("imbalance", "imbalance between neighbouring layers", (0, *decades(-3, 0), 1.5, 2, 3), 0),
)


def show(values: Values) -> Shown:
    """The view."""
    depth, start, imbalance = int(values["depth"]), float(values["start"]), float(values["imbalance"])
    targets = singular_values(float(values["largest"]), float(values["ratio"]))
    learned = [time_to_learn(depth, start, target, imbalance) for target in targets]
    pictures = [
        Picture(
            "Modes over time",
            "Every mode waits near zero, then rises: the larger its singular value, the sooner. Solid: as set; dotted: "
            "the same without imbalance.",
            modes(depth, start, targets, imbalance),
        ),
        Picture("Loss over time", "Steps between plateaus.", loss(depth, start, targets, imbalance)),
        Picture(
            "How long the plateau is",
            "How long the largest mode waits to reach half its target from a balanced start, by the size of the start: "
            "a constant at depth 1, a logarithm at depth 2, a power from depth 3 on.",
            waiting(depth, start, targets[0]),
        ),
    ]
    escape = escape_time(start, targets[0], depth).time if start < targets[0] / 2 else 0.0
    layers = f"{depth} layers, imbalance {imbalance:g}" if imbalance and depth > 1 else f"{depth} balanced layers"
    text = (
        f"{layers[0].upper()}{layers[1:]}: the largest mode has learned {LEARNED:.0%} after time **{learned[0]:.4g}**, "
        f"the smallest of {MODES} after **{learned[-1]:.4g}**. Balanced, the largest reaches its half at {escape:.4g}."
    )
    return Shown(text, pictures)


def singular_values(largest: float, ratio: float) -> list[float]:
    """A geometric series, as long as ``MODES``."""
    return [largest * ratio**i for i in range(MODES)]


def chain(depth: int, imbalance: float) -> Array:
    """The offsets of ``depth`` layers, each larger than the one before by the imbalance."""
    return offsets([imbalance] * (depth - 1))


def time_to_learn(depth: int, start: float, target: float, imbalance: float) -> float:
    """When a mode has reached ``LEARNED`` of its target; 0 if it starts beyond."""
    times, levels = _path(depth, start, target, imbalance)
    return float(np.interp(LEARNED * target, levels, times)) if start < LEARNED * target else 0.0


def modes(depth: int, start: float, targets: list[float], imbalance: float) -> go.Figure:
    """The modes over time."""
    picture = figure(x="time", y="mode", log_y=False)
    end = _end(depth, start, targets, imbalance)
    for color, target in enumerate(targets, 1):
        for dial, dash, width in _dials(depth, imbalance):
            times, levels = _until(end, *_path(depth, start, target, dial))
            label = f"s = {target:.3g}" if dash == "solid" else f"s = {target:.3g}, balanced"
            add_curve(picture, times, Curve(label, levels[None], color=color, dash=dash, width=width))
            picture.data[-1].showlegend = dash == "solid"
    picture.update_xaxes(range=[0, end])
    return picture


def loss(depth: int, start: float, targets: list[float], imbalance: float) -> go.Figure:
    """Half the squared distance of all modes from their targets."""
    picture = figure(x="time", y="loss")
    end = _end(depth, start, targets, imbalance)
    for dial, dash, width in _dials(depth, imbalance):
        paths = [_path(depth, start, target, dial) for target in targets]
        times = np.unique(np.concatenate([times[times <= end] for times, _ in paths]))
        total = sum(
            np.exp(2 * log_error(times, chain(depth, dial), path, s)) / 2
            for path, s in zip(paths, targets, strict=True)
            if s != start
        )
        label = "balanced" if dash == "dot" else f"N = {depth}"
        add_curve(picture, times, Curve(label, np.asarray(total)[None], color=depth, dash=dash, width=width))
    first = sum(target**2 for target in targets) / 2
    picture.update_xaxes(range=[0, end])
    fit_decades(picture, 1e-4 * first, 2 * first)
    return picture


def waiting(depth: int, start: float, target: float) -> go.Figure:
    """Escape times by depth and start."""
    picture = figure(x="size at the start", y="time to half the target", log_x=True)
    for other in DEPTHS:
        width = 3.2 if other == depth else 1.4
        values = np.array(_escapes(other, target))
        add_curve(picture, np.array(STARTS), Curve(f"N = {other}", values[None], color=other, width=width))
    if start < target / 2:
        add_mark(picture, start, escape_time(start, target, depth).time, "as set")
    return picture


@functools.lru_cache(maxsize=256)
def _escapes(depth: int, target: float) -> tuple[float, ...]:
    return tuple(escape_time(start, target, depth).time if start < target / 2 else float("nan") for start in STARTS)


@functools.lru_cache(maxsize=256)
def _path(depth: int, start: float, target: float, imbalance: float) -> tuple[Array, Array]:
    if start == target:  # at rest
        return np.array([0.0, 1.0]), np.array([target, target])
    return mode_path(chain(depth, imbalance), start, target)


def _dials(depth: int, imbalance: float) -> list[tuple[float, str, float]]:
    """What is drawn with which line: as set and, where that is not the same, balanced."""
    as_set = (imbalance, "solid", 2.8)
    return [as_set] if imbalance == 0 or depth == 1 else [(0.0, "dot", 1.4), as_set]


def _end(depth: int, start: float, targets: list[float], imbalance: float) -> float:
    """Where the pictures end: a little after the last mode was learned."""
    return 1.25 * max(time_to_learn(depth, start, target, imbalance) for target in targets)


def _until(end: float, times: Array, levels: Array) -> tuple[Array, Array]:
    kept = times <= end
    if kept.all():
        return np.append(times, end), np.append(levels, levels[-1])
    return np.append(times[kept], end), np.append(levels[kept], np.interp(end, times, levels))
