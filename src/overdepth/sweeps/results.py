"""The data set of a sweep, from its pieces: written row by row, so that it may be larger than the memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import h5netcdf
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from overdepth.lab.optimum import Optimum, optimal_loss
from overdepth.lab.problem import Array
from overdepth.lab.sweeps import described
from overdepth.sweeps.budget import load
from overdepth.sweeps.execution import Work, planned
from overdepth.sweeps.folder import RESULTS, SweepFolder
from overdepth.sweeps.piece import PARTIAL, sync_folder
from overdepth.sweeps.sweep_file import parse

ROWS_AT_ONCE = 4096


def optima(work: Work) -> dict[str, Optimum]:
    """The optimal loss of each objective of a sweep."""
    return {name: optimal_loss(work.problem, name) for name in dict.fromkeys(row.objective for row in work.rows)}


def unfinished_results(path: Path) -> xr.Dataset | None:
    """What is known so far of a sweep that is not done; None if the folder holds no sweep.

    Args:
        path: The folder.

    Returns:
        As :func:`overdepth.lab.sweep` returns it, with ``finished(run)``: False where steps are missing, which are NaN.

    Raises:
        ValueError: If its data are not at hand any more, or have changed.
    """
    folder = SweepFolder(path)
    cuts = folder.cuts()
    if cuts is None:
        return None
    block_runs, by_rows = cuts
    identity, text = folder.identity()
    asked = parse(text, name=str(folder.copy), folder=folder.base())
    work = planned(asked, load(asked, by_rows=by_rows), block_runs)
    folder.adopt()
    if work.problem.checksum != identity["data checksum"]:
        raise ValueError(f"the data {asked.data} have changed since the sweep in {path} began; put the old ones back.")
    with tempfile.TemporaryDirectory() as name:
        fresh = Path(name) / RESULTS
        write_results(work, folder, optima(work), into=fresh)
        return xr.load_dataset(fresh, engine="h5netcdf")


def write_results(work: Work, folder: SweepFolder, optimal: dict[str, Optimum], *, into: Path | None = None) -> None:
    """Assembles ``results.nc`` from the pieces; it appears whole or not at all.

    Args:
        work: The sweep.
        folder: With its pieces, all or some: what is not known yet is NaN, and ``finished`` tells.
        optimal: From :func:`optima`.
        into: The file; default: the folder's.

    Raises:
        OSError: If the disk refuses.
    """
    into = into or folder.results
    steps, count = work.settings.recorded_steps, len(work.rows)
    size = 8 * count * len(steps)
    diverged_at = np.full(count, np.nan)
    finished = np.zeros(count, dtype=bool)
    with tempfile.TemporaryDirectory(dir=into.parent, prefix=".results.", suffix=PARTIAL) as name:
        rows = Path(name) / "rows"
        with rows.open("wb") as file:  # HDF5 and memory maps do not survive a full disk: it is asked beforehand
            os.posix_fallocate(file.fileno(), 0, 2 * size + 1024 * count + 2**20)
            os.truncate(file.fileno(), size)
        loss = np.memmap(rows, dtype=np.float64, mode="r+", shape=(count, len(steps)))
        for block in work.blocks:
            known, index = work.progressed(folder, block), np.array(block.index)
            loss[index] = known.loss
            diverged_at[index] = np.where(known.diverged_at < 0, np.nan, known.diverged_at)
            finished[index] = (known.step == work.settings.steps) | (known.diverged_at >= 0)
        fresh = Path(name) / RESULTS
        _table(work, diverged_at, finished, optimal).to_netcdf(fresh, engine="h5netcdf")
        _append_loss(fresh, loss)
        del loss
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        fresh.replace(into)
    sync_folder(into.parent)


def _append_loss(path: Path, loss: Array) -> None:
    with h5netcdf.File(path, "a") as file:
        like = file.variables["optimal_loss"]
        variable = file.create_variable("loss", ("run", "step"), np.float64, fillvalue=np.nan)
        variable.attrs["long_name"] = "training loss"
        if "coordinates" in like.attrs:
            variable.attrs["coordinates"] = like.attrs["coordinates"]
        for first in range(0, len(loss), ROWS_AT_ONCE):
            variable[first : first + ROWS_AT_ONCE] = loss[first : first + ROWS_AT_ONCE]


def _table(work: Work, diverged_at: Array, finished: NDArray[np.bool_], optimal: dict[str, Optimum]) -> xr.Dataset:
    """Everything but the losses."""
    names = [row.objective for row in work.rows]
    data = described(work.problem, [row.run for row in work.rows], names, work.settings)
    data["diverged_at"] = ("run", diverged_at, {"long_name": "first step after which the weight was not finite"})
    data["optimal_loss"] = ("run", np.array([optimal[name].value for name in names]))
    attained = int(all(each.attained for each in optimal.values()))
    data["optimal_loss"].attrs = {"long_name": "optimal loss of a linear model", "attained": attained}
    data["finished"] = ("run", finished, {"long_name": "whether all steps were done, or the run diverged"})
    data.attrs["sweep_file"] = work.text
    return data
