"""Running a sweep on a Ray cluster: spans of blocks as tasks, the data once a node, one writer. Extra ``ray``."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from overdepth.lab.engine import Engine
from overdepth.ray_cluster import LOCAL, RETRIES, cluster, lost, slots
from overdepth.sweeps.block_run import BlockRun, Span, store
from overdepth.sweeps.execution import CHECKPOINT_SECONDS, Watcher, Work
from overdepth.sweeps.folder import SweepFolder
from overdepth.sweeps.piece import Arrays
from overdepth.sweeps.plan import Block
from overdepth.sweeps.sweep_file import Row

WAIT = 1.0


def run_on_ray(
    work: Work,
    folder: SweepFolder,
    watcher: Watcher,
    *,
    address: str = LOCAL,
    cpus: int = 1,
    seconds: float = CHECKPOINT_SECONDS,
) -> None:
    """Runs what is missing of a sweep on a cluster; this process alone writes.

    Args:
        work: The sweep.
        folder: Locked, and begun.
        watcher: Told how it goes.
        address: ``"local"``: a cluster of this machine, for the time of the sweep; ``"auto"`` or ``host:port``: one
            that runs.
        cpus: Of a task, and its threads.
        seconds: A span takes about so long.

    Raises:
        ModuleNotFoundError: If Ray is not installed.
        ConnectionError: If there is no cluster at the address.
        ValueError: If no node has so many cores.
        RuntimeError: If a span fails wherever it is tried.
        OSError: If the disk refuses; what was stored before is as it was.
    """
    with cluster(address, cpus=cpus) as ray:
        shared = ray.put(replace(work, rows=(), blocks=(), text=""))  # the data: once a node, arrays without a copy
        task = ray.remote(num_cpus=cpus, max_retries=RETRIES)(_span)
        waiting: deque[tuple[Block, Arrays]] = deque()
        for block in work.blocks:
            known = work.take_up(folder, block, watcher)
            if known.step < work.settings.steps:
                waiting.append((block, known.state))
        running: dict[Any, Block] = {}
        while waiting or running:
            fitting = slots(ray, cpus)
            while waiting and len(running) <= fitting:  # one more than fit, so that none waits for the writer
                block, state = waiting.popleft()
                rows = [work.rows[i] for i in block.index]
                running[task.remote(shared, block.objective, rows, state, seconds, cpus)] = block
            done, _ = ray.wait(list(running), timeout=WAIT)
            for reference in done:
                block = running.pop(reference)
                span = _result(ray, reference)
                store(folder, block.number, span)
                watcher.moved(block, span.last, int((span.losses["diverged_at"] >= 0).sum()))
                watcher.stored(block, span.losses["loss"])
                if span.state:
                    waiting.appendleft((block, span.state))


def _span(shared: Work, objective: str, rows: Sequence[Row], state: Arrays, seconds: float, threads: int) -> Span:
    """What a worker does: goes on with the runs of a block for a while."""
    torch.set_num_threads(threads)
    work, block = replace(shared, rows=rows), Block(0, objective, tuple(range(len(rows))))
    engines = _engines(shared.problem.checksum, shared.problem.scaling, repr(shared.settings))
    engines[objective] = work.engine(block, engines.get(objective))
    return BlockRun(engines[objective], state).advance(seconds)


@functools.lru_cache(maxsize=1)
def _engines(checksum: str, scaling: str, settings: str) -> dict[str, Engine]:
    """The engines of a worker for one sweep, by objective, so that all its spans share what is made of the data."""
    return {}


def _result(ray: Any, reference: Any) -> Span:
    try:
        span: Span = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(f"a task failed on a worker ({error.cause}); what is finished is kept") from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"{lost(error)}; what is finished is kept, go on with --resume") from error
    return span
