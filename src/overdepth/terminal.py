"""Progress on the terminal: what runs, how fast, how long it will still take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from overdepth.paper.reproduce import Reporter


@contextlib.contextmanager
def progress_reporter() -> Iterator[Reporter]:
    """A reporter that draws one bar a sweep on stderr, with rate, live runs and remaining time."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}/{task.total:,} steps"),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[live]} runs"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    current: list[tuple[TaskID, float]] = []

    def begin(description: str, runs: int, steps: int) -> None:
        task = progress.add_task(description, total=steps, rate="", live=runs)
        current[:] = [(task, time.perf_counter())]

    def advance(step: int, live: int) -> None:
        task, began = current[0]
        rate = step / max(time.perf_counter() - began, 1e-9)
        progress.update(task, completed=step, rate=f"{rate:,.0f} steps/s", live=live)

    with progress:
        yield Reporter(begin, advance)
