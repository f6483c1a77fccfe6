"""Reproduction: run items and judge their claims."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import xarray as xr

from overdepth.lab.cache import RunCache
from overdepth.lab.problem import Problem
from overdepth.lab.sweeps import sweep
from overdepth.paper.claim import Claim, Setting
from overdepth.paper.item import Item


@dataclass(frozen=True)
class Reporter:
    """What is told of a sweep while it runs; both are called often.

    Attributes:
        begin: With a description, the number of runs and the number of steps.
        advance: With the step reached and the number of runs that still take part.
    """

    begin: Callable[[str, int, int], None] = field(default=lambda *_: None)
    advance: Callable[[int, int], None] = field(default=lambda *_: None)


@dataclass(frozen=True)
class Reproduced:
    """An item's results: under what, the data of all its sweeps, the verdicts, and the seconds it took."""

    item: Item
    setting: Setting
    data: xr.Dataset
    claims: list[Claim]
    seconds: float


def reproduce(
    items: Sequence[Item],
    problem: Problem,
    *,
    steps: int,
    seeds: Sequence[int],
    cache: RunCache | None = None,
    reporter: Reporter | None = None,
) -> list[Reproduced]:
    """Runs items on a problem.

    Args:
        items: From :data:`overdepth.paper.ITEMS`.
        problem: With a single target.
        steps: Iterations of every run.
        seeds: Of the initial factors.
        cache: Where finished runs are looked up and kept.
        reporter: Told of the progress.

    Returns:
        One result an item.

    Raises:
        ValueError: If the problem has several targets.
    """
    if problem.k != 1:
        raise ValueError(f"the figures are about a single target, {problem.name!r} has {problem.k}; name one.")
    reporter = reporter or Reporter()
    setting = Setting(problem.name, problem.scaling, tuple(seeds), steps)
    results = []
    for item in items:
        began = time.perf_counter()
        parts = []
        for plan in item.plans(problem, seeds):
            reporter.begin(f"{item.name}, {plan.objective}", len(plan.runs), steps)
            parts.append(
                sweep(
                    problem,
                    plan.runs,
                    objective=plan.objective,
                    steps=steps,
                    record_every=plan.record_every,
                    cache=cache,
                    progress=reporter.advance,
                )
            )
            reporter.advance(steps, len(plan.runs))
        data = joined(parts)
        results.append(Reproduced(item, setting, data, item.claims(data, setting), time.perf_counter() - began))
    return results


def joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Sweeps with equal recorded steps as one data set, runs numbered anew."""
    data = xr.concat(parts, dim="run", combine_attrs="drop_conflicts", join="exact")
    data["run"] = range(data.sizes["run"])
    data["optimal_loss"].attrs.pop("attained", None)
    return data
