"""Figure 5, left: depth 4 and 8 from near zero and from near the identity, for the l4 loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr

from overdepth.lab.curves import first_step, select
from overdepth.lab.problem import Problem
from overdepth.lab.run import grid
from overdepth.paper.claim import HORIZON, Claim, Setting, Statement
from overdepth.paper.context import Plan
from overdepth.paper.item import LEARNING_RATES, Item, Picture, of_sweeps
from overdepth.paper.picture import Curve, gap_figure, learning_rate_figure
from overdepth.paper.tuning import caught_up, rate_curve, tuned, tuned_curve

OBJECTIVE = "l4"
RECORD_EVERY = 100  # as in Figure 3, whose runs at depth 1 these are
DEPTHS = (1, 4, 8)
STARTS = {"near_zero": "near zero", "near_identity": "near the identity"}
SOURCE = "Arora, Cohen & Hazan 2018, Figure 5 (left)"
MOVED = 0.95
HALF = 0.5
PLATEAU = (45_000.0, 85_000.0)
AT_ONCE = 1_000.0

PLATEAU4 = Statement(
    id="fig5.plateau4",
    source=SOURCE,
    text="From near zero, depth 4 makes visible progress only after about 65,000 iterations.",
    statistic=f"first iteration with loss below {MOVED:.0%} of the start, depth 4, best lr",
    threshold=f"in [{PLATEAU[0]:,.0f}, {PLATEAU[1]:,.0f}]",
    holds=lambda time: PLATEAU[0] <= time <= PLATEAU[1],
)
STUCK8 = Statement(
    id="fig5.stuck8",
    source=SOURCE,
    text=f"From near zero, depth 8 is stuck after {HORIZON:,} iterations whatever the learning rate.",
    statistic=f"fraction of learning rates at which depth 8 falls below {MOVED:.0%} of the start and stays finite",
    threshold="0",
    holds=lambda fraction: fraction == 0,
)
IDENTITY_MOVES = Statement(
    id="fig5.identity",
    source=SOURCE,
    text="From near the identity, depth 4 and 8 make progress at once.",
    statistic="first iteration with loss below half of the start, best lr",
    threshold=f"< {AT_ONCE:,.0f}",
    holds=lambda time: time < AT_ONCE,
)
IDENTITY_FASTER = Statement(
    id="fig5.identity",
    source=SOURCE,
    text="From near the identity, depth 4 and 8 accelerate.",
    statistic="catch-up C(depth N over depth 1)",
    threshold="> 1",
    holds=lambda ratio: ratio > 1.0,
)


def plans(problem: Problem, seeds: Sequence[int]) -> list[Plan]:
    """Every depth from either start on the learning-rate grid."""
    return [Plan(OBJECTIVE, grid(depth=DEPTHS, init=list(STARTS), lr=LEARNING_RATES, seed=seeds), RECORD_EVERY)]


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts on both plateaus and on the start near the identity."""
    steps = data["step"].values
    horizon = float(steps[-1])
    found = []
    arm = _arm(data, 4, "near_zero")
    times = [_first_iteration(arm, seed, MOVED) for seed in setting.seeds]
    note = f"{_chosen(arm, setting.seeds)} {_fates(arm)}"
    if np.isposinf(times).all() and (_moves(arm) & ~_is_finite(arm)).any():
        note += " The rates large enough to leave the plateau by the horizon are too large for what comes after it."
    found.append(_judge_times(PLATEAU4, "depth 4, near zero", times, horizon, PLATEAU[1], setting, note))

    arm = _arm(data, 8, "near_zero")
    fractions = [
        float(np.mean(_moves(part) & _is_finite(part))) if _can_move(part) else math.nan
        for part in _by_seed(arm, setting.seeds)
    ]
    too_few = f"The statement is about iteration {HORIZON:,}." if setting.horizon < HORIZON else ""
    found.append(STUCK8.judge("depth 8, near zero", fractions, setting, note=_fates(arm), too_few=too_few))

    for depth in DEPTHS[1:]:
        arm = _arm(data, depth, "near_identity")
        chosen = _chosen(arm, setting.seeds)
        times = [_first_iteration(arm, seed, HALF) for seed in setting.seeds]
        what = f"depth {depth}, near the identity: loss halved"
        found.append(_judge_times(IDENTITY_MOVES, what, times, horizon, AT_ONCE, setting, chosen))
        for init, name in reversed(STARTS.items()):
            plain = _arm(data, 1, init)
            ratios = [caught_up(tuned(arm, seed).gap, tuned(plain, seed).gap, steps) for seed in setting.seeds]
            what = f"depth {depth} near the identity against depth 1 {name}"
            note = f"{chosen} Depth 1: {_chosen(plain, setting.seeds).lower()}"
            found.append(IDENTITY_FASTER.judge(what, ratios, setting, note=note, control=init == "near_zero"))
    return found


def _arm(data: xr.Dataset, depth: int, init: str) -> xr.Dataset:
    return select(data, objective=OBJECTIVE, depth=depth, init=init)


def _by_seed(arm: xr.Dataset, seeds: Sequence[int]) -> list[xr.Dataset]:
    return [select(arm, seed=seed) for seed in seeds]


