"""The script behind docs/when-it-does-not-help.md runs, and says what it promises to say."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "when_it_does_not_help.py"
DEPTHS = {"1", "2", "3"}


def script(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if name != "OVERDEPTH_DATA"}
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, str(SCRIPT), *arguments],
        env={**env, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from numbers(each)
    elif isinstance(value, int | float):
        yield value


@pytest.fixture(scope="module")
def quick() -> subprocess.CompletedProcess[str]:
    return script("--quick")


@pytest.mark.slow
def test_the_quick_run_ends_with_one_line_of_json(quick: subprocess.CompletedProcess[str]) -> None:
    assert quick.returncode == 0, quick.stderr
    assert quick.stdout.startswith(
        "OVERDEPTH_DATA names no folder that holds mnist.npz: scikit-learn's digits stand in"
    )
    figures = json.loads(quick.stdout.splitlines()[-1])
    assert figures["benchmark"] == "when_it_does_not_help"
    assert (figures["data"], figures["inputs"], figures["quick"]) == ("digits", "standardized", True)
    assert {"torch", "machine", "threads", "overdepth"} <= figures.keys()
    assert all(map(math.isfinite, numbers(figures)))
    assert figures["tuned"].keys() == {"SGD", "momentum", "Adam"}
    for arms in figures["tuned"].values():
        assert arms.keys() == DEPTHS
        for arm in arms.values():
            median, low, high = arm["loss"]
            assert 0 < low <= median <= high < math.log(10) + 1
            assert f"{arm['lr']:g}" in arm["search"]
            assert len(arm["search"]) == 3
        assert arms["1"]["over_depth_1"] == [1, 1, 1]
        assert {arms[n]["outcome"] for n in ("2", "3")} <= {
            "lower for every seed", "higher for every seed", "seeds disagree"
        }  # fmt: skip
    for when in ("start", "trained"):
        for weight in figures["multipliers"][when].values():
            for mean, low, high, cosine in weight.values():
                assert 0 <= low < mean < high
                assert 0 < cosine <= 1
    assert figures["plateau"]["near_identity"]["4"] == [1, 1, 1]
    assert figures["plateau"]["near_zero"]["4"] == [None, None, None]


@pytest.mark.slow
def test_a_gain_at_a_small_learning_rate_is_one_of_step_size(quick: subprocess.CompletedProcess[str]) -> None:
    """Depth 1 with each weight's learning rate multiplied by the mean multiplier goes as far, or nearly."""
    losses = json.loads(quick.stdout.splitlines()[-1])["small_lr"]
    plain = losses["depth 1"][0]
    for depth in (2, 3):
        gain = plain - losses[f"depth {depth}"][0]
        rescaled = plain - losses[f"depth 1, lr x mean multiplier of depth {depth}"][0]
        assert gain > 0
        assert rescaled > 0.8 * gain


def test_data_that_are_missing_are_named(tmp_path: Path) -> None:
    done = script("--data", "mnist", OVERDEPTH_DATA=str(tmp_path))
    assert done.returncode == 2
    assert "set OVERDEPTH_DATA to a folder that holds mnist.npz" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "mnist.npz").write_bytes(b"not a zip")
    done = script(OVERDEPTH_DATA=str(tmp_path))
    assert done.returncode == 2
    assert "mnist.npz is truncated, damaged, or no .npz file" in done.stderr
    assert "Traceback" not in done.stderr
