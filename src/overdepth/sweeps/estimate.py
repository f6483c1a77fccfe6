"""What a sweep will take: a short calibration, scaled up."""

from __future__ import annotations

import time
from dataclasses import dataclass

from overdepth.sweeps.block_run import KEPT_STATES, BlockRun
from overdepth.sweeps.execution import CHECKPOINT_SECONDS, Work
from overdepth.sweeps.plan import Block
from overdepth.sweeps.state import state_arrays

CALIBRATION_SECONDS = 2.0


@dataclass(frozen=True)
class Estimate:
    """What a sweep will take, if no run diverges: those that do are cheaper.

    Attributes:
        seconds: Of computing, with the threads that the calibration had.
        disk: Bytes, at the end and while it runs.
    """

    seconds: float
    disk: int


def estimate(work: Work, *, seconds: float = CALIBRATION_SECONDS) -> Estimate:
    """Trains a block of each kind for a moment and scales up.

    Args:
        work: The sweep.
        seconds: For the calibration as a whole.
    """
    kinds: dict[str, list[Block]] = {}
    for block in work.blocks:
        kinds.setdefault(f"{block.objective} {_architectures(work, block)}", []).append(block)
    total, state_bytes, spans = 0.0, 0, 0.0
    records, steps = len(work.settings.recorded_steps), work.settings.steps
    for blocks in kinds.values():
        running = BlockRun(work.engine(blocks[0]))
        began = time.perf_counter()
        running.advance(seconds / len(kinds))
        if running.state.step < steps:  # the first steps also fill caches
            warm = running.state.step
            began = time.perf_counter()
            running.advance(seconds / len(kinds))
            rate = (running.state.step - warm) / (time.perf_counter() - began)
        else:
            rate = steps / (time.perf_counter() - began)
        per_run = steps / rate / len(blocks[0].index)
        own = sum(len(block.index) for block in blocks) * per_run
        total += own
        spans += len(blocks) + own / CHECKPOINT_SECONDS
        state_bytes = max(state_bytes, sum(array.nbytes for array in state_arrays(running.state).values()))
    losses = 8 * len(work.rows) * records
    per_piece = 4096 + 8 * max(len(block.index) for block in work.blocks)
    return Estimate(total, 2 * losses + KEPT_STATES * state_bytes + int(spans * per_piece) + 1024 * len(work.rows))


def _architectures(work: Work, block: Block) -> tuple[object, ...]:
    runs = [work.rows[i].run for i in block.index]
    return tuple(sorted({(run.method, str(run.depth), run.width) for run in runs}))
