"""What one arm of a comparison did."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from overdepth.comparison.arms import Arm
from overdepth.comparison.jobs import Outcome
from overdepth.comparison.measures import Cost
from overdepth.comparison.search import Search


@dataclass(frozen=True)
class ArmResult:
    """What an arm did; lists have an entry a seed, None where there was no run.

    Attributes:
        arm: Which.
        lrs: The learning rate that each search chose.
        searches: The searches.
        finals: Runs at these.
        untuned: Runs at the one learning rate of all arms.
        matched: Plain runs with steps as long as the arm's.
        costs: Time and memory of a step.
    """

    arm: Arm
    lrs: Sequence[float | None]
    searches: Sequence[Search]
    finals: Sequence[Outcome | None]
    untuned: Sequence[Outcome | None]
    matched: Sequence[Outcome | None]
    costs: Sequence[Outcome | None]

    @functools.cached_property
    def cost(self) -> Cost | None:
        """The time of a step over that of plain training; None if it was not taken."""
        times = [c.times for c in self.costs if c is not None and c.times is not None]
        return Cost.of(np.concatenate([t[1] / t[0] for t in times])) if times else None

    @property
    def step_ratio(self) -> float:
        """Its median; NaN if it was not taken."""
        return math.nan if self.cost is None else self.cost.median

    @property
    def memory_ratio(self) -> float:
        """Bytes held in training over those of plain training; median over seeds."""
        held = [c.memory[1] / c.memory[0] for c in self.costs if c is not None and c.memory[0] > 0]
        return statistics.median(held) if held else math.nan
