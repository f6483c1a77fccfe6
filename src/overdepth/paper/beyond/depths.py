"""Depth 1 to 8 and depths between the integers, from one initial weight."""

from __future__ import annotations

import itertools
import math
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
    plain_rate,
    smallest_of,
)
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context, Plan
from overdepth.paper.fig2 import EMULATES
from overdepth.paper.item import Item, Picture
from overdepth.paper.picture import Curve, add_curve, blank_figure, gap_figure

OBJECTIVE = "l4"
INIT = "near_identity"
NETWORKS = (1, 2, 3, 4, 5, 6, 7, 8)
RULES = (1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)  # at depth 1 the rule is gradient descent
CONTROLS = (1, 2, 3, 4, 6, 8)
NORM, SMALL_NORM = 1.0, 0.1
EXPONENTS = range(-1, 6)
DEEP_EXPONENTS = range(-5, 6)
DEEP = 3
LATE = 0.01


def rates(around: float, depth: float) -> list[float]:
    """The learning rates of a depth, a factor of the root of 2 apart."""
    return [around * 2 ** (k / 2) for k in (EXPONENTS if depth < DEEP else DEEP_EXPONENTS)]


FASTER = Statement(
    id="beyond.depths",
    source="ours",
    text="From one W_e that is not near zero, every depth from 2 to 8 accelerates significantly.",
    statistic="smallest catch-up C(depth N over depth 1) over the depths, learning rate tuned per depth",
    threshold=f">= {SIGNIFICANT:g}",
    holds=lambda ratio: ratio >= SIGNIFICANT,
)
DEEPER = Statement(
    id="beyond.depths-deeper",
    source="ours",
    text="The deeper, the faster: every depth overtakes the next smaller one.",
    statistic="smallest catch-up C(a depth over the next smaller one), learning rate tuned per depth",
    threshold="> 1",
    holds=lambda ratio: ratio > 1.0,
)
RULE = Statement(
    id="beyond.depths-rule",
    source="ours",
    text="The end-to-end rule gains at every depth what the network of that depth gains.",
    statistic="iterations to depth 1's last gap, network / rule, from one W_e, learning rates tuned for either",
    threshold=f"all in [{EMULATES[0]:g}, {EMULATES[1]:g}]",
    holds=lambda ratio: EMULATES[0] <= ratio <= EMULATES[1],
)


def work(context: Context) -> xr.Dataset:
    """Networks of every depth and the rule at real depths, on a grid around the plain layer's best rate."""
    around = plain_rate(context, "depths")
    shared = {"init": INIT, "seed": context.seeds}
    runs: list[Run] = []
    for depth in NETWORKS:
        norms = (NORM, SMALL_NORM) if depth in CONTROLS else NORM
        runs += grid(depth=depth, norm=norms, lr=rates(around, depth), **shared)
    for real in RULES:
        runs += grid(depth=real, norm=NORM, method="end_to_end", lr=rates(around, real), **shared)
    return context.sweep("depths", [Plan(OBJECTIVE, runs, RECORD_EVERY)])


def _arms(data: xr.Dataset, seeds: Sequence[int], method: str, norm: float) -> dict[float, TunedArm]:
    """By depth; at depth 1 either method is gradient descent."""
    depths = (1, *RULES) if method != "gd" else NETWORKS if norm == NORM else CONTROLS
    arms = {depth: select(data, depth=depth, method=method if depth > 1 else "gd", norm=norm) for depth in depths}
    return {depth: TunedArm.of(arm, seeds) for depth, arm in arms.items()}


