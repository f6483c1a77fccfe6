"""The finished comparison: table, verdicts, plain values, page."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from overdepth._table import text_table
from overdepth.comparison.arm_result import ArmResult
from overdepth.comparison.jobs import Array, Outcome, smoothed, smoothing_window
from overdepth.comparison.measures import CLOCK, INDIFFERENCE, LEVEL, first_step
from overdepth.comparison.plain_values import median_text, plain, range_text, verdict_dict
from overdepth.comparison.search import Spent
from overdepth.comparison.settings import Settings
from overdepth.comparison.task import Task
from overdepth.comparison.verdict import FEWEST_SEEDS, Side, Verdict, judge
from overdepth.paper.claim import number

NO_CURVE = np.zeros(0)
COARSE = 2.05
"""Neighbouring learning rates further apart than this are remarked upon."""


@dataclass(frozen=True)
class Comparison:
    """A finished comparison; its ``repr`` is the table and the verdicts.

    Attributes:
        task: What was trained.
        settings: How.
        results: Arm by arm, ``plain`` first.
    """

    task: Task
    settings: Settings
    results: tuple[ArmResult, ...]

    @property
    def window(self) -> int:
        """Over how many batch losses a curve is averaged."""
        return smoothing_window(self.settings.steps, is_full_batch=self.task.is_full_batch)

    @functools.cached_property
    def verdicts(self) -> dict[str, Verdict]:
        """By arm: each at its own learning rate against plain training at its own."""
        return self.against("plain")

    def against(self, name: str) -> dict[str, Verdict]:
        """By arm: each at its own learning rate against another arm at its own.

        Args:
            name: Of the other arm. Times are known only against ``plain``.

        Raises:
            KeyError: If there is no arm of this name.
        """
        other = {result.arm.name: result for result in self.results}[name]
        found = {}
        for result in self.results[1:]:
            if result is other:
                continue
            if any(lr is None for lr in result.lrs):
                tried = [t.lr for search in result.searches for t in search.tried]
                words = f"unstable: diverged at every learning rate tried, {min(tried):g} to {max(tried):g}, for a seed"
                found[result.arm.name] = Verdict("unstable", words)
                continue
            first, own = Side(name, self.curves(other.finals)), Side(result.arm.name, self.curves(result.finals))
            cost = result.cost if other is self.results[0] else None
            found[result.arm.name] = judge(own, first, self.window, cost)
        return found

    @functools.cached_property
    def untuned(self) -> dict[str, Verdict]:
        """By arm: all at one learning rate."""
        plain = self.results[0]
        base = plain.finals if self.task.base_lr is None else plain.untuned
        return {
            r.arm.name: judge(Side(r.arm.name, self.curves(r.untuned)), Side("plain", self.curves(base)), self.window)
            for r in self.results[1:]
            if all(o is not None for o in (*r.untuned, *base))
        }

    @functools.cached_property
    def matched(self) -> dict[str, Verdict]:
        """By arm: against plain training with steps as long, by the root mean square of each parameter's change."""
        return {
            r.arm.name: judge(
                Side(r.arm.name, self.curves(r.finals)), Side("the control", self.curves(r.matched)), self.window
            )
            for r in self.results[1:]
            if all(o is not None for o in r.matched)
        }

    def curves(self, outcomes: Sequence[Outcome | None]) -> list[Array]:
        """Smoothed losses of runs; empty where one diverged or was not made."""
        return [NO_CURVE if o is None or o.status != "done" else smoothed(o.losses, self.window) for o in outcomes]

    def steps_to_plain(self, result: ArmResult) -> list[float]:
        """Steps to the best loss of the plain run with the same seed; infinite if never."""
        found = []
        for own, other in zip(self.curves(result.finals), self.curves(self.results[0].finals), strict=True):
            at = first_step(own, float(other.min()), self.window) if len(other) else None
            found.append(math.inf if at is None else float(at))
        return found

    def step_seconds(self, result: ArmResult) -> float:
        """Of a step, median; NaN if it was not taken. Of an arm: plain training's times the ratio of neighbours."""
        taken = [c.times[0] for r in self.results[1:] for c in r.costs if c is not None and c.times is not None]
        plain = float(np.median(np.concatenate(taken))) if taken else math.nan
        return plain if result is self.results[0] else plain * result.step_ratio

    def table(self) -> str:
        """Arms row by row, medians over seeds."""
        header, *rows = self.table_rows()
        return "\n".join(text_table(header, rows))

    def table_rows(self) -> list[list[str]]:
        """The table's cells, its header first."""
        header = [
            "arm",
            "learning rate",
            "last loss",
            "best loss",
            "steps to plain's best",
            "seconds to it",
            "ms a step",
        ]
        return [[*header, "memory"], *(self._row(result) for result in self.results)]

    def _row(self, result: ArmResult) -> list[str]:
        curves = self.curves(result.finals)
        last = [float(c[-1]) if len(c) else math.inf for c in curves]
        best = [float(c.min()) if len(c) else math.inf for c in curves]
        seconds, steps = self.step_seconds(result), self.steps_to_plain(result)
        is_plain = result is self.results[0]
        return [
            result.arm.name,
            range_text([math.inf if lr is None else lr for lr in result.lrs]),
            median_text(last, "diverged"),
            median_text(best, "diverged"),
            median_text(steps, "never"),
            median_text([s * seconds for s in steps], "never") if math.isfinite(seconds) else "–",
            f"{number(1e3 * seconds)}" + ("" if is_plain else f" ({number(result.step_ratio)} x)"),
            "1 x" if is_plain else f"{number(result.memory_ratio)} x",
        ]

    def sentences(self) -> list[str]:
        """The verdict on every arm, its controls behind it."""
        said = []
        for name, verdict in self.verdicts.items():
            lines = [f"{name}: {verdict.words}."]
            if name in self.untuned:
                which = "your learning rate" if self.task.base_lr is not None else "plain's learning rate"
                lines.append(f"Untuned, all at {which}: {self.untuned[name].words}.")
            if name in self.matched:
                lines.append(f"Against plain training with steps as long: {self.matched[name].words}.")
            said.append("\n    ".join(lines))
        return said

    def notes(self) -> list[str]:
        """What a reader has to know of the searches and the intervals."""
        n = self.settings.seeds
        said = []
        for result in self.results:
            spent = Spent.of(result.searches)
            edge = sum(search.is_at_edge for search in result.searches)
            beyond = f"; best at the edge for {edge} of {n} seeds: widen it" if edge else ""
            said.append(
                f"search of {result.arm.name}: {spent.trials} trials, {spent.pruned} cut short, {spent.diverged} "
                f"diverged, {spent.steps:,} steps{beyond}."
            )
            lower = sum(lr != search.best_lr for lr, search in zip(result.lrs, result.searches, strict=True))
            if lower:
                said.append(
                    f"{result.arm.name} diverged for {lower} of {n} seeds at the learning rate that the search chose, "
                    f"and was run again at the next smaller one that was tried."
                )
        said.append(
            f"Intervals: {100 * LEVEL:.1f}% each, so that the three of a verdict (steps, time, last loss) hold "
            f"together in 95 of 100; over {n} seeds, each with a search of its own; widened by "
            f"{100 * INDIFFERENCE:.0f}%, times by {100 * CLOCK:.0f}%: smaller differences are not spoken of."
        )
        lrs = self.settings.lrs or ()
        gap = max((b / a for a, b in itertools.pairwise(lrs)), default=1.0)
        if gap > COARSE:
            said.append(
                f"The learning rates given lie up to {gap:.3g} times apart: "
                f"an arm whose best one lies between two of them loses by that, whatever its depth."
            )
        if FEWEST_SEEDS <= n < 5:
            said.append(
                f"With {n} seeds an interval supposes that logarithms of ratios are about normal, and is wide: only "
                f"large effects show. Over 5 it is a third as wide."
            )
        return said

    def __repr__(self) -> str:
        return "\n".join([self.table(), "", *self.sentences(), "", *self.notes()])

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values; what is infinite or unknown is None."""
        return {
            "base": self.task.describe_base(),
            "base_lr": self.task.base_lr,
            "steps": self.settings.steps,
            "seeds": self.settings.seeds,
            "batch_size": self.task.batch_size,
            "lrs": None if self.settings.lrs is None else list(self.settings.lrs),
            "trials": self.settings.trials,
            "controls": list(self.settings.controls),
            "level": LEVEL,
            "arms": [self._arm_dict(result) for result in self.results],
        }

    def _arm_dict(self, result: ArmResult) -> dict[str, Any]:
        name, curves = result.arm.name, self.curves(result.finals)
        return {
            "name": name,
            **result.arm.settings(),
            "control_of": result.arm.control_of,
            "lr": list(result.lrs),
            "last_loss": [plain(c[-1]) if len(c) else None for c in curves],
            "best_loss": [plain(c.min()) if len(c) else None for c in curves],
            "steps_to_plain_best": [plain(s) for s in self.steps_to_plain(result)],
            "seconds_a_step": plain(self.step_seconds(result)),
            "step_time_ratio": 1.0 if result.arm.name == "plain" else plain(result.step_ratio),
            "memory_ratio": 1.0 if result.arm.name == "plain" else plain(result.memory_ratio),
            "verdict": verdict_dict(self.verdicts.get(name)),
            "untuned": verdict_dict(self.untuned.get(name)),
            "matched": verdict_dict(self.matched.get(name)),
            "search": [
                [{"lr": t.lr, "status": t.status, "loss": plain(t.value)} for t in search.tried]
                for search in result.searches
            ],
        }

    def save_page(self, path: str | os.PathLike[str], *, title: str = "", command: str = "") -> None:
        """Writes one self-contained page: verdicts, table, loss curves with bands, learning rates, settings.

        Args:
            path: Of the page.
            title: What was trained.
            command: That makes the page again.
        """
        from overdepth.comparison.page import write  # the pictures' libraries are slow to import

        write(Path(path), self, title=title, command=command)
