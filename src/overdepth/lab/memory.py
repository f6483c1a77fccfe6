"""How much memory a block of runs needs, so that a sweep can be cut into blocks that fit.

What is counted is what a sweep adds to an interpreter with its libraries loaded: the problem's own arrays, what the
engine makes of them, the state of the runs, and the largest of the passing needs. ``tests/lab/test_memory.py``
compares the figures with the measured peak of the resident memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from overdepth.lab.engine import CHECK_EVERY
from overdepth.lab.objectives import CrossEntropy, Objective, PowerLoss
from overdepth.lab.objectives import objective as objective_by_name
from overdepth.lab.problem import Problem
from overdepth.lab.products import CUDA_TILE_BYTES, RECORD_BYTES, TILE_BYTES
from overdepth.lab.rows import RowProblem
from overdepth.lab.run import Run
from overdepth.lab.settings import Settings
from overdepth.lab.update_rules import RULES

LIBRARY_BYTES = 16 * 2**20
"""What the libraries of matrix products keep for themselves, and what an allocator does not give back."""

DIRECTION_BUFFERS = 3
"""Tensors of a parameter's size that an update rule makes on its way."""

AnyProblem = Problem | RowProblem


def working_set(problem: AnyProblem, runs: Sequence[Run], objective: Objective | str, settings: Settings) -> int:
    """Bytes that a sweep of these runs needs, all of them in one engine.

    Args:
        problem: The data; those of :func:`open_rows` count by the block.
        runs: All runs of the block.
        objective: Its name, or what :func:`overdepth.lab.objective` gives.
        settings: What the runs share.

    Returns:
        An estimate of the peak, the problem's own arrays included.

    Raises:
        ValueError: If there are no runs.

    Example:
        >>> import overdepth as od
        >>> from overdepth.lab.settings import Settings
        >>> problem, settings = od.lab.load_problem("breast-cancer"), Settings(steps=1000)
        >>> narrow, wide = od.lab.Run(depth=3), od.lab.Run(depth=3, width=100, method="adam")
        >>> [od.lab.working_set(problem, [run] * 1000, "l4", settings) // 10**6 for run in (narrow, wide)]
        [...]
    """
    if not runs:
        raise ValueError("runs is empty, expected at least one Run.")
    found = objective_by_name(objective) if isinstance(objective, str) else objective
    per_run = sum(_run_bytes(problem, run, settings) for run in runs)
    return _shared_bytes(problem, len(runs), found, settings) + per_run


def runs_that_fit(
    problem: AnyProblem, runs: Run | Sequence[Run], objective: Objective | str, settings: Settings, budget_bytes: float
) -> int:
    """The largest number of runs whose :func:`working_set` is within a budget.

    Args:
        problem: The data.
        runs: A run, or several of which the one that needs most memory is taken, so that any of them may come.
        objective: Its name, or what :func:`overdepth.lab.objective` gives.
        settings: What the runs share.
        budget_bytes: Memory beyond that of the interpreter and its libraries.

    Returns:
        At least 1.

    Raises:
        ValueError: If there are no runs, or a single one does not fit; the message has the least budget.

    Example:
        >>> import overdepth as od
        >>> from overdepth.lab.settings import Settings
        >>> problem, settings = od.lab.load_problem("breast-cancer"), Settings(steps=1000)
        >>> od.lab.runs_that_fit(problem, od.lab.Run(depth=3), "l4", settings, 1e9) > 100_000
        True
    """
    several = [runs] if isinstance(runs, Run) else list(runs)
    if not several:
        raise ValueError("runs is empty, expected at least one Run.")
    found = objective_by_name(objective) if isinstance(objective, str) else objective
    largest = max(_run_bytes(problem, run, settings) for run in several)

    def needed(count: int) -> int:
        return _shared_bytes(problem, count, found, settings) + count * largest

    if needed(1) > budget_bytes:
        raise ValueError(
            f"budget_bytes is {int(budget_bytes)}, but a single run on {problem.name!r} needs {needed(1)} "
            f"({-(-needed(1) // 10**6)} MB); give at least that"
            f"{', or a smaller block_bytes to open_rows' if isinstance(problem, RowProblem) else ''}."
        )
    fits, too_many = 1, 2
    while needed(too_many) <= budget_bytes:
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if needed(middle) <= budget_bytes else (fits, middle)
    return fits


