"""Running a sweep on a Ray cluster: spans of blocks as tasks, the data once a node, one writer. Extra ``ray``."""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from overdepth.lab.engine import Engine
from overdepth.sweeps.block_run import BlockRun, Span, store
from overdepth.sweeps.execution import CHECKPOINT_SECONDS, Watcher, Work
from overdepth.sweeps.folder import SweepFolder
from overdepth.sweeps.piece import Arrays
from overdepth.sweeps.plan import Block
from overdepth.sweeps.sweep_file import Row

LOCAL = "local"
RETRIES = 5
"""A span whose worker or node died is tried again elsewhere so often."""

WAIT = 1.0

LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's switch that, at 0, keeps a cluster on 127.0.0.1, on every system; else it listens to the outside."""
KNOCK_SECONDS = 10.0


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
    if address == LOCAL and "ray" not in sys.modules:  # it reads these when it is imported
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as it would choose, but it would say so on every run
        os.environ.setdefault(LOOPBACK, "0")
    ray = _ray()
    with _cluster(ray, address):
        _check_cpus(ray, cpus)
        shared = ray.put(replace(work, rows=(), blocks=(), text=""))  # the data: once a node, arrays without a copy
        task = ray.remote(num_cpus=cpus, max_retries=RETRIES)(_span)
        waiting: deque[tuple[Block, Arrays]] = deque()
        for block in work.blocks:
            known = work.take_up(folder, block, watcher)
            if known.step < work.settings.steps:
                waiting.append((block, known.state))
        running: dict[Any, Block] = {}
        try:
            while waiting or running:
                slots = max(1, int(ray.cluster_resources().get("CPU", 1)) // cpus)
                while waiting and len(running) <= slots:  # one more than fit, so that none waits for the writer
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
        finally:
            for reference in running:
                ray.cancel(reference, force=True)


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
        reason = str(error).strip().splitlines()[0]
        raise RuntimeError(
            f"a task was lost {RETRIES + 1} times ({reason}); what is finished is kept, go on with --resume"
        ) from error
    return span


@contextmanager
def _cluster(ray: Any, address: str) -> Iterator[None]:
    """Connects, and leaves again; a local cluster listens on 127.0.0.1 alone and ends with the sweep."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    if address == LOCAL:
        options |= {"address": LOCAL, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    else:
        options |= {"address": address}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        _knock(address)
        ray.init(**options)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConnectionError(
            f"no Ray cluster at {address!r} ({reason}); start one with 'ray start --head', or leave the address out."
        ) from error
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own in place, which ends the process at once
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Finds out within seconds that nobody answers at ``host:port``; Ray itself would try for minutes.

    Raises:
        OSError: If nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_SECONDS):
            pass


def _check_cpus(ray: Any, cpus: int) -> None:
    """Checks that a task fits some node; it would wait for ever.

    Raises:
        ValueError: If none of the nodes that are there has so many cores.
    """
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if cpus > most:
        raise ValueError(f"--ray-cpus is {cpus}, but the largest node of the cluster has {most}; lower it.")


def _ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--ray needs Ray, which is not installed; install the extra: pip install 'overdepth[ray]'.", name="ray"
        ) from error
    return ray
