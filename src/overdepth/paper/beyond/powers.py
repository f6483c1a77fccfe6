"""Losses of power 2, 4 and 6: whether what depth gains grows with the power."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import xarray as xr

from overdepth.lab.curves import gaps, select
from overdepth.lab.run import Run, grid
from overdepth.paper.beyond.tuning import RECORD_EVERY, SIGNIFICANT, TunedArm, chosen, listed, nearby_rates, plain_rate
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context, Plan
from overdepth.paper.item import LEARNING_RATES, Item, Picture, start_norm
from overdepth.paper.picture import Curve, add_curve, blank_figure, gap_figure

DEPTHS = (1, 2, 3)
POWERS = (2, 4, 6)
STEEP_BELOW, STEEP_ABOVE = 1, 8
STEEPEST = tuple(float(f"{digit}e{exponent}") for exponent in range(-8, -1) for digit in (1, 5))

FASTER = Statement(
    id="beyond.powers",
    source="ours",
    text="With l_p loss, depth accelerates significantly.",
    statistic="catch-up C(depth N over depth 1), learning rate tuned per arm",
    threshold=f">= {SIGNIFICANT:g}",
    holds=lambda ratio: ratio >= SIGNIFICANT,
)
GROWS = Statement(
    id="beyond.powers-order",
    source="ours",
    text="The higher the power, the more depth accelerates.",
    statistic="C(depth N over depth 1) with the higher power minus that with the lower one",
    threshold="> 0",
    holds=lambda growth: growth > 0.0,
)


def work(context: Context) -> xr.Dataset:
    """Figure 3's runs for l2 and l4, and the same arms for l6 around the best rate of one plain layer."""
    steep = nearby_rates(plain_rate(context, "powers", "l6", STEEPEST), STEEP_BELOW, STEEP_ABOVE)
    plans = []
    for power in POWERS:
        rates = {1: STEEPEST, 2: steep, 3: steep} if power > 4 else dict.fromkeys(DEPTHS, LEARNING_RATES)
        runs: list[Run] = []
        for depth in DEPTHS:
            runs += grid(depth=depth, lr=rates[depth], seed=context.seeds)
        for seed in context.seeds:
            norm = start_norm(context.problem, Run(depth=1, seed=seed))
            for depth in DEPTHS[1:]:
                runs += grid(depth=depth, lr=rates[depth], seed=seed, norm=norm)
        plans.append(Plan(f"l{power}", runs, RECORD_EVERY))
    return context.sweep("powers", plans)


def _arm(data: xr.Dataset, power: int, depth: int, *, matched: bool = False) -> xr.Dataset:
    return select(data, objective=f"l{power}", depth=depth, norm=np.isfinite if matched else None)


def _arms(data: xr.Dataset, seeds: Sequence[int], *, matched: bool) -> dict[tuple[int, int], TunedArm]:
    """By power and depth; the plain layer is never rescaled."""
    keys = itertools.product(POWERS, DEPTHS)
    return {(p, n): TunedArm.of(_arm(data, p, n, matched=matched and n > 1), seeds) for p, n in keys}


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts on every power and depth, and on their order, with the norm matched as a control."""
    found = []
    for matched in (False, True):
        words = ", norm matched" if matched else ""
        arms = _arms(data, setting.seeds, matched=matched)
        for depth in DEPTHS[1:]:
            by_power = {p: arms[p, depth].over(arms[p, 1]) for p in POWERS}
            for power, ratios in by_power.items():
                note = chosen({f"depth {n}": arms[power, n] for n in (1, depth)})
                if power == 2:
                    note += " This is what Figure 3 (left) asks the other way round: there depth should hinder."
                what = f"l{power}: depth {depth} against depth 1{words}"
                found.append(FASTER.judge(what, ratios, setting, note=note, control=matched))
            for low, high in itertools.pairwise(POWERS):
                growth = [more - less for more, less in zip(by_power[high], by_power[low], strict=True)]
                note = f"C: {listed({f'with l{p}': by_power[p] for p in (low, high)})}."
                what = f"l{high} against l{low}, depth {depth}{words}"
                found.append(GROWS.judge(what, growth, setting, note=note, control=matched))
    return found


def pictures(data: xr.Dataset) -> list[Picture]:
    """The catch-up against the power, and the gaps with l6."""
    seeds = np.unique(data["seed"].values).tolist()
    ratios = blank_figure("Catch-up over depth 1", x="power p of the loss", y="catch-up C", height=420)
    ratios.add_hline(y=1, line={"width": 1, "dash": "dash", "color": "#888888"})
    ratios.update_xaxes(tickvals=list(POWERS))
    steep = POWERS[-1]
    curves = []
    for matched, words, dash in ((False, "", "solid"), (True, ", norm matched", "dot")):
        arms = _arms(data, seeds, matched=matched)
        for depth in DEPTHS:
            label = f"depth {depth}{words}"
            if depth > 1:
                values = np.array([arms[p, depth].over(arms[p, 1]) for p in POWERS]).T
                curve = Curve(label, values, color=depth, dash=dash)
                add_curve(ratios, np.array(POWERS, dtype=np.float64), curve, mode="lines+markers")
            if depth > 1 or not matched:
                curves.append(arms[steep, depth].curve(label, color=depth, dash=dash))
    rates = blank_figure(f"l{steep}: learning rates", x="learning rate", y="gap at the last iteration", log_x=True)
    for depth in DEPTHS:
        arm = select(_arm(data, steep, depth), seed=seeds[0])
        final = Curve(f"depth {depth}", gaps(arm)[None, :, -1], color=depth)
        add_curve(rates, arm["lr"].values, final, mode="lines+markers")
    return [
        Picture(
            "How many times sooner depth reaches the gap that one layer has at the last iteration, each at its best "
            "learning rate. Below the dashed line depth is the slower one; where it never gets there, nothing is "
            "drawn.",
            ratios,
        ),
        Picture(
            f"l{steep}: loss minus optimal loss, each at its best learning rate.",
            gap_figure(data["step"].values, curves, title=f"l{steep} loss"),
        ),
        Picture(f"l{steep}: what is left of the gap, by learning rate, for seed {seeds[0]}.", rates),
    ]


ITEM = Item(
    name="powers",
    title="Powers: l2, l4 and l6",
    said=("Does depth accelerate l_p losses, and the more so, the higher the power p?",),
    ran=(
        "Linear networks of depth 1, 2 and 3 with hidden width 1 from near zero, for the l2, l4 and l6 loss; l2 and l4 "
        "are Figure 3's runs.",
        "With l6 the gradient is steep at the start, and one layer needs a small learning rate: its grid is "
        "1e-8, 5e-8, ..., 5e-2; that of the deeper networks goes from one position below its best rate to eight above.",
        "Control: depth 2 and 3 with the initial W_e rescaled to the norm of depth 1's, tuned alike.",
    ),
    statements=(FASTER, GROWS),
    work=work,
    claims=claims,
    pictures=pictures,
    part="beyond",
    minutes=(1.0, 0.1),
)