def _shared_bytes(problem: AnyProblem, count: int, objective: Objective, settings: Settings) -> int:
    """What does not belong to single runs: the data, and tensors over all runs at once."""
    k, d, item = problem.k, problem.d, settings.dtype.itemsize
    columns = d + (k if isinstance(objective, PowerLoss) else 0)
    quadratic = isinstance(objective, PowerLoss) and objective.p == 2
    stacked = count * k * (2 * columns * item)  # C and G
    trace = count * min(CHECK_EVERY, settings.steps) * (item + 2)
    kept = count * 8 * (len(settings.recorded_steps) + 2)
    rows = settings.batch_size or problem.m
    size = TILE_BYTES * max(2, torch.get_num_threads()) if settings.device == "cpu" else CUDA_TILE_BYTES
    temporaries = 3 if isinstance(objective, PowerLoss) and objective.p > 4 else 1
    tile = min(2 * size, count * k * rows * item) * temporaries
    held = problem.block_rows if isinstance(problem, RowProblem) else problem.m
    exact_rows = min(problem.m, columns) if quadratic else held
    part = min(count, max(1, RECORD_BYTES // (8 * exact_rows * k)))
    recording = 8 * part * k * (5 * exact_rows + 2 * columns)
    passing = max(tile, recording)
    return LIBRARY_BYTES + _data_bytes(problem, objective, settings) + stacked + trace + kept + passing


def _data_bytes(problem: AnyProblem, objective: Objective, settings: Settings) -> int:
    """X and Y in float64, and the two layouts of the design matrix in the training's dtype."""
    k, d, item = problem.k, problem.d, settings.dtype.itemsize
    columns = d + (k if isinstance(objective, PowerLoss) else 0)
    quadratic = isinstance(objective, PowerLoss) and objective.p == 2
    grams = (8 + item) * columns * columns if quadratic else 0
    if isinstance(problem, RowProblem):
        rows = min(problem.block_rows, problem.m)
        # As it comes from the file, scaled, and as rows of A; of one block while the next is prepared.
        preparing = 8 * rows * (3 * (d + k) + columns)
        if quadratic:
            return preparing + grams + 2 * 8 * rows * columns
        return preparing + max(2 * item, 8) * rows * (columns + d)
    m = problem.m
    own = 8 * m * (d + k)
    exact = 0 if isinstance(objective, CrossEntropy) else 8 * m * columns
    if quadratic:  # the factorization copies the matrix twice, and then drops it
        return own + grams + 3 * exact
    training = item * m * (d + k) if settings.dtype == torch.float64 else item * m * (columns + d + k)
    return own + exact + training


def _run_bytes(problem: AnyProblem, run: Run, settings: Settings) -> int:
    """The state of a run, and what its step makes on the way."""
    k, d, item = problem.k, problem.d, settings.dtype.itemsize
    if run.method == "end_to_end":
        return item * k * d * 7 if min(k, d) == 1 else (item + 7 * 8) * k * d
    depth, width = int(run.depth), run.width
    dims = [d, *[width] * (depth - 1), k]
    factors = [a * b for a, b in itertools.pairwise(dims)]
    slots = len(RULES[run.method].starts) if run.method != "gd" else 0
    buffers = DIRECTION_BUFFERS if slots else 0
    state = item * sum(factors) * (1 + slots) + item * buffers * max(factors) + 64
    if k == 1 and (width == 1 or depth == 1):
        return state
    chain = 2 * item * k * sum(dims[:-1])  # the products above and below every factor
    gradients = item * sum(factors) if slots else 0
    return state + chain + gradients
