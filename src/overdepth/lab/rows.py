"""Problems that do not fit into memory: the same facts as :class:`Problem`, the rows read in blocks from a file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from overdepth._checks import check_size
from overdepth.lab.problem import Array, check_scaling, refuse_constant_columns
from overdepth.lab.row_files import ROW_FILES, RowFile, Rows
from overdepth.lab.tables import check_file, split_columns

BLOCK_BYTES = 16 * 2**20
"""Default size of a block of rows in float64."""

Columns = slice | NDArray[np.intp]


class _Scale(NamedTuple):
    """What a column's numbers are shifted by, then divided by; shape (columns,) each."""

    shift: Array
    divisor: Array

    def of(self, rows: Rows, columns: Columns) -> Array:
        scaled = np.subtract(rows[:, columns], self.shift, dtype=np.float64)
        return np.divide(scaled, self.divisor, out=scaled)


@dataclass(frozen=True, eq=False, repr=False)
class RowProblem:
    """Data of a linear model Y = X W^T that are read from a file in blocks of rows; made by :func:`open_rows`.

    It holds the path and the scale of every column, and no data: it can be sent to another process that sees the file.

    Attributes:
        m: Number of examples.
        d: Number of features.
        k: Number of targets.
        name: What the data are called in tables and pages.
        feature_names: d names.
        target_names: k names.
        scaling: One of ``SCALINGS``, or ``"none"``.
        source: Where the data came from, for people.
        checksum: SHA-256 of the unscaled X and Y, the same as that of the :class:`Problem` of the same file.
        block_rows: Rows in a block.
    """

    m: int
    d: int
    k: int
    name: str
    feature_names: tuple[str, ...]
    target_names: tuple[str, ...]
    scaling: str
    source: str
    checksum: str
    block_rows: int
    _file: RowFile
    _columns: tuple[Columns, Columns]
    _scales: tuple[_Scale, _Scale]

    def row_blocks(self) -> Iterator[tuple[Array, Array]]:
        """Rows of X and Y, scaled, shapes (rows, d) and (rows, k), ``block_rows`` at a time, the last ones fewer.

        Raises:
            ValueError: If the file has changed or cannot be read any more.
        """
        for rows in self._file.read(self.block_rows):
            yield self._scaled(rows)

    def take(self, rows: NDArray[np.int64]) -> tuple[Array, Array]:
        """The rows of these numbers of X and Y, scaled.

        Raises:
            ValueError: If the file is a Parquet file, has changed or cannot be read any more.
        """
        return self._scaled(self._file.take(rows))

    def _scaled(self, rows: Rows) -> tuple[Array, Array]:
        X, Y = (scale.of(rows, columns) for scale, columns in zip(self._scales, self._columns, strict=True))
        return X, Y

    def __repr__(self) -> str:
        return f"RowProblem(name={self.name!r}, m={self.m}, d={self.d}, k={self.k}, scaling={self.scaling!r})"


