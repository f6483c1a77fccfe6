"""What is read off two training curves, and intervals from few seeds that can be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from overdepth.comparison.jobs import Array

QUANTITIES = 3
"""Steps, time and last loss: a verdict speaks of all three."""
LEVEL = 1 - 0.05 / QUANTITIES
"""Of each interval, so that the three of a verdict hold together in 95 of 100."""
INDIFFERENCE = 0.02
"""Intervals are that much wider on either side, relative: a smaller difference is not spoken of."""
CLOCK = 0.03
"""The same for times: what a clock on a busy machine may be off by itself."""
LIGHT_TAILS = 0.65
"""Student's quantile is multiplied by exp(LIGHT_TAILS / (n - 1)), so that the level holds for uniform values too."""
_RESAMPLES = 4000


@dataclass(frozen=True)
class Spread:
    """A ratio over seeds: median and interval.

    Attributes:
        median: Over seeds.
        low: Lower end of the interval.
        high: Upper end.
        values: Seed by seed.
        neutral: The value that means no difference: 1 for ratios, 0 for differences.
    """

    median: float
    low: float
    high: float
    values: tuple[float, ...]
    neutral: float = 1.0

    @property
    def sign(self) -> int:
        """1 if the interval lies above the neutral value, -1 if below, 0 if it decides nothing."""
        return int(self.low > self.neutral) - int(self.high < self.neutral)

    def inverted(self) -> Spread:
        """Of the inverse ratio, or of the negative difference."""
        if self.neutral == 0:
            return Spread(-self.median, -self.high, -self.low, tuple(-v for v in self.values), 0.0)
        return Spread(1 / self.median, 1 / self.high, 1 / self.low, tuple(1 / v for v in self.values))


def interval(values: Sequence[float] | Array, *, level: float = LEVEL) -> tuple[float, float]:
    """An interval for the centre of a distribution of which a few independent values are known.

    The smallest interval that contains both Student's t interval for the mean and the bootstrap's percentile interval
    for the median. With few values the former decides: resampling three values cannot leave their range, which contains
    the median of the distribution in 3 of 4 cases only. With many values that are far from normal the latter does.
    Student's interval is for normal values; it is made wider, so that the lighter tails of uniform ones do no harm.

    Args:
        values: At least two, finite.
        level: Of either.

    Example:
        >>> from overdepth.comparison.measures import interval
        >>> low, high = interval([0.1, 0.2, 0.3], level=0.95)
        >>> print(f"{low:.3f} to {high:.3f}")
        -0.144 to 0.544
    """
    data = np.asarray(values, dtype=np.float64)
    mean, error = float(data.mean()), float(data.std(ddof=1)) / math.sqrt(len(data))
    half = float(stats.t.ppf((1 + level) / 2, len(data) - 1)) * math.exp(LIGHT_TAILS / (len(data) - 1)) * error
    drawn = np.random.default_rng(0).choice(data, (_RESAMPLES, len(data)))
    low, high = np.quantile(np.median(drawn, axis=1), [(1 - level) / 2, (1 + level) / 2])
    return min(mean - half, float(low)), max(mean + half, float(high))


def spread_of_ratios(ratios: Sequence[float], *, allowance: float = INDIFFERENCE) -> Spread:
    """The spread of positive ratios, its interval taken of their logarithms.

    Args:
        ratios: Seed by seed, at least two.
        allowance: By how much the interval is wider on either side, relative.
    """
    logs = np.log(np.asarray(ratios, dtype=np.float64))
    low, high = interval(logs)
    widening = math.log1p(allowance)
    bounds = (math.exp(min(low - widening, 700)), math.exp(min(high + widening, 700)))
    return Spread(float(np.exp(np.median(logs))), *bounds, tuple(float(r) for r in ratios))


def spread_of_differences(differences: Sequence[float], size: float) -> Spread:
    """The same for differences of values of this size."""
    low, high = interval(differences)
    low, high = low - INDIFFERENCE * size, high + INDIFFERENCE * size
    return Spread(float(np.median(differences)), low, high, tuple(float(d) for d in differences), 0.0)


class Cost(NamedTuple):
    """The time of a step over that of plain training, and an interval for it."""

    median: float
    low: float
    high: float

    @staticmethod
    def of(ratios: Sequence[float] | Array) -> Cost:
        """The median of ratios of neighbouring blocks of steps, and the bootstrap's percentile interval for it.

        What a step costs is no matter of the seed, and there are many blocks, so that the bootstrap serves.
        """
        data = np.asarray(ratios, dtype=np.float64)
        drawn = np.random.default_rng(0).choice(data, (_RESAMPLES, len(data)))
        low, high = np.quantile(np.median(drawn, axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Cost(float(np.median(data)), float(low), float(high))


def spread_of_times(speeds: Sequence[float], cost: Cost) -> Spread:
    """The spread of speeds in time, from those in steps and the time of a step; both uncertainties add up."""
    steps = spread_of_ratios(speeds, allowance=CLOCK)
    values = tuple(speed / cost.median for speed in speeds)
    return Spread(steps.median / cost.median, steps.low / cost.high, steps.high / cost.low, values)


def first_step(curve: Array, level: float, window: int) -> int | None:
    """The first step at which a smoothed curve is at most a level; None if there is none."""
    reached = np.flatnonzero(curve <= level)
    return int(reached[0]) + window if len(reached) else None


class Race(NamedTuple):
    """Steps that two curves take to a level that both reach."""

    plain: int
    arm: int

    @property
    def speed(self) -> float:
        """How many times faster the arm is, in steps."""
        return self.plain / self.arm


def race(plain: Array, arm: Array, window: int) -> Race:
    """Steps to the lower of two levels that both curves reach: the higher one of their best losses.

    Where the arm gets below the plain arm's best loss, that is the steps to this loss, of either; where it does not,
    the two change places. Arms that are alike are thus treated alike.

    Args:
        plain: Smoothed losses, without NaN.
        arm: The same.
        window: Of the smoothing.
    """
    level = max(float(plain.min()), float(arm.min()))
    first, second = first_step(plain, level, window), first_step(arm, level, window)
    return Race(first or window, second or window)
