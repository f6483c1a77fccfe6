"""A folder holds one sweep, and one process works on it."""

from __future__ import annotations

import multiprocessing
import shutil
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from tests.sweeps.sweeping import SMALL, assert_same_results, data_file, loss, sweep, sweep_file

from overdepth.sweeps import identity as identity_module
from overdepth.sweeps.folder import SweepFolder


def hold(path: Path, connection: Connection) -> None:
    with SweepFolder(path).locked():
        connection.send("locked")
        connection.recv()


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 2) -> str:
    capsys.readouterr()
    assert sweep(*arguments) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    return printed.err


def test_a_second_process_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", sweep_file(tmp_path)
    ours, theirs = multiprocessing.Pipe()
    other = multiprocessing.get_context("spawn").Process(target=hold, args=(out, theirs))
    other.start()
    try:
        assert ours.recv() == "locked"
        for resume in ([], ["--resume"]):
            said = complaint(capsys, file, "--out", out, *resume)
            assert said == (
                f"overdepth: another process works on the sweep in {out}; wait for it, or name another folder with "
                "--out.\n"
            )
        assert {path.name for path in out.iterdir()} == {".lock"}
    finally:
        other.kill()  # and the lock goes with it
        other.join()
    assert sweep(file, "--out", out) == 0


def test_a_folder_with_a_sweep_needs_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", sweep_file(tmp_path)
    assert sweep(file, "--out", out) == 0
    assert "holds a sweep already; go on with --resume, or name another folder." in complaint(
        capsys, file, "--out", out
    )


@pytest.mark.parametrize("kind", ["file", "other files", "dangling link"])
def test_a_place_that_is_no_sweeps(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, file = tmp_path / "out", sweep_file(tmp_path)
    if kind == "file":
        out.write_text("", encoding="utf-8")
    elif kind == "dangling link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.mkdir()
        (out / "thesis.tex").write_text("", encoding="utf-8")
    said = complaint(capsys, file, "--out", out, "--resume")
    assert ("holds other files; name another one" if kind == "other files" else "is a file; name a folder") in said


def test_a_link_to_a_folder_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "scratch")
    assert sweep(sweep_file(tmp_path), "--out", tmp_path / "out") == 0
    assert (tmp_path / "scratch" / "results.nc").is_file()


