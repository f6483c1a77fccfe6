"""Gaps and divergences on a grid of learning rate by depth, one for every combination of the other settings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from overdepth.lab.problem import Array
from overdepth.sweeps.show.best import Grouping, Settings, medians
from overdepth.sweeps.show.labels import text
from overdepth.sweeps.show.runs import TUNED, Index

MAX_RATES = 30
"""Columns; more learning rates share them."""
MAX_LINES = 30
ROWS_BY = ("depth", "width", "scale", "weight_decay", "norm", "init", "method")
"""What the vertical axis may be, in the order of preference."""


@dataclass(frozen=True)
class Axis:
    """Learning rates as columns.

    Attributes:
        labels: Of the columns.
        index: Shape (cells,): the column of each.
        is_binned: Whether columns hold more than one rate.
    """

    labels: list[str]
    index: Index
    is_binned: bool


@dataclass(frozen=True)
class Grid:
    """What is drawn as a map; arrays have shape (lines, rates) and are NaN where nothing was run.

    Attributes:
        settings: What all of it has in common.
        rows_by: The setting on the vertical axis.
        lines: Its values, as text.
        rates: The columns.
        median: The median gap over seeds of the best of a cell; infinite where half of the seeds or more diverged.
        low: The smallest gap over seeds.
        high: The largest gap over seeds that did not diverge.
        seeds: Runs behind the median.
        seeds_diverged: How many of them diverged.
        runs: All runs of the cell.
        diverged: How many of them diverged.
        when: The median step of divergence of those behind the median.
        all_when: That of all.
    """

    settings: Settings
    rows_by: str
    lines: list[str]
    rates: list[str]
    median: Array
    low: Array
    high: Array
    seeds: Array
    seeds_diverged: Array
    runs: Array
    diverged: Array
    when: Array
    all_when: Array

    @property
    def fraction(self) -> Array:
        """Of the runs of a cell, those that diverged."""
        return self.diverged / self.runs


@dataclass(frozen=True)
class Grids:
    """Some of the grids of a grouping.

    Attributes:
        shown: Those with the lowest gaps, in the order of their settings.
        total: How many there are.
        lines_left_out: Values of the vertical axis for which there was no room.
        is_binned: Whether a column holds several learning rates.
    """

    shown: Sequence[Grid]
    total: int
    lines_left_out: int
    is_binned: bool


def rate_axis(rates: Array, most: int) -> Axis:
    """Columns for learning rates: one for each, or if there are too many, intervals of equal ratio.

    Example:
        >>> import numpy as np
        >>> from overdepth.sweeps.show.grids import rate_axis
        >>> rate_axis(np.array([0.1, 0.01, 0.1]), 40).labels
        ['0.01', '0.1']
        >>> rate_axis(np.geomspace(1e-4, 1, 100), 2).labels
        ['0.0001 to 0.01', '0.01 to 1']
    """
    distinct, index = np.unique(rates, return_inverse=True)
    if len(distinct) <= most or not distinct[0] > 0:
        short = [text(float(f"{rate:.3g}")) for rate in distinct]
        labels = short if len(set(short)) == len(short) else [text(rate) for rate in distinct]
        return Axis(labels, index.reshape(-1), is_binned=False)
    edges = np.geomspace(distinct[0], distinct[-1], most + 1)
    column = np.clip(np.searchsorted(edges, rates, side="right") - 1, 0, most - 1)
    labels = [f"{low:.3g} to {high:.3g}" for low, high in itertools.pairwise(edges)]
    return Axis(labels, column, is_binned=True)


def rows_of(grouping: Grouping) -> str | None:
    """The setting on the vertical axis: the depth if it makes groups; None if groups are made by nothing."""
    return next((name for name in (*ROWS_BY, *grouping.by) if name in grouping.by), None)


def grids(grouping: Grouping, *, most: int) -> Grids:
    """The grids of a grouping, at most so many; none if the learning rate or nothing else varies.

    Args:
        grouping: Of the runs.
        most: How many.
    """
    rows_by = rows_of(grouping)
    if rows_by is None or not grouping.runs.fields[TUNED].varies:
        return Grids([], 0, 0, is_binned=False)
    others = [name for name in grouping.by if name != rows_by]
    groups = grouping.groups
    whole = [tuple(text(group[name]) for name in others) for group in groups]
    places = list(dict.fromkeys(whole))
    number = {place: i for i, place in enumerate(places)}
    facet_of_group = np.array([number[own] for own in whole])
    best = np.array([item.gap if np.isfinite(item.gap) else np.inf for item in grouping.best])
    lowest = np.full(len(places), np.inf)
    np.minimum.at(lowest, facet_of_group, best)
    shown = np.sort(np.argsort(lowest, kind="stable")[:most])
    columns = rate_axis(grouping.lr, MAX_RATES)
    values = grouping.runs.fields[rows_by].values
    lines = np.unique(np.linspace(0, len(values) - 1, min(len(values), MAX_LINES)).round().astype(np.int64))
    facet = facet_of_group[grouping.group]
    found = []
    for chosen in shown:
        example = groups[int(np.flatnonzero(facet_of_group == chosen)[0])]
        settings = {name: example[name] for name in others}
        found.append(_grid(grouping, settings, rows_by, lines, columns, np.flatnonzero(facet == chosen)))
    return Grids(found, len(places), len(values) - len(lines), columns.is_binned)


def _grid(grouping: Grouping, settings: Settings, rows_by: str, lines: Index, columns: Axis, cells: Index) -> Grid:
    """One map: where several cells share a place, the one with the lowest median is shown."""
    found = grouping.statistics
    codes = grouping.codes(rows_by)[cells]
    cells = cells[np.isin(codes, lines) & (found.runs[cells] > 0)]
    line = np.searchsorted(lines, grouping.codes(rows_by)[cells])
    width = len(columns.labels)
    place = line * width + columns.index[cells]
    order = np.lexsort((found.median[cells], place))
    places, first = np.unique(place[order], return_index=True)
    lowest = cells[order[first]]
    shape = (len(lines), width)

    def spread(values: Array) -> Array:
        grid = np.full(shape[0] * shape[1], np.nan)
        grid[places] = values
        return grid.reshape(shape)

    size = shape[0] * shape[1]
    runs = np.bincount(place, weights=found.runs[cells], minlength=size)[places]
    diverged = np.bincount(place, weights=found.diverged[cells], minlength=size)[places]
    used = np.unique(places % width)
    grid = Grid(
        settings,
        rows_by,
        [text(value) for value in grouping.runs.fields[rows_by].values[lines]],
        columns.labels,
        spread(found.median[lowest]),
        spread(found.low[lowest]),
        spread(found.high[lowest]),
        spread(found.runs[lowest]),
        spread(found.diverged[lowest]),
        spread(runs),
        spread(diverged),
        spread(found.when[lowest]),
        _when(grouping, cells, place, size).reshape(shape),
    )
    return _cropped(grid, used)


def _when(grouping: Grouping, cells: Index, place: Index, places: int) -> Array:
    """The median step of divergence of all runs of each place."""
    place_of_cell = np.full(len(grouping.lr), -1)
    place_of_cell[cells] = place
    at = place_of_cell[grouping.cell_of_run]
    gone = grouping.runs.diverged & (at >= 0)
    return medians(at[gone], grouping.runs.diverged_at[gone], places)


def _cropped(grid: Grid, columns: Index) -> Grid:
    """Without learning rates at which nothing was run here."""
    kept = {field.name: getattr(grid, field.name) for field in fields(grid)}
    for name, value in kept.items():
        if isinstance(value, np.ndarray):
            kept[name] = value[:, columns]
    kept["rates"] = [grid.rates[i] for i in columns]
    return Grid(**kept)
