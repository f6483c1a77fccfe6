"""Finding and reading a user's sweep: one NetCDF or Zarr data set, or a folder with some."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import xarray as xr

NEEDED = {"loss": ("run", "step"), "optimal_loss": ("run",), "diverged_at": ("run",)}
SUFFIXES = (".nc", ".zarr")
FIRST = "results"
"""The stem of the data set that a folder shows first."""


def data_sets(place: str) -> dict[str, Path]:
    """The data sets at a path by name: the file itself, or a folder's, that of a sweep first.

    Args:
        place: A ``.nc`` file, a ``.zarr`` store, or a folder that holds some, such as a report's.

    Raises:
        ValueError: If there is nothing of the kind.
    """
    path = Path(place).expanduser()
    try:
        if not path.exists():
            raise ValueError(f"{place} does not exist; give the folder of a sweep or a report, or a .nc file in it.")
        if path.suffix in SUFFIXES:
            return {path.stem: path}
        found = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES) if path.is_dir() else []
    except OSError as error:
        raise ValueError(f"{place} cannot be read ({error.strerror}); check its permissions.") from error
    if not found and path.is_file():
        raise ValueError(f"{place} is no .nc file; give one, or the folder of a sweep or a report.")
    if not found:
        raise ValueError(f"{place} holds no .nc file and no .zarr store; give the folder of a sweep or a report.")
    return {p.stem: p for p in sorted(found, key=lambda p: (p.stem != FIRST, p.name))}


def read_sweep(path: Path) -> xr.Dataset:
    """A data set as :func:`overdepth.lab.sweep` returns it, in memory; a file that has not changed is read once.

    Raises:
        ValueError: If it cannot be read or is no sweep.
    """
    try:
        changed = max((p.stat().st_mtime_ns for p in (path.rglob("*") if path.is_dir() else [path])), default=0)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its permissions.") from error
    return _read(path, changed)


@functools.lru_cache(maxsize=4)
def _read(path: Path, _: int) -> xr.Dataset:
    try:
        if path.suffix == ".zarr":
            _refuse_pickles(path)
            data: xr.Dataset = xr.open_zarr(path).load()
        else:
            data = xr.load_dataset(path, engine="h5netcdf")
    except (ModuleNotFoundError, ImportError) as error:
        raise ValueError(f"{path} needs the package zarr, which is not installed; pip install zarr.") from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as NetCDF or Zarr; write it again.") from error
    check_sweep(data, str(path))
    return data


def check_sweep(data: xr.Dataset, name: str) -> None:
    """Checks that a data set has a sweep's variables.

    Raises:
        ValueError: If one is missing or has other dimensions, or there is no run or step.
    """
    for variable, dims in NEEDED.items():
        if variable not in data or set(data[variable].dims) != set(dims):
            came = f"has dimensions {data[variable].dims}" if variable in data else "is missing"
            wanted = f"{variable}({', '.join(dims)})"
            raise ValueError(f"{name} is no sweep: {wanted} {came}; give what od.lab.sweep returns.")
    if not data.sizes["run"] or not data.sizes["step"]:
        raise ValueError(f"{name} has {data.sizes['run']} runs and {data.sizes['step']} steps; nothing is there yet.")


def varying(data: xr.Dataset, fields: Sequence[str]) -> list[str]:
    """Those of the fields that differ between runs."""
    return [field for field in fields if field in data.coords and len(set(map(str, data[field].values.tolist()))) > 1]


def _refuse_pickles(store: Path) -> None:
    """Refuses a store with arrays that only unpickling could read.

    Raises:
        ValueError: If there is one.
    """
    for name in (".zarray", ".zmetadata", "zarr.json"):
        for path in store.rglob(name):
            if _names_pickle(json.loads(path.read_text(encoding="utf-8"))):
                raise ValueError(f"{path} has pickled arrays.")


def _names_pickle(value: object) -> bool:
    if isinstance(value, dict):
        named = (value.get("id"), value.get("name"))
        return any("pickle" in str(name) for name in named) or any(map(_names_pickle, value.values()))
    return isinstance(value, list) and any(map(_names_pickle, value))
