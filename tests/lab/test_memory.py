"""The estimate of a sweep's memory against the measured growth of the resident memory, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from overdepth.lab import Problem, Run, open_rows, runs_that_fit, working_set
from overdepth.lab.settings import Settings

TOO_LOW, TOO_HIGH = 1.15, 2.0
"""The peak may be above the estimate by the first factor, the estimate above the peak by the second."""

CHILD = """
import ctypes, gc, json, pathlib, sys
import numpy as np, torch
from overdepth.lab import *
from overdepth.lab.engine import Engine
from overdepth.lab.settings import Settings

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

torch.set_num_threads(1)
asked = json.loads(sys.argv[1])
name, settings = asked["objective"], Settings(**asked["settings"])

def problem_of(m, d, k, path=None):
    if path:
        return open_rows(path, target=f"X[{d}]", block_bytes=2**21)
    rng = np.random.default_rng(0)
    return Problem(rng.normal(size=(m, d)), rng.normal(size=(m, k)))

def train(problem, runs, settings):
    engine = Engine(problem, runs, objective(name), settings)
    engine.advance(engine.start())

# The libraries load what they need at their first call.
every = [Run(depth=2, width=w, method=m) for w in (1, 3) for m in ("gd", "adam", "end_to_end")]
train(problem_of(600, 20, asked["shape"][2]), every, Settings(2, record_every=1))
runs = [Run(**{**asked["run"], "seed": seed}) for seed in range(asked["count"])]
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
pathlib.Path("/proc/self/clear_refs").write_text("5")
before = peak()
problem = problem_of(*asked["shape"], asked["path"])
train(problem, runs, settings)
print(json.dumps({"growth": peak() - before, "estimate": working_set(problem, runs, name, settings)}))
"""


def measured(
    shape: Sequence[int], count: int, run: dict[str, object], settings: dict[str, object], name: str, path: str | None
) -> tuple[float, float]:
    asked = {"shape": shape, "count": count, "run": run, "settings": settings, "objective": name, "path": path}
    child = [sys.executable, "-c", CHILD, json.dumps(asked)]
    done = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    found = json.loads(done.stdout)
    return found["growth"], found["estimate"]


WIDE = {"depth": 3, "width": 100, "lr": 1e-4}
RULE = {"depth": 3, "width": 3, "method": "end_to_end"}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured through /proc")
@pytest.mark.parametrize(
    ("shape", "count", "run", "settings", "name"),
    [
        pytest.param((569, 30, 1), 8000, {"depth": 3}, {"steps": 20}, "l4", id="narrow"),
        pytest.param((1000, 60, 1), 300, WIDE, {"steps": 2}, "l4", id="wide"),
        pytest.param((1000, 60, 1), 120, {**WIDE, "method": "adam"}, {"steps": 2}, "l4", id="wide, adaptive"),
        pytest.param((569, 30, 1), 5000, {"depth": 2, "method": "adam"}, {"steps": 4}, "l4", id="narrow, adaptive"),
        pytest.param(
            (569, 30, 3),
            9000,
            RULE,
            {"steps": 2},
            "l4",
            id="the rule, of matrices",
        ),
        pytest.param((60000, 100, 1), 20, {"depth": 2}, {"steps": 2}, "l4", id="large data"),
        pytest.param((60000, 100, 1), 20, {"depth": 2}, {"steps": 2}, "l2", id="large data, Gram matrix"),
        pytest.param((569, 30, 1), 6000, {}, {"steps": 1000, "record_every": 1}, "l2", id="many records"),
    ],
)
def test_the_estimate_is_close_to_the_measured_peak(
    shape: tuple[int, int, int], count: int, run: dict[str, object], settings: dict[str, object], name: str
) -> None:
    growth, estimate = measured(shape, count, run, settings, name, None)
    assert growth < TOO_LOW * estimate
    assert estimate < TOO_HIGH * growth


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak is measured through /proc")
@pytest.mark.parametrize("name", ["l4", "l2"])
def test_streamed_data_need_no_more_than_some_blocks(tmp_path: Path, name: str) -> None:
    m, d = 100_000, 100
    path = tmp_path / "large.npy"
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(m, d + 1))
    rng = np.random.default_rng(0)
    for first in range(0, m, 10_000):
        array[first : first + 10_000] = rng.normal(size=(10_000, d + 1))
    del array
    growth, estimate = measured((m, d, 1), 20, {"depth": 2}, {"steps": 2}, name, str(path))
    assert growth < TOO_LOW * estimate
    assert estimate < 8 * m * (d + 1) / 1.5  # of the file's size
    assert growth < 8 * m * (d + 1) / 1.5


def problem() -> Problem:
    rng = np.random.default_rng(0)
    return Problem(rng.normal(size=(569, 30)), rng.normal(size=(569, 1)))


@pytest.mark.parametrize("run", [Run(depth=3), Run(**WIDE), Run(**WIDE, method="adam"), Run(method="end_to_end")])  # type: ignore[arg-type]
@pytest.mark.parametrize("name", ["l2", "l4"])
def test_as_many_runs_as_fit_fit_and_one_more_does_not(run: Run, name: str) -> None:
    settings = Settings(1000)
    for budget in (200_000_000, 1_000_000_001):
        count = runs_that_fit(problem(), run, name, settings, budget)
        assert working_set(problem(), [run] * count, name, settings) <= budget
        assert working_set(problem(), [run] * (count + 1), name, settings) > budget


def test_of_several_runs_the_largest_decides() -> None:
    settings = Settings(1000)
    runs = [Run(), Run(**WIDE), Run(depth=2)]  # type: ignore[arg-type]
    several = runs_that_fit(problem(), runs, "l4", settings, 1e9)
    assert several == runs_that_fit(problem(), runs[1], "l4", settings, 1e9)
    assert several < runs_that_fit(problem(), runs[0], "l4", settings, 1e9)


def test_a_budget_for_not_even_one_run_is_refused_with_the_least_that_serves(tmp_path: Path) -> None:
    settings, run = Settings(1000), Run(**WIDE)  # type: ignore[arg-type]
    least = working_set(problem(), [run], "l4", settings)
    assert runs_that_fit(problem(), run, "l4", settings, least) == 1
    with pytest.raises(ValueError, match=str(least)) as caught:
        runs_that_fit(problem(), run, "l4", settings, least - 1)
    assert "\n" not in str(caught.value)
    np.save(tmp_path / "t.npy", np.random.default_rng(0).normal(size=(50, 3)))
    with pytest.raises(ValueError, match="block_bytes"):
        runs_that_fit(open_rows(tmp_path / "t.npy", target="-1"), run, "l4", settings, 1)


def test_no_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="runs is empty"):
        working_set(problem(), [], "l4", Settings(1))
    with pytest.raises(ValueError, match="runs is empty"):
        runs_that_fit(problem(), [], "l4", Settings(1), 1e9)


def test_wide_hidden_layers_methods_that_remember_and_records_cost_more() -> None:
    def needed(run: Run, settings: Settings) -> int:
        return working_set(problem(), [run] * 1000, "l4", settings)

    short = Settings(1000)
    plain = needed(Run(depth=3), short)
    assert needed(Run(depth=3, width=100), short) > plain + 1000 * 4 * (30 * 100 + 100 * 100 + 100)
    assert needed(Run(depth=3, method="adam"), short) > plain
    assert needed(Run(depth=3), Settings(1000, record_every=1)) > plain + 8 * 1000 * 900
