"""Reading ``.npy`` files from anywhere: whatever is wrong with one is a ``ValueError``, and nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def map_npy(path: Path) -> NDArray[Any]:
    """A table of numbers, shape (rows, columns), mapped into memory, read-only.

    Pages of the file are read when they are touched, and given back once nothing refers to the array.

    Raises:
        ValueError: If the file is missing, cannot be read, or does not hold a table of real numbers.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); check its name and permissions.") from error
    except (ValueError, EOFError) as error:  # an array of objects is one: it would have to be unpickled
        raise ValueError(
            f"{path} is truncated, damaged, or no .npy file of plain numbers; replace it by a good copy."
        ) from error
    if array.ndim != 2:
        raise ValueError(f"{path} has shape {array.shape}, expected (rows, columns); save a two-dimensional array.")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path} has dtype {array.dtype}, expected real numbers, as float64, float32 or integers are.")
    return array


def column_name(index: int) -> str:
    """``X[3]``: what a column is called, as in an ``.npz`` file whose only array is ``X``."""
    return f"X[{index}]"


def column_of(target: str, count: int) -> str:
    """The name of the column that ``target`` means: its number, negative ones counting from the end, or its name."""
    try:
        index = int(target)
    except ValueError:
        return target
    return column_name(index % count) if -count <= index < count else target
