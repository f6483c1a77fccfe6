"""The processes of a cluster, and what is done to them while a command runs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MARK = "OVERDEPTH_TEST_CLUSTER"


def processes(mark: str, title: str = "") -> set[int]:
    """The processes that were started under a mark, by what they call themselves."""
    found = set()
    for path in Path("/proc").iterdir():
        if path.name.isdecimal():
            try:
                environment, command = (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if f"{MARK}={mark}".encode() in environment.split(b"\0") and command.startswith(title.encode()) and command:
                found.add(int(path.name))
    return found


def until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def meanwhile(act: Callable[[threading.Event], None]) -> Iterator[None]:
    """Something that goes on beside the sweep, until it ends."""
    ended = threading.Event()
    thread = threading.Thread(target=act, args=(ended,))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def seeing(mark: str, title: str) -> Iterator[set[int]]:
    """All processes of this title that there are meanwhile."""
    seen: set[int] = set()

    def look(ended: threading.Event) -> None:
        while not ended.is_set():
            seen.update(processes(mark, title))
            time.sleep(0.02)

    with meanwhile(look):
        yield seen


@contextmanager
def killing(mark: str, title: str, *, most: int, every: float) -> Iterator[list[int]]:
    """Kills processes of this title, one after the other; those that were."""
    killed: list[int] = []

    def kill(ended: threading.Event) -> None:
        while not ended.is_set() and len(killed) < most:
            for process in processes(mark, title) - set(killed):
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                break
            time.sleep(every)

    with meanwhile(kill):
        yield killed


def addresses(mark: str) -> set[bytes]:
    """Where the processes of a cluster were told to listen."""
    commands = [Path(f"/proc/{each}/cmdline").read_bytes().split(b"\0") for each in processes(mark)]
    return {word for command in commands for word in command if word.startswith(b"--node_ip_address=")}
