"""Problems from the user's own file: ``.csv``, ``.npz``, ``.npy`` or ``.parquet`` with the target column named."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from overdepth.lab.npy import column_name, column_of, map_npy
from overdepth.lab.npz import read_npz
from overdepth.lab.problem import Problem


def load(path: Path, target: str | Sequence[str] | None) -> Problem:
    """Reads a table and splits it into features and targets, unscaled.

    Raises:
        ValueError: If the file is missing, unreadable or not numeric, or the target is not named or unknown.
    """
    check_file(path)
    frame = READERS[path.suffix.lower()](path)
    if frame.shape[0] == 0 or frame.shape[1] < 2:
        raise ValueError(
            f"{path} has {frame.shape[0]} rows and {frame.shape[1]} columns, expected at least 1 and 2; "
            f"cells of a .csv file are separated by commas."
        )
    columns = [str(c) for c in frame.columns]
    features, targets = split_columns(path, columns, target)
    frame.columns = pd.Index(columns)
    for column in columns:
        _check_numeric(path, frame[column])
    return Problem(
        frame[features].to_numpy(dtype=np.float64),
        frame[targets].to_numpy(dtype=np.float64),
        name=path.stem,
        feature_names=tuple(features),
        target_names=tuple(targets),
        source=str(path),
    )


def check_file(path: Path) -> None:
    """Checks that a table is there and can be opened.

    Raises:
        ValueError: If it is not.
    """
    try:
        if not path.exists():
            raise ValueError(f"{path} does not exist; check the path.")
        if not path.is_file():
            raise ValueError(f"{path} is not a file; give the path of a {', '.join(READERS)} file.")
        with path.open("rb"):
            pass  # whatever the reader complains of below is about what the file holds
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its name and permissions.") from error


def split_columns(path: Path, columns: list[str], target: str | Sequence[str] | None) -> tuple[list[str], list[str]]:
    """The names of the features and of the targets.

    Raises:
        ValueError: If the target is not named, unknown, or all there is.
    """
    shown = ", ".join(columns[:10]) + (", ..." if len(columns) > 10 else "")
    if target is None:
        raise ValueError(f"{path}: name the target column; the columns are {shown}.")
    targets = [target] if isinstance(target, str) else list(target)
    if path.suffix.lower() == ".npy":
        targets = [column_of(name, len(columns)) for name in targets]
    for name in targets:
        if name not in columns:
            raise ValueError(f"{path}: has no column {name!r}; the columns are {shown}.")
    features = [c for c in columns if c not in targets]
    if not features:
        raise ValueError(f"{path}: every column is a target; leave at least one as a feature.")
    return features, targets


def _check_numeric(path: Path, column: pd.Series[float]) -> None:
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column):
        bad = ~np.isfinite(column.to_numpy(dtype=np.float64, na_value=np.nan))
    else:
        bad = np.array([not _is_number(str(cell)) for cell in column])
        bad = bad if bad.any() else ~bad
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"{path}: column {str(column.name)!r} has {_plain(column.iloc[row])!r} in data row {row + 1}, "
            f"expected finite numbers; drop the column or fill the gap."
        )


def _plain(cell: object) -> object:
    return cell.item() if isinstance(cell, np.generic) else cell


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows longer than the header
            return pd.read_csv(path, index_col=False)
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable CSV file ({' '.join(str(error).split()).rstrip('.')}).") from error


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise ValueError(f"{path} is truncated or no Parquet file; replace it by a good copy.") from error


def _read_npz(path: Path) -> pd.DataFrame:
    columns: dict[str, NDArray[Any]] = {}
    lengths: dict[str, int] = {}
    for name, array in read_npz(path).items():
        lengths[name] = len(array) if array.ndim else 0
        if array.ndim == 1:
            columns[name] = array
        elif array.ndim == 2:
            columns.update({f"{name}[{i}]": array[:, i] for i in range(array.shape[1])})
        else:
            raise ValueError(f"{path}: array {name!r} has shape {array.shape}, expected one or two dimensions.")
    if len(set(lengths.values())) > 1:
        rows = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
        raise ValueError(f"{path}: arrays differ in their number of rows ({rows}); they must share it.")
    return pd.DataFrame(columns)


def _read_npy(path: Path) -> pd.DataFrame:
    array = map_npy(path)
    return pd.DataFrame(array, columns=[column_name(i) for i in range(array.shape[1])])


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _read_csv,
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".parquet": _read_parquet,
}
