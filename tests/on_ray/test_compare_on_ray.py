"""Comparisons on a real Ray cluster of this machine: the same verdict, whoever dies, and nothing left running."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.on_ray.processes import MARK, addresses, killing, processes, seeing, until

from overdepth import ray_cluster
from overdepth.cli import main

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

# JAX, where another test has imported it, warns of every fork, of which Ray's processes begin with one.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

PROBLEMS = Path(__file__).parents[1] / "comparison" / "problems.py"
TASK = f"{PROBLEMS}:settings"
ARMS = ("--arm", "form1:2", "--arm", "form2:2:near_zero:0.3")


def compare(task: str, out: Path, *arguments: str) -> int:
    return main(["compare", task, *ARMS, "--out", str(out), *arguments])


def content(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    return found


def losses(out: Path) -> dict[str, Any]:
    """All runs by their file, without the two of which every process has its own: times."""
    found = {}
    for path in (out / "trials").glob("*.npz"):
        with np.load(path) as stored:
            if "losses" in stored and len(stored["losses"]):
                found[path.name] = stored["losses"]
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The comparison in this process, at one thread."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert compare(TASK, out) == 0
    return out


def assert_same_runs(out: Path, finished: Path) -> None:
    ours, theirs = losses(out), losses(finished)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 20
    for name, found in ours.items():
        np.testing.assert_array_equal(found, theirs[name])


def test_two_workers_make_the_same_runs(
    mark: str, address: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with seeing(mark, "ray::_perform") as seen:
        assert compare(TASK, tmp_path / "out", "--ray", address) == 0
    assert len(seen) == 2
    assert_same_runs(tmp_path / "out", finished)
    assert content(tmp_path / "out")["command"].endswith(f"--ray {address} --out {tmp_path / 'out'}")
    assert "form1:2: " in capsys.readouterr().out


def test_workers_that_are_killed_cost_a_run_each(mark: str, address: str, finished: Path, tmp_path: Path) -> None:
    with killing(mark, "ray::_perform", most=2, every=0.2) as killed:
        assert compare(TASK, tmp_path / "out", "--ray", address) == 0
    assert killed
    assert_same_runs(tmp_path / "out", finished)


def test_what_is_finished_needs_no_cluster(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(TASK, finished, "--ray", "127.0.0.1:1") == 0


def test_a_file_that_only_this_node_has_names_the_remedy(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = PROBLEMS.read_text(encoding="utf-8")
    file = tmp_path / "elsewhere.py"
    file.write_text(text + f"\n__import__('os').unlink({str(file)!r})\n", encoding="utf-8")
    assert compare(f"{file}:settings", tmp_path / "out", "--ray", address) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"overdepth: {file} is not on the node ")
    assert said.endswith("; keep the file where all nodes find it, such as a shared folder.")


def test_what_fails_on_a_worker_is_said_as_here(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "failing.py"
    file.write_text(
        PROBLEMS.read_text(encoding="utf-8").replace(
            '"loss_step": squares,\n        "data": regression(),\n        "base": partial(torch.optim.SGD, lr=0.05),'
            '\n        "batch_size": 8,\n        "lrs"',
            '"loss_step": nan_loss,\n        "data": regression(),\n        "base": torch.optim.SGD,'
            '\n        "batch_size": 8,\n        "lrs"',
        ),
        encoding="utf-8",
    )
    said: list[tuple[int, str]] = []
    for arguments in ([], ["--ray", address]):
        status = compare(f"{file}:settings", tmp_path / f"out{len(said)}", *arguments)
        said.append((status, capsys.readouterr().err.splitlines()[-1]))
    assert said[0] == said[1]
    assert said[0][0] == 2
    assert "the loss is not finite in every arm" in said[0][1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--ray", "127.0.0.1:1"), "no Ray cluster at '127.0.0.1:1' ("),
        (("--ray", "--workers", "2"), "--ray and --workers are two ways to make runs side by side; give one of them."),
        (("--ray", "--ray-cpus", "0"), "--ray-cpus is 0, expected a number >= 1."),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: tuple[str, ...], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(TASK, tmp_path / "out", *arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"overdepth: {expected}")


def test_without_ray_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert compare(TASK, tmp_path / "out", "--ray") == 2
    assert "install the extra: pip install 'overdepth[ray]'." in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_its_own_cluster_and_the_same_command_goes_on(
    number: signal.Signals, mark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"{mark}-compare-{number.name}"
    monkeypatch.setenv(MARK, own)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", ray_cluster.LOOPBACK):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps a token there
    out = tmp_path / "out"
    command = [sys.executable, "-m", "overdepth", "compare", TASK, "--steps", "20000", "--ray", "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    try:
        assert until(lambda: bool(list(out.glob("trials/*.npz"))) or process.poll() is not None, 120)
        assert addresses(own) == {b"--node_ip_address=127.0.0.1"}
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "interrupted; finished runs are kept; run it again to go on" in errors
    assert until(lambda: not processes(own)), processes(own)
    assert list(out.glob("trials/*.npz"))
    assert not list(out.rglob("*.partial"))
