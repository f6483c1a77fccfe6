"""Depth against the scale of the initial weight and against finer learning rates."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from overdepth.lab.curves import gaps, select
from overdepth.lab.run import Run, grid
from overdepth.paper.beyond.tuning import (
    RECORD_EVERY,
    SIGNIFICANT,
    TunedArm,
    chosen,
    listed,
    nearby_rates,
    plain_rate,
    smallest_of,
)
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context, Plan, joined
from overdepth.paper.item import LEARNING_RATES, Item, Picture, start_norm
from overdepth.paper.picture import Curve, add_curve, blank_figure, gap_figure

OBJECTIVE = "l4"
DEPTHS = (1, 2, 3)
NEAR_ZERO = 0.01
BELOW = {NEAR_ZERO: 0, 0.03: 3, 0.1: 5, 0.3: 6}
"""Standard deviations of the plain layer's initial entries, and how far below its best rate near zero grids reach."""
SCALES = tuple(BELOW)
STARTS = tuple(f"{scale:g}" for scale in SCALES)
ABOVE = 4
OWN = {depth: f"depth {depth}'s own" for depth in DEPTHS[1:]}
"""Arms in which the plain layer gets the norm that depth 2 or 3 has near zero by itself."""
FINE = 1.25
FINER = tuple(FINE**k for k in range(-1, 8) if k)

GRIDS = {
    (False, False): "",
    (True, False): ", finer grid for depth 1",
    (True, True): ", finer grid for both",
}
"""Whether depth 1 and whether the deeper network has the finer grid, in words."""

NEVER = " C is 0 where the deeper network does not get there within the horizon."

MATCHED = Statement(
    id="beyond.scale",
    source="ours",
    text="Depth accelerates significantly also if all depths start from a W_e of one norm, whatever it is.",
    statistic=f"smallest catch-up C(depth N over depth 1) over the scales {', '.join(STARTS)}",
    threshold=f">= {SIGNIFICANT:g}",
    holds=lambda ratio: ratio >= SIGNIFICANT,
)
FINE_GRID = Statement(
    id="beyond.scale-grid",
    source="ours",
    text="The gain is no gap in the grid of learning rates: it stays if depth 1 is tuned more finely.",
    statistic=MATCHED.statistic + f"; around depth 1's best learning rate the grid has steps of a factor {FINE:g}",
    threshold=MATCHED.threshold,
    holds=MATCHED.holds,
)


def work(context: Context) -> xr.Dataset:
    """Every depth at every norm on the paper's grid, and then on a finer one around each arm's best rate."""
    around = plain_rate(context, "scale")
    runs: list[Run] = []
    starts: list[str] = []
    for seed in context.seeds:
        for scale, below in BELOW.items():
            rates = LEARNING_RATES if scale == NEAR_ZERO else nearby_rates(around, below, ABOVE)
            norm = start_norm(context.problem, Run(depth=1, seed=seed, scale=scale))
            fresh = grid(depth=1, seed=seed, scale=scale, lr=rates)
            fresh += grid(depth=DEPTHS[1:], seed=seed, norm=norm, lr=rates)
            runs += fresh
            starts += [f"{scale:g}"] * len(fresh)
        for depth, own in OWN.items():
            norm = start_norm(context.problem, Run(depth=depth, seed=seed))
            fresh = grid(depth=depth, seed=seed, lr=LEARNING_RATES)
            fresh += grid(depth=1, seed=seed, norm=norm, lr=nearby_rates(around, 1, 1))
            runs += fresh
            starts += [own] * len(fresh)
    coarse = _sweep(context, "scale", runs, starts, is_fine=False)
    templates = {(run.depth, start, run.seed): run for run, start in zip(runs, starts, strict=True)}
    runs, starts = [], []
    for depth, start in itertools.product(DEPTHS, STARTS):
        best = {best.lr for best in TunedArm.of(_arm(coarse, depth, start), context.seeds).best}
        rates = sorted({rate * factor for rate in best if not math.isnan(rate) for factor in FINER})
        for seed in context.seeds:
            runs += [replace(templates[depth, start, seed], lr=rate) for rate in rates]
            starts += [start] * len(rates)
    if not runs:
        return coarse
    return joined([coarse, _sweep(context, "scale, finer", runs, starts, is_fine=True)])


def _sweep(context: Context, name: str, runs: Sequence[Run], starts: Sequence[str], *, is_fine: bool) -> xr.Dataset:
    """The runs with their scale, and whether their learning rate is off the paper's grid, as coordinates."""
    data = context.sweep(name, [Plan(OBJECTIVE, runs, RECORD_EVERY)])
    return data.assign_coords(start=("run", list(starts)), is_fine=("run", [int(is_fine)] * len(runs)))


def _arm(data: xr.Dataset, depth: int, start: str, *, fine: bool = False) -> xr.Dataset:
    """The runs of a depth and scale; with ``fine`` those off the paper's grid too."""
    part = select(data, depth=depth, start=start)
    return part if fine else select(part, is_fine=0)


