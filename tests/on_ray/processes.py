"""The processes of a cluster, and what is done to them while a command runs."""

from __future__ import annotations

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
