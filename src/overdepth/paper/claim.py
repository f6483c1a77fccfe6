"""Claims: a statement of a paper, the statistic fixed beforehand, its value, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Verdict = Literal["holds", "fails", "inconclusive", "not run"]

HORIZON = 100_000
"""Iterations that the statements are about; a shorter run gives no verdict."""


@dataclass(frozen=True)
class Setting:
    """Under what a claim was examined: the data, their scaling, the seeds and the number of steps."""

    data: str
    scaling: str
    seeds: tuple[int, ...]
    steps: int


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
        range: Smallest and largest over seeds.
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
        self, comparison: str, samples: Sequence[float] | Sequence[Sequence[float]], setting: Setting, *, note: str = ""
    ) -> Claim:
        """The verdict on a comparison.

        Args:
            comparison: What was compared.
            samples: Per seed the statistic, or several numbers that must all satisfy the threshold. NaN: undefined.
            setting: Under what.
            note: What a reader should know besides.

        Returns:
            The claim. It is inconclusive if a number is undefined, or the runs were shorter than the horizon.
        """
        table = np.array(samples, dtype=np.float64).reshape(len(samples), -1)
        notes = [note.strip()] if note else []
        value: float | None = None
        spread: tuple[float, float] | None = None
        verdict: Verdict = "inconclusive"
        defined = bool(np.isfinite(table).all())
        if defined:
            medians = np.median(table, axis=0)
            farthest = int(np.abs(np.log(np.maximum(medians, 1e-300))).argmax())
            value = float(medians[farthest])
            spread = (float(table.min()), float(table.max()))
            verdict = "holds" if all(self.holds(float(median)) for median in medians) else "fails"
        else:
            notes.append("Undefined within the horizon: a level was not reached, or a run diverged.")
        if setting.steps < HORIZON:
            verdict = "inconclusive"
            notes.append(f"{setting.steps:,} iterations; the statement is about {HORIZON:,}.")
        return Claim(
            id=self.id,
            source=self.source,
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
            note=" ".join(notes),
        )


def number(value: float | None) -> str:
    """A statistic for people: three significant digits."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.3g}"
