"""A block of runs on its way: from a start or a stored state, span by span."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from overdepth.lab.engine import Engine
from overdepth.lab.problem import Array
from overdepth.sweeps.folder import PieceName, SweepFolder
from overdepth.sweeps.piece import Arrays
from overdepth.sweeps.state import columns_until, restored, state_arrays

GLANCE = 0.2
"""The clock is looked at about so often, in seconds."""

KEPT_STATES = 2

Tell = Callable[[int, int], None]
"""Called with the step reached, and the number of runs that have diverged."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Span:
    """What a block has done: from step ``first`` to ``last`` the recorded losses, and where it is now.

    Attributes:
        first: The step at which it began.
        last: The step at which it ends.
        losses: ``loss``, shape (runs, records), and ``diverged_at`` (runs), -1 where a run has not.
        state: What it needs to go on; empty if it is done.
    """

    first: int
    last: int
    losses: Arrays
    state: Arrays


class BlockRun:
    """The runs of an engine, advanced by time. Where the spans end changes no bit of the result.

    Args:
        engine: With the runs of the block.
        start: The state to go on from; default, or empty: the beginning.

    Raises:
        ValueError: If the state does not fit the runs.
    """

    def __init__(self, engine: Engine, start: Arrays | None = None) -> None:
        self.engine = engine
        shape = (len(engine.runs), len(engine.settings.recorded_steps))
        self.state = restored(engine, start, np.full(shape, np.nan)) if start else engine.start()
        self._chunk = 1

    def advance(self, seconds: float, tell: Tell | None = None) -> Span:
        """Goes on for about so many seconds, at least a step, at most to the end."""
        first, steps = self.state.step, self.engine.settings.steps
        began = glanced = time.perf_counter()
        while self.state.step < steps:
            self.engine.advance(self.state, until=self.state.step + self._chunk)
            now = time.perf_counter()
            took = now - glanced
            glanced = now
            self._chunk = max(1, min(int(self._chunk * min(GLANCE / max(took, 1e-9), 4.0)), steps))
            if tell:
                tell(self.state.step, int((self.state.diverged_at >= 0).sum()))
            if now - began >= seconds:
                break
        last = self.state.step
        columns = slice(columns_until(self.engine, first) if first else 0, columns_until(self.engine, last))
        losses: Arrays = {"loss": self.state.loss[:, columns].copy(), "diverged_at": self.state.diverged_at.copy()}
        return Span(first, last, losses, state_arrays(self.state) if last < steps else {})


@dataclass(frozen=True)
class Progressed:
    """How far a block has come, as its folder tells.

    Attributes:
        step: All up to this step is known.
        loss: Shape (runs, records), NaN beyond ``step`` and where runs diverged.
        diverged_at: Shape (runs,), -1 where a run has not.
        state: To go on from; empty at the end, and at the beginning.
    """

    step: int
    loss: Array
    diverged_at: np.ndarray[tuple[int], np.dtype[np.int64]]
    state: Arrays


def store(folder: SweepFolder, number: int, span: Span) -> None:
    """Writes a span: the losses first, so that a state on the disk has all that came before it.

    Raises:
        OSError: If the disk refuses; what was stored before is as it was.
    """
    folder.write(number, "loss", span.losses, span.first, span.last)
    if span.state:
        folder.write(number, "state", span.state, span.first, span.last)
    states = [piece for piece in folder.pieces(number) if piece.kind == "state"]
    for piece in states[: -KEPT_STATES or None] if span.state else states:
        piece.path.unlink(missing_ok=True)


def recovered(folder: SweepFolder, number: int, runs: int, recorded_steps: list[int], *, clear: bool) -> Progressed:
    """What is known of a block: its losses as far as no piece is missing or damaged, and the last state before that.

    Args:
        folder: Of the sweep.
        number: Of the block.
        runs: How many it has.
        recorded_steps: When losses are recorded.
        clear: Whether to remove the pieces that will be computed again.
    """
    loss = np.full((runs, len(recorded_steps)), np.nan)
    diverged_at: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {0: np.full(runs, -1, dtype=np.int64)}
    pieces = folder.pieces(number)
    step = 0
    by_first = {piece.first: piece for piece in pieces if piece.kind == "loss"}
    while (piece := by_first.get(step)) is not None and (arrays := _read(folder, piece)) is not None:
        columns = [c for c, s in enumerate(recorded_steps) if (s > piece.first or step == 0) and s <= piece.last]
        if not _fits(arrays, runs, len(columns)) or piece.last <= step:
            break
        loss[:, columns] = arrays["loss"]
        step = piece.last
        diverged_at[step] = arrays["diverged_at"]
    state: Arrays = {}
    if step < recorded_steps[-1]:
        states = [p for p in reversed(pieces) if p.kind == "state" and p.last in diverged_at]
        found = next(((p.last, read) for p in states if (read := _read(folder, p)) is not None), (0, {}))
        step, state = found
        loss[:, [s > step or step == 0 for s in recorded_steps]] = np.nan
    if clear:
        for piece in pieces:
            if piece.last > step or (piece.kind == "state" and not state):
                piece.path.unlink(missing_ok=True)
    return Progressed(step, loss, diverged_at[step], state)


def _fits(arrays: Arrays, runs: int, records: int) -> bool:
    wanted = {"loss": ((runs, records), np.float64), "diverged_at": ((runs,), np.int64)}
    return all(
        (array := arrays.get(name)) is not None and array.shape == shape and array.dtype == dtype
        for name, (shape, dtype) in wanted.items()
    )


def _read(folder: SweepFolder, piece: PieceName) -> Arrays | None:
    try:
        return folder.read(piece)
    except ValueError as error:
        _log.warning("The piece %s is computed again: %s.", piece.path, error)
        return None
