"""The command line as a user meets it: exit status, stdout, one sentence on stderr, and what lies in the folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from overdepth.cli import main
from overdepth.commands.reproduce import chosen_items
from overdepth.paper.items import ITEMS


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OVERDEPTH_DATA", raising=False)


def reproduce(*arguments: str) -> int:
    return main(["reproduce", *arguments])


def started(*arguments: str) -> subprocess.Popen[str]:
    """``overdepth reproduce fig3`` on the embedded data, in a process of its own."""
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "overdepth", "reproduce", "fig3", "--data", "breast-cancer", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_report_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report"
    assert reproduce("fig2", "fig3", "--data", "breast-cancer", "--steps", "200", "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Data: breast-cancer, 569 examples x 30 features, scaling standard")
    assert "fig3.l4" in printed.out
    claims = json.loads((out / "claims.json").read_text(encoding="utf-8"))
    assert {claim["verdict"] for claim in claims} == {"inconclusive"}
    for item, runs in (("fig2", 26), ("fig3", 100)):
        with xr.open_dataset(out / f"{item}.nc") as data:
            assert dict(data.sizes) == {"run": runs, "step": len(data.step)}
            assert {"loss", "optimal_loss", "diverged_at"} <= set(data.data_vars)
            assert {"depth", "width", "init", "scale", "seed", "method", "lr", "objective"} <= set(data.coords)
            diverged = np.isfinite(data.diverged_at.values)
            after = data.step.values[None, :] >= data.diverged_at.values[:, None]
            assert np.isnan(data.loss.values[diverged][after[diverged]]).all()
    page = (out / "index.html").read_text(encoding="utf-8")
    assert "What the paper said" in page
    assert "overdepth reproduce fig2 fig3 --data breast-cancer" in page
    assert page.count('class="plot"') >= 6


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    reproduce("fig3", "--data", "breast-cancer", "--steps", "20", "--out", str(tmp_path / "report"))
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    for pattern in ('src="http', "src='http", '<link rel="stylesheet" href="http', "@import"):
        assert pattern not in page


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["fig9"], "item 'fig9' is unknown, expected some of papers, beyond, map, network, fig2, fig3"),
        (["--data", "mnist"], "data set 'mnist' is unknown, expected one of auto, ethanol, breast-cancer"),
        (["--data", "missing.csv"], "missing.csv does not exist"),
        (["--scaling", "whitened"], "scaling is 'whitened', expected one of standard"),
        (["--steps", "0"], "--steps is 0, expected an integer from 1 to"),
        (["--seeds", "0"], "--seeds is 0, expected an integer from 1 to"),
        (["--seeds", "99999999999"], "--seeds is 99999999999, expected an integer from 1 to 1,000"),
        (["--target", "y"], "has a target of its own"),
        (["--steps", "many"], "--steps"),
        (["--stepz", "3"], "--stepz"),
        (["--quick", "--full"], "--quick and --full were both given"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = [] if "--data" in arguments else ["--data", "breast-cancer"]
    assert reproduce(*base, *arguments, "--out", str(tmp_path / "report")) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert message.startswith("overdepth: ")
    assert message.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_an_unknown_column_names_the_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("a,b,c\n1,2,3\n2,1,5\n", encoding="utf-8")
    assert reproduce("--data", str(table), "--target", "z", "--out", str(tmp_path / "report")) == 2
    assert "has no column 'z'; the columns are a, b, c." in capsys.readouterr().err


def test_a_users_table_is_reproduced_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = tmp_path / "table.csv"
    np.savetxt(table, rng.normal(size=(50, 4)), delimiter=",", header="a,b,c,y", comments="")
    out = tmp_path / "report"
    assert reproduce("fig3", "--data", str(table), "--target", "y", "--steps", "20", "--out", str(out)) == 0
    assert json.loads((out / "claims.json").read_text(encoding="utf-8"))[0]["data"] == "table"


def test_foreign_files_are_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    assert reproduce("--data", "breast-cancer", "--out", str(tmp_path)) == 2
    assert "holds other files" in capsys.readouterr().err


def test_no_network_is_neither_a_traceback_nor_a_hang(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr("pooch.retrieve", refuse)
    assert reproduce("fig3", "--data", "ethanol", "--out", str(tmp_path / "report")) == 2
    assert "set OVERDEPTH_DATA to it" in capsys.readouterr().err
    assert reproduce("fig3", "--data", "auto", "--steps", "10", "--out", str(tmp_path / "report")) == 0
    assert "breast-cancer (chosen because the Ethanol set is not at hand)" in capsys.readouterr().out.splitlines()[0]


def test_strict_fails_only_with_failing_claims(tmp_path: Path) -> None:
    arguments = ["fig3", "--data", "breast-cancer", "--steps", "10", "--strict", "--out", str(tmp_path / "report")]
    assert reproduce(*arguments) == 0  # inconclusive is no failure


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--help"]) == 0
    assert "Example: overdepth reproduce fig2 fig3" in capsys.readouterr().out
    assert main([]) == 0
    assert "reproduce" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("overdepth 0.")


def test_the_list_names_every_item(capsys: pytest.CaptureFixture[str]) -> None:
    assert reproduce("--list") == 0
    lines = capsys.readouterr().out.splitlines()
    first = [line.split()[0] for line in lines if line.startswith("  ") and line[2] != " "]
    assert [name for name in first if name != "item"] == list(ITEMS)
    assert reproduce("fig3", "--list") == 0
    assert "fig2" not in capsys.readouterr().out


def test_what_is_run_if_nothing_is_named() -> None:
    assert {item.part for item in chosen_items([])} == {"papers"}
    assert [item.name for item in chosen_items([], quick=True)] == [
        name for name, item in ITEMS.items() if item.part != "network"
    ]
    assert [item.name for item in chosen_items(["fig3", "fig2"])] == ["fig2", "fig3"]
    assert {item.part for item in chosen_items(["beyond"])} == {"beyond"}
    assert {item.part for item in chosen_items([], full=True)} == {"papers", "network"}


@pytest.mark.slow
def test_an_interrupt_keeps_the_old_report_and_the_finished_sweeps(tmp_path: Path) -> None:
    out = tmp_path / "report"
    assert reproduce("fig3", "--data", "breast-cancer", "--steps", "10", "--out", str(out)) == 0
    before = (out / "index.html").read_bytes()
    cached = set((tmp_path / "cache").rglob("*.npz"))
    process = started("--steps", "50000", "--out", str(out))
    deadline = time.monotonic() + 120
    while set((tmp_path / "cache").rglob("*.npz")) == cached:  # until the first sweep is finished
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted; finished items and sweeps are kept" in errors
    assert "Traceback" not in errors
    assert (out / "index.html").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_brackets_in_a_path_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a[/b]c[red]d"
    assert reproduce("fig3", "--data", "breast-cancer", "--steps", "5", "--out", str(out)) == 0
    assert f"Report: {out / 'index.html'}" in capsys.readouterr().out


def test_a_reader_that_leaves_early_does_not_stop_the_report(tmp_path: Path) -> None:
    out = tmp_path / "report"
    process = started("--steps", "5", "--out", str(out))
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr:
        errors = process.stderr.read()
    assert process.wait(timeout=60) == 0
    assert "Traceback" not in errors
    assert (out / "index.html").is_file()
