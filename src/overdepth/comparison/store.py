"""Finished runs on disk: each kept the moment it is done, so that an interrupt loses none of them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from overdepth.comparison.jobs import STATUSES, Job, Outcome
from overdepth.lab.npz import read_npz

_log = logging.getLogger(__name__)
SETTINGS = "settings.json"
TRIALS = "trials"


class Store:
    """Finished runs in a folder, one file each, moved there when it is complete.

    Arms, seeds and controls may be added from one call to the next; what decides a run may not change.

    Args:
        folder: Where; None: nothing is kept.
        settings: All that decides the runs besides their own description, as plain JSON values.

    Raises:
        ValueError: If the folder holds something else, or a comparison with other settings: the differences are named.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, settings: Mapping[str, Any]) -> None:
        self.folder = None if folder is None else self.place(folder)
        if self.folder is None:
            return
        check_folder(self.folder)
        now = json.loads(json.dumps(dict(settings)))
        before = read_settings(self.folder)
        if before is not None and before != now and not self._has_results():
            shutil.rmtree(self.folder / TRIALS, ignore_errors=True)
            write_json(self.folder / SETTINGS, now)
        elif before is not None and before != now:
            names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
            changes = "; ".join(f"{n} was {_short(before.get(n))} and is {_short(now.get(n))}" for n in names)
            raise ValueError(
                f"{self.folder} holds runs with other settings: {changes}; name another folder with out, or delete it."
            )
        (self.folder / TRIALS).mkdir(parents=True, exist_ok=True)
        if before is None:
            write_json(self.folder / SETTINGS, now)

    def _has_results(self) -> bool:
        """Whether any run was finished; without one there is nothing to mix up, as after a mistake that was mended."""
        kept = (self.folder or Path()).glob(f"{TRIALS}/*.npz")
        return any(outcome is not None and outcome.status != "diverged" for outcome in map(_read, kept))

    @staticmethod
    def place(folder: str | os.PathLike[str]) -> Path:
        """The folder as a path, ``~`` being the user's own."""
        return Path(folder).expanduser()

    def get(self, job: Job) -> Outcome | None:
        """The outcome of a run, if it is finished."""
        path = self._path(job)
        return None if path is None else _read(path)

    def put(self, job: Job, outcome: Outcome) -> None:
        """Keeps the outcome of a run.

        Raises:
            OSError: If the disk refuses.
        """
        path = self._path(job)
        if path is None:
            return
        arrays: dict[str, Any] = {
            "losses": outcome.losses,
            "status": np.asarray(STATUSES.index(outcome.status)),
            "seconds": np.asarray(outcome.seconds),
            "memory": np.asarray(outcome.memory),
        }
        arrays |= {} if outcome.lengths is None else {"lengths": outcome.lengths}
        arrays |= {} if outcome.times is None else {"times": outcome.times}
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **arrays)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _path(self, job: Job) -> Path | None:
        if self.folder is None:
            return None
        fields = {
            "arm": job.arm.settings(),
            "lr": job.lr,
            "role": job.role,
            "replicate": job.replicate,
            "steps": job.steps,
            "earlier": [[t.lr, t.status, t.value if math.isfinite(t.value) else None] for t in job.earlier],
            "lengths": None if job.lengths is None else hashlib.sha256(job.lengths.tobytes()).hexdigest(),
            "keeps_lengths": job.keeps_lengths,
            "beside": job.beside,
        }
        digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:12]
        name = re.sub(r"[^A-Za-z0-9.]+", "-", f"{job.arm.name} {job.role} {job.replicate} lr{job.lr:g}")
        return self.folder / TRIALS / f"{name[:80]}-{digest}.npz"


def _read(path: Path) -> Outcome | None:
    """A run that was kept; None if it was not, or cannot be read."""
    try:
        found = read_npz(path)
        return Outcome(
            losses=np.asarray(found["losses"], dtype=np.float64),
            status=STATUSES[int(found["status"])],
            seconds=float(found["seconds"]),
            lengths=found.get("lengths"),
            times=found.get("times"),
            memory=(float(found["memory"][0]), float(found["memory"][1])),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        _log.warning("The kept run %s cannot be read (%s) and is made again.", path, error)
        return None


def check_folder(folder: Path) -> None:
    """Checks that a comparison can be kept in a folder: it is absent, empty, or holds one.

    Raises:
        ValueError: If it does not.
    """
    try:
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"the output path {folder} is a file; name a folder with out.")
        held = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    except OSError as error:
        raise ValueError(f"the output folder {folder} cannot be read ({error.strerror}); name another one.") from error
    if held and SETTINGS not in held:
        raise ValueError(f"the output folder {folder} holds other files; name another folder with out, or empty it.")


def read_settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the comparison in a folder; None if there is none.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / SETTINGS} cannot be read; delete {folder} to begin anew.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{folder / SETTINGS} is no file of ours; name another folder with out.")
    return found


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file beside its place and moves it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: object) -> None:
    """Writes plain values as JSON, complete or not at all."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) < 60 else text[:57] + "..."
