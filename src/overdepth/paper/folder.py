"""The report's folder: written beside its place, moved there when it is complete, never half old and half new."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MARKER = ".overdepth-report"


def check_destination(folder: Path) -> None:
    """Checks that a report can be written to ``folder``: it is absent, empty, or an earlier report.

    Raises:
        ValueError: If it is not, with the remedy.
    """
    try:
        folder = folder.resolve(strict=False)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ValueError(f"the output path {folder} is a file; name a folder with --out.")
        if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
            raise ValueError(
                f"the output folder {folder} holds other files; name another folder with --out, or empty it."
            )
        if folder.is_mount():
            raise ValueError(
                f"the output folder {folder} is a mount point, which cannot be replaced; name one below it."
            )
        parent = folder.parent
        while not parent.exists():
            parent = parent.parent
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".partial", dir=parent):
            pass  # the report will be written beside its place just so
    except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(
            f"the output folder {folder} cannot be written ({reason}); name another one with --out."
        ) from error


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A fresh folder beside ``folder`` to write into; on leaving without an error it takes the place of ``folder``.

    Raises:
        ValueError: If ``folder`` is no place for a report.
        OSError: If the disk refuses.
    """
    check_destination(folder)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        (fresh / MARKER).write_text("This folder is a report of overdepth, which may replace it.\n", encoding="utf-8")
        yield fresh
        if folder.exists():
            old = fresh.with_suffix(".old")
            folder.rename(old)
            try:
                fresh.rename(folder)
            except BaseException:
                if not folder.exists():  # else another report has taken the place meanwhile
                    old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
        else:
            fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
