"""Claims: a statement of a paper, the statistic fixed beforehand, its value, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Verdict = Literal["holds", "fails", "inconclusive", "not run"]

CONTROL = "our control"
WHY_UNDEFINED = " within the horizon (a level not reached, a run diverged, or all converged to rounding)"

HORIZON = 100_000
"""Iterations that the statements are about; a shorter run gives no verdict."""


@dataclass(frozen=True)
class Setting:
    """Under what a claim was examined: the data, their scaling, the seeds and the number of steps.

    Attributes:
        data: Name of the data set, or what was drawn.
        scaling: How it was scaled.
        seeds: The seeds.
        steps: Iterations of the runs.
        horizon: Iterations that the statements are about; fewer of them give no verdict. 0: they are about none.
    """

    data: str
    scaling: str
    seeds: tuple[int, ...]
    steps: int
    horizon: int = HORIZON


@dataclass(frozen=True)
class Claim:
    """A statement with its verdict.

    Attributes:
        id: Which statement; one id may stand for several comparisons.
        source: Paper and figure.
        statement: What the paper says, in our words.
        comparison: What was compared.
        data: Name of the data set.
        scaling: How it was scaled.
        seeds: The seeds.
        statistic: What ``value`` is.
        value: Median over seeds (of several numbers, the one farthest from 1); None if it is not defined.
        range: Smallest and largest over seeds of that number.
        threshold: What the statement needs.
        verdict: ``holds``, ``fails``, ``inconclusive`` or ``not run``.
        note: What a reader should know besides.
    """

    id: str
    source: str
    statement: str
    comparison: str
    data: str
    scaling: str
    seeds: tuple[int, ...]
    statistic: str
    value: float | None
    range: tuple[float, float] | None
    threshold: str
    verdict: Verdict
    note: str = ""

    @property
    def is_control(self) -> bool:
        """Whether the comparison is a control of ours that the paper does not have."""
        return self.source.endswith(CONTROL)

    @property
    def has_range(self) -> bool:
        """Whether seeds differ in the number."""
        return self.range is not None and self.range[0] != self.range[1]

    def to_json(self) -> dict[str, Any]:
        """The claim as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Statement:
    """The part of a claim that is known before anything is run."""

    id: str
    source: str
    text: str
    statistic: str
    threshold: str
    holds: Callable[[float], bool]

    def judge(
        self,
        comparison: str,
        samples: Sequence[float] | Sequence[Sequence[float]],
        setting: Setting,
        *,
        note: str = "",
        control: bool = False,
        too_few: str = "",
    ) -> Claim:
        """The verdict on a comparison.

        Args:
            comparison: What was compared.
            samples: Per seed the statistic, or several numbers that must all satisfy the threshold. NaN: undefined.
            setting: Under what.
            note: What a reader should know besides.
            control: Whether the comparison is a control of ours that the paper does not have.
            too_few: Why what was run cannot decide, in a sentence, if it cannot: too few random starts, say.

        Returns:
            The claim. It is inconclusive if the runs were shorter than the horizon, if ``too_few`` says so, or if a
            number is undefined and no other one fails.
        """
        table = np.array(samples, dtype=np.float64).reshape(len(samples), -1)
        notes = [note.strip()] if note else []
        value: float | None = None
        spread: tuple[float, float] | None = None
        verdict: Verdict = "inconclusive"
        known = table[:, ~np.isnan(table).any(axis=0)]
        if known.size:
            medians = np.median(known, axis=0)
            farthest = int(np.abs(np.log(np.maximum(medians, 1e-300))).argmax())
            if np.isfinite(known[:, farthest]).all():
                value = float(medians[farthest])
                spread = (float(known[:, farthest].min()), float(known[:, farthest].max()))
            else:
                notes.append("The number is beyond all bounds.")
            if not all(self.holds(float(median)) for median in medians):
                verdict = "fails"  # whatever the others are
            elif known.shape == table.shape:
                verdict = "holds"
        if known.shape != table.shape:
            notes.append(
                ("Partly undefined" if known.size else "Undefined") + f"{WHY_UNDEFINED if setting.horizon else ''}."
            )
        if too_few:
            notes.append(too_few)
        if too_few or setting.steps < setting.horizon:
            verdict = "inconclusive"
        if setting.horizon and setting.steps != setting.horizon:
            notes.append(f"{setting.steps:,} iterations; the statement is about {setting.horizon:,}.")
        return self._claim(comparison, setting, value, spread, verdict, " ".join(notes), control=control)

    def not_run(self, comparison: str, setting: Setting, note: str) -> Claim:
        """The claim without a verdict, for what was not asked for; ``note`` says how to run it."""
        return self._claim(comparison, setting, None, None, "not run", note)

    def _claim(
        self,
        comparison: str,
        setting: Setting,
        value: float | None,
        spread: tuple[float, float] | None,
        verdict: Verdict,
        note: str,
        *,
        control: bool = False,
    ) -> Claim:
        return Claim(
            id=self.id,
            source=f"{self.source}; {CONTROL}" if control else self.source,
            statement=self.text,
            comparison=comparison,
            data=setting.data,
            scaling=setting.scaling,
            seeds=setting.seeds,
            statistic=self.statistic,
            value=value,
            range=spread,
            threshold=self.threshold,
            verdict=verdict,
            note=note,
        )


def by_statement(claims: Sequence[Claim]) -> dict[str, list[Claim]]:
    """Claims by statement and threshold, in the order of appearance; a further one of an id is called ID-2, ..."""
    groups: dict[tuple[str, str, str], list[Claim]] = {}
    for claim in claims:
        groups.setdefault((claim.id, claim.statement, claim.threshold), []).append(claim)
    named: dict[str, list[Claim]] = {}
    for (name, _, _), group in groups.items():
        same = sum(other[0].id == name for other in named.values())
        named[name if not same else f"{name}-{same + 1}"] = group
    return named


def number(value: float | None) -> str:
    """A statistic for people: three significant digits, in thousands without a fraction."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
