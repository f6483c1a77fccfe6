"""Results on disk: a sweep's folder, a NetCDF file, a Zarr folder, or a report with one file an item."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from overdepth.lab.problem import Array
from overdepth.sweeps.show.zarr_folder import is_zarr, open_zarr

RESULTS = ("results.nc", "results.zarr")
VARIABLES = {"loss": ("run", "step"), "optimal_loss": ("run",), "diverged_at": ("run",)}
COORDINATES = {"lr": ("run",), "seed": ("run",), "step": ("step",)}
BLOCK = 2**23
"""Losses that are held in memory at once: 64 MB."""


@dataclass(frozen=True)
class Source:
    """A data set of a sweep.

    Attributes:
        name: Of the item that it belongs to; empty if there is but one.
        path: The file or Zarr folder.
        data: Opened, not read: ``loss(run, step)``, ``optimal_loss(run)``, ``diverged_at(run)``, and coordinates.
    """

    name: str
    path: Path
    data: xr.Dataset

    def read(self, variable: xr.DataArray) -> Array:
        """The values of a variable, or of a part of it.

        Raises:
            ValueError: If the file is damaged.
        """
        try:
            return np.asarray(variable.values)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            raise _damaged(self.path, error) from error

    def losses(self, rows: np.ndarray) -> Array:
        """The losses of some runs, shape (rows, steps), read in blocks: files may be larger than the memory."""
        loss = self.data["loss"].transpose("run", "step")
        found = np.empty((len(rows), loss.sizes["step"]))
        for first in range(0, loss.sizes["run"], size := max(1, BLOCK // max(1, loss.sizes["step"]))):
            wanted = (rows >= first) & (rows < first + size)
            if wanted.any():
                low, high = int(rows[wanted].min()), int(rows[wanted].max()) + 1
                found[wanted] = self.read(loss.isel(run=slice(low, high)))[rows[wanted] - low]
        return found


@dataclass(frozen=True)
class Results:
    """What was found at a path.

    Attributes:
        sources: At least one.
        left_out: Files that are no result of a sweep, a sentence each.
    """

    sources: Sequence[Source]
    left_out: Sequence[str] = ()


@contextlib.contextmanager
def open_results(path: Path, *, assemble: Callable[[Path], xr.Dataset | None] | None = None) -> Iterator[Results]:
    """The data sets at ``path``, opened; on leaving they are closed.

    Args:
        path: A NetCDF file, a Zarr folder, or a folder with ``results.nc``, ``results.zarr`` or files ``ITEM.nc``.
        assemble: Makes the data set of a folder whose sweep is not finished yet; None where it knows nothing of it.

    Raises:
        ValueError: If there is no result, with the remedy.
    """
    with contextlib.ExitStack() as stack:
        path = path.expanduser()
        if not path.exists():
            raise ValueError(f"{path} does not exist; give the folder of a sweep, or its results.nc.")
        if path.is_file() or is_zarr(path):
            yield Results([_opened(stack, "", path)])
            return
        for name in RESULTS:
            if (path / name).exists():
                yield Results([_opened(stack, "", path / name)])
                return
        unfinished = assemble(path) if assemble else None
        if unfinished is not None:
            check(unfinished, path)
            yield Results([Source("", path / RESULTS[0], unfinished)])
            return
        yield _items(stack, path)


def _items(stack: contextlib.ExitStack, folder: Path) -> Results:
    """The sweeps of a report's folder."""
    files = sorted(folder.glob("*.nc"))
    if not files:
        raise ValueError(
            f"{folder} holds no results.nc; give the folder of a finished sweep, or go on with one that was "
            f"interrupted: overdepth sweep SWEEP.toml --out {folder} --resume."
        )
    sources, left_out = [], []
    for file in files:
        try:
            sources.append(_opened(stack, file.stem, file))
        except ValueError as error:
            left_out.append(str(error))
    if not sources:
        raise ValueError(left_out[0] if len(files) == 1 else f"{folder} holds no result of a sweep: {left_out[0]}")
    return Results(sources, left_out)


def _opened(stack: contextlib.ExitStack, name: str, path: Path) -> Source:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a stranger's file may do what xarray frowns on
            if is_zarr(path):
                data = stack.enter_context(open_zarr(path))
            else:
                data = stack.enter_context(xr.open_dataset(path, engine="h5netcdf", decode_times=False))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # whatever a stranger's file leads the libraries to
        raise _damaged(path, error) from error
    check(data, path)
    return Source(name, path, data)


def check(data: xr.Dataset, path: Path) -> None:
    """Checks that a data set is the result of a sweep.

    Raises:
        ValueError: If it is not, naming what is missing.
    """
    for kind, expected in (("variable", VARIABLES), ("coordinate", COORDINATES)):
        for name, dims in expected.items():
            if name not in data.variables:
                problem = f"has no {kind} {name!r}"
            elif set(data[name].dims) != set(dims):
                problem = f"has {name}({', '.join(map(str, data[name].dims))}) instead of {name}({', '.join(dims)})"
            elif data[name].dtype.kind not in "fiub":
                problem = f"has a {kind} {name!r} that is no number"
            else:
                continue
            wanted = ", ".join(f"{each}({', '.join(own)})" for each, own in VARIABLES.items())
            raise ValueError(
                f"{path} {problem}, so it is no result of a sweep, which has {wanted} and a coordinate for every "
                f"setting; give the results.nc that overdepth sweep wrote."
            )
    if 0 in data["loss"].shape:
        raise ValueError(f"{path} holds no runs; give a result with at least one run and one recorded step.")


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ValueError(
        f"{path} cannot be read as NetCDF or Zarr: it is another kind of file, cut short or damaged "
        f"({reason[:160]}); copy it again, or finish the sweep with overdepth sweep SWEEP.toml --out DIR --resume."
    )