def _late_divergence(data: xr.Dataset, method: str, norm: float) -> str:
    """A sentence about runs that diverged, but not at the start, if any did."""
    part = select(data, method=method, norm=norm)
    steps = part["diverged_at"].values
    is_late = steps > LATE * data["step"].values[-1]
    if not is_late.any():
        return ""
    late, of_depths = steps[is_late], np.unique(part["depth"].values[is_late])
    return (
        f" {len(late)} run{'s' if len(late) > 1 else ''} diverged late, at iterations {late.min():,.0f} to "
        f"{late.max():,.0f}: depth {', '.join(f'{depth:g}' for depth in of_depths)}."
    )


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts on networks and rule; networks from a smaller W_e are the control."""
    found = []
    over_plain: dict[str, dict[float, list[float]]] = {}
    for what, method, norm in (
        ("networks, depth 1 to 8", "gd", NORM),
        ("the rule, real depths from 1 to 8", "end_to_end", NORM),
        (f"networks, depth 1, 2, 3, 4, 6 and 8, W_e of norm {SMALL_NORM:g}", "gd", SMALL_NORM),
    ):
        control = norm != NORM
        arms = _arms(data, setting.seeds, method, norm)
        ratios = {depth: arm.over(arms[1]) for depth, arm in arms.items() if depth > 1}
        if not control:
            over_plain[method] = ratios
        note = f"C over depth 1: {listed({f'at depth {n:g}': row for n, row in ratios.items()})}. "
        note += chosen({f"depth {n:g}": arm for n, arm in arms.items()})
        note += _late_divergence(data, method, norm)
        smallest = smallest_of({f"{n:g}": row for n, row in ratios.items() if n >= 2})
        found.append(FASTER.judge(what, smallest, setting, note=note, control=control))
        pairs = itertools.pairwise(arms)
        over_next = {f"from depth {a:g} to {b:g}": arms[b].over(arms[a]) for a, b in pairs}
        note = f"C over the next smaller depth: {listed(over_next)}."
        if method == "end_to_end":
            note += " Infinite depth is left out: with one output it can only rescale W_e."
        found.append(DEEPER.judge(what, smallest_of(over_next), setting, note=note, control=control))
    network, rule = over_plain["gd"], over_plain["end_to_end"]
    both = [depth for depth in rule if depth in network]
    emulation = {f"at depth {n:g}": _quotients(rule[n], network[n]) for n in both}
    what = f"network against rule, depth {', '.join(f'{n:g}' for n in both)}"
    samples = np.array(list(emulation.values())).T.tolist()
    found.append(RULE.judge(what, samples, setting, note=f"Ratios: {listed(emulation)}."))
    return found


def _quotients(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Quotients of catch-ups; NaN where one of the two never catches up."""
    return [a / b if a > 0 and b > 0 else math.nan for a, b in zip(first, second, strict=True)]


def pictures(data: xr.Dataset) -> list[Picture]:
    """Catch-up and last gap against depth, and the gaps of the networks."""
    seeds = np.unique(data["seed"].values).tolist()
    ratio = blank_figure("Catch-up over depth 1", x="depth N", y="catch-up C", log_y=False, height=420)
    final = blank_figure("Gap at the last iteration", x="depth N", y="loss minus optimal loss", height=420)
    for color, label, method, norm, dash in (
        (1, "networks", "gd", NORM, "solid"),
        (2, "end-to-end rule", "end_to_end", NORM, "dash"),
        (3, f"networks, W_e of norm {SMALL_NORM:g}", "gd", SMALL_NORM, "dot"),
    ):
        arms = _arms(data, seeds, method, norm)
        ratios = np.array([arm.over(arms[1]) for arm in arms.values()]).T
        last = np.array([[best.gap[-1] for best in arm.best] for arm in arms.values()]).T
        for figure, values in ((ratio, ratios), (final, last)):
            curve = Curve(label, values, color=color, dash=dash)
            add_curve(figure, np.array(list(arms)), curve, mode="lines+markers")
    networks = _arms(data, seeds, "gd", NORM)
    curves = [arm.curve(f"depth {n:g}", color=i) for i, (n, arm) in enumerate(networks.items())]
    return [
        Picture("How many times sooner a depth reaches the gap that depth 1 has at the last iteration.", ratio),
        Picture("What is left of the gap, each depth at its best learning rate.", final),
        Picture(
            f"Networks from a W_e of norm {NORM:g}, each at its best learning rate.",
            gap_figure(data["step"].values, curves, title="Depth 1 to 8"),
        ),
    ]


ITEM = Item(
    name="depths",
    title="Depth 1 to 8, and between the integers",
    said=(
        "How does the gain grow with the depth, if plateaus do not hide it?",
        "Does the end-to-end rule give the same gain, and what do depths between the integers do?",
    ),
    ran=(
        "Linear networks of depth 1 to 8 with hidden width 1 from near the identity, l4 loss. All are rescaled to one "
        f"and the same W_e of norm {NORM:g}.",
        "One layer under the end-to-end rule at depths 1.25, 1.5, 2, 2.5, 3, 4, 6 and 8 from that W_e. Infinite depth "
        "is left out: with one output it can only rescale W_e.",
        "Learning rates per depth: from 0.7 to 5.7 times what is best for one layer from near zero, a factor of the "
        f"root of 2 apart; from depth {DEEP} on from 0.18 times, as larger rates may diverge there.",
        f"Control: networks of depth 1, 2, 3, 4, 6 and 8 from the same W_e rescaled to norm {SMALL_NORM:g}.",
    ),
    statements=(FASTER, DEEPER, RULE),
    work=work,
    claims=claims,
    pictures=pictures,
    part="beyond",
    minutes=(2.5, 0.2),
)
