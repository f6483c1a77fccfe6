"""A full disk: told in a sentence, nothing half written, and the sweep goes on once there is space."""

from __future__ import annotations

import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.sweeps.sweeping import SMALL, assert_same_results, partial_files, pieces, sweep, sweep_file

SWEEP = SMALL.replace("record_every = 20", "record_every = 1")
"""36 runs, of which 301 losses each are kept: 87 kB, and a megabyte more while the data set is written."""

Mount = Callable[[str], Path]


def remount(path: Path, size: str) -> None:
    subprocess.run(["/bin/mount", "-o", f"remount,size={size}", str(path)], check=True)  # noqa: S603


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mount]:
    """Mounts a small file system in memory."""
    made: list[Path] = []

    def mount(size: str) -> Path:
        path = tmp_path / f"tmpfs{len(made)}"
        path.mkdir()
        command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
        made.append(path)
        return path

    if not Path("/bin/mount").exists():
        pytest.skip("there is no /bin/mount here")
    yield mount
    for path in made:
        subprocess.run(["/bin/umount", str(path)], check=True)  # noqa: S603


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("finished")
    file = sweep_file(folder, SWEEP)
    assert sweep(file, "--out", folder / "out") == 0
    return file, folder / "out"


def assert_told(said: str) -> None:
    assert said.startswith("overdepth: ")
    assert "No space left on device; free what is short, then go on with --resume.\n" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("size", ["4k", "8k", "16k", "32k", "64k", "96k", "160k", "400k", "1m"])
def test_a_full_file_system(
    size: str, mounted: Mount, finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, whole = finished
    disk = mounted(size)
    out = disk / "out"
    assert sweep(file, "--out", out, "--checkpoint", 0) == 1
    assert_told(capsys.readouterr().err)
    assert partial_files(disk) == []
    assert not (out / "results.nc").exists()
    before = {path: path.read_bytes() for path in disk.rglob("*.piece")}
    assert sweep(file, "--out", out, "--resume") == 1  # as long as it is full
    assert_told(capsys.readouterr().err)
    assert all(path.read_bytes() == content for path, content in before.items() if path.exists())
    remount(disk, "8m")
    assert sweep(file, "--out", out, "--resume") == 0
    assert_same_results(out, whole)
    assert partial_files(disk) == []


def test_a_finished_sweep_stays_when_the_disk_is_full(
    mounted: Mount, finished: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    file, whole = finished
    disk = mounted("8m")
    assert sweep(file, "--out", disk / "out") == 0
    remount(disk, "600k")
    assert sweep(file, "--out", disk / "out", "--resume") == 1
    assert_told(capsys.readouterr().err)
    assert_same_results(disk / "out", whole)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Writing more fails, as a quota lets it fail."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [100, 3_000, 100_000])
def test_a_limit_on_the_size_of_files(
    size: int, finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, whole = finished
    out = tmp_path / "out"
    with files_of_at_most(size):
        assert sweep(file, "--out", out) == 1
    said = capsys.readouterr().err
    assert "File too large; free what is short, then go on with --resume.\n" in said
    assert said.count("\n") == 1
    assert partial_files(out) == []
    assert (size == 100_000) == bool(pieces(out))
    assert sweep(file, "--out", out, "--resume") == 0
    assert_same_results(out, whole)
