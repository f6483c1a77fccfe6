"""The folder of a sweep: its file, its identity, a lock, and the pieces of every block."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from overdepth.sweeps.identity import BLOCK_ROWS, BLOCK_RUNS, Identity, differences, digest
from overdepth.sweeps.piece import PARTIAL, Arrays, decode, encode, sync_folder, write_atomically

IDENTITY, COPY, LOCK, BLOCKS, RESULTS, OPTIMA = (
    "identity.json",
    "sweep.toml",
    ".lock",
    "blocks",
    "results.nc",
    "optima.json",
)
_PIECE = re.compile(r"(loss|state)-(\d{12})-(\d{12})\.piece")


@dataclass(frozen=True)
class PieceName:
    """A piece of a block, by its file's name: losses from step ``first`` to ``last``, or the state at ``last``."""

    path: Path
    kind: str
    first: int
    last: int


class SweepFolder:
    """A folder that holds a sweep. Nothing in it is executed or unpickled.

    ``sweep.toml`` is the sweep file as it was given, ``identity.json`` what decides the numbers, ``blocks/00000/...``
    the pieces, ``results.nc`` the data set once all is done.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._digest = ""

    @property
    def results(self) -> Path:
        """Where the finished data set is."""
        return self.path / RESULTS

    @property
    def copy(self) -> Path:
        """The sweep file as it was given."""
        return self.path / COPY

    def is_sweep(self) -> bool:
        """Whether a sweep has been begun here."""
        return (self.path / IDENTITY).is_file()

    def check(self, *, resume: bool) -> None:
        """Checks that a sweep can begin here, or go on.

        Raises:
            ValueError: If it cannot, with the remedy.
        """
        if (self.path.is_symlink() or self.path.exists()) and not self.path.is_dir():
            raise ValueError(f"the output path {self.path} is a file; name a folder with --out.")
        if self.is_sweep():
            if not resume:
                raise ValueError(
                    f"the output folder {self.path} holds a sweep already; go on with --resume, or name another folder."
                )
        elif self.path.is_dir() and any(not _is_ours(entry) for entry in self.path.iterdir()):
            raise ValueError(f"the output folder {self.path} holds other files; name another one with --out.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps every other process out, as long as this one lives: the system releases the lock of one that died.

        Raises:
            ValueError: If another process works on the folder, or it may not be written.
            OSError: If the disk refuses.
        """
        lock = filelock.FileLock(self.path / LOCK, blocking=False)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise ValueError(
                f"another process works on the sweep in {self.path}; wait for it, or name another folder with --out."
            ) from None
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"the output folder {self.path} cannot be written ({error.strerror}); name another one with --out."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def begin(self, identity: Identity, text: str, *, base: Path) -> None:
        """Writes down what the sweep is, or checks that it is the one that is here.

        Args:
            identity: From :func:`~overdepth.sweeps.identity.identity_of`.
            text: The sweep file.
            base: The folder that relative paths in it begin at.

        Raises:
            ValueError: If another sweep is here, with the differences.
            OSError: If the disk refuses.
        """
        self._digest = digest(identity)
        self._clear_partial()
        if self.is_sweep():
            old, old_text = self.identity()
            if lines := differences(old, identity, old_text, text):
                raise ValueError(
                    f"the folder {self.path} holds another sweep; go on with what it was begun with, or name another "
                    f"folder with --out. What differs:\n  " + "\n  ".join(lines)
                )
            return
        (self.path / BLOCKS).mkdir(exist_ok=True)
        write_atomically(self.copy, text.encode())
        content = {"sweep": identity, "base": str(base.resolve())}
        write_atomically(self.path / IDENTITY, json.dumps(content, indent=1).encode())  # last: it makes it a sweep

    def identity(self) -> tuple[Identity, str]:
        """What the sweep here is, and its file.

        Raises:
            ValueError: If that cannot be read.
        """
        try:
            text = self.copy.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            text = ""  # only the identity decides; the text tells differences, and is missed where no file is given
        return self._read_identity()["sweep"], text

    def cuts(self) -> tuple[int, bool] | None:
        """The largest number of runs in a block of the sweep that is here, and whether its data are read by rows.

        Raises:
            ValueError: If ``identity.json`` is damaged.
        """
        if not self.is_sweep():
            return None
        identity = self._read_identity()["sweep"]
        runs = identity.get(BLOCK_RUNS)
        if type(runs) is not int or runs < 1 or BLOCK_ROWS not in identity:
            raise ValueError(f"{self.path / IDENTITY} is damaged; name another folder with --out and begin anew.")
        return runs, identity[BLOCK_ROWS] is not None

    def base(self) -> Path:
        """The folder that relative paths in the sweep file begin at."""
        return Path(self._read_identity()["base"])

    def adopt(self) -> None:
        """Takes the identity that is here as it is, to read the pieces."""
        self._digest = digest(self.identity()[0])

    def _read_identity(self) -> dict[str, Any]:
        path = self.path / IDENTITY
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(content["sweep"], dict) or not isinstance(content["base"], str):
                raise TypeError
        except FileNotFoundError:
            raise ValueError(f"{self.path} holds no sweep; name the folder that overdepth sweep --out wrote.") from None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is damaged; name another folder with --out and begin anew.") from error
        return dict(content)

    def pieces(self, block: int) -> list[PieceName]:
        """The pieces of a block by their names, in the order of their steps; they are not opened."""
        folder = self._block(block)
        matches = [(entry, _PIECE.fullmatch(entry.name)) for entry in folder.iterdir()] if folder.is_dir() else []
        found = [
            PieceName(entry, match[1], int(match[2]), int(match[3]))
            for entry, match in matches
            if match and _is_plain(entry)
        ]
        return sorted(found, key=lambda piece: (piece.last, piece.kind))

    def read(self, piece: PieceName) -> Arrays:
        """The arrays of a piece.

        Raises:
            ValueError: If it is damaged or belongs to another sweep.
        """
        try:
            return decode(piece.path.read_bytes(), identity=self._digest)
        except OSError as error:
            raise ValueError(f"it cannot be read ({error.strerror})") from error

    def write(self, block: int, kind: str, arrays: Arrays, first: int, last: int) -> None:
        """Writes a piece: ``loss``, what was recorded from step ``first`` to ``last``, or ``state``, that at ``last``.

        Raises:
            OSError: If the disk refuses; what was there before is as it was.
        """
        folder = self._block(block)
        if not folder.is_dir():
            folder.mkdir(parents=True)
            sync_folder(folder.parent)
        write_atomically(folder / f"{kind}-{first:012d}-{last:012d}.piece", encode(arrays, identity=self._digest))

    def _block(self, number: int) -> Path:
        return self.path / BLOCKS / f"{number:05d}"

    def _clear_partial(self) -> None:
        """Removes what a killed process left half written; nobody else is here while we hold the lock."""
        for path in [*self.path.glob(f".*{PARTIAL}"), *self.path.glob(f"{BLOCKS}/*/.*{PARTIAL}")]:
            _remove(path)
        for path in self.path.glob(f"{BLOCKS}/*/*.piece"):
            if not _is_plain(path):  # it would stand in the way
                _remove(path)


def _is_plain(path: Path) -> bool:
    """Whether a path is a file itself: a link, a pipe or a device could be read without end."""
    return path.is_file() and not path.is_symlink()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _is_ours(entry: os.PathLike[str]) -> bool:
    """Whether an entry of a folder is what a sweep leaves that was killed before it had begun."""
    name = Path(entry).name
    return name in (LOCK, BLOCKS, COPY) or (name.startswith(".") and name.endswith(PARTIAL))
