"""Making the runs of a comparison on a Ray cluster, each a task. Extra ``ray``."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from overdepth.comparison.executors import Advance, FileTask, perform
from overdepth.comparison.jobs import Job, Outcome
from overdepth.comparison.task import Task
from overdepth.comparison.training import Stopped
from overdepth.ray_cluster import LOCAL, RETRIES, cluster, lost

WAIT = 0.5


class OnRay:
    """Runs as tasks of a cluster, which is joined at the first run and left at the end of the ``with`` block.

    A run whose worker or node dies is made again elsewhere. Every node needs the task's file at the same path.

    Args:
        source: The file that makes the task.
        address: ``"local"``, ``"auto"`` or ``host:port``; see :func:`overdepth.ray_cluster.cluster`.
        cpus: Of a run, and its threads.
    """

    def __init__(self, source: FileTask, address: str = LOCAL, cpus: int = 1) -> None:
        self.source = FileTask(str(Path(source.path).resolve()), source.function)
        self.address = address
        self.cpus = cpus
        self._ray: Any = None
        self._joined = ExitStack()

    def __enter__(self) -> OnRay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._joined.close()
        self._ray = None

    def run(
        self, jobs: Sequence[Job], advance: Advance, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Job, Outcome]]:
        """See :class:`overdepth.comparison.executors.Executor`.

        Raises:
            ModuleNotFoundError: If Ray is not installed.
            ConnectionError: If there is no cluster at the address.
            ValueError: If no node has so many cores, or a node lacks the file.
            RuntimeError: If a run is lost wherever it is tried.
        """
        if not jobs:
            return
        if self._ray is None:
            self._ray = self._joined.enter_context(cluster(self.address, cpus=self.cpus))
        ray = self._ray
        task = ray.remote(num_cpus=self.cpus, max_retries=RETRIES)(_perform)
        running = {task.remote(self.source, str(Path.cwd()), job, self.cpus): job for job in jobs}
        while running:
            done, _ = ray.wait(list(running), timeout=WAIT)
            for reference in done:
                job = running.pop(reference)
                outcome = _result(ray, reference, job)
                advance(job.steps)
                yield job, outcome
            if should_stop():
                raise Stopped


def _perform(source: FileTask, folder: str, job: Job, threads: int) -> Outcome:
    """What a worker does."""
    torch.set_num_threads(threads)
    return perform(_loaded(source, folder), job)


@functools.lru_cache(maxsize=1)
def _loaded(source: FileTask, folder: str) -> Task:
    """The task, made once a worker, from the folder in which the command was given where the node has it."""
    if not Path(source.path).is_file():
        raise ValueError(
            f"{source.path} is not on the node {platform.node()}; keep the file where all nodes find it, such as a "
            f"shared folder."
        )
    if Path(folder).is_dir():
        os.chdir(folder)
    return source.load()


def _result(ray: Any, reference: Any, job: Job) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"{job.where}: {lost(error)}; finished runs are kept.") from error
    return outcome