def open_rows(
    path: str | os.PathLike[str],
    *,
    target: str | Sequence[str] | None = None,
    scaling: str = "standard",
    block_bytes: int = BLOCK_BYTES,
) -> RowProblem:
    """Opens a file whose data need not fit into memory; what :func:`load_problem` is for those that do.

    The file is read twice: for the range and the mean of every column, then for the variances. Means are combined
    block by block (Chan, Golub & LeVeque 1983) and squares taken of centred columns, so that the scales are those of
    :func:`load_problem` up to the rounding of float64.

    Args:
        path: An ``.npy`` file with a two-dimensional array, which is memory-mapped, or a ``.parquet`` file, whose row
            groups must fit into memory.
        target: The target column, or several. The columns of an ``.npy`` file are ``X[0]``, ``X[1]``, ..., and may be
            given by number: ``"-1"`` is the last one.
        scaling: One of ``overdepth.lab.SCALINGS``, or ``"none"``.
        block_bytes: Size of a block of rows in float64. How sums round depends on it, but nothing else does: the
            blocks are the same whatever memory is free.

    Returns:
        The problem, which :class:`overdepth.lab.engine.Engine`, :func:`sweep` and :func:`optimal_loss` take.

    Raises:
        ValueError: If the file cannot be read, a column or the scaling is unknown, an entry is not finite, or a
            column is constant.

    Example:
        >>> import tempfile, numpy as np, overdepth as od
        >>> folder = tempfile.TemporaryDirectory()
        >>> np.save(folder.name + "/table.npy", np.random.default_rng(0).normal(size=(1000, 5)))
        >>> problem = od.lab.open_rows(folder.name + "/table.npy", target="-1", block_bytes=8000)
        >>> problem
        RowProblem(name='table', m=1000, d=4, k=1, scaling='standard')
        >>> problem.block_rows, [len(X) for X, Y in problem.row_blocks()]
        (200, [200, 200, 200, 200, 200])
        >>> folder.cleanup()
    """
    path = Path(path)
    check_scaling(scaling)
    block_bytes = check_size(block_bytes, "block_bytes")
    if path.suffix.lower() not in ROW_FILES:
        raise ValueError(
            f"{path} cannot be read in blocks of rows, expected a file that ends in {', '.join(ROW_FILES)}."
        )
    check_file(path)
    file = ROW_FILES[path.suffix.lower()](path)
    if file.m == 0 or len(file.columns) < 2:
        raise ValueError(f"{path} has {file.m} rows and {len(file.columns)} columns, expected at least 1 and 2.")
    features, targets = split_columns(path, file.columns, target)
    if not targets:
        raise ValueError(f"{path}: target is empty, expected the name of at least one column.")
    columns = (_positions(file.columns, features), _positions(file.columns, targets))
    block_rows = max(1, block_bytes // (8 * len(file.columns)))
    (x_scale, y_scale), checksum = _statistics(file, columns, (features, targets), scaling, block_rows)
    return RowProblem(
        m=file.m,
        d=len(features),
        k=len(targets),
        name=path.stem,
        feature_names=tuple(features),
        target_names=tuple(targets),
        scaling=scaling,
        source=str(path),
        checksum=checksum,
        block_rows=block_rows,
        _file=file,
        _columns=columns,
        _scales=(x_scale, y_scale),
    )


def _positions(columns: list[str], chosen: list[str]) -> Columns:
    """Where the chosen columns are, as a slice if they are neighbours, which needs no copy."""
    where = [columns.index(name) for name in chosen]
    if where == list(range(where[0], where[0] + len(where))):
        return slice(where[0], where[0] + len(where))
    return np.array(where)


def _statistics(
    file: RowFile, columns: tuple[Columns, Columns], names: tuple[list[str], list[str]], scaling: str, block_rows: int
) -> tuple[tuple[_Scale, _Scale], str]:
    """The scales of X and Y, and the checksum, in two passes."""
    low, high = np.full(len(file.columns), np.inf), np.full(len(file.columns), -np.inf)
    mean = np.zeros(len(file.columns))
    digest = hashlib.sha256(repr(((file.m, len(names[0])), (file.m, len(names[1])))).encode())
    seen = 0
    for raw in file.read(block_rows):
        rows = np.ascontiguousarray(raw, dtype=np.float64)
        _refuse_not_finite(file, rows, seen)
        digest.update(np.ascontiguousarray(rows[:, columns[0]], dtype="<f8").data)
        low, high = np.minimum(low, rows.min(axis=0)), np.maximum(high, rows.max(axis=0))
        seen += len(rows)
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large for a mean may do without scaling
            middle = rows[0] + (rows - rows[0]).mean(axis=0)  # shifted, so that a large common part costs no digits
            mean += (middle - mean) * (len(rows) / seen)
    if scaling != "none":
        for kind, own, own_names in zip(("feature", "target"), columns, names, strict=True):
            refuse_constant_columns(str(file.path), kind, own_names, low[own] == high[own])
    with np.errstate(over="ignore", invalid="ignore"):
        peak = np.maximum(high - mean, mean - low)  # squares of very large or small columns would leave the range
    squares = np.zeros(len(file.columns))
    for raw in file.read(block_rows):
        rows = np.ascontiguousarray(raw, dtype=np.float64)
        digest.update(np.ascontiguousarray(rows[:, columns[1]], dtype="<f8").data)
        if scaling != "none":
            centred = (rows - mean) / peak
            squares += np.einsum("ij,ij->j", centred, centred)
    return _scales(scaling, columns, low, high, mean, peak * np.sqrt(squares / file.m)), digest.hexdigest()


def _scales(
    scaling: str, columns: tuple[Columns, Columns], low: Array, high: Array, mean: Array, deviation: Array
) -> tuple[_Scale, _Scale]:
    """What ``SCALING_MEANINGS`` says of X and Y, from the statistics of all columns."""
    x, y = columns
    if scaling == "none":
        return _Scale(0 * low[x], 0 * low[x] + 1), _Scale(0 * low[y], 0 * low[y] + 1)
    features, targets = _Scale(mean[x], deviation[x]), _Scale(mean[y], deviation[y])
    if scaling == "minmax":
        features = _Scale(low[x], high[x] - low[x])
    elif scaling == "maxabs":
        features = _Scale(0 * low[x], np.maximum(np.abs(low), np.abs(high))[x])
    elif scaling == "unit-rows":
        features = features._replace(divisor=features.divisor * np.sqrt(len(features.divisor)))
    elif scaling == "label5":
        targets = targets._replace(divisor=targets.divisor / 5.0)
    return features, targets


def _refuse_not_finite(file: RowFile, rows: Array, before: int) -> None:
    if np.isfinite(rows).all():
        return
    row, column = np.argwhere(~np.isfinite(rows))[0]
    raise ValueError(
        f"{file.path}: column {file.columns[column]!r} has {rows[row, column].item()!r} in data row "
        f"{before + row + 1}, expected finite numbers; drop the column or fill the gap."
    )
