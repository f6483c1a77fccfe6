"""A run of one arm, as a plain description that can be sent to another process, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from overdepth.comparison.arms import Arm

Array = NDArray[np.float64]
Role = Literal["search", "final", "untuned", "matched", "cost"]
Status = Literal["done", "diverged", "pruned"]
STATUSES: tuple[Status, ...] = get_args(Status)
SEARCH_SEEDS = 10_000
"""The seed of a replicate's search lies this far above that of its final run, which therefore judges nothing it saw."""


@dataclass(frozen=True)
class Tried:
    """A finished trial of a search, as its pruner sees it.

    Attributes:
        lr: The learning rate.
        curve: Smoothed losses at the steps at which trials are looked at; shorter if it was pruned.
        status: How it ended.
        value: Its last smoothed loss.
    """

    lr: float
    curve: tuple[tuple[int, float], ...]
    status: Status
    value: float


@dataclass(frozen=True)
class Job:
    """A run of one arm.

    Attributes:
        role: ``search``: a trial; ``final``: at the learning rate that the search chose, on a seed that it has not
            seen; ``untuned``: at the learning rate of the base; ``matched``: plain training with steps of given
            lengths; ``cost``: time and memory of a step, beside plain training.
        arm: Which.
        lr: Learning rate, before the arm's own factor.
        replicate: 0, 1, ...: which repetition of search and final run.
        steps: How many.
        earlier: Finished trials of the same search, by which a trial may be pruned.
        lengths: For ``matched``: root mean square of the change of every parameter at every step, (steps, parameters).
        keeps_lengths: Whether these are to be recorded.
        beside: For ``cost``: the learning rate of plain training.
    """

    role: Role
    arm: Arm
    lr: float
    replicate: int
    steps: int
    earlier: tuple[Tried, ...] = ()
    lengths: NDArray[np.float32] | None = field(default=None, compare=False)
    keeps_lengths: bool = False
    beside: float = 0.0

    @property
    def seed(self) -> int:
        """Of the model's start and of the batches."""
        return self.replicate + self.arm.seed_shift + SEARCH_SEEDS * (self.role == "search")

    @property
    def where(self) -> str:
        """For messages."""
        return f"arm {self.arm.name!r}, learning rate {self.lr * self.arm.lr_factor:g}, seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        losses: Of the batches, each before its step; as many as steps were made.
        status: How it ended.
        seconds: Of the whole run.
        lengths: See :class:`Job`.
        times: For ``cost``: seconds of a step, shape (2, rounds), plain training first.
        memory: For ``cost``: bytes held, plain training first.
    """

    losses: Array
    status: Status = "done"
    seconds: float = 0.0
    lengths: NDArray[np.float32] | None = None
    times: Array | None = None
    memory: tuple[float, float] = (0.0, 0.0)


def smoothing_window(steps: int, *, is_full_batch: bool) -> int:
    """Over how many steps batch losses are averaged: a twentieth of the run, or none if a loss is that of all data."""
    return 1 if is_full_batch else max(1, steps // 20)


def smoothed(losses: Array, window: int) -> Array:
    """Means over the last ``window`` batches, from step ``window`` on; shape (steps - window + 1,)."""
    if window == 1 or len(losses) < window:
        return losses if window == 1 else losses[:0]
    sums = np.cumsum(np.concatenate([[0.0], losses - losses[0]]))  # shifted: sums of like numbers keep their digits
    return np.asarray((sums[window:] - sums[:-window]) / window + losses[0])


def looks(steps: int) -> list[int]:
    """The steps at which trials are looked at, about twenty."""
    each = max(1, steps // 20)
    return list(range(each, steps + 1, each))
