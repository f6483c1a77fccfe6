"""Results of sweeps that are made up, and small real ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import overdepth as od
from overdepth.sweeps.show import Runs, Source, read_runs

FIELDS: Mapping[str, Any] = {
    "depth": 1.0,
    "width": 1,
    "init": "near_zero",
    "scale": 0.01,
    "seed": 0,
    "method": "gd",
    "lr": 1e-3,
    "weight_decay": 0.0,
    "norm": np.nan,
    "objective": "l4",
}


def made(rows: Sequence[Mapping[str, Any]], *, steps: int = 4, start: float = 2.0, **attrs: Any) -> xr.Dataset:
    """A data set of runs whose gap falls geometrically from ``start`` to their ``gap``.

    Besides settings a row may have ``gap``, of the last step; infinite: it diverges at step 20; NaN: it has come to 10.
    """
    at = np.arange(steps + 1)
    loss = np.empty((len(rows), steps + 1))
    diverged_at = np.full(len(rows), np.nan)
    for i, row in enumerate(rows):
        gap = row.get("gap", 1.0)
        end = gap if np.isfinite(gap) else 1.0
        loss[i] = start * (max(end, 1e-30) / start) ** (at / steps) + 0.5
        loss[i, -1] = end + 0.5
        if np.isinf(gap):
            diverged_at[i] = 20
        if not np.isfinite(gap):
            loss[i, 2:] = np.nan
    columns = {name: ("run", np.array([row.get(name, value) for row in rows])) for name, value in FIELDS.items()}
    return xr.Dataset(
        {
            "loss": (("run", "step"), loss),
            "diverged_at": ("run", diverged_at),
            "optimal_loss": ("run", [0.5] * len(rows)),
        },
        coords={"run": np.arange(len(rows)), "step": at * 10, **columns},
        attrs={"problem": "made up", "dtype": "float32", "steps": steps * 10, "overdepth_version": "0", **attrs},
    )


def runs_of(data: xr.Dataset) -> Runs:
    """Its runs."""
    return read_runs(Source("", Path("results.nc"), data))


def swept(*, steps: int = 200) -> xr.Dataset:
    """Two losses, three depths, two starts, five rates of which the highest diverge, three seeds."""
    problem = od.lab.load_problem("breast-cancer")
    runs = od.lab.grid(
        depth=[1, 2, 3], init=["near_zero", "near_identity"], lr=[1e-3, 1e-2, 1e-1, 1.0, 1e3], seed=range(3)
    )
    parts = [od.lab.sweep(problem, runs, objective=name, steps=steps, record_every=20) for name in ("l2", "l4")]
    data = xr.concat(parts, dim="run", combine_attrs="drop_conflicts", join="exact")
    data["run"] = np.arange(data.sizes["run"])
    return data


def write(path: Path, data: xr.Dataset) -> Path:
    """Writes a data set as NetCDF."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(data.to_netcdf(engine="h5netcdf")))
    return path
