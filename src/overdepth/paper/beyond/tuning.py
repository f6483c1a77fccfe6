"""Learning rates for arms whose stable range is not known beforehand: grids that move with the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import xarray as xr

from overdepth.lab.curves import Steps
from overdepth.lab.run import grid
from overdepth.paper.claim import number
from overdepth.paper.context import Context, Plan
from overdepth.paper.item import LEARNING_RATES
from overdepth.paper.picture import Curve
from overdepth.paper.tuning import Tuned, caught_up, tuned

RECORD_EVERY = 100  # as in Figure 3, whose runs are reused
SIGNIFICANT = 1.5  # of a catch-up, as for Figure 3


def nearby_rates(rate: float, below: int, above: int) -> list[float]:
    """The rate on the grid ..., 1e-4, 5e-4, 1e-3, ... that is nearest to ``rate``, and its neighbours.

    Args:
        rate: Positive.
        below: How many smaller ones.
        above: How many larger ones.

    Example:
        >>> from overdepth.paper.beyond.tuning import nearby_rates
        >>> nearby_rates(1e-3, 2, 1)
        [0.0001, 0.0005, 0.001, 0.005]
    """
    low = math.floor(math.log10(rate)) - below - 1
    high = math.ceil(math.log10(rate)) + above + 1
    rates = np.array([float(f"{digit}e{exponent}") for exponent in range(low, high) for digit in (1, 5)])
    middle = int(np.abs(np.log(rates / rate)).argmin())
    return [float(value) for value in rates[middle - below : middle + above + 1]]


def best_rate(arm: xr.Dataset, seeds: Sequence[int]) -> float:
    """The median over seeds of the best learning rates, one of them; NaN if everything diverged."""
    found = sorted(rate for rate in (tuned(arm, seed).lr for seed in seeds) if not math.isnan(rate))
    return found[(len(found) - 1) // 2] if found else math.nan


def plain_rate(
    context: Context,
    name: str,
    objective: str = "l4",
    rates: Sequence[float] = LEARNING_RATES,
) -> float:
    """The best learning rate of one plain layer started near zero: what the other arms' grids are laid around.

    Args:
        context: On what, how long, with which seeds.
        name: Of the item, for the reporter.
        objective: Whose rate.
        rates: On which grid.

    Returns:
        The median over seeds; the smallest rate of the grid if everything diverged.
    """
    runs = grid(depth=1, lr=rates, seed=context.seeds)
    data = context.sweep(f"{name}, plain", [Plan(objective, runs, RECORD_EVERY)])
    rate = best_rate(data, context.seeds)
    return float(data["lr"].min()) if math.isnan(rate) else rate


@dataclass(frozen=True)
class TunedArm:
    """An arm, each seed at its best learning rate.

    Attributes:
        best: One a seed.
        smallest: The smallest learning rate tried.
        largest: The largest one.
        steps: At which the gaps were recorded.
    """

    best: tuple[Tuned, ...]
    smallest: float
    largest: float
    steps: Steps

    @classmethod
    def of(cls, arm: xr.Dataset, seeds: Sequence[int]) -> Self:
        """Tunes the runs of one arm, which differ in seed and learning rate alone."""
        tried = arm["lr"].values
        best = tuple(tuned(arm, seed) for seed in seeds)
        return cls(best, float(tried.min()), float(tried.max()), arm["step"].values)

    def over(self, reference: Self) -> list[float]:
        """The catch-up over another arm, one a seed."""
        pairs = zip(self.best, reference.best, strict=True)
        return [caught_up(own.gap, other.gap, self.steps) for own, other in pairs]

    @property
    def rates(self) -> str:
        """The chosen learning rates, with a word where one is the smallest or largest tried."""
        rates = list(dict.fromkeys(best.lr for best in self.best if not math.isnan(best.lr)))
        if any(math.isnan(best.lr) for best in self.best):
            rates.append(math.nan)
        words = ", ".join("none" if math.isnan(rate) else f"{rate:.3g}" for rate in rates)
        edges = [word for word, rate in (("smallest", self.smallest), ("largest", self.largest)) if rate in rates]
        return words + (f" (the {' and the '.join(edges)} tried)" if edges else "")

    def curve(self, label: str, *, color: int, dash: str = "solid") -> Curve:
        """The gaps of all seeds; the label names the rates."""
        gaps = np.stack([best.gap for best in self.best])
        return Curve(f"{label}, lr {self.rates}", gaps, color=color, dash=dash)


def chosen(arms: Mapping[str, TunedArm]) -> str:
    """A sentence with every arm's learning rates."""
    return f"Chosen lr: {', '.join(f'{label} {arm.rates}' for label, arm in arms.items())}."


def listed(ratios: Mapping[str, Sequence[float]]) -> str:
    """Medians over seeds of several numbers, each with its label."""
    return ", ".join(f"{number(float(np.median(row)))} {label}" for label, row in ratios.items())


def smallest_of(ratios: Mapping[str, Sequence[float]]) -> list[float]:
    """Per seed the smallest of several numbers; NaN where one is."""
    return [float(value) for value in np.min(list(ratios.values()), axis=0)]
