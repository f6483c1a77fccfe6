"""Whatever was lost or damaged is computed again, to the same bits."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sweeps.sweeping import assert_same_results, folder_of, partial_files, pieces, sweep, sweep_file

from overdepth.sweeps import folder as folder_module
from overdepth.sweeps.piece import encode, write_atomically

EVERY = ("--checkpoint", 0)
"""A piece a chunk of steps."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("finished")
    file = sweep_file(folder)
    assert sweep(file, "--out", folder / "out", *EVERY) == 0
    return file, folder / "out"


def stop_at(number: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The process is interrupted when it is about to write its file of this number."""
    count = [0]

    def write(path: Path, content: bytes) -> None:
        count[0] += 1
        if count[0] == number:
            raise KeyboardInterrupt
        write_atomically(path, content)

    monkeypatch.setattr(folder_module, "write_atomically", write)
    return count


def test_a_stop_before_any_write_costs_nothing_that_was_written(
    finished: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, whole = finished
    number, status = 0, 130
    while status == 130:
        number += 1
        out = tmp_path / str(number)
        with monkeypatch.context() as patched:
            stop_at(number, patched)
            status = sweep(file, "--out", out, *EVERY)
        assert not (status == 130 and (out / "results.nc").exists())
        assert partial_files(out) == []
        before = {path: path.read_bytes() for path in out.rglob("loss-*.piece")}
        assert sweep(file, "--out", out, "--resume", *EVERY) == 0
        assert_same_results(out, whole)
        kept = [path.exists() and path.read_bytes() == content for path, content in before.items()]
        assert kept.count(False) <= 1  # the losses of a span whose state was not written yet
    assert status == 0
    assert number > 10


@pytest.fixture(scope="module")
def stopped(finished: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep whose first block was stopped in its middle, with two states."""
    out = tmp_path_factory.mktemp("stopped") / "out"
    with pytest.MonkeyPatch.context() as patched:
        stop_at(9, patched)
        assert sweep(finished[0], "--out", out, *EVERY) == 130
    assert len(pieces(out, "loss")) >= 3
    assert len(pieces(out, "state")) == 2
    return out


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_endless_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def anothers(path: Path) -> None:
    path.write_bytes(encode({"loss": np.zeros((18, 1)), "diverged_at": np.full(18, -1)}, identity="another"))


def other_arrays(path: Path) -> None:
    """Under the right identity and checksum, but made by somebody else."""
    identity = folder_of(path.parents[2])._digest
    path.write_bytes(encode({"loss": np.array(["a"]), "step": np.array([1, 2])}, identity=identity))


DAMAGES = [
    Path.unlink,
    flip,
    truncate,
    empty,
    anothers,
    other_arrays,
    replace_by_folder,
    replace_by_pipe,
    replace_by_endless_device,
]


@pytest.mark.parametrize(
    ("which", "damage"),
    [
        *[("middle loss", damage) for damage in DAMAGES],
        *[("last state", damage) for damage in DAMAGES if damage is not other_arrays],  # the engine refuses it
        ("first loss", flip),
        ("last loss", flip),
        ("both states", flip),
        ("both states", Path.unlink),
    ],
)
def test_what_is_damaged_in_the_middle_of_a_sweep_is_computed_again(
    which: str, damage: Callable[[Path], None], finished: tuple[Path, Path], stopped: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(stopped, out)
    losses, states = pieces(out, "loss"), pieces(out, "state")
    chosen = {
        "first loss": losses[:1],
        "middle loss": losses[len(losses) // 2 :][:1],
        "last loss": losses[-1:],
        "last state": states[-1:],
        "both states": states,
    }[which]
    for piece in chosen:
        damage(piece.path)
    assert sweep("--out", out, "--resume") == 0
    assert_same_results(out, finished[1])
    assert list(out.rglob("state-*")) == []


@pytest.mark.parametrize(("which", "damage"), [*[(1, damage) for damage in DAMAGES], (0, flip), (-1, Path.unlink)])
def test_what_is_damaged_in_a_finished_sweep_is_computed_again(
    which: int, damage: Callable[[Path], None], finished: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[1], out)
    damage(pieces(out)[which].path)
    (out / "results.nc").unlink()
    assert sweep("--resume", "--out", out) == 0
    assert_same_results(out, finished[1])


@settings(max_examples=6)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), number=st.integers(0, 3))
def test_any_flipped_bit_is_found(
    finished: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, where: float, bit: int, number: int
) -> None:
    _, whole = finished
    out = tmp_path_factory.mktemp("flip") / "out"
    shutil.copytree(whole, out)
    path = pieces(out)[number].path
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1 << bit
    path.write_bytes(bytes(content))
    assert sweep("--resume", "--out", out) == 0
    assert_same_results(out, whole)


def test_a_damaged_piece_is_named(
    finished: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, whole = finished
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    path = pieces(out)[1].path
    flip(path)
    assert sweep("--resume", "--out", out) == 0
    assert f"The piece {path} is computed again: its checksum does not fit its content." in caplog.text


def test_a_finished_sweep_is_not_computed_again(finished: tuple[Path, Path], tmp_path: Path) -> None:
    file, whole = finished
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.piece")}
    (out / "results.nc").write_bytes(b"damaged")
    assert sweep(file, "--resume", "--out", out) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.piece")} == before
    assert_same_results(out, whole)


def test_where_spans_end_changes_no_bit(finished: tuple[Path, Path], tmp_path: Path) -> None:
    file, whole = finished
    assert sweep(file, "--out", tmp_path / "out", "--checkpoint", 60) == 0
    assert len(pieces(tmp_path / "out")) == 2
    assert len(pieces(whole)) > 4
    assert_same_results(tmp_path / "out", whole)


def test_resume_on_an_empty_folder_begins(finished: tuple[Path, Path], tmp_path: Path) -> None:
    file, whole = finished
    assert sweep(file, "--out", tmp_path / "new" / "out", "--resume") == 0
    assert_same_results(tmp_path / "new" / "out", whole)


def test_the_folder_knows_where_its_data_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    file = sweep_file(home)
    with monkeypatch.context() as patched:
        stop_at(5, patched)
        assert sweep(file, "--out", tmp_path / "out", *EVERY) == 130
    monkeypatch.chdir(tmp_path)
    file.unlink()
    assert sweep("--resume", "--out", "out") == 0
    assert sweep(sweep_file(home), "--out", "other") == 0
    assert_same_results(tmp_path / "out", tmp_path / "other")
