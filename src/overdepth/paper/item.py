"""Items: a figure or statement of a paper, as the work it needs and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go
import xarray as xr

from overdepth.chain import product
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context, Plan

LEARNING_RATES = tuple(float(f"{digit}e{exponent}") for exponent in range(-5, 0) for digit in (1, 5))
"""The paper's grid: 1e-5, 5e-5, ..., 1e-1, 5e-1."""

Part = Literal["papers", "beyond", "map", "network"]
PARTS: dict[Part, str] = {
    "papers": "the papers' figures and statements",
    "beyond": "beyond the papers",
    "map": "the robustness map",
    "network": "the convolutional network",
}


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
        said: What the paper says, one sentence each; for an item of ours, what is asked.
        ran: What was run, one sentence each.
        statements: What it judges.
        work: Makes the data of a context: variables of a data set with names and units that a stranger understands.
        claims: The verdicts, from these data alone.
        pictures: The figures, from the same.
        part: To which part of the report it belongs.
        needs: What it runs on: "data" (the problem asked for), "random starts", "nothing", or another data set's name.
        drawn: What the claims call the data where these are not the problem's, "random factors" say.
        minutes: How long it takes at full length on two cores with Ethanol and one seed, and with ``--quick``.
    """

    name: str
    title: str
    said: Sequence[str]
    ran: Sequence[str]
    statements: Sequence[Statement]
    work: Callable[[Context], xr.Dataset]
    claims: Callable[[xr.Dataset, Setting], list[Claim]]
    pictures: Callable[[xr.Dataset], list[Picture]]
    part: Part = "papers"
    needs: str = "data"
    drawn: str = ""
    minutes: tuple[float, float] = (1.0, 0.1)

    def setting(self, context: Context) -> Setting:
        """Under what the claims are examined."""
        seeds = tuple(int(seed) for seed in context.seeds)
        if self.drawn:
            return Setting(self.drawn, "none", seeds, context.steps, horizon=0)
        return Setting(context.problem.name, context.problem.scaling, seeds, context.steps)


def of_sweeps(name: str, plans: Callable[[Problem, Sequence[int]], Sequence[Plan]]) -> Callable[[Context], xr.Dataset]:
    """The work of an item that is nothing but sweeps of its context's problem."""
    return lambda context: context.sweep(name, plans(context.problem, context.seeds))


def start_norm(problem: Problem, run: Run) -> float:
    """Frobenius norm of the end-to-end weight that a run starts from."""
    return float(product(run.start(problem.k, problem.d)).norm())
