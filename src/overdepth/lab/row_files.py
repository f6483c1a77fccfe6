"""Tables on disk that are read a block of rows at a time: memory-mapped ``.npy`` files, and Parquet files.

Nothing stays open between two blocks, so that no more of a file than a block counts as this process's memory, and so
that a table can be sent to another process by its path. A file that changes while it is in use is noticed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from overdepth.lab.npy import column_name, map_npy

Rows = NDArray[Any]


class RowFile(ABC):
    """A table of numbers, shape (m, columns), on disk.

    Attributes:
        path: Where it is.
        columns: The names of its columns.
        m: Number of rows.

    Raises:
        ValueError: If the file cannot be read or holds something else.
    """

    columns: list[str]
    m: int

    def __init__(self, path: Path) -> None:
        self.path = path
        self._signature = self._stat()

    @abstractmethod
    def read(self, rows: int) -> Iterator[Rows]:
        """The table in blocks of ``rows`` rows, the last one shorter, in the numeric type that it is stored in."""

    @abstractmethod
    def take(self, rows: NDArray[np.int64]) -> Rows:
        """The rows of these numbers."""

    def check_unchanged(self) -> None:
        """Checks that the file is the one that was opened, as far as its size and its time of change tell.

        Raises:
            ValueError: If it is not.
        """
        if self._stat() != self._signature:
            raise ValueError(f"{self.path} was changed while it was in use; start again from the changed file.")

    def _stat(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError as error:
            raise ValueError(f"{self.path} cannot be read ({error.strerror}); check that it is still there.") from error
        return found.st_size, found.st_mtime_ns


class NpyRows(RowFile):
    """A two-dimensional array; rows stored one after the other are read fastest."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        array = map_npy(path)
        self.m = array.shape[0]
        self.columns = [column_name(i) for i in range(array.shape[1])]

    @override
    def read(self, rows: int) -> Iterator[Rows]:
        for first in range(0, self.m, rows):
            self.check_unchanged()
            yield map_npy(self.path)[first : first + rows]

    @override
    def take(self, rows: NDArray[np.int64]) -> Rows:
        self.check_unchanged()
        order = np.argsort(rows)
        taken = map_npy(self.path)[rows[order]]  # in the order of the file
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return np.asarray(taken[back])


class ParquetRows(RowFile):
    """A Parquet file of numeric columns; what is decoded at a time is a block, what is read a row group."""

    def __init__(self, path: Path) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        super().__init__(path)
        try:
            with pq.ParquetFile(path) as file:
                schema, self.m = file.schema_arrow, file.metadata.num_rows
            described = schema.pandas_metadata
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ValueError(f"{path} is truncated or no Parquet file; replace it by a good copy.") from error
        labels = described.get("index_columns") if isinstance(described, dict) else None
        labels = labels if isinstance(labels, list) else []  # pandas stores row labels beside the columns
        fields = [field for field in schema if field.name not in labels]
        self.columns = [field.name for field in fields]
        for field in fields:
            if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type) or field.type == pa.bool_()):
                raise ValueError(
                    f"{path}: column {field.name!r} holds {field.type}, expected numbers; drop the column."
                )

    @override
    def read(self, rows: int) -> Iterator[Rows]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.check_unchanged()
        try:
            with pq.ParquetFile(self.path, pre_buffer=False) as file:
                filled, block = 0, np.empty((min(rows, self.m), len(self.columns)))
                for batch in file.iter_batches(batch_size=rows, columns=self.columns):
                    table = self._numbers(batch)
                    while len(table):  # blocks are of equal length whatever the row groups are
                        count = min(len(table), len(block) - filled)
                        block[filled : filled + count] = table[:count]
                        table, filled = table[count:], filled + count
                        if filled == len(block):
                            yield block
                            filled, block = 0, np.empty_like(block)
                if filled:
                    yield block[:filled]
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{self.path} is truncated or damaged; replace it by a good copy.") from error

    @override
    def take(self, rows: NDArray[np.int64]) -> Rows:
        raise ValueError(
            f"{self.path}: single rows of a Parquet file cannot be read, which minibatches need; save the table as an "
            f".npy file, or train on full batches."
        )

    def _numbers(self, batch: Any) -> Rows:
        """A record batch as an array in float64, NaN where a cell is empty."""
        table = np.empty((batch.num_rows, len(self.columns)))
        for i, column in enumerate(batch.columns):
            table[:, i] = column.to_numpy(zero_copy_only=False).astype(np.float64)
        return table


ROW_FILES: dict[str, type[NpyRows] | type[ParquetRows]] = {".npy": NpyRows, ".parquet": ParquetRows}
