"""How a sweep is doing: how far, how fast, how many runs have diverged or converged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from overdepth.lab.optimum import Optimum
from overdepth.lab.problem import Array
from overdepth.sweeps.execution import Work
from overdepth.sweeps.plan import Block

CONVERGED = 1e-6
"""A run counts as converged once its gap has fallen by this factor."""


@dataclass(frozen=True)
class Snapshot:
    """A sweep at a moment.

    Attributes:
        done: Runs times steps that are done, those of diverged runs included.
        total: Of the whole sweep.
        rate: Of this command, runs times steps a second.
        remaining: Seconds at this rate; None before it is known.
        runs: Of the whole sweep.
        diverged: Runs that have.
        converged: Runs whose gap to the optimal loss has fallen by the factor ``CONVERGED``.
    """

    done: int
    total: int
    rate: float
    remaining: float | None
    runs: int
    diverged: int
    converged: int

    def to_dict(self) -> dict[str, float | int | None]:
        """JSON values."""
        return asdict(self)


class Watch:
    """Is told by whoever runs a sweep, and tells others.

    Args:
        work: The sweep.
        optimal: The optimal loss of each objective.
        show: Called after every change.
    """

    def __init__(self, work: Work, optimal: dict[str, Optimum], show: Callable[[Snapshot], None]) -> None:
        self._work, self._optimal, self._show = work, optimal, show
        self._steps: dict[int, int] = {}
        self._diverged: dict[int, int] = {}
        self._converged: dict[int, int] = {}
        self._first_gap: dict[int, Array] = {}
        self._found = 0
        self._began = time.perf_counter()

    def found(self, block: Block, step: int, loss: Array, diverged: int) -> None:
        """A block was found with these losses, and goes on from this step."""
        self._found += step * len(block.index)
        self.stored(block, loss[:, np.isfinite(loss).any(axis=0)])
        self.moved(block, step, diverged)

    def moved(self, block: Block, step: int, diverged: int) -> None:
        """A block has come to a step; so many of its runs have diverged."""
        self._steps[block.number] = step
        self._diverged[block.number] = diverged
        self._show(self.snapshot())

    def stored(self, block: Block, loss: Array) -> None:
        """Losses of a block are on the disk, shape (runs, further records)."""
        if loss.shape[1] == 0:
            return
        gap = loss - self._optimal[block.objective].value
        first = self._first_gap.setdefault(block.number, gap[:, 0])
        with np.errstate(invalid="ignore"):
            self._converged[block.number] = int((gap[:, -1] <= CONVERGED * first).sum())
        self._show(self.snapshot())

    def snapshot(self) -> Snapshot:
        """How things are now."""
        done = sum(self._steps.get(block.number, 0) * len(block.index) for block in self._work.blocks)
        total = self._work.settings.steps * len(self._work.rows)
        rate = (done - self._found) / max(time.perf_counter() - self._began, 1e-9)
        return Snapshot(
            done=done,
            total=total,
            rate=rate,
            remaining=(total - done) / rate if rate > 0 else None,
            runs=len(self._work.rows),
            diverged=sum(self._diverged.values()),
            converged=sum(self._converged.values()),
        )
