"""Where runs are made: in this process, or in several worker processes. Others need one method, ``run``."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from overdepth.comparison.cost import cost
from overdepth.comparison.jobs import Job, Outcome
from overdepth.comparison.search import pruner
from overdepth.comparison.task import Task
from overdepth.comparison.training import Stopped, train
from overdepth.user_code import load_function, said_by

Advance = Callable[[int], None]
_POLL_S = 0.2


class Executor(Protocol):
    """Makes runs."""

    def run(
        self, jobs: Sequence[Job], advance: Advance, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Job, Outcome]]:
        """Runs as they finish, in any order.

        Args:
            jobs: What to run; they do not depend on each other.
            advance: Told of the steps made since it was last told.
            should_stop: Asked now and then.

        Raises:
            Stopped: If ``should_stop`` said so.
        """


def perform(
    task: Task, job: Job, *, advance: Advance = lambda _: None, should_stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Makes one run, wherever it is called."""
    if job.role == "cost":
        return cost(task, job)
    prune = pruner(job.earlier, job.steps) if job.role == "search" else None
    return train(task, job, advance=advance, should_stop=should_stop, should_prune=prune)


@dataclass(frozen=True)
class InProcess:
    """One run after the other, in this process."""

    task: Task

    def run(
        self, jobs: Sequence[Job], advance: Advance, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Job, Outcome]]:
        """See :class:`Executor`."""
        for job in jobs:
            yield job, perform(self.task, job, advance=advance, should_stop=should_stop)


@dataclass(frozen=True)
class FileTask:
    """A task by the function that makes it, for processes that have to make it themselves.

    Attributes:
        path: A Python file.
        function: A function in it that returns a :class:`Task` or a dictionary of its fields.
    """

    path: str
    function: str

    def load(self) -> Task:
        """Runs the file and calls the function.

        Raises:
            ValueError: If the file, the function or what it returns is not what it should be.
        """
        place = f"{self.path}:{self.function}"
        function = load_function(place)
        try:
            return Task.of(function())
        except (ValueError, TypeError) as error:
            raise ValueError(f"{place}: {str(error).rstrip('.')}.") from error
        except (Exception, SystemExit) as error:
            raise ValueError(f"{place} failed ({said_by(error)}); mend the file.") from error


class Processes:
    """Several worker processes, started afresh (``spawn``), which share the processor's threads.

    They start at the first run and end with the ``with`` block.

    Args:
        source: The task, which must then be picklable (functions of a module, no lambdas), or a file that makes it.
        workers: How many.
    """

    def __init__(self, source: Task | FileTask, workers: int) -> None:
        self.source = source
        self.workers = workers
        self._context = multiprocessing.get_context("spawn")
        self._stop = self._context.Event()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(
        self, jobs: Sequence[Job], advance: Advance, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[Job, Outcome]]:
        """See :class:`Executor`."""
        if not jobs:
            return
        if self._pool is None:
            given = (self.source, max(1, torch.get_num_threads() // self.workers), self._stop)
            self._pool = ProcessPoolExecutor(self.workers, mp_context=self._context, initializer=_begin, initargs=given)
        try:
            running: dict[Future[Outcome], Job] = {self._pool.submit(_perform, job): job for job in jobs}
        except (AttributeError, TypeError) as error:
            raise ValueError(_not_picklable(error)) from error
        while running:
            finished, _ = wait(running, timeout=_POLL_S, return_when=FIRST_COMPLETED)
            for future in finished:
                job = running.pop(future)
                outcome = _result(future, job)
                advance(job.steps)
                yield job, outcome
            if should_stop():
                raise Stopped


_here: dict[str, Any] = {}


def _begin(source: Task | FileTask, threads: int, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    torch.set_num_threads(threads)
    _here["source"], _here["stop"] = source, stop


def _perform(job: Job) -> Outcome:
    task = _here["source"]
    if isinstance(task, FileTask):
        task = _here["source"] = task.load()
    return perform(task, job, should_stop=_here["stop"].is_set)


def _result(future: Future[Outcome], job: Job) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"{job.where}: a worker process ended by itself, perhaps for want of memory or because the script starts "
            f"work when it is imported; put that under if __name__ == '__main__', or use fewer workers."
        ) from error
    except (AttributeError, TypeError) as error:
        if "pickle" in str(error):
            raise ValueError(_not_picklable(error)) from error
        raise


def _not_picklable(error: Exception) -> str:
    said = " ".join(str(error).split()).rstrip(".")
    return f"the task cannot be sent to worker processes ({said}); use functions of a module, or workers=1."


def deadline(seconds: float | None) -> Callable[[], bool]:
    """Whether so many seconds have passed since now."""
    if seconds is None:
        return lambda: False
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end
