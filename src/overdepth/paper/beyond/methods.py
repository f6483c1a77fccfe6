"""Depth combined with momentum, AdaGrad and RMSProp: does it speed up what is fast already?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from overdepth.lab.curves import select
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run, grid
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Plan
from overdepth.paper.item import LEARNING_RATES, Item, Picture, of_sweeps, start_norm
from overdepth.paper.picture import gap_figure
from overdepth.paper.tuning import caught_up, tuned, tuned_curve

RECORD_EVERY = 100
OBJECTIVE = "l4"
DEPTHS = (1, 2, 3)
RATES: dict[str, tuple[float, ...]] = {
    "gd": LEARNING_RATES,
    "momentum": LEARNING_RATES,
    "adagrad": LEARNING_RATES[4:],
    "rmsprop": LEARNING_RATES[:6],
}
NAMES = {"gd": "gradient descent", "momentum": "momentum", "adagrad": "AdaGrad", "rmsprop": "RMSProp"}

FASTER = Statement(
    id="beyond.methods",
    source="ours",
    text="With l4 loss, depth speeds up momentum, AdaGrad and RMSProp too.",
    statistic="catch-up C(the method at depth N over the method at depth 1), learning rates tuned",
    threshold="> 1.1",
    holds=lambda ratio: ratio > 1.1,
)


def plans(problem: Problem, seeds: Sequence[int]) -> list[Plan]:
    """Every method at depth 1, 2 and 3, and at depth 2 and 3 with the initial W_e of depth 1's norm."""
    runs: list[Run] = []
    for seed in seeds:
        norm = start_norm(problem, Run(depth=1, seed=seed))
        for method, rates in RATES.items():
            runs += grid(method=method, depth=DEPTHS, lr=rates, seed=seed)
            runs += grid(method=method, depth=DEPTHS[1:], lr=rates, seed=seed, norm=norm)
    return [Plan(OBJECTIVE, runs, RECORD_EVERY)]


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts for each method; gradient descent, and the norm matched, are controls."""
    found = []
    for method, name in NAMES.items():
        plain = _arm(data, method, 1)
        for matched in (False, True):
            for depth in DEPTHS[1:]:
                deep = _arm(data, method, depth, matched=matched)
                ratios, note = compared(deep, plain, setting.seeds)
                what = f"{name}: depth {depth} against depth 1" + (", norm matched" if matched else "")
                control = matched or method == "gd"
                found.append(FASTER.judge(what, ratios, setting, note=note, control=control))
    return found


def compared(arm: xr.Dataset, reference: xr.Dataset, seeds: Sequence[int]) -> tuple[list[float], str]:
    """Per seed the catch-up of one arm over another, each at its best learning rate, and a sentence on the rates."""
    pairs = [(tuned(arm, seed), tuned(reference, seed)) for seed in seeds]
    ratios = [caught_up(first.gap, second.gap, arm["step"].values) for first, second in pairs]
    rates = dict.fromkeys((first.lr, second.lr) for first, second in pairs)
    note = f"Chosen lr (first, second): {', '.join(f'({a:g}, {b:g})' for a, b in rates)}."
    return ratios, note + "".join(
        f" The {which}'s is the {edge} tried."
        for which, part, position in (("first", arm, 0), ("second", reference, 1))
        for edge, rate in (("smallest", part["lr"].values.min()), ("largest", part["lr"].values.max()))
        if rate in {pair[position] for pair in rates}
    )


def _arm(data: xr.Dataset, method: str, depth: int, *, matched: bool = False) -> xr.Dataset:
    return select(data, method=method, depth=depth, norm=np.isfinite if matched else None)


def pictures(data: xr.Dataset) -> list[Picture]:
    """Per method the gaps of the depths at their best learning rates, gradient descent's dashed."""
    shown = []
    for method, name in NAMES.items():
        if method == "gd":
            continue
        curves = []
        for depth in DEPTHS:
            label = f"depth {depth}"
            curves.append(tuned_curve(label, _arm(data, method, depth), color=depth))
            curves.append(tuned_curve(f"{label}, {NAMES['gd']}", _arm(data, "gd", depth), color=depth, dash="dash"))
            if depth > 1:
                arm = _arm(data, method, depth, matched=True)
                curves.append(tuned_curve(f"{label}, norm matched", arm, color=depth, dash="dot"))
        caption = (
            f"{name}, {OBJECTIVE} loss, every arm at its best learning rate. Dashed: gradient descent of the same "
            "depth. Dotted: the initial W_e rescaled to depth 1's norm."
        )
        shown.append(Picture(caption, gap_figure(data["step"].values, curves, title=f"Depth and {name}")))
    return shown


ITEM = Item(
    name="methods",
    title="Depth combined with other methods",
    said=("Does depth still speed up training when momentum, AdaGrad or RMSProp do the steps?",),
    ran=(
        "Momentum 0.9, AdaGrad and RMSProp as torch.optim defines them, on networks of depth 1, 2 and 3, width 1, "
        "near-zero start, l4 loss, all data a step.",
        "The learning rate of each method and depth is the best of the paper's grid: all of it for momentum, 1e-3 and "
        "above for AdaGrad, up to 5e-3 for RMSProp; the grid's other rates are left out.",
        "Controls: gradient descent; depth 2 and 3 with the initial W_e rescaled to the norm of depth 1's.",
    ),
    statements=(FASTER,),
    work=of_sweeps("methods", plans),
    claims=claims,
    pictures=pictures,
    part="beyond",
    minutes=(2.5, 0.2),
)
