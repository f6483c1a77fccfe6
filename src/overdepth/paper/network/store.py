"""Runs of the network on disk: finished ones, and how far the others have come."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_log = logging.getLogger(__name__)
_MEMBER = "run.pt"
_CODE = ("_checks.py", "chain.py", "gemm.py", "initialization.py", "transfer.py", "layouts", "nn")
_OWN = ("model.py", "penalty.py", "training.py")


class RunStore:
    """One file a run, addressed by its settings and the code that trains.

    Files are zip archives, whose checksums are verified on reading; nothing in them is executed. What is damaged
    counts as absent, with a warning; files are written beside their place and moved there.

    Args:
        folder: Where; None: nothing is kept.
    """

    def __init__(self, folder: str | os.PathLike[str] | None) -> None:
        self.folder = None if folder is None else Path(folder)
        self._has_warned = False

    def path(self, settings: Mapping[str, object]) -> Path | None:
        """Where a run with these settings, plain JSON values, is or would be kept."""
        if self.folder is None:
            return None
        text = json.dumps({"settings": dict(settings), "code": [_code_digest(), torch.__version__]}, sort_keys=True)
        return self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.zip"

    def load(self, settings: Mapping[str, object]) -> dict[str, Any] | None:
        """What was saved last, or None."""
        path = self.path(settings)
        if path is None:
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                content = archive.read(_MEMBER)
            found: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
            return found
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, ValueError, KeyError, EOFError) as error:
            self._warn_of_damage(path, error)
        except (zipfile.BadZipFile, zlib.error, pickle.UnpicklingError) as error:
            self._warn_of_damage(path, error)
        return None

    def save(self, settings: Mapping[str, object], record: Mapping[str, Any]) -> None:
        """Replaces what was saved; a full or read-only disk is a warning, not an error."""
        path = self.path(settings)
        if path is None:
            return
        buffer = io.BytesIO()
        torch.save(dict(record), buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
            temporary = Path(name)
            try:
                with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
                    archive.writestr(_MEMBER, buffer.getvalue())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        except OSError as error:
            if not self._has_warned:
                _log.warning("Runs of the network cannot be kept in %s (%s).", path.parent, error.strerror or error)
            self._has_warned = True

    def _warn_of_damage(self, path: Path, error: Exception) -> None:
        _log.warning("The kept run %s cannot be read (%s) and is computed again.", path, type(error).__name__)


@functools.cache
def _code_digest() -> str:
    """Hash of the modules between a run's settings and its losses."""
    here = Path(__file__).parent
    root = here.parent.parent
    paths = [root / name for name in _CODE] + [here / name for name in _OWN]
    digest = hashlib.sha256()
    for path in paths:
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
