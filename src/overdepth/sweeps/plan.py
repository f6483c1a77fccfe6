"""How a sweep is cut: blocks of runs that fit the memory, each a sweep of the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from overdepth.lab.grouping import architecture
from overdepth.lab.memory import AnyProblem
from overdepth.sweeps.sweep_file import Row

BLOCKS, LEAST_RUNS, MOST_RUNS = 8, 256, 2048
"""A sweep is cut into so many blocks, within these bounds: the matrix products want many runs, workers many blocks."""


@dataclass(frozen=True)
class Block:
    """Runs that are trained together.

    Attributes:
        number: In the sweep.
        objective: Of all of them.
        index: Their rows in the sweep's table.
    """

    number: int
    objective: str
    index: tuple[int, ...]


def default_block_runs(runs: int) -> int:
    """The largest number of runs in a block if memory does not matter."""
    return min(max(-(-runs // BLOCKS), LEAST_RUNS), MOST_RUNS)


def cut(rows: Sequence[Row], problem: AnyProblem, block_runs: int) -> list[Block]:
    """Blocks of one objective each; runs of one architecture stay together, so that they step together.

    Args:
        rows: The runs.
        problem: Their data.
        block_runs: The largest number of runs in a block.

    Returns:
        The blocks of an objective are as equal as possible. They depend on nothing but the arguments.
    """
    found: list[Block] = []
    for objective in dict.fromkeys(row.objective for row in rows):
        own = [i for i, row in enumerate(rows) if row.objective == objective]
        order = {kind: n for n, kind in enumerate(dict.fromkeys(_kind(rows[i], problem) for i in own))}
        own.sort(key=lambda i: order[_kind(rows[i], problem)])  # stable
        count = -(-len(own) // block_runs)
        for n in range(count):
            index = own[n * len(own) // count : (n + 1) * len(own) // count]
            found.append(Block(len(found), objective, tuple(index)))
    return found


def _kind(row: Row, problem: AnyProblem) -> tuple[object, ...]:
    return architecture(row.run, problem.k, problem.d)
