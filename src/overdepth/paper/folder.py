"""The report's folder: written beside its place, moved there when it is complete, never half old and half new."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

MARKER = ".overdepth-report"
_FIRST_LINE = "This folder is a report of overdepth {command}, which may replace it with these files in it:\n"
_BESIDE = {MARKER, "show.html"}
"""What may lie in a report besides its own files: the page of ``overdepth show`` is made from it."""


def check_destination(folder: Path, command: str) -> None:
    """Checks that a report can be written to ``folder``: it is absent, empty, or an earlier report of the same command.

    Args:
        folder: Where to.
        command: Whose report it is.

    Raises:
        ValueError: If it is not, with the remedy.
    """
    try:
        folder = folder.resolve(strict=False)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ValueError(f"the output path {folder} is a file; name a folder with --out.")
        if folder.is_dir() and any(folder.iterdir()):
            _check_is_report(folder, command)
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


def _check_is_report(folder: Path, command: str) -> None:
    """Checks that nothing in a folder is anybody else's."""
    marker = folder / MARKER
    first, *listed = marker.read_text(encoding="utf-8").splitlines() if marker.is_file() else [""]
    if f"{first}\n" != _FIRST_LINE.format(command=command):
        what = first.removeprefix("This folder is ").partition(", which")[0] or "other files"
        raise ValueError(f"the output folder {folder} holds {what}; name another folder with --out, or empty it.")
    others = sorted(_files(folder) - set(listed) - _BESIDE)
    if others:
        shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        raise ValueError(
            f"the output folder {folder} holds files that are not of its report ({shown}), which would be lost; move "
            f"them, or name another folder with --out."
        )


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@contextlib.contextmanager
def replacing(folder: Path, command: str) -> Iterator[Path]:
    """A fresh folder beside ``folder`` to write into; on leaving without an error it takes the place of ``folder``.

    Args:
        folder: Where to.
        command: Whose report it is.

    Raises:
        ValueError: If ``folder`` is no place for a report.
        OSError: If the disk refuses.
    """
    check_destination(folder, command)
    folder = folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        yield fresh
        text = _FIRST_LINE.format(command=command) + "".join(f"{name}\n" for name in sorted(_files(fresh)))
        (fresh / MARKER).write_text(text, encoding="utf-8")
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
