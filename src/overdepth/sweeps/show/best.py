"""Groups of runs, each at its best learning rate: the lowest median over seeds of the gap."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from overdepth.lab.problem import Array
from overdepth.sweeps.show.runs import INCOMPARABLE, REPEATED, TUNED, Field, Index, Runs, combined

Edge = Literal["", "lowest", "highest"]
Settings = dict[str, Any]
MANY = 30


@dataclass(frozen=True)
class Statistics:
    """Of runs that differ in the seed alone.

    Attributes:
        median: Of the gaps, those of runs that diverged being infinite; NaN where no run is known.
        low: The smallest gap.
        high: The largest gap of a run that did not diverge; NaN if all did.
        runs: How many are known.
        diverged: How many of them diverged.
        when: The median step of divergence; NaN if none diverged.
    """

    median: Array
    low: Array
    high: Array
    runs: Index
    diverged: Index
    when: Array


@dataclass(frozen=True)
class Best:
    """A group at its best learning rate.

    Attributes:
        number: Of the group among all of them.
        settings: What the group has in common.
        lr: The rate with the lowest median gap; None if all runs diverged, or none is known.
        chosen: Settings that were chosen with it.
        gap: The median gap over seeds at that rate.
        low: The smallest one over seeds.
        high: The largest one over seeds that did not diverge.
        seeds: How many runs these are.
        seeds_diverged: How many of them diverged.
        tied: All rates that are as good, the best one included: their gaps are equal, or all below the resolution.
        at_resolution: Whether the gap is rounding of the training.
        edge: Whether the best rate is the lowest or highest of several that were tried, so that the grid should be
            extended.
        runs: Known runs of the group, at all rates.
        diverged: How many of them diverged.
        missing: Runs of the group that have not come to the step yet.
        members: Positions in the file of the runs at the best rate.
    """

    number: int
    settings: Settings
    lr: float | None
    chosen: Settings
    gap: float
    low: float
    high: float
    seeds: int
    seeds_diverged: int
    tied: tuple[float, ...]
    at_resolution: bool
    edge: Edge
    runs: int
    diverged: int
    missing: int
    members: Index

    @property
    def notes(self) -> list[str]:
        """What a reader should know besides."""
        said = []
        if self.lr is None:
            said.append("every learning rate diverged: try lower ones" if self.runs else "no run is finished yet")
        rates = ", ".join(f"{rate:g}" for rate in self.tied[:4]) + (", ..." if len(self.tied) > 4 else "")
        if self.at_resolution and len(self.tied) > 1:
            said.append(f"tie: the gaps at lr {rates} are all rounding")
        elif self.at_resolution:
            said.append("the gap is rounding")
        elif len(self.tied) > 1:
            said.append(f"tie: lr {rates} are equally good")
        if self.edge:
            further = "higher" if self.edge == "highest" else "lower"
            said.append(f"best lr at the edge of the grid: extend it to {further} rates")
        if self.seeds_diverged and self.lr is not None:
            said.append(f"{self.seeds_diverged} of {self.seeds} seeds diverged at it")
        if self.missing and self.runs:
            said.append(f"{self.missing} runs are not finished")
        return said


class Grouping:
    """Runs by group, learning rate and what is chosen with the rate.

    Args:
        runs: Comparable ones, a part of :func:`overdepth.sweeps.show.runs.panels`.
        by: The settings that make a group; default: all that vary but the learning rate, the seed, what makes
            losses incomparable, and numbers other than the depth with more than ``MANY`` values, as a random search
            has. Others that vary are chosen as the learning rate is.

    Raises:
        ValueError: If ``by`` names no setting, or the learning rate or the seed.
    """

    def __init__(self, runs: Runs, by: Sequence[str] | None = None) -> None:
        self.runs = runs
        check_fields(by or (), runs)
        free = [name for name in runs.varying if name not in (TUNED, REPEATED, *INCOMPARABLE)]
        self.by = (
            tuple(name for name in free if not _is_searched(runs.fields[name]))
            if by is None
            else tuple(name for name in dict.fromkeys(by) if name in free)
        )
        self.tuned = tuple(name for name in free if name not in self.by)
        count = len(runs)
        group_fields = [runs.fields[name] for name in self.by]
        self.group_of_run, self._group_examples = combined(group_fields, count)
        cell_fields = [*group_fields, *(runs.fields[name] for name in self.tuned), runs.fields[TUNED]]
        self.cell_of_run, self._cell_examples = combined(cell_fields, count)

    @cached_property
    def groups(self) -> list[Settings]:
        """The settings of every group, in the order of their values."""
        return [self._settings(self.by, example) for example in self._group_examples]

    @cached_property
    def group(self) -> Index:
        """Shape (cells,): the group of each combination of group, chosen settings and rate."""
        return np.asarray(self.group_of_run[self._cell_examples])

    @cached_property
    def lr(self) -> Array:
        """Shape (cells,): the learning rate of each."""
        field = self.runs.fields[TUNED]
        return np.asarray(field.values[field.codes[self._cell_examples]], dtype=np.float64)

    def codes(self, name: str) -> Index:
        """Shape (cells,): which of a setting's values each has."""
        return np.asarray(self.runs.fields[name].codes[self._cell_examples])

    @cached_property
    def statistics(self) -> Statistics:
        """Over the seeds of every cell."""
        known = self.runs.is_known
        return grouped(self.cell_of_run[known], self.runs.gap[known], self.runs.diverged_at[known], len(self.lr))

    @cached_property
    def best(self) -> list[Best]:
        """Every group at its best learning rate, in the order of :attr:`groups`."""
        order = np.lexsort((self.lr, self.statistics.median, self.group))
        starts = np.searchsorted(self.group[order], np.arange(len(self._group_examples) + 1))
        return [
            self._best(number, order[first:last]) for number, (first, last) in enumerate(itertools.pairwise(starts))
        ]

    def _best(self, number: int, cells: Index) -> Best:
        """Of a group, whose cells come in the order of their medians, NaN last."""
        found, at = self.statistics, int(cells[0])
        members = self._runs_of(number)
        known = self.runs.is_known[members]
        gap = float(found.median[at])
        stayed = bool(np.isfinite(gap))
        at_resolution = stayed and gap <= self.runs.resolution
        tied = np.unique(self.lr[cells[found.median[cells] <= max(gap, self.runs.resolution)]]) if stayed else ()
        own = members[self.cell_of_run[members] == at]
        return Best(
            number=number,
            settings=self._settings(self.by, self._group_examples[number]),
            lr=float(self.lr[at]) if stayed else None,
            chosen=self._settings(self.tuned, self._cell_examples[at]) if stayed else {},
            gap=gap,
            low=float(found.low[at]),
            high=float(found.high[at]),
            seeds=int(found.runs[at]),
            seeds_diverged=int(found.diverged[at]),
            tied=tuple(float(rate) for rate in tied),
            at_resolution=at_resolution,
            edge="" if at_resolution or not stayed else _edge(np.asarray(tied), np.unique(self.lr[cells])),
            runs=int(known.sum()),
            diverged=int(self.runs.diverged[members].sum()),
            missing=int((~known).sum()),
            members=self.runs.rows[own[self.runs.is_known[own]]],
        )

    @cached_property
    def _by_group(self) -> tuple[Index, Index]:
        order = np.argsort(self.group_of_run, kind="stable")
        return order, np.searchsorted(self.group_of_run[order], np.arange(len(self._group_examples) + 1))

    def _runs_of(self, number: int) -> Index:
        order, starts = self._by_group
        return order[starts[number] : starts[number + 1]]

    def _settings(self, names: Sequence[str], example: int) -> Settings:
        fields = (self.runs.fields[name] for name in names)
        return {field.name: field.values[field.codes[example]] for field in fields}


