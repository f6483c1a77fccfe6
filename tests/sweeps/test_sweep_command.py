"""``overdepth sweep`` as a user meets it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from tests.sweeps.sweeping import SMALL, loss, sweep, sweep_file

from overdepth.cli import main
from overdepth.commands.app import with_ray_address
from overdepth.sweeps import execution
from overdepth.sweeps.estimate import estimate


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.toml"], "the sweep file absent.toml does not exist; check the path, or give the name"),
        (["{file}", "--checkpoint", "-1"], "--checkpoint is -1.0, expected a number >= 0.0."),
        (["{file}", "--checkpoint", "nan"], "--checkpoint is nan, expected a number >= 0.0."),
        (["{file}", "--ray-cpus", "0"], "--ray-cpus is 0, expected a number >= 1."),
        (["{file}", "--memory", "much"], "--memory is 'much', expected a size such as 800MB or 4GB."),
        (["{file}", "--memory", "0GB"], "--memory is '0GB', expected a size such as 800MB or 4GB."),
        (["{file}", "--memory", "1kB"], "--memory is too small by "),
        (["{file}", "--device", "abacus"], "device is 'abacus'"),
        (["{file}", "--stepz", "3"], "--stepz"),
        (["{file}", "more.toml"], "more.toml"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = sweep_file(tmp_path)
    given = [argument.format(file=file) for argument in arguments]
    assert main(["sweep", *given, "--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("overdepth: ")
    assert said in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_mistakes_of_the_file_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sweep_file(tmp_path, SMALL.replace("steps = 300", "steps = 0").replace("1e-2", "-1"))
    assert main(["sweep", str(file), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "overdepth: sweep.toml has 2 mistakes:\n"
        "  line 4: steps is 0, expected an integer >= 1.\n"
        "  line 9: lr is -1.0, expected a finite number > 0.\n"
    )


def test_out_is_needed_to_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(sweep_file(tmp_path)) == 2
    assert "--out is missing; name a folder for the results, --out DIR." in capsys.readouterr().err


def test_a_dry_run_estimates_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overdepth.commands.sweep.estimate", partial(estimate, seconds=0.1))
    file = sweep_file(tmp_path, SMALL.replace("steps = 300", "steps = 50_000"))
    before = sorted(tmp_path.iterdir())
    assert main(["sweep", str(file), "--dry-run", "--out", str(tmp_path / "sub" / "out")]) == 0
    printed = capsys.readouterr().out
    assert "36 runs in 2 blocks, 50,000 steps each, 2,501 records, l2, l4." in printed
    assert re.search(r"Time: about \d+ (seconds|minutes) with \d+ threads", printed)
    assert re.search(r"Disk: about [\d.]+ (kB|MB); [\d.]+ .B are free\.", printed)
    assert sorted(tmp_path.iterdir()) == before


def test_the_file_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sweep_file(tmp_path)
    assert main(["sweep", str(file), "--print"]) == 0
    assert capsys.readouterr().out == SMALL
    assert sweep(file, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "sweep.toml").read_text(encoding="utf-8") == SMALL
    assert main(["sweep", "--resume", "--out", str(tmp_path / "out"), "--print"]) == 0
    assert capsys.readouterr().out == SMALL


def test_a_preset_goes_on_in_a_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("overdepth.sweeps.presets.text_of", lambda name: SMALL)
    sweep_file(tmp_path)
    assert sweep("fig3", "--out", "fig3") == 0
    assert sweep("fig3", "--out", "fig3", "--resume") == 0
    assert sweep("--out", "fig3", "--resume") == 0


def test_a_file_of_a_presets_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep_file(tmp_path, name="fig3")
    assert sweep("fig3", "--out", "out") == 0
    assert loss(tmp_path / "out").shape == (36, 16)


def test_data_are_found_beside_the_sweep_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    sweep_file(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    assert sweep("../there/sweep.toml", "--out", "out") == 0


def test_a_worker_without_memory_is_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise MemoryError

    monkeypatch.setattr(execution.Work, "engine", fail)
    assert sweep(sweep_file(tmp_path), "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err == "overdepth: out of memory; try a smaller --memory.\n"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["sweep", "a.toml", "--ray"], ["sweep", "a.toml", "--ray", "local"]),
        (["sweep", "--ray", "a.toml"], ["sweep", "--ray", "local", "a.toml"]),
        (["sweep", "--ray", "--out", "x"], ["sweep", "--ray", "local", "--out", "x"]),
        (["sweep", "--ray", "local", "fig3"], ["sweep", "--ray", "local", "fig3"]),
        (["sweep", "--ray", "auto", "fig3"], ["sweep", "--ray", "auto", "fig3"]),
        (["sweep", "--ray", "127.0.0.1:6379"], ["sweep", "--ray", "127.0.0.1:6379"]),
        (["sweep", "--ray", "ray://head:10001", "fig3"], ["sweep", "--ray", "ray://head:10001", "fig3"]),
        (["sweep", "--ray=head:1", "fig3"], ["sweep", "--ray=head:1", "fig3"]),
        (["--ray"], ["--ray", "local"]),
        (["reproduce", "fig3"], ["reproduce", "fig3"]),
        ([], []),
    ],
)
def test_the_address_of_ray_may_be_left_out(given: list[str], meant: list[str]) -> None:
    assert with_ray_address(given) == meant


def test_help_names_the_presets_and_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Presets: fig2, fig3, fig4, fig5, quick." in printed
    assert "0 done, 1 failed, 2 bad input, 130 interrupted" in printed
    assert "Example: overdepth sweep fig3 --out fig3" in printed
