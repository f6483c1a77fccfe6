"""What makes a sweep that sweep: everything that decides its numbers, and how two of them differ."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from overdepth._version import __version__
from overdepth.lab.cache import code_digest
from overdepth.lab.memory import AnyProblem
from overdepth.lab.rows import RowProblem
from overdepth.sweeps.sweep_file import Row, SweepFile

Identity = dict[str, Any]
BLOCK_RUNS, BLOCK_ROWS = "runs of a block", "rows of a block"


def identity_of(file: SweepFile, problem: AnyProblem, rows: Sequence[Row], *, block_runs: int) -> Identity:
    """Everything that decides the numbers of a sweep, ready for JSON.

    Args:
        file: The sweep file.
        problem: Its data.
        rows: Its runs, norms as numbers.
        block_runs: The largest number of runs in a block.
    """
    settings = asdict(file.settings)
    described = json.dumps([[row.objective, asdict(row.run)] for row in rows])
    return {
        "data": problem.name,
        "data checksum": problem.checksum,
        "scaling": problem.scaling,
        "settings": {**settings, "dtype": str(settings["dtype"]).removeprefix("torch.")},
        "runs": hashlib.sha256(described.encode()).hexdigest(),
        BLOCK_RUNS: block_runs,
        BLOCK_ROWS: problem.block_rows if isinstance(problem, RowProblem) else None,
        "overdepth version": __version__,
        "torch version": str(torch.__version__),
        "source code of the engine": code_digest(),
    }


def digest(identity: Identity) -> str:
    """The identity as one word."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(old: Identity, new: Identity, old_text: str, new_text: str) -> list[str]:
    """How two sweeps differ, one line each; empty if they are the same.

    Args:
        old: Identity of the sweep in a folder.
        new: That of the sweep that is asked for.
        old_text: The folder's sweep file, to show what in the lists of runs changed.
        new_text: The one that is asked for.
    """
    before, after = flat(old), flat(new)
    changed = [name for name in dict.fromkeys([*before, *after]) if before.get(name) != after.get(name)]
    lines = [_line(name, before.get(name), after.get(name)) for name in changed if name != "runs"]
    if "runs" in changed:
        old_lists, new_lists = (flat(_lists(text)) for text in (old_text, new_text))
        names = [n for n in dict.fromkeys([*old_lists, *new_lists]) if old_lists.get(n) != new_lists.get(n)]
        lines += [_line(name, old_lists.get(name), new_lists.get(name)) for name in names] or ["the runs differ"]
    return lines


def flat(values: Any, prefix: str = "") -> dict[str, object]:
    """Nested tables as one, ``grid 1: lr``."""
    if isinstance(values, dict):
        parts = [(f"{prefix}: {name}" if prefix else str(name), value) for name, value in values.items()]
    elif isinstance(values, list) and values and all(isinstance(value, dict) for value in values):
        parts = [(f"{prefix} {number}", value) for number, value in enumerate(values, 1)]
    else:
        return {prefix: values}
    return {name: value for part, inner in parts for name, value in flat(inner, part).items()}


def _lists(text: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return {}
    return {name: document[name] for name in ("objective", "grid", "run") if name in document}


def _line(name: str, old: object, new: object) -> str:
    def shown(value: object) -> str:
        text = "absent" if value is None else f"{value}"
        return text if len(text) <= 60 else text[:57] + "..."

    return f"{name}: {shown(old)} in the folder, {shown(new)} now"
