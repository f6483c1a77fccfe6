"""What the tests of sweeps share: small data, small sweeps, and how their results are read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from overdepth.cli import main
from overdepth.lab import Problem
from overdepth.lab.problem import Array
from overdepth.sweeps.execution import Work, run_here
from overdepth.sweeps.folder import PieceName, SweepFolder
from overdepth.sweeps.identity import identity_of
from overdepth.sweeps.plan import Block, cut
from overdepth.sweeps.results import optima, write_results
from overdepth.sweeps.sweep_file import SweepFile

SMALL = """\
data = "data.csv"
target = "y"
objective = ["l2", "l4"]
steps = 300
record_every = 20

[[grid]]
depth = [1, 2, 3]
lr = [1e-2, 1e-1, 2.0]
seed = [0, 1]
"""
"""36 runs in two blocks; some diverge, at steps between records too."""


def problem(examples: int = 30, features: int = 3, outputs: int = 1) -> Problem:
    rng = np.random.default_rng(7)
    X = rng.normal(size=(examples, features))
    return Problem(X, X @ rng.normal(size=(features, outputs)) + rng.normal(size=(examples, outputs)))


def data_file(folder: Path, *, name: str = "data.csv", seed: int = 7, examples: int = 30) -> Path:
    rng = np.random.default_rng(seed)
    path = folder / name
    np.savetxt(path, rng.normal(size=(examples, 4)), delimiter=",", header="a,b,c,y", comments="")
    return path


def sweep_file(folder: Path, text: str = SMALL, *, name: str = "sweep.toml") -> Path:
    """The sweep file beside its data."""
    if not (folder / "data.csv").exists():
        data_file(folder)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def sweep(*arguments: object) -> int:
    """The command, in this process, without a bar."""
    return main(["sweep", "--quiet", *map(str, arguments)])


def folder_of(path: Path) -> SweepFolder:
    """A finished or interrupted sweep's folder, to look at its pieces."""
    folder = SweepFolder(path)
    folder.adopt()
    return folder


def pieces(path: Path, kind: str = "loss") -> list[PieceName]:
    found = [piece for block in range(64) for piece in SweepFolder(path).pieces(block)]
    return [piece for piece in found if piece.kind == kind]


def loss(path: Path) -> Array:
    with xr.open_dataset(path / "results.nc") as data:
        return np.array(data["loss"].values)


def assert_same_results(path: Path, other: Path) -> None:
    """Bit for bit, and every label."""
    with xr.open_dataset(path / "results.nc") as a, xr.open_dataset(other / "results.nc") as b:
        xr.testing.assert_identical(a.load(), b.load())


def partial_files(path: Path) -> list[Path]:
    return sorted(path.rglob("*.partial"))


class Deaf:
    """A watcher that does nothing."""

    def found(self, block: Block, step: int, loss: Array, diverged: int) -> None:
        pass

    def moved(self, block: Block, step: int, diverged: int) -> None:
        pass

    def stored(self, block: Block, loss: Array) -> None:
        pass


def work_of(file: SweepFile, data: Problem, block_runs: int = 1000) -> Work:
    rows = [row.of(data) for row in file.rows]
    return Work(data, rows, cut(rows, data, block_runs), file.settings, file.text)


def run_in(path: Path, file: SweepFile, data: Problem, *, block_runs: int = 1000, seconds: float = 60.0) -> xr.Dataset:
    """Runs a sweep below the command and returns its data set."""
    work = work_of(file, data, block_runs)
    folder = SweepFolder(path)
    with folder.locked():
        folder.begin(identity_of(file, data, work.rows, block_runs=block_runs), file.text, base=path)
        run_here(work, folder, Deaf(), seconds=seconds)
        write_results(work, folder, optima(work))
    with xr.open_dataset(folder.results) as results:
        return results.load()


def toml(values: Mapping[str, Any]) -> str:
    """Values as lines of TOML."""
    return "".join(f"{name} = {_shown(value)}\n" for name, value in values.items())


def document(
    top: Mapping[str, Any], grids: Sequence[Mapping[str, Any]] = (), runs: Sequence[Mapping[str, Any]] = ()
) -> str:
    tables = [f"[[grid]]\n{toml(grid)}" for grid in grids] + [f"[[run]]\n{toml(run)}" for run in runs]
    return "\n".join([toml(top), *tables])


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_shown(each)}" for name, each in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_shown, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else repr(value)
