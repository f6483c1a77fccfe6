"""What is told of a sweep while it runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from tests.sweeps.sweeping import SMALL, problem, run_in, sweep_file, work_of

from overdepth.cli import main
from overdepth.commands.sweep_progress import event, shown
from overdepth.lab.optimum import Optimum, optimal_loss
from overdepth.sweeps import parse
from overdepth.sweeps.execution import run_here
from overdepth.sweeps.folder import SweepFolder
from overdepth.sweeps.identity import identity_of
from overdepth.sweeps.results import optima
from overdepth.sweeps.watch import CONVERGED, Snapshot, Watch

TEXT = """
data = "auto"
objective = ["l2", "l4"]
steps = 600
record_every = 10
[[grid]]
depth = [1, 2]
lr = [1e-3, 0.3, 5.0]
"""


def watched(path: Path, seconds: float) -> tuple[list[Snapshot], xr.Dataset]:
    """What a watcher is told during a sweep, and the sweep's results."""
    data, file = problem(), parse(TEXT)
    work = work_of(file, data, 4)
    told: list[Snapshot] = []
    folder = SweepFolder(path)
    with folder.locked():
        folder.begin(identity_of(file, data, work.rows, block_runs=4), file.text, base=path)
        run_here(work, folder, Watch(work, optima(work), told.append), seconds=seconds)
    return told, run_in(path, file, data, block_runs=4)


def test_the_numbers_are_those_of_the_results(tmp_path: Path) -> None:
    told, results = watched(tmp_path / "out", 0.0)
    last = told[-1]
    assert (last.done, last.total, last.runs) == (600 * 12, 600 * 12, 12)
    assert last.diverged == int(np.isfinite(results.diverged_at.values).sum()) > 0
    gap = (results.loss - results.optimal_loss).values
    with np.errstate(invalid="ignore"):
        assert last.converged == int((gap[:, -1] <= CONVERGED * gap[:, 0]).sum()) > 0
    for name in ("done", "diverged"):
        numbers = [getattr(snapshot, name) for snapshot in told]
        assert numbers == sorted(numbers)
    assert all(0 <= snapshot.done <= snapshot.total for snapshot in told)
    assert all(snapshot.diverged + snapshot.converged <= snapshot.runs for snapshot in told)
    assert all(snapshot.rate >= 0 for snapshot in told)
    assert last.remaining == 0


def test_what_was_there_already_counts_as_done_but_not_for_the_rate(tmp_path: Path) -> None:
    first, _ = watched(tmp_path / "out", 0.0)
    again, _ = watched(tmp_path / "out", 0.0)
    assert (again[-1].done, again[-1].diverged, again[-1].converged) == (
        first[-1].done,
        first[-1].diverged,
        first[-1].converged,
    )
    assert again[-1].rate == 0
    assert again[-1].remaining is None


def test_the_losses_of_a_watch_decide_what_has_converged() -> None:
    data, file = problem(), parse(TEXT)
    work = work_of(file, data)
    optimum = {name: optimal_loss(data, name).value for name in ("l2", "l4")}
    watch = Watch(work, {name: Optimum(value, attained=True) for name, value in optimum.items()}, lambda snapshot: None)
    block = work.blocks[0]
    assert watch.snapshot().done == 0
    gaps = np.array([[1.0, 1e-7], [1.0, 0.5], [np.nan, np.nan], [1.0, np.nan], [4.0, 3e-6], [1.0, 2e-6]])
    watch.stored(block, gaps[:, :1] + optimum["l2"])
    assert watch.snapshot().converged == 0
    watch.stored(block, gaps[:, 1:] + optimum["l2"])
    assert watch.snapshot().converged == 2
    watch.stored(block, gaps[:, :0])  # a span without a record
    assert watch.snapshot().converged == 2
    watch.moved(block, 300, 2)
    assert watch.snapshot().diverged == 2
    assert watch.snapshot().done == 300 * 6


def lines(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_begin_go_on_and_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overdepth.commands.sweep_progress.LINE_EVERY", 0.0)
    out = tmp_path / "out"
    assert main(["sweep", str(sweep_file(tmp_path)), "--out", str(out), "--json-lines", "--checkpoint", "0"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    told = lines(printed.out)
    events = [line["event"] for line in told]
    assert events[0] == "begin"
    assert events[-1] == "done"
    assert set(events[1:-1]) == {"progress"}
    assert len(events) > 6
    keys = {"event", "done", "total", "rate", "remaining", "runs", "diverged", "converged"}
    assert all(keys <= set(line) for line in told)
    assert told[0]["done"] == 0
    assert told[-1]["done"] == told[-1]["total"] == 300 * 36
    assert told[-1]["results"] == str(out / "results.nc")


def test_quiet_prints_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(sweep_file(tmp_path)), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_person_is_told_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o[ut]"
    assert main(["sweep", str(sweep_file(tmp_path, SMALL + "[[run]]\nlr = 0.1")), "--out", str(out)]) == 0
    printed = capsys.readouterr()
    first, second, third, fourth = printed.out.splitlines()
    with xr.open_dataset(out / "results.nc") as results:
        diverged = int(np.isfinite(results.diverged_at.values).sum())
    assert first == "Data: data, 30 examples x 3 features, scaling standard."
    assert second == "36 runs (2 more were asked for twice) in 2 blocks, 300 steps each, 16 records, l2, l4."
    assert third.startswith(f"36 runs, {diverged} diverged, ")
    assert third.removeprefix("36 runs, ").removesuffix(".") in printed.err.splitlines()[-1]  # the bar's last state
    assert fourth == f"Results: {out / 'results.nc'}. Look at them: overdepth show {out}"
    assert "run-steps/s" in printed.err


def test_events_only_where_lines_are_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = Snapshot(1, 2, 3.0, None, 1, 0, 0)
    for mode in ("quiet", "bar"):
        event(mode, "begin", a=1)
    with shown("quiet") as show:
        show(snapshot)
    assert capsys.readouterr() == ("", "")
    with shown("json") as show:
        show(snapshot)
        show(snapshot)  # within a second
    assert lines(capsys.readouterr().out) == [{"event": "progress", **snapshot.to_dict()}]
