"""What a sweep may take of the memory: whether data are read in blocks of rows, how many runs train together."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

from overdepth.lab.memory import AnyProblem, runs_that_fit, working_set
from overdepth.lab.row_files import ROW_FILES
from overdepth.lab.rows import open_rows
from overdepth.lab.run import Run
from overdepth.lab.settings import Settings
from overdepth.sweeps.plan import default_block_runs
from overdepth.sweeps.sweep_file import Row, SweepFile

SHARE = 0.8
"""Of the machine's memory, unless another bound is given."""

BYTES_AN_ENTRY = 32
"""Of a table in memory, at the peak: as it was read, in float64 twice, and twice in the training's type."""


def available(limit: int | None) -> int:
    """Bytes that a sweep may take beyond what this process has already.

    Args:
        limit: Of the process as a whole; default: a share of the machine's memory.
    """
    if limit is None:
        limit = int(SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return limit - (peak if sys.platform == "darwin" else 1024 * peak)


def needs_row_blocks(file: SweepFile, budget: int) -> bool:
    """Whether the data of a sweep are a file that can be read in blocks of rows and that does not fit otherwise."""
    path = Path(file.data)
    reader = ROW_FILES.get(path.suffix.lower())
    if reader is None or not path.is_file():
        return False
    table = reader(path)
    return BYTES_AN_ENTRY * table.m * len(table.columns) > budget


def load(file: SweepFile, *, by_rows: bool) -> AnyProblem:
    """The data of a sweep, in memory or as a file that is read in blocks of rows.

    Raises:
        ValueError, OSError, ConnectionError: As :func:`overdepth.lab.load_problem`.
    """
    if by_rows:
        return open_rows(file.data, target=list(file.target) or None, scaling=file.scaling)
    return file.load()


def block_runs_within(problem: AnyProblem, rows: Sequence[Row], settings: Settings, budget: int) -> int:
    """The largest number of runs in a block, so that any block fits.

    Args:
        problem: The data, which count.
        rows: All runs of the sweep.
        settings: What they share.
        budget: Bytes, from :func:`available` before the data were loaded.

    Raises:
        ValueError: If not even one run fits, with what is needed.
    """
    fits = default_block_runs(len(rows))
    for objective, runs in _by_objective(rows).items():
        try:
            fits = min(fits, runs_that_fit(problem, runs, objective, settings, budget))
        except ValueError as error:
            need = max(working_set(problem, [run], objective, settings) for run in runs) - budget
            raise ValueError(
                f"--memory is too small by {-(-need // 10**6):,} MB: the program, the data and a single run do not fit."
            ) from error
    return fits


def largest_block(problem: AnyProblem, rows: Sequence[Row], settings: Settings, block_runs: int) -> int:
    """Bytes that a block of so many runs takes at most, its data included."""
    sizes = []
    for objective, runs in _by_objective(rows).items():
        kinds = {(run.method, run.depth, run.width): run for run in runs}.values()
        count = min(block_runs, len(runs))
        sizes.append(max(working_set(problem, [run] * count, objective, settings) for run in kinds))
    return max(sizes)


def _by_objective(rows: Sequence[Row]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for row in rows:
        found.setdefault(row.objective, []).append(row.run)
    return found
