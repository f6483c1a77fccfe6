"""Reading ``.npz`` files from anywhere: whatever is wrong with one is a ``ValueError``, and nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file by name.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it does not hold plain arrays.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            arrays = {}
            for name in archive.namelist():
                with archive.open(name) as member:
                    arrays[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
            return arrays
    except OSError:
        raise
    except (ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} is truncated, damaged, or no .npz file of plain arrays; replace it by a good copy."
        ) from error
