"""One panel of the page: runs that may be compared, their best learning rates, curves and maps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

from overdepth.sweeps.show.best import Best, Grouping, Settings
from overdepth.sweeps.show.curves import best_curves, sensitivity
from overdepth.sweeps.show.grids import Grid, grids, rows_of
from overdepth.sweeps.show.labels import label, text
from overdepth.sweeps.show.maps import color_range, divergence_map, gap_map
from overdepth.sweeps.show.runs import TUNED, Runs

MAX_CURVES = 8
MAX_ROWS = 50
MAX_MAPS = 6
MAX_CHOICES = 40


@dataclass(frozen=True)
class Map:
    """The two maps of one combination of settings; the second one only where a run diverged."""

    title: str
    settings: Settings
    gaps: go.Figure
    divergences: go.Figure | None

    @property
    def settings_json(self) -> str:
        """For the page's filter."""
        return as_json(self.settings)


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    best: Best
    is_lowest: bool

    @property
    def settings_json(self) -> str:
        """For the page's filter."""
        return as_json(self.best.settings)


@dataclass(frozen=True)
class Panel:
    """What the page shows of comparable runs.

    Attributes:
        title: What tells these runs from those of other panels; empty if there are none.
        grouping: How they are grouped.
        rows: Of the table.
        said: Sentences on what is shown and what is not.
        choices: Of the filter: settings and their values.
        curves: Gaps against steps; None if no group has a rate at which it stays finite.
        sensitivity: Gaps against learning rates; None if there is but one rate.
        maps: Over learning rate and depth.
        map_said: Sentences on the maps.
    """

    title: str
    grouping: Grouping
    rows: Sequence[Row]
    said: Sequence[str]
    choices: dict[str, list[str]]
    curves: go.Figure | None
    sensitivity: go.Figure | None
    maps: Sequence[Map]
    map_said: Sequence[str]

    @property
    def maps_by(self) -> str:
        """What the vertical axis of the maps is."""
        return rows_of(self.grouping) or ""

    @property
    def runs(self) -> Runs:
        """The runs."""
        return self.grouping.runs


def as_json(settings: Settings) -> str:
    """Settings as the page's filter compares them: as text."""
    return json.dumps({name: text(value) for name, value in settings.items()})


def best_of(found: Sequence[Best], most: int) -> list[Best]:
    """The groups with the lowest gaps, at most so many, in their own order."""
    gaps = np.array([item.gap if np.isfinite(item.gap) else np.inf for item in found])
    return [found[i] for i in np.sort(np.argsort(gaps, kind="stable")[:most])]


def draw_panel(settings: Settings, runs: Runs, by: Sequence[str] | None, *, most_cells: int) -> Panel:
    """Groups, tunes and draws comparable runs.

    Args:
        settings: What tells them from other panels' runs.
        runs: The runs.
        by: The settings that make a group; default: as in :class:`.best.Grouping`.
        most_cells: Of all maps together.
    """
    grouping = Grouping(runs, by)
    found = grouping.best
    finite = [item for item in found if item.lr is not None]
    listed, drawn = best_of(found, MAX_ROWS), best_of(finite, MAX_CURVES)
    lowest = min((item.gap for item in finite), default=np.nan)
    title = label(settings)
    maps, map_said = _maps(grouping, most_cells)
    tuned = runs.fields[TUNED].varies
    return Panel(
        title,
        grouping,
        [Row(item, is_lowest=item.gap == lowest and len(found) > 1) for item in listed],
        _said(grouping, listed, drawn),
        _choices(listed),
        best_curves(grouping, drawn, title=_titled("Gap at the best learning rate", title)) if drawn else None,
        sensitivity(grouping, drawn, title=_titled("Sensitivity to the learning rate", title))
        if drawn and tuned
        else None,
        maps,
        map_said,
    )


def _titled(what: str, title: str) -> str:
    return f"{what}: {title}" if title else what


def _said(grouping: Grouping, listed: Sequence[Best], drawn: Sequence[Best]) -> list[str]:
    """What a reader should know before the table."""
    runs, total = grouping.runs, len(grouping.best)
    said = []
    if not runs.fields[TUNED].varies:
        said.append(f"There is one learning rate, {text(runs.fields[TUNED].values[0])}: nothing is tuned.")
    if len(runs) > 1 and all(item.seeds <= 1 for item in grouping.best):
        said.append("Every setting was run with one seed: what differs between groups may be chance.")
    if grouping.tuned:
        said.append(
            f"{', '.join(grouping.tuned)}: chosen for each group as the learning rate is, by the lowest median."
        )
    finite = sum(item.lr is not None for item in grouping.best)
    if len(listed) < total:
        said.append(f"The table lists the {len(listed)} groups with the lowest gaps of {total:,}.")
    if len(drawn) < finite:
        said.append(
            f"The curves are of the {len(drawn)} groups with the lowest gaps. To compare fewer groups name fields with "
            f"--group: the others are then chosen as the learning rate is."
        )
    if runs.repeated:
        said.append(f"{runs.repeated:,} runs with the settings of another one are left out.")
    if runs.norm_follows_seed:
        said.append("The norm of the start is another one for every seed; groups only tell whether it was set.")
    return said


def _choices(listed: Sequence[Best]) -> dict[str, list[str]]:
    """The filter: settings with several values in the table, if the table is long enough to need one."""
    if len(listed) < 4:
        return {}
    values = {name: list(dict.fromkeys(text(item.settings[name]) for item in listed)) for name in listed[0].settings}
    return {name: own for name, own in values.items() if 1 < len(own) <= MAX_CHOICES}


def _maps(grouping: Grouping, most_cells: int) -> tuple[list[Map], list[str]]:
    """As many maps as there is room for."""
    found = grids(grouping, most=MAX_MAPS)
    shown: list[Grid] = []
    for grid in found.shown:
        most_cells -= grid.median.size
        if most_cells >= 0 or not shown:
            shown.append(grid)
    runs = grouping.runs
    span = color_range(shown, start=runs.start, resolution=runs.resolution)
    maps = []
    for grid in shown:
        gone = divergence_map(grid) if np.nansum(grid.diverged) else None
        maps.append(Map(label(grid.settings), grid.settings, gap_map(grid, span), gone))
    said = []
    if len(shown) < found.total:
        said.append(f"Of {found.total:,} maps the {len(shown)} with the lowest gaps are drawn.")
    if found.is_binned:
        said.append("A column holds an interval of learning rates; the best of them is shown.")
    if found.lines_left_out:
        said.append(f"{found.lines_left_out:,} lines are left out, evenly.")
    if shown and grouping.tuned:
        said.append(f"Where {', '.join(grouping.tuned)} could be chosen, the best is shown.")
    return maps, said
