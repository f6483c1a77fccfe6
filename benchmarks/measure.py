"""What all benchmarks share: timing by alternation, the resident memory, the name of the processor."""

from __future__ import annotations

import contextlib
import gc
import platform
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[T, float]:
    """What a call returned, and its seconds."""
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began


def fastest(function: Callable[[], object], repeats: int = 5) -> float:
    """The best of a few calls: what the machine can do."""
    return min(timed(function)[1] for _ in range(repeats))


def ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> dict[str, float]:
    """Medians of calls that alternate, so that a drifting clock or a noisy neighbour meets both sides alike.

    Returns:
        ``ours_ms`` and ``theirs_ms``, medians, and ``ratio``, the median of the quotients of neighbouring calls;
        ``of_sums`` is the quotient of the total times, for work that is not the same at every call.
    """
    for _ in range(3):
        ours()
        theirs()
    first, second = [], []
    gc.disable()
    try:
        for i in range(rounds):
            if i % 2:
                second.append(timed(theirs)[1])
                first.append(timed(ours)[1])
            else:
                first.append(timed(ours)[1])
                second.append(timed(theirs)[1])
    finally:
        gc.enable()
    return {
        "ours_ms": round(statistics.median(first) * 1e3, 3),
        "theirs_ms": round(statistics.median(second) * 1e3, 3),
        "ratio": round(statistics.median(a / b for a, b in zip(first, second, strict=True)), 4),
        "of_sums": round(sum(first) / sum(second), 4),
    }


def reset_peak_memory() -> float:
    """Resets the peak of the resident memory where the system can, and returns the resident memory in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def peak_memory() -> float:
    """The peak of the resident memory in MB."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> dict[str, object]:
    """Versions and the processor, for beside the figures."""
    return {"torch": str(torch.__version__), "machine": _processor(), "threads": torch.get_num_threads()}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
