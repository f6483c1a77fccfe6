"""Sweeps that are killed at any moment, for real, and go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.sweeps.sweeping import assert_same_results, partial_files, sweep_file

WARM = Path(__file__).parent / "warm.py"
CHECKPOINT = "0.02"

SWEEP = """
data = "data.csv"
target = "y"
objective = ["l2", "l4"]
steps = 800
record_every = 20
[[grid]]
depth = [1, 2, 3]
lr = [1e-3, 1e-2, 3.0]
[[grid]]
method = ["adam", "end_to_end"]
depth = 2
[[run]]
depth = 2
width = 3
"""


@dataclass(frozen=True)
class Ended:
    status: int
    seconds: float
    out: str
    err: str
    orphans: bool


class Warm:
    """Runs commands, each in a process of its own that needs no time to start."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, str(WARM)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, *arguments: object, seconds: float | None = None, number: int = signal.SIGKILL) -> Ended:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        request = {"arguments": ["sweep", *map(str, arguments)], "seconds": seconds, "signal": int(number)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return Ended(**answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        assert self.process.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    found = Warm()
    yield found
    found.close()


@dataclass(frozen=True)
class Undisturbed:
    file: Path
    out: Path
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    file = sweep_file(folder, SWEEP)
    ended = warm(file, "--out", folder / "out", "--checkpoint", CHECKPOINT)
    assert ended.status == 0, ended.err
    return Undisturbed(file, folder / "out", ended.seconds)


def kill_and_resume(warm: Warm, undisturbed: Undisturbed, out: Path, moments: list[float]) -> int:
    """Kills a sweep at each of these moments, one after the other, goes on, and returns how often it was met alive."""
    met = 0
    for moment in moments:
        ended = warm(
            undisturbed.file, "--out", out, "--resume", "--checkpoint", CHECKPOINT, seconds=moment * undisturbed.seconds
        )
        assert ended.status in (0, -signal.SIGKILL), ended.err
        assert not ended.orphans
        met += ended.status == -signal.SIGKILL
    ended = warm(undisturbed.file, "--out", out, "--resume", "--checkpoint", CHECKPOINT)
    assert ended.status == 0, ended.err
    assert not ended.orphans
    assert_same_results(out, undisturbed.out)
    assert partial_files(out) == []
    assert list(out.rglob("state-*")) == []
    return met


def test_ten_kills_and_a_resume_each(warm: Warm, undisturbed: Undisturbed, tmp_path: Path) -> None:
    moments = np.random.default_rng(20260721).uniform(0.02, 1.0, 10)
    met = [kill_and_resume(warm, undisturbed, tmp_path / str(n), [float(m)]) for n, m in enumerate(moments)]
    assert sum(met) >= 5  # of the others the machine was faster than when the time was taken


def test_killed_again_and_again(warm: Warm, undisturbed: Undisturbed, tmp_path: Path) -> None:
    assert kill_and_resume(warm, undisturbed, tmp_path / "out", [0.4, 0.3, 0.3]) >= 1


@pytest.mark.long
def test_fifty_kills_and_a_resume_each(warm: Warm, undisturbed: Undisturbed, tmp_path: Path) -> None:
    moments = np.random.default_rng(20260722).uniform(0.02, 1.0, 50)
    met = [kill_and_resume(warm, undisturbed, tmp_path / str(n), [float(m)]) for n, m in enumerate(moments)]
    assert sum(met) >= 25


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_told_and_costs_nothing_that_was_stored(
    number: signal.Signals, warm: Warm, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ended = warm(
        undisturbed.file,
        *("--out", out, "--checkpoint", CHECKPOINT, "--json-lines"),
        seconds=0.6 * undisturbed.seconds,
        number=number,
    )
    assert ended.status == 130, ended.err
    assert ended.err == "overdepth: interrupted; what was finished is kept; go on with --resume.\n"
    assert "done" not in {json.loads(line)["event"] for line in ended.out.splitlines()}
    assert not (out / "results.nc").exists()
    assert partial_files(out) == []
    stored = {path: path.read_bytes() for path in out.rglob("loss-*.piece")}
    assert stored
    assert warm("--resume", "--out", out, "--checkpoint", CHECKPOINT).status == 0
    assert_same_results(out, undisturbed.out)
    assert all(path.read_bytes() == content for path, content in stored.items() if path.exists())


def test_a_process_that_died_leaves_no_lock(warm: Warm, undisturbed: Undisturbed, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ended = warm(undisturbed.file, "--out", out, "--checkpoint", CHECKPOINT, seconds=0.5 * undisturbed.seconds)
    assert ended.status == -signal.SIGKILL
    assert (out / ".lock").exists()
    assert warm("--resume", "--out", out).status == 0
    assert_same_results(out, undisturbed.out)
