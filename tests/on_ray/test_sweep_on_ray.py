"""Sweeps on a real Ray cluster of this machine: the same numbers, whoever dies."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from tests.on_ray.processes import MARK, addresses, killing, processes, seeing, until
from tests.sweeps.sweeping import assert_same_results, partial_files, pieces, sweep, sweep_file

from overdepth import ray_cluster
from overdepth.cli import main

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)

# JAX, where another test has imported it, warns of every fork, of which Ray's processes begin with one.
pytestmark = pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")

SWEEP = """
data = "data.csv"
target = "y"
objective = ["l2", "l4", "l6"]
steps = 1500
record_every = 50
[[grid]]
depth = [1, 2, 3]
lr = [1e-3, 1e-2, 3.0]
[[grid]]
method = ["adam", "end_to_end"]
depth = 2
"""
OFTEN = ("--checkpoint", 0.1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sweep without Ray, at one thread."""
    folder = tmp_path_factory.mktemp("finished")
    file = sweep_file(folder, SWEEP)
    assert sweep(file, "--out", folder / "out") == 0
    return file, folder / "out"


def test_two_workers_give_the_same_numbers(
    mark: str, address: str, finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, whole = finished
    with seeing(mark, "ray::_span") as seen:
        assert sweep(file, "--out", tmp_path / "out", "--ray", address, *OFTEN) == 0
    assert len(seen) == 2
    assert capsys.readouterr() == ("", "")
    assert_same_results(tmp_path / "out", whole)
    assert len(pieces(tmp_path / "out")) > 3
    assert list(tmp_path.rglob("state-*")) == partial_files(tmp_path) == []


def test_workers_that_are_killed_cost_a_span_each(
    mark: str, address: str, finished: tuple[Path, Path], tmp_path: Path
) -> None:
    file, whole = finished
    with killing(mark, "ray::_span", most=3, every=0.3) as killed:
        assert sweep(file, "--out", tmp_path / "out", "--ray", address, *OFTEN) == 0
    assert killed
    assert_same_results(tmp_path / "out", whole)


def test_what_was_begun_without_ray_goes_on_with_it_and_back(
    address: str, finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, whole = finished
    out = tmp_path / "out"

    def stop_after(number: int, module: str) -> None:
        from overdepth.sweeps.block_run import store

        count = [0]

        def stopping(*arguments: object) -> None:
            store(*arguments)  # type: ignore[arg-type]
            count[0] += 1
            if count[0] == number:
                raise KeyboardInterrupt

        monkeypatch.setattr(f"overdepth.sweeps.{module}.store", stopping)

    stop_after(2, "execution")
    assert sweep(file, "--out", out, "--checkpoint", 0.02) == 130
    stop_after(3, "on_ray")
    assert sweep(file, "--out", out, "--resume", "--ray", address, "--checkpoint", 0.02) == 130
    monkeypatch.undo()
    assert len(list(out.rglob("state-*"))) > 0
    assert sweep(file, "--out", out, "--resume") == 0
    assert_same_results(out, whole)


def started(file: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(  # noqa: S603 - our own command
        [*(sys.executable, "-m", "overdepth", "sweep", file, "--out", out), "--ray", "--quiet", "--checkpoint", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGKILL]
)
def test_a_sweep_with_a_cluster_of_its_own_that_is_stopped_leaves_no_process(
    number: signal.Signals, mark: str, finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"{mark}-{number.name}"
    monkeypatch.setenv(MARK, own)
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", ray_cluster.LOOPBACK):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray keeps a token there
    long = sweep_file(tmp_path, SWEEP.replace("steps = 1500", "steps = 3000000").replace("= 50", "= 50000"))
    out = tmp_path / "out"
    process = started(long, out)
    try:
        assert until(lambda: bool(list(out.rglob("state-*.piece"))) or process.poll() is not None, 120)
        assert processes(own, "ray::")
        assert addresses(own) == {b"--node_ip_address=127.0.0.1"}  # what others could reach is nobody's business
        process.send_signal(number)
        printed, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert (process.returncode, printed) == (130, ""), errors
        assert errors == "overdepth: interrupted; what was finished is kept; go on with --resume.\n"
    if number == signal.SIGKILL:  # Ray's two agents wait another minute or two for the head that died with the sweep
        agents = processes(own, "ray::DashboardAgent") | processes(own, "ray::RuntimeEnvAgent")
        for agent in agents:
            with suppress(ProcessLookupError):
                os.kill(agent, signal.SIGKILL)
    assert until(lambda: not processes(own)), processes(own)
    assert pieces(out)
    assert not (out / "results.nc").exists()


@pytest.mark.parametrize("wrong", ["127.0.0.1:1", "nowhere.invalid:6379"])
def test_a_wrong_address_is_one_sentence(
    wrong: str, finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(finished[0], "--out", tmp_path / "out", "--ray", wrong) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"overdepth: no Ray cluster at '{wrong}' (")
    assert said.endswith("; start one with 'ray start --head', or leave the address out.\n")
    assert said.count("\n") == 1
    assert sweep(finished[0], "--out", tmp_path / "out", "--resume") == 0  # nothing is lost


def test_the_cluster_that_runs_here_is_found(address: str, finished: tuple[Path, Path], tmp_path: Path) -> None:
    file, whole = finished
    assert sweep(file, "--out", tmp_path / "out", "--ray", "auto") == 0
    assert_same_results(tmp_path / "out", whole)


def test_more_cores_than_there_are_is_one_sentence(
    address: str, finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep(finished[0], "--out", tmp_path / "out", "--ray", address, "--ray-cpus", 2) == 2
    assert "--ray-cpus is 2, but the largest node of the cluster has 1" in capsys.readouterr().err


def test_without_ray_the_extra_is_named(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["sweep", str(finished[0]), "--out", str(tmp_path / "out"), "--ray", "--quiet"]) == 2
    assert capsys.readouterr().err == (
        "overdepth: --ray needs Ray, which is not installed; install the extra: pip install 'overdepth[ray]'.\n"
    )
    assert ray_cluster.RETRIES >= 1
