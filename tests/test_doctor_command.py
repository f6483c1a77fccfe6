"""``overdepth doctor``: what it says, as a table and as JSON, and what it says of what is missing."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest
import torch

import overdepth as od
from overdepth import installation
from overdepth.cli import main
from overdepth.commands.terminal import size


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("OVERDEPTH_DATA", raising=False)
    return tmp_path


def test_the_table_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    for word in (
        od.__version__,
        torch.__version__,
        "threads",
        "GPU",
        "oneDNN",
        "extra lab",
        "Ethanol",
        "MNIST",
        "cache",
    ):
        assert word in printed
    assert "not at hand; downloaded from the UCI archive when it is needed" in printed


def test_the_json_is_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["versions"]["overdepth"] == od.__version__
    assert found["threads"] == torch.get_num_threads()
    assert {extra["name"] for extra in found["extras"]} >= {"lab", "optax"}
    assert found["data"][0] == {"name": "Ethanol", "place": None, "fallback": found["data"][0]["fallback"]}
    assert found["cache"]["problem"] is None


def test_data_are_found_where_the_library_looks_first(own_folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached, named = own_folders / "cache" / "overdepth" / "data", own_folders / "named"
    for folder in (cached, named):
        folder.mkdir(parents=True)
    (cached / "gas_sensor_array_drift.zip").touch()
    (cached / "train-images-idx3-ubyte.gz").touch()  # one of two: a download that was cut off
    assert [data.place for data in installation.data_sets()] == [str(cached / "gas_sensor_array_drift.zip"), None]
    (cached / "train-labels-idx1-ubyte.gz").touch()
    assert installation.data_sets()[1].place == str(cached)
    (named / "gas_ethanol.npz").touch()
    monkeypatch.setenv("OVERDEPTH_DATA", str(named))
    assert installation.data_sets()[0].place == str(named / "gas_ethanol.npz")


def test_the_caches_size_is_counted(own_folders: Path) -> None:
    runs = own_folders / "cache" / "overdepth" / "runs"
    runs.mkdir(parents=True)
    (runs / "a.npz").write_bytes(b"x" * 1500)
    found = installation.cache()
    assert (found.size, found.files, found.problem) == (1500, 1, None)
    assert size(found.size) == "1.5 kB"


def test_a_cache_that_cannot_be_written_is_said(
    own_folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_folders / "cache").write_text("a file where a folder should be", encoding="utf-8")
    assert main(["doctor"]) == 1
    assert "cannot be written (" in capsys.readouterr().out


def test_an_extra_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = [
        "torch>=2.6",
        "numpy>=2.0; extra == 'lab'",
        "overdepth[lab]; extra == 'explore'",
        'no-such-package>=1; extra == "explore"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: requirements)
    found = {extra.name: extra.missing for extra in installation.extras()}
    assert found == {"lab": (), "explore": ("no-such-package",)}


def test_without_metadata_there_is_nothing_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", refuse)
    assert installation.extras() == []
