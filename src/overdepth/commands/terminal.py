"""The terminal: what is printed, what runs, how fast, how long it will still take."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from overdepth.reporter import Reporter

SHOWN = 6
"""Bars of earlier work that stay in sight."""


class OutputConsole(Console):
    """Text as it is, without markup, and silence when nobody reads any more, as under ``| head -1``."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__(markup=False, highlight=False, soft_wrap=True, quiet=quiet)

    def on_broken_pipe(self) -> None:
        """Sends the rest nowhere; Rich would end the program before the report is written."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """A function that shows on stderr what is being worked on."""
    with Console(stderr=True, markup=False).status("") as status:
        yield lambda text: status.update(Text(text))


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
        for earlier in progress.tasks[:-SHOWN]:  # a small terminal would hide the last ones instead
            progress.update(earlier.id, visible=False)
        task = progress.add_task(description, total=steps, rate="", live=runs)
        current[:] = [(task, time.perf_counter())]

    def advance(step: int, live: int) -> None:
        task, began = current[0]
        rate = step / max(time.perf_counter() - began, 1e-9)
        progress.update(task, completed=step, rate=f"{rate:,.0f} steps/s", live=live)

    with progress:
        yield Reporter(begin, advance)


def size(count: float) -> str:
    """Bytes in words.

    Example:
        >>> from overdepth.commands.terminal import size
        >>> size(512), size(12_300_000)
        ('512 B', '12.3 MB')
    """
    amount, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 1000:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
