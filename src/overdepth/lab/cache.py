"""A content-addressed store of finished runs: what was computed once is not computed again."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch

from overdepth.lab.npz import read_npz
from overdepth.lab.problem import Array, Problem, checksum
from overdepth.lab.rows import RowProblem
from overdepth.lab.run import Run
from overdepth.lab.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finished:
    """What is kept of a run: its recorded losses, and the step at which it diverged, -1 if it did not."""

    loss: Array
    diverged_at: int


class RunCache:
    """Finished runs in a folder, one small file each, addressed by everything that decides the result.

    The address is a hash of the scaled data, the objective, the run, the shared settings, and the source code
    that computes it. A file that cannot be read counts as absent; nothing in a file is executed. Runs that were
    computed in other company are reused too: the batch changes only how sums round.

    Args:
        folder: Default: ``runs`` in the user's cache folder.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder) if folder else Path(platformdirs.user_cache_dir("overdepth")) / "runs"
        self._has_warned = False

    def keys(self, problem: Problem | RowProblem, objective: str, runs: Sequence[Run], settings: Settings) -> list[str]:
        """The addresses of runs."""
        shared = {
            "code": [code_digest(), str(torch.__version__)],
            "data": _data_digest(problem),
            "objective": objective,
            # Of two devices of a kind, the one that was free decides nothing.
            "settings": {**asdict(settings), "dtype": str(settings.dtype), "device": settings.device.split(":")[0]},
        }
        described = (json.dumps({**shared, "run": asdict(run)}, sort_keys=True) for run in runs)
        return [hashlib.sha256(text.encode()).hexdigest() for text in described]

    def get(self, key: str) -> Finished | None:
        """The finished run at an address, or None."""
        path = self._path(key)
        try:
            arrays = read_npz(path)
            return Finished(np.asarray(arrays["loss"], dtype=np.float64), int(arrays["diverged_at"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_once(error)
            return None
        except (ValueError, KeyError, TypeError) as error:
            _log.warning("The cached run %s cannot be read (%s) and is computed again.", path, error)
            return None

    def put(self, keys: Sequence[str], finished: Sequence[Finished]) -> None:
        """Stores finished runs, each atomically. A full or read-only disk is a warning, not an error."""
        try:
            for key, run in zip(keys, finished, strict=True):
                path = self._path(key)
                path.parent.mkdir(parents=True, exist_ok=True)
                handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
                try:
                    with os.fdopen(handle, "wb") as file:
                        np.savez(file, loss=run.loss, diverged_at=run.diverged_at)
                    Path(temporary).replace(path)
                except BaseException:
                    Path(temporary).unlink(missing_ok=True)
                    raise
        except OSError as error:
            self._warn_once(error)

    def _warn_once(self, error: OSError) -> None:
        if not self._has_warned:
            _log.warning("Finished runs cannot be kept in %s (%s).", self.folder, error.strerror or error)
        self._has_warned = True

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key[2:]}.npz"


def _data_digest(problem: Problem | RowProblem) -> str | list[str]:
    """What tells data from others: the entries as the engine sees them, or those of the file and their scaling."""
    if isinstance(problem, RowProblem):
        return [problem.checksum, problem.scaling]
    return checksum(problem.X, problem.Y)


@functools.cache
def code_digest() -> str:
    """Hash of the modules between a run's settings and its result."""
    root = Path(__file__).parent.parent
    names = ["_checks", "chain", "initialization", "rule", "lab/run", "lab/objectives", "lab/groups", "lab/engine"]
    names += ["gemm", "lab/settings", "lab/grouping", "lab/adaptive", "lab/update_rules", "lab/products"]
    names += ["lab/examples", "lab/devices", "lab/rows", "lab/row_files", "lab/triangular"]
    digest = hashlib.sha256()
    for name in names:
        digest.update((root / f"{name}.py").read_bytes())
    return digest.hexdigest()
