"""A piece of a sweep as a file: arrays under a checksum, written whole or not at all, read without trust."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC = b"overdepth piece 1\n"
PARTIAL = ".partial"
Arrays = dict[str, NDArray[Any]]


def encode(arrays: Mapping[str, NDArray[Any]], *, identity: str) -> bytes:
    """Arrays as bytes: a first line, the SHA-256 of all that follows, then an ``.npz`` archive.

    Args:
        arrays: Plain arrays by name.
        identity: Of the sweep that they belong to.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, identity=np.array(identity), **arrays)
    content = buffer.getvalue()
    return MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def decode(content: bytes, *, identity: str) -> Arrays:
    """The arrays that :func:`encode` was given.

    Raises:
        ValueError: If a bit differs, or they belong to another sweep. Nothing is unpickled.
    """
    head = len(MAGIC) + 65
    if content[: len(MAGIC)] != MAGIC or len(content) < head:
        raise ValueError("it is no piece of a sweep, or cut short")
    if hashlib.sha256(content[head:]).hexdigest().encode() + b"\n" != content[len(MAGIC) : head]:
        raise ValueError("its checksum does not fit its content")
    try:
        with np.load(io.BytesIO(content[head:]), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):
            raise TypeError  # NumPy hands out members of other kinds as bytes
    except Exception as error:  # whatever an archive that somebody else made raises in its readers
        raise ValueError("it holds something else than plain arrays") from error
    if str(arrays.pop("identity", "")) != identity:
        raise ValueError("it belongs to another sweep")
    return arrays


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside its place, forces it onto the disk, and moves it there.

    Raises:
        OSError: If the disk refuses; nothing is left behind then, and an older file at ``path`` is as it was.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Forces the names in a folder onto the disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