def best_rates(runs: Runs, by: Sequence[str] | None = None) -> list[Best]:
    """Every group of runs at its best learning rate: the lowest median over seeds of the gap.

    A run that diverged counts as an infinite gap, so that a rate at which half of the seeds diverge is no choice.

    Args:
        runs: Comparable ones.
        by: The settings that make a group; default: as in :class:`Grouping`.

    Raises:
        ValueError: If ``by`` names no setting, or the learning rate or the seed.

    Example:
        >>> from pathlib import Path
        >>> import overdepth as od
        >>> from overdepth.sweeps.show import Source, best_rates, read_runs
        >>> problem = od.lab.load_problem("breast-cancer")
        >>> data = od.lab.sweep(problem, od.lab.grid(depth=[1, 2], lr=[1e-3, 1e-2, 1e3]), steps=200)
        >>> [(best.settings["depth"].item(), best.lr) for best in best_rates(read_runs(Source("", Path(), data)))]
        [(1.0, 0.01), (2.0, 0.01)]
    """
    return Grouping(runs, by).best


def grouped(cell: Index, gap: Array, diverged_at: Array, cells: int) -> Statistics:
    """Statistics of the gaps in every cell.

    Args:
        cell: Shape (runs,), from 0 to ``cells`` - 1.
        gap: Shape (runs,), infinite where a run diverged, never NaN.
        diverged_at: Shape (runs,), NaN where a run did not diverge.
        cells: Their number.
    """
    diverged = np.isfinite(diverged_at)
    runs = np.bincount(cell, minlength=cells)
    order = np.lexsort((gap, cell))
    low, median = np.full(cells, np.nan), medians(cell, gap, cells)
    some = runs > 0
    low[some] = gap[order][np.searchsorted(cell[order], np.flatnonzero(some))]
    high = np.full(cells, np.nan)
    np.fmax.at(high, cell[np.isfinite(gap)], gap[np.isfinite(gap)])
    return Statistics(
        median,
        low,
        high,
        runs,
        np.bincount(cell[diverged], minlength=cells),
        medians(cell[diverged], diverged_at[diverged], cells),
    )


def medians(cell: Index, values: Array, cells: int) -> Array:
    """The median of the values in every cell; NaN where there are none."""
    order = np.lexsort((values, cell))
    counts = np.bincount(cell, minlength=cells)
    starts = np.cumsum(counts) - counts
    some = counts > 0
    found = np.full(cells, np.nan)
    low = values[order][(starts + (counts - 1) // 2)[some]]
    high = values[order][(starts + counts // 2)[some]]
    found[some] = np.where(low == high, low, low / 2 + high / 2)  # half of each: the sum may be beyond all floats
    return found


def _is_searched(field: Field) -> bool:
    """Whether a setting has so many values that it is rather to be tuned than to be compared."""
    return field.name != "depth" and field.values.dtype.kind == "f" and len(field.values) > MANY


def _edge(tied: Array, rates: Array) -> Edge:
    """Whether all of the best rates lie at one end of those that were tried."""
    if len(rates) < 2 or len(tied) > 1:
        return ""
    return "lowest" if tied[0] == rates[0] else "highest" if tied[0] == rates[-1] else ""


def check_fields(by: Sequence[str], runs: Runs) -> None:
    """Checks that groups can be made by these settings.

    Raises:
        ValueError: If one is unknown, or is the learning rate or the seed.
    """
    for name in by:
        if name in (TUNED, REPEATED) or name not in runs.fields:
            allowed = ", ".join(each for each in runs.fields if each not in (TUNED, REPEATED))
            raise ValueError(f"--group is {name!r}, expected some of {allowed}.")
