"""Minibatch noise: does depth still help when every step sees a few rows of the data?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from overdepth.lab.curves import select
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run, grid
from overdepth.paper.beyond.methods import compared
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Plan
from overdepth.paper.item import LEARNING_RATES, Item, Picture, of_sweeps, start_norm
from overdepth.paper.picture import gap_figure
from overdepth.paper.tuning import tuned, tuned_curve

RECORD_EVERY = 100
OBJECTIVE = "l4"
DEPTHS = (1, 2, 3)
BATCHES = (32, 256)
WINDOW = 10
"""Recorded losses under minibatches are replaced by the median of so many, the last of which they are."""

SURVIVES = Statement(
    id="beyond.minibatch",
    source="ours",
    text="Depth's acceleration with l4 loss survives minibatch noise.",
    statistic=f"catch-up C(depth N over depth 1), learning rates tuned, medians of {WINDOW} recorded losses",
    threshold=">= 1.5, as for all data a step",
    holds=lambda ratio: ratio >= 1.5,
)


def plans(problem: Problem, seeds: Sequence[int]) -> list[Plan]:
    """Depth 1, 2 and 3 on the grid, with and without the norm matched, for every batch size below the data's."""
    runs: list[Run] = []
    for seed in seeds:
        norm = start_norm(problem, Run(depth=1, seed=seed))
        runs += grid(depth=DEPTHS, lr=LEARNING_RATES, seed=seed)
        runs += grid(depth=DEPTHS[1:], lr=LEARNING_RATES, seed=seed, norm=norm)
    sizes = [*(size for size in BATCHES if size < problem.m), None]
    return [Plan(OBJECTIVE, runs, RECORD_EVERY, batch_size=size) for size in sizes]


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts for each batch size; all data a step, and the norm matched, are controls."""
    found = []
    everything = int(data["batch_size"].values.max())
    for size in BATCHES:
        if size >= everything:
            why = f"The data have only {everything} rows."
            found += [SURVIVES.not_run(_what(size, depth), setting, why) for depth in DEPTHS[1:]]
    for size in _sizes(data):
        plain = _arm(data, size, 1)
        for matched in (False, True):
            for depth in DEPTHS[1:]:
                deep = _arm(data, size, depth, matched=matched)
                ratios, note = compared(deep, plain, setting.seeds)
                if any(_waits(deep, seed) for seed in setting.seeds):
                    note += f" Depth {depth} stays near its start at every learning rate at which it does not diverge."
                what = _what(size if size < everything else None, depth) + (", norm matched" if matched else "")
                control = matched or size == everything
                found.append(SURVIVES.judge(what, ratios, setting, note=note, control=control))
    return found


def _waits(arm: xr.Dataset, seed: int) -> bool:
    """Whether even the best run ends with most of its initial gap."""
    gap = tuned(arm, seed).gap
    return bool(gap[-1] > 0.9 * gap[0])


def smoothed(data: xr.Dataset) -> xr.Dataset:
    """The same with every recorded loss replaced by the median of the last ``WINDOW``; NaN stays NaN."""
    loss = data["loss"].transpose("run", "step").values
    padded = np.concatenate([np.full((len(loss), WINDOW - 1), np.nan), loss], axis=1)
    medians = loss.copy()
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=1)
    known = np.isfinite(loss)
    medians[known] = np.nanmedian(windows[known], axis=1)
    return data.assign(loss=(("run", "step"), medians, data["loss"].attrs))


def _arm(data: xr.Dataset, size: int, depth: int, *, matched: bool = False) -> xr.Dataset:
    """The runs of an arm, which differ in seed and learning rate; smoothed unless each step saw all data."""
    arm = select(data, batch_size=size, depth=depth, norm=np.isfinite if matched else None)
    return arm if size == data["batch_size"].values.max() else smoothed(arm)


def _sizes(data: xr.Dataset) -> list[int]:
    return [int(size) for size in np.unique(data["batch_size"].values)]


def _what(size: int | None, depth: int) -> str:
    return f"{'all data a step' if size is None else f'batch {size}'}: depth {depth} against depth 1"


def pictures(data: xr.Dataset) -> list[Picture]:
    """Per batch size the gaps of the depths at their best learning rates."""
    shown = []
    for size in _sizes(data)[:-1]:
        curves = []
        for depth in DEPTHS:
            for matched in (False, True)[: 1 if depth == 1 else 2]:
                label = f"depth {depth}" + (", norm matched" if matched else "")
                arm = _arm(data, size, depth, matched=matched)
                curves.append(tuned_curve(label, arm, color=depth, dash="dot" if matched else "solid"))
        caption = (
            f"{size} rows a step, {OBJECTIVE} loss on all data: medians of the last {WINDOW} recorded losses, each "
            "depth at its best learning rate. Dotted: the initial W_e rescaled to depth 1's norm."
        )
        shown.append(Picture(caption, gap_figure(data["step"].values, curves, title=f"Batches of {size}")))
    return shown


ITEM = Item(
    name="minibatch",
    title="Minibatch noise",
    said=("Does depth still speed up training with l4 loss when every step sees a few rows of the data?",),
    ran=(
        "Figure 3's networks of depth 1, 2 and 3 with l4 loss and minibatches of 32 and 256 rows, drawn without "
        "replacement within an epoch and the same for all runs; the learning rate of each depth and batch size is the "
        "best of the paper's grid.",
        f"Losses are those of all data, every {RECORD_EVERY} iterations; since they jump, their medians over the last "
        f"{WINDOW} are compared.",
        "Controls: all data a step, without medians, as in Figure 3; depth 2 and 3 with the initial W_e rescaled to "
        "the norm of depth 1's.",
    ),
    statements=(SURVIVES,),
    work=of_sweeps("minibatch", plans),
    claims=claims,
    pictures=pictures,
    part="beyond",
    minutes=(2.5, 0.2),
)