def _arms(data: xr.Dataset, seeds: Sequence[int]) -> dict[tuple[int, str, bool], TunedArm]:
    """By depth, start, and whether the grid is the finer one."""
    keys = itertools.product(DEPTHS, STARTS, (False, True))
    return {(n, start, fine): TunedArm.of(_arm(data, n, start, fine=fine), seeds) for n, start, fine in keys}


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts with the norm matched, on either grid."""
    arms = _arms(data, setting.seeds)
    found = []
    for (plain_fine, deep_fine), words in GRIDS.items():
        statement, control = (FINE_GRID if plain_fine else MATCHED), deep_fine
        for depth in DEPTHS[1:]:
            plain = {start: arms[1, start, plain_fine] for start in STARTS}
            deep = {start: arms[depth, start, deep_fine] for start in STARTS}
            ratios = {f"at scale {start}": deep[start].over(plain[start]) for start in STARTS}
            note = f"C: {listed(ratios)}. {chosen({f'depth 1 at {start}': arm for start, arm in plain.items()})} "
            note += chosen({f"depth {depth} at {start}": arm for start, arm in deep.items()})
            if min(smallest_of(ratios)) == 0:
                note += NEVER
            what = f"depth {depth} against depth 1, W_e of one norm{words}"
            found.append(statement.judge(what, smallest_of(ratios), setting, note=note, control=control))
    for depth, own in OWN.items():
        plain_arm, deep_arm = (_arm(data, n, own) for n in (1, depth))
        norm = float(np.median(plain_arm["norm"].values))
        pair = {f"depth {n}": TunedArm.of(arm, setting.seeds) for n, arm in ((1, plain_arm), (depth, deep_arm))}
        note = f"Depth 1 starts from a W_e of norm {norm:.2g}, as depth {depth} does by itself at scale {NEAR_ZERO:g}. "
        what = f"depth {depth} from near zero against depth 1 with that norm of W_e"
        ratio = pair[f"depth {depth}"].over(pair["depth 1"])
        found.append(MATCHED.judge(what, ratio, setting, note=note + chosen(pair), control=True))
    return found


def pictures(data: xr.Dataset) -> list[Picture]:
    """Catch-up against scale, gaps against the learning rate, and the gaps near zero and farther away."""
    arms = _arms(data, np.unique(data["seed"].values).tolist())
    ratios = blank_figure("Catch-up over depth 1", x="scale", y="catch-up C", log_x=True, log_y=False, height=420)
    ratios.update_xaxes(tickvals=list(SCALES))
    for ((plain_fine, deep_fine), words), dash in zip(GRIDS.items(), ("solid", "dash", "dot"), strict=True):
        for depth in DEPTHS[1:]:
            values = np.array([arms[depth, s, deep_fine].over(arms[1, s, plain_fine]) for s in STARTS]).T
            curve = Curve(f"depth {depth}{words}", values, color=depth, dash=dash)
            add_curve(ratios, np.array(SCALES), curve, mode="lines+markers")
    rates = blank_figure("Learning rates", x="learning rate", y="gap at the last iteration", log_x=True)
    curves = []
    for start, dash in zip(STARTS, ("solid", "dash", "dot", "dashdot"), strict=True):
        for depth in DEPTHS:
            label = f"depth {depth}, scale {start}"
            curves.append(arms[depth, start, True].curve(label, color=depth, dash=dash))
            arm = _arm(data, depth, start, fine=True)
            own_rates, last = arm["lr"].values, gaps(arm)[:, -1]
            x = np.unique(own_rates)
            final = np.stack([last[own_rates == rate] for rate in x], axis=1)
            add_curve(rates, x, Curve(label, final, color=depth, dash=dash), mode="lines+markers")
    caption = (
        "How many times sooner depth reaches the gap that one layer has at the last iteration. The scale is the "
        "standard deviation of one layer's initial entries; the deeper networks start from a W_e of the same norm."
    )
    return [
        Picture(caption, ratios),
        Picture("What is left of the gap by learning rate, at every scale; diverged runs are missing.", rates),
        Picture(
            "Loss minus optimal loss, each at its best learning rate of the finer grid.",
            gap_figure(data["step"].values, curves, title="Depth and scale"),
        ),
    ]


ITEM = Item(
    name="scale",
    title="Depth against scale and learning rate",
    said=(
        "Is what depth gains the effect of another norm of the initial W_e, or of the learning rate?",
        "Does it remain farther from zero, up to where learning rates must shrink to keep anything finite?",
    ),
    ran=(
        "Linear networks of depth 1, 2 and 3 with hidden width 1, l4 loss. The plain layer starts with entries of "
        f"standard deviation {', '.join(STARTS)}, the others from near-zero factors rescaled to the "
        "norm of the plain layer's W_e.",
        "Learning rates on the paper's grid: all of it at scale 0.01; at larger scales 3, 5 and 6 positions below the "
        "rate that is best for the plain layer near zero, and 4 above.",
        f"Control: the grid refined to steps of a factor {FINE:g} around the best rate, for the plain layer alone "
        "and for both.",
        "Control: depth 2 and 3 as they start near zero by themselves, against the plain layer with that norm.",
    ),
    statements=(MATCHED, FINE_GRID),
    work=work,
    claims=claims,
    pictures=pictures,
    part="beyond",
    minutes=(2.0, 0.2),
)
