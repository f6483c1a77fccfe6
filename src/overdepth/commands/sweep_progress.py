"""What is seen of a sweep while it runs: a bar, lines of JSON, or nothing."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from overdepth.sweeps.watch import Snapshot

Mode = Literal["bar", "json", "quiet"]
Show = Callable[[Snapshot], None]

LINE_EVERY = 1.0
"""Seconds between two lines of JSON."""


@contextlib.contextmanager
def shown(mode: Mode) -> Iterator[Show]:
    """A function that shows a sweep's state: on stderr as a bar, or on stdout as a line of JSON a second."""
    if mode == "bar":
        with _bar() as show:
            yield show
    else:
        yield _lines() if mode == "json" else lambda snapshot: None


def event(mode: Mode, name: str, **values: object) -> None:
    """Writes a line of JSON if lines are asked for."""
    if mode == "json":
        sys.stdout.write(json.dumps({"event": name, **values}) + "\n")
        sys.stdout.flush()


def _lines() -> Show:
    last = [-LINE_EVERY]

    def show(snapshot: Snapshot) -> None:
        now = time.perf_counter()
        if now - last[0] >= LINE_EVERY:
            last[0] = now
            event("json", "progress", **snapshot.to_dict())

    return show


@contextlib.contextmanager
def _bar() -> Iterator[Show]:
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[ended]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    )
    task = progress.add_task("sweep", total=None, rate="", ended="")

    def show(snapshot: Snapshot) -> None:
        progress.update(
            task,
            description=f"{snapshot.runs:,} runs",
            total=snapshot.total,
            completed=snapshot.done,
            rate=f"{snapshot.rate:,.0f} run-steps/s",
            ended=f"{snapshot.diverged:,} diverged, {snapshot.converged:,} converged",
        )

    with progress:
        yield show
