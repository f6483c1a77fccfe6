"""Items: a figure or statement of a paper, as the runs it needs and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
import xarray as xr

from overdepth.lab.problem import Problem
from overdepth.lab.run import Run
from overdepth.paper.claim import Claim, Setting

LEARNING_RATES = tuple(float(f"{digit}e{exponent}") for exponent in range(-5, 0) for digit in (1, 5))
"""The paper's grid: 1e-5, 5e-5, ..., 1e-1, 5e-1."""


@dataclass(frozen=True)
class Plan:
    """A sweep that an item needs."""

    objective: str
    runs: Sequence[Run]
    record_every: int


@dataclass(frozen=True)
class Picture:
    """An interactive figure with the words under it."""

    caption: str
    figure: go.Figure


@dataclass(frozen=True)
class Item:
    """One figure or statement.

    Attributes:
        name: As given to ``overdepth reproduce``.
        title: A heading.
        said: What the paper says, one sentence each.
        ran: What was run, one sentence each.
        plans: The sweeps for a problem and seeds.
        claims: The verdicts, from the data of all sweeps joined along ``run``.
        pictures: The figures, from the same.
    """

    name: str
    title: str
    said: Sequence[str]
    ran: Sequence[str]
    plans: Callable[[Problem, Sequence[int]], list[Plan]]
    claims: Callable[[xr.Dataset, Setting], list[Claim]]
    pictures: Callable[[xr.Dataset], list[Picture]]


def start_norm(problem: Problem, run: Run) -> float:
    """Frobenius norm of the end-to-end weight that a run starts from."""
    from overdepth.chain import product

    return float(product(run.start(problem.k, problem.d)).norm())
