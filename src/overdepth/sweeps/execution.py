"""Running a sweep in this process: block after block, every finished span on the disk before the next begins."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from overdepth.lab.engine import Engine
from overdepth.lab.memory import AnyProblem
from overdepth.lab.objectives import objective as objective_by_name
from overdepth.lab.problem import Array
from overdepth.lab.settings import Settings
from overdepth.sweeps.block_run import BlockRun, Progressed, recovered, store
from overdepth.sweeps.folder import SweepFolder
from overdepth.sweeps.plan import Block, cut, default_block_runs
from overdepth.sweeps.sweep_file import Row, SweepFile

CHECKPOINT_SECONDS = 10.0


class Watcher(Protocol):
    """Who is told how a sweep is doing."""

    def found(self, block: Block, step: int, loss: Array, diverged: int) -> None:
        """A block was found with these losses, and goes on from this step."""

    def moved(self, block: Block, step: int, diverged: int) -> None:
        """A block has come to a step; so many of its runs have diverged."""

    def stored(self, block: Block, loss: Array) -> None:
        """Losses of a block are on the disk."""


@dataclass(frozen=True)
class Work:
    """A sweep that is ready to run.

    Attributes:
        problem: The data.
        rows: The runs, norms as numbers.
        blocks: How they are cut.
        settings: What they share.
        text: The sweep file.
    """

    problem: AnyProblem
    rows: Sequence[Row]
    blocks: Sequence[Block]
    settings: Settings
    text: str = ""

    def engine(self, block: Block, like: Engine | None = None) -> Engine:
        """The engine of a block; one of the same objective, if given, shares its data."""
        runs = [self.rows[i].run for i in block.index]
        if like is None or like.objective.name != objective_by_name(block.objective).name:
            return Engine(self.problem, runs, objective_by_name(block.objective), self.settings)
        engine = copy.copy(like)
        engine.runs = runs
        return engine

    def progressed(self, folder: SweepFolder, block: Block, *, clear: bool = False) -> Progressed:
        """What is known of a block."""
        return recovered(folder, block.number, len(block.index), self.settings.recorded_steps, clear=clear)

    def take_up(self, folder: SweepFolder, block: Block, watcher: Watcher) -> Progressed:
        """What is known of a block; pieces that will be computed again are removed, and the watcher is told."""
        known = self.progressed(folder, block, clear=True)
        watcher.found(block, known.step, known.loss, int((known.diverged_at >= 0).sum()))
        return known


def planned(asked: SweepFile, problem: AnyProblem, block_runs: int | None = None) -> Work:
    """A sweep that is ready to run.

    Args:
        asked: The sweep file.
        problem: Its data.
        block_runs: The largest number of runs in a block; default: as many as go well together.

    Raises:
        ValueError: If the minibatches are larger than the data.
    """
    batch = asked.settings.batch_size
    if batch is not None and batch > problem.m:
        raise ValueError(f"batch_size is {batch}, but the problem has only {problem.m} examples; lower it.")
    rows = [row.of(problem) for row in asked.rows]
    return Work(
        problem, rows, cut(rows, problem, block_runs or default_block_runs(len(rows))), asked.settings, asked.text
    )


def run_here(work: Work, folder: SweepFolder, watcher: Watcher, *, seconds: float = CHECKPOINT_SECONDS) -> None:
    """Runs what is missing of a sweep, in this process.

    Args:
        work: The sweep.
        folder: Locked, and begun.
        watcher: Told how it goes.
        seconds: A span is stored about so often.

    Raises:
        OSError: If the disk refuses; what was stored before is as it was.
    """
    engine: Engine | None = None
    for block in work.blocks:
        known = work.take_up(folder, block, watcher)
        if known.step == work.settings.steps:
            continue
        engine = work.engine(block, engine)
        running = BlockRun(engine, known.state)

        def moved(step: int, diverged: int, block: Block = block) -> None:
            watcher.moved(block, step, diverged)

        while running.state.step < work.settings.steps:
            span = running.advance(seconds, moved)
            store(folder, block.number, span)
            watcher.stored(block, span.losses["loss"])
