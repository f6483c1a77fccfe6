"""Figure 3: depth 1, 2 and 3 at the best learning rate of each, for the l2 and the l4 loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from overdepth.lab.curves import mean_log_ratio, select
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run, grid
from overdepth.paper.claim import Claim, Setting, Statement, number
from overdepth.paper.context import Plan
from overdepth.paper.item import LEARNING_RATES, Item, Picture, of_sweeps, start_norm
from overdepth.paper.picture import gap_figure, learning_rate_figure
from overdepth.paper.tuning import caught_up, rate_curve, tuned, tuned_curve

RECORD_EVERY = 100
DEPTHS = (1, 2, 3)
OBJECTIVES = ("l2", "l4")
SOURCE = "Arora, Cohen & Hazan 2018, Figure 3"

SLOWER = Statement(
    id="fig3.l2",
    source=f"{SOURCE} (left)",
    text="With l2 loss depth slightly hinders.",
    statistic="catch-up C(depth N over depth 1)",
    threshold="< 1.05",
    holds=lambda ratio: ratio < 1.05,
)
FASTER = Statement(
    id="fig3.l4",
    source=f"{SOURCE} (right)",
    text="With l4 loss depth accelerates significantly.",
    statistic="catch-up C(depth N over depth 1)",
    threshold=">= 1.5",
    holds=lambda ratio: ratio >= 1.5,
)
STATEMENTS = {"l2": SLOWER, "l4": FASTER}


def plans(problem: Problem, seeds: Sequence[int]) -> list[Plan]:
    """Every depth on the learning-rate grid, and depths 2 and 3 with the initial W_e of depth 1's norm."""
    runs = grid(depth=DEPTHS, lr=LEARNING_RATES, seed=seeds)
    for seed in seeds:
        norm = start_norm(problem, Run(depth=1, seed=seed))
        runs += grid(depth=DEPTHS[1:], lr=LEARNING_RATES, seed=seed, norm=norm)
    return [Plan(objective, runs, RECORD_EVERY) for objective in OBJECTIVES]


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts for depth 2 and 3, with and without the norm matched."""
    steps = data["step"].values
    found = []
    for objective, statement in STATEMENTS.items():
        for matched in (False, True):
            for depth in DEPTHS[1:]:
                ratios, early, rates = [], [], []
                for seed in setting.seeds:
                    plain = tuned(_arm(data, objective, 1, matched=False), seed)
                    deep = tuned(_arm(data, objective, depth, matched=matched), seed)
                    ratios.append(caught_up(deep.gap, plain.gap, steps))
                    early.append(mean_log_ratio(deep.gap, plain.gap, steps))
                    rates.append((plain.lr, deep.lr))
                note = (
                    f"Mean log10(gap of depth {depth} / gap of depth 1) over the first tenth: "
                    f"{number(float(np.median(early)))}. Chosen lr (depth 1, depth {depth}): "
                    + ", ".join(f"({a:g}, {b:g})" for a, b in dict.fromkeys(rates))
                    + "."
                )
                what = ", norm matched" if matched else ""
                comparison = f"{objective}: depth {depth} against depth 1{what}"
                found.append(statement.judge(comparison, ratios, setting, note=note, control=matched))
    return found


def _arm(data: xr.Dataset, objective: str, depth: int, *, matched: bool) -> xr.Dataset:
    return select(data, objective=objective, depth=depth, norm=np.isfinite if matched else None)


def pictures(data: xr.Dataset) -> list[Picture]:
    """Per objective the gaps at the best learning rates, and the gap at the horizon against the learning rate."""
    shown = []
    for objective in OBJECTIVES:
        curves, sensitivity = [], []
        for depth, matched in [(1, False), (2, False), (3, False), (2, True), (3, True)]:
            arm = _arm(data, objective, depth, matched=matched)
            label = f"depth {depth}" + (", norm matched" if matched else "")
            dash = "dot" if matched else "solid"
            curves.append(tuned_curve(label, arm, color=depth, dash=dash))
            sensitivity.append(rate_curve(label, arm, color=depth, dash=dash))
        title = f"Figure 3, {objective} loss"
        shown.append(
            Picture(
                f"{objective}: loss minus optimal loss, each depth at its best learning rate; the median over seeds is "
                "drawn, the band spans them. Dotted: the same with the initial W_e rescaled to depth 1's norm.",
                gap_figure(data["step"].values, curves, title=title),
            )
        )
        shown.append(
            Picture(
                f"{objective}: what is left of the gap at the last iteration, by learning rate. Rates at which a seed "
                "diverged are missing.",
                learning_rate_figure(LEARNING_RATES, sensitivity, title=f"{title}: sensitivity to the learning rate"),
            )
        )
    return shown


ITEM = Item(
    name="fig3",
    title="Figure 3: depth against the loss",
    said=(
        "With l2 loss, depth slightly hinders optimization.",
        "With l4 loss, depth accelerates it significantly, although the model can express no more.",
    ),
    ran=(
        "Linear networks of depth 1, 2 and 3 with hidden width 1, near-zero start, full-batch gradient descent.",
        "The learning rate of each depth is the best of 1e-5, 5e-5, ..., 1e-1, 5e-1: lowest loss at the horizon among "
        "runs that stayed finite.",
        "Control: depth 2 and 3 with the initial W_e rescaled to the norm of depth 1's, tuned alike.",
    ),
    statements=(SLOWER, FASTER),
    work=of_sweeps("fig3", plans),
    claims=claims,
    pictures=pictures,
)
