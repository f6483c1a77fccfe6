"""Hidden widths 1, 10 and 100: whether what depth gains depends on the width."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import xarray as xr

from overdepth.lab.curves import select
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
from overdepth.paper.context import Context, Plan
from overdepth.paper.item import LEARNING_RATES, Item, Picture, start_norm
from overdepth.paper.picture import Curve, add_curve, blank_figure, gap_figure

OBJECTIVE = "l4"
DEPTHS = (2, 3)
WIDTHS = (1, 10, 100)
BELOW, ABOVE = 2, 4
ALIKE = 0.5
DASHES = {1: "solid", 10: "dash", 100: "dot"}

GAIN = Statement(
    id="beyond.widths",
    source="ours",
    text="Depth accelerates significantly whatever the hidden width.",
    statistic=f"smallest catch-up C(depth N over depth 1) over the widths {', '.join(map(str, WIDTHS))}",
    threshold=f">= {SIGNIFICANT:g}",
    holds=lambda ratio: ratio >= SIGNIFICANT,
)
SPREAD = Statement(
    id="beyond.widths-spread",
    source="ours",
    text="The hidden width has a negligible effect on what depth gains.",
    statistic=f"smallest / largest catch-up C(depth N over depth 1) over the widths {', '.join(map(str, WIDTHS))}",
    threshold=f">= {ALIKE:g}",
    holds=lambda ratio: ratio >= ALIKE,
)


def work(context: Context) -> xr.Dataset:
    """Figure 3's runs at width 1, and wider networks around the best rate of one plain layer."""
    rates = nearby_rates(plain_rate(context, "widths"), BELOW, ABOVE)
    runs = grid(depth=(1, *DEPTHS), lr=LEARNING_RATES, seed=context.seeds)
    runs += grid(depth=DEPTHS, width=WIDTHS[1:], lr=rates, seed=context.seeds)
    for seed in context.seeds:
        norm = start_norm(context.problem, Run(depth=1, seed=seed))
        runs += grid(depth=DEPTHS, lr=LEARNING_RATES, seed=seed, norm=norm)
        runs += grid(depth=DEPTHS, width=WIDTHS[1:], lr=rates, seed=seed, norm=norm)
    return context.sweep("widths", [Plan(OBJECTIVE, runs, RECORD_EVERY)])


def _arms(data: xr.Dataset, seeds: Sequence[int], *, matched: bool) -> dict[tuple[int, int], TunedArm]:
    """By depth and width; the plain layer is never rescaled."""
    arms = {(1, 1): select(data, depth=1)}
    for depth, width in itertools.product(DEPTHS, WIDTHS):
        arms[depth, width] = select(data, depth=depth, width=width, norm=np.isfinite if matched else None)
    return {key: TunedArm.of(arm, seeds) for key, arm in arms.items()}


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts per depth, with the norm matched as a control."""
    found = []
    for matched in (False, True):
        words = ", norm matched" if matched else ""
        arms = _arms(data, setting.seeds, matched=matched)
        for depth in DEPTHS:
            ratios = {f"at width {width}": arms[depth, width].over(arms[1, 1]) for width in WIDTHS}
            rates = {"depth 1": arms[1, 1], **{f"width {width}": arms[depth, width] for width in WIDTHS}}
            note = f"C: {listed(ratios)}. {chosen(rates)}"
            smallest = smallest_of(ratios)
            largest = np.max(list(ratios.values()), axis=0)
            spread = [low / high if high > 0 else np.nan for low, high in zip(smallest, largest, strict=True)]
            for statement, sample in ((GAIN, smallest), (SPREAD, spread)):
                what = f"depth {depth} at width 1, 10 and 100{words}"
                found.append(statement.judge(what, sample, setting, note=note, control=matched))
    return found


def pictures(data: xr.Dataset) -> list[Picture]:
    """The catch-up against the width, and the gaps at every depth and width."""
    seeds = np.unique(data["seed"].values).tolist()
    by_width = blank_figure("Catch-up over depth 1", x="hidden width", y="catch-up C", log_x=True, log_y=False)
    by_width.update_layout(height=420)
    by_width.update_xaxes(tickvals=list(WIDTHS))
    shown = []
    for matched, words in ((False, ""), (True, ", norm matched")):
        arms = _arms(data, seeds, matched=matched)
        curves = [arms[1, 1].curve("depth 1", color=1)]
        for depth in DEPTHS:
            curves += [
                arms[depth, width].curve(f"depth {depth}, width {width}", color=depth, dash=DASHES[width])
                for width in WIDTHS
            ]
            ratios = np.array([arms[depth, width].over(arms[1, 1]) for width in WIDTHS]).T
            curve = Curve(f"depth {depth}{words}", ratios, color=depth, dash="dot" if matched else "solid")
            add_curve(by_width, np.array(WIDTHS, dtype=np.float64), curve, mode="lines+markers")
        caption = f"l4: loss minus optimal loss, each at its best learning rate{words}."
        shown.append(Picture(caption, gap_figure(data["step"].values, curves, title=f"Hidden widths{words}")))
    caption = (
        "How many times sooner depth reaches the gap that one layer has at the last iteration, by hidden width; 0 if "
        "it does not."
    )
    return [Picture(caption, by_width), *shown]


ITEM = Item(
    name="widths",
    title="Hidden widths 1, 10 and 100",
    said=("Does what depth gains depend on the width of the hidden layers, once the learning rate is tuned?",),
    ran=(
        "Linear networks of depth 2 and 3 and hidden width 1, 10 and 100 from near zero, l4 loss; width 1 and the "
        "plain layer are Figure 3's runs.",
        f"Wider networks: the learning rate that is best for the plain layer, {BELOW} positions of the grid 1e-5, "
        f"5e-5, ... below it and {ABOVE} above.",
        "Control: every initial W_e rescaled to the norm of the plain layer's, as a wider network starts from a "
        "larger W_e.",
    ),
    statements=(GAIN, SPREAD),
    work=work,
    claims=claims,
    pictures=pictures,
    part="beyond",
    minutes=(1.0, 0.1),
)