CHANGES = {
    "steps = 300": ("steps = 301", "settings: steps: 300 in the folder, 301 now"),
    "record_every = 20": ("record_every = 10", "settings: record_every: 20 in the folder, 10 now"),
    'target = "y"': ('target = "a"', "data checksum: "),
    "seed = [0, 1]": ("seed = [0, 2]", "grid 1: seed: [0, 1] in the folder, [0, 2] now"),
    "depth = [1, 2, 3]": ("depth = [1, 3, 2]", "grid 1: depth: [1, 2, 3] in the folder, [1, 3, 2] now"),
    'objective = ["l2", "l4"]': ('objective = "l2"', "objective: ['l2', 'l4'] in the folder, l2 now"),
    "[[grid]]\n": ("[[run]]\nseed = 9\n[[grid]]\n", "run 1: seed: absent in the folder, 9 now"),
    'data = "data.csv"': ('data = "data.csv"\nscaling = "minmax"', "scaling: standard in the folder, minmax now"),
    "data = ": ('dtype = "float64"\ndata = ', "settings: dtype: float32 in the folder, float64 now"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("finished")
    file = sweep_file(folder)
    assert sweep(file, "--out", folder / "out") == 0
    return file, folder / "out"


def contents(path: Path) -> dict[Path, bytes]:
    return {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}


@pytest.mark.parametrize("old", CHANGES)
def test_a_changed_sweep_file_is_refused_with_the_difference(
    old: str, finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    new, said = CHANGES[old]
    file = sweep_file(finished[0].parent, SMALL.replace(old, new), name="changed.toml")
    before = contents(finished[1])
    message = complaint(capsys, file, "--resume", "--out", finished[1])
    assert f"the folder {finished[1]} holds another sweep; go on with what it was begun with" in message
    assert f"\n  {said}" in message
    assert contents(finished[1]) == before


def test_changed_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sweep_file(tmp_path)
    assert sweep(file, "--out", tmp_path / "out") == 0
    data_file(tmp_path, seed=8)
    message = complaint(capsys, "--resume", "--out", tmp_path / "out")
    assert "\n  data checksum: " in message
    assert message.count("\n  ") == 1


@pytest.mark.parametrize("name", ["__version__", "code_digest", "torch"])
def test_another_version_is_refused(
    name: str, finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "torch":
        monkeypatch.setattr("torch.__version__", "1.0")
    else:
        monkeypatch.setattr(identity_module, name, "0.0" if name == "__version__" else lambda: "another")
    message = complaint(capsys, "--resume", "--out", finished[1])
    label = {"__version__": "overdepth version", "code_digest": "source code of the engine", "torch": "torch version"}
    assert f"\n  {label[name]}: " in message
    assert message.count("\n  ") == 1


def test_blocks_stay_as_they_were_cut(finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overdepth.commands.sweep.block_runs_within", lambda *arguments: 7)
    before = contents(finished[1] / "blocks")
    assert sweep(finished[0], "--resume", "--out", finished[1]) == 0
    assert contents(finished[1] / "blocks") == before


def test_other_blocks_are_refused(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(SweepFolder, "cuts", lambda self: (7, False))
    message = complaint(capsys, finished[0], "--resume", "--out", finished[1])
    assert "\n  runs of a block: 256 in the folder, 7 now" in message


def test_the_same_sweep_written_differently_goes_on(finished: tuple[Path, Path], tmp_path: Path) -> None:
    text = """
        # the same
        steps = 3_00
        record_every = 20
        data = "./data.csv"
        target = ["y"]
        objective = ["l2", "l4", "l2"]
        [[grid]]
        depth = { range = [1, 4] }
        lr = [0.01, 0.10, 2]
        seed = [0, 1, 1]
    """
    file = sweep_file(finished[0].parent, text, name="same.toml")
    out = tmp_path / "out"
    shutil.copytree(finished[1], out)
    before = contents(out)
    assert sweep(file, "--resume", "--out", out) == 0
    after = contents(out)
    assert {path for path in after if after[path] != before.get(path)} <= {out / "results.nc"}
    np.testing.assert_array_equal(loss(out), loss(finished[1]))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"sweep": 3, "base": "."}', b"\xff", b"[" * 100_000, b'{"sweep": {}}']
)
def test_a_damaged_identity_is_told(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sweep_file(tmp_path)
    assert sweep(file, "--out", tmp_path / "out") == 0
    (tmp_path / "out" / "identity.json").write_bytes(content)
    for arguments in ([file], []):
        message = complaint(capsys, *arguments, "--resume", "--out", tmp_path / "out")
        assert "identity.json is damaged; name another folder with --out and begin anew." in message
        assert message.count("\n") == 1


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"steps = 3"])
def test_a_damaged_copy_of_the_sweep_file(
    content: bytes | None, finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished[1], out)
    if content is None:
        (out / "sweep.toml").unlink()
    else:
        (out / "sweep.toml").write_bytes(content)
    message = complaint(capsys, "--resume", "--out", out)
    assert "sweep.toml" in message
    assert sweep(finished[0], "--resume", "--out", out) == 0  # with the file it can go on
    assert_same_results(out, finished[1])


def test_a_start_that_was_killed_before_the_sweep_began_is_no_obstacle(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "blocks").mkdir(parents=True)
    (out / ".lock").touch()
    (out / "sweep.toml").write_text("half", encoding="utf-8")
    (out / ".identity.json.abc.partial").write_text("half", encoding="utf-8")
    (out / ".results.abc.partial").mkdir()
    assert sweep(finished[0], "--out", out) == 0
    assert_same_results(out, finished[1])
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock",
        "blocks",
        "identity.json",
        "results.nc",
        "sweep.toml",
    ]


def test_resume_needs_a_sweep_or_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no sweep file was given; name one, or a preset (fig2, " in complaint(capsys, "--out", tmp_path / "out")
    assert "no sweep file was given" in complaint(capsys, "--resume")
    message = complaint(capsys, "--resume", "--out", tmp_path / "out")
    assert f"{tmp_path / 'out'} holds no sweep; name the folder that overdepth sweep --out wrote." in message
    assert not (tmp_path / "out").exists()


def test_a_sweep_that_the_data_do_not_suit_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for old, new, said in (
        ('["l2", "l4"]', '"logistic"', "logistic"),
        ("steps = 300", "steps = 300\nbatch_size = 31", "batch_size is 31, but the problem has only 30 examples"),
    ):
        file = sweep_file(tmp_path, SMALL.replace(old, new))
        assert said in complaint(capsys, file, "--out", tmp_path / "out")
        assert not (tmp_path / "out").exists()