def _first_iteration(arm: xr.Dataset, seed: int, fraction: float) -> float:
    """The first iteration with loss at most ``fraction`` of the start, at the best learning rate.

    Infinite if it lies beyond the horizon; NaN if every rate diverged, or if no linear model has so small a loss.
    """
    gap = tuned(arm, seed).gap
    optimum = float(arm["optimal_loss"].values[0])
    level = fraction * (float(gap[0]) + optimum) - optimum
    if not level > 0:
        return math.nan
    reached = first_step(gap, arm["step"].values, level)
    return math.inf if math.isnan(reached) else reached


def _judge_times(
    statement: Statement,
    comparison: str,
    times: Sequence[float],
    horizon: float,
    latest: float,
    setting: Setting,
    note: str,
) -> Claim:
    """The verdict on a time that should not be later than ``latest``, where some may lie beyond the horizon.

    The horizon stands for these, which makes the median a bound from below. It decides if it exceeds ``latest``.
    """
    bounds = np.minimum(times, horizon)
    late = int(np.isposinf(times).sum())
    too_few = ""
    if late:
        note += f" {late} of {len(times)} seeds did not get there by iteration {horizon:,.0f}, which stands for them."
        if np.isposinf(np.median(times)) and np.median(bounds) <= latest:
            too_few = "The median lies beyond the horizon, which is too near to tell."
    return statement.judge(comparison, bounds.tolist(), setting, note=note, too_few=too_few)


def _moves(data: xr.Dataset) -> np.ndarray:
    """Per run whether its loss falls below 95% of the start, even if it diverges later."""
    loss = data["loss"].transpose("run", "step").values
    return np.asarray((loss < MOVED * loss[:, :1]).any(axis=1))


def _can_move(data: xr.Dataset) -> bool:
    """Whether any linear model has a loss below 95% of the start's."""
    return bool((data["optimal_loss"] < MOVED * data["loss"].isel(step=0)).all())


def _is_finite(data: xr.Dataset) -> np.ndarray:
    return np.asarray(np.isfinite(data["loss"].isel(step=-1).values))


def _fates(arm: xr.Dataset) -> str:
    """How many runs moved, diverged, or did nothing."""
    moves, finite = _moves(arm), _is_finite(arm)
    lost = np.isnan(arm["loss"].transpose("run", "step").values[~finite])
    when = ", ".join(f"{step:,}" for step in sorted(arm["step"].values[lost.argmax(axis=1)].tolist()))
    left = int((moves & ~finite).sum())
    after = f"; {left} of them had moved before" if left else ""
    return (
        f"Of {len(moves)} runs (learning rates times seeds), {int((moves & finite).sum())} moved and stayed finite, "
        f"{int((~finite).sum())} diverged{f' (by iteration {when}{after})' if when else ''}, "
        f"{int((~moves & finite).sum())} stayed where they started."
    )


def _chosen(arm: xr.Dataset, seeds: Sequence[int]) -> str:
    rates = dict.fromkeys(tuned(arm, seed).lr for seed in seeds)
    return f"Chosen lr: {', '.join(f'{rate:g}' for rate in rates)}."


def pictures(data: xr.Dataset) -> list[Picture]:
    """Per start the gaps at the best learning rates; and the gap at the horizon against the learning rate."""
    shown = []
    sensitivity: list[Curve] = []
    for init, dash in zip(STARTS, ("solid", "dash"), strict=True):
        arms = {depth: _arm(data, depth, init) for depth in DEPTHS}
        looks = {depth: "dash" if depth == max(DEPTHS) else "solid" for depth in DEPTHS}  # plateaus cover each other
        curves = [tuned_curve(f"depth {n}", arm, color=n, dash=looks[n]) for n, arm in arms.items()]
        sensitivity += [
            rate_curve(f"depth {depth}, {STARTS[init]}", arm, color=depth, dash=dash) for depth, arm in arms.items()
        ]
        shown.append(
            Picture(
                f"l4, started {STARTS[init]}: loss minus optimal loss, each depth at its best learning rate; the "
                "median over seeds is drawn, the band spans them.",
                gap_figure(data["step"].values, curves, title=f"Figure 5, left: {STARTS[init]}"),
            )
        )
    caption = (
        "What is left of the gap at the last iteration, by learning rate. Rates at which a seed diverged are missing; "
        "where a curve is flat and high, nothing has moved."
    )
    figure = learning_rate_figure(LEARNING_RATES, sensitivity, title="Figure 5, left: sensitivity")
    return [*shown, Picture(caption, figure)]


ITEM = Item(
    name="fig5",
    title="Figure 5 (left): very deep networks and their start",
    said=(
        "From near zero, depth 4 makes visible progress only after about 65,000 iterations, and depth 8 is stuck after "
        "100,000: every learning rate of the grid diverges or does not converge.",
        "From near the identity both make progress at once, and depth accelerates.",
    ),
    ran=(
        "Linear networks of depth 1, 4 and 8 with hidden width 1, l4 loss, full-batch gradient descent; the learning "
        "rate of each is the best of 1e-5, 5e-5, ..., 1e-1, 5e-1.",
        "Near zero: every weight normal with standard deviation 0.01. Near the identity: 1 added on the main diagonal "
        "of every weight matrix, so that W_e has norm about 1 at any depth and needs no matching.",
        "Control: depth 4 and 8 from near the identity against depth 1 from near zero.",
    ),
    statements=(PLATEAU4, STUCK8, IDENTITY_MOVES, IDENTITY_FASTER),
    work=of_sweeps("fig5", plans),
    claims=claims,
    pictures=pictures,
    minutes=(0.8, 0.1),
)
