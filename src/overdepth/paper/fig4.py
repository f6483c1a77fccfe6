"""Figure 4: depth against adaptive methods, and depth combined with Adam, for the l4 loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from overdepth.lab.curves import select
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run, grid
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Plan
from overdepth.paper.item import LEARNING_RATES, Item, Picture, of_sweeps, start_norm
from overdepth.paper.picture import gap_figure, learning_rate_figure
from overdepth.paper.tuning import caught_up, rate_curve, tuned, tuned_curve

OBJECTIVE = "l4"
RECORD_EVERY = 100  # as in Figure 3, whose runs are these in part
ADAM_RATE = 1e-3
DEPTHS = (1, 2, 3)
LEFT = "Arora, Cohen & Hazan 2018, Figure 4 (left)"
RIGHT = "Arora, Cohen & Hazan 2018, Figure 4 (right)"
NAMES = {"adagrad": "AdaGrad", "adadelta": "AdaDelta", "adam": "Adam"}
TF1, TORCH, MATCHED = "", ", torch's definition", ", norm matched"

ADAGRAD, ADADELTA = (
    Statement(
        id=f"fig4.{method}",
        source=LEFT,
        text=f"With l4 loss, depth 3 under gradient descent is faster than one layer under {NAMES[method]}.",
        statistic=f"catch-up C(depth 3 over {NAMES[method]})",
        threshold="> 1",
        holds=lambda ratio: ratio > 1.0,
    )
    for method in ("adagrad", "adadelta")
)
ADAGRAD_SLOW = Statement(
    id="fig4.adagrad-slow",
    source=LEFT,
    text="With l4 loss, AdaGrad is slower than plain gradient descent.",
    statistic="catch-up C(AdaGrad over gradient descent), both at depth 1",
    threshold="< 1",
    holds=lambda ratio: ratio < 1.0,
)
ADAM = Statement(
    id="fig4.adam",
    source=RIGHT,
    text="With l4 loss, depth speeds Adam up too.",
    statistic="catch-up C(Adam at depth N over Adam at depth 1), lr 1e-3",
    threshold="> 1.1",
    holds=lambda ratio: ratio > 1.1,
)
ADAM_WINS = Statement(
    id="fig4.adam-wins",
    source="Arora, Cohen & Hazan 2018, Figure 4",
    text="With l4 loss, Adam on one layer is considerably faster than gradient descent at depth 3.",
    statistic="catch-up C(Adam at depth 1 over depth 3)",
    threshold=">= 1.5",
    holds=lambda ratio: ratio >= 1.5,
)


def plans(problem: Problem, seeds: Sequence[int]) -> list[Plan]:
    """Descent at depth 1 and 3 and the adaptive methods on the learning-rate grid, Adam at its default rate."""
    runs = grid(depth=(1, 3), lr=LEARNING_RATES, seed=seeds)
    runs += grid(method=[*_definitions("adagrad"), *_definitions("adadelta")], lr=LEARNING_RATES, seed=seeds)
    runs += grid(method=_definitions("adam"), depth=DEPTHS, lr=ADAM_RATE, seed=seeds)
    for seed in seeds:
        norm = start_norm(problem, Run(depth=1, seed=seed))
        runs += grid(depth=3, lr=LEARNING_RATES, seed=seed, norm=norm)
        runs += grid(method="adam_tf1", depth=DEPTHS[1:], lr=ADAM_RATE, seed=seed, norm=norm)
    return [Plan(OBJECTIVE, runs, RECORD_EVERY)]


def _definitions(method: str) -> tuple[str, str]:
    return f"{method}_tf1", method


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts with TensorFlow 1's definitions, and as controls with torch's and with the norm matched."""
    arms = _Arms(data)
    plain, deep, matched = arms.arm("gd", 1), arms.arm("gd", 3), arms.arm("gd", 3, matched=True)
    found = []
    for statement, method in ((ADAGRAD, "adagrad"), (ADADELTA, "adadelta")):
        against = f"depth 3 against {NAMES[method]}"
        tf1, torch = (arms.arm(name, 1) for name in _definitions(method))
        found.append(_judge(statement, against + TF1, deep, tf1, setting))
        found.append(_judge(statement, against + MATCHED, matched, tf1, setting, control=True))
        note = "Torch's default lr is 1, outside the grid." if method == "adadelta" else ""
        found.append(_judge(statement, against + TORCH, deep, torch, setting, note=note, control=True))
    for name, kind in zip(_definitions("adagrad"), (TF1, TORCH), strict=True):
        claim = _judge(ADAGRAD_SLOW, f"AdaGrad{kind}", arms.arm(name, 1), plain, setting, control=kind != TF1)
        if claim.verdict == "fails":
            why = "The paper does not give the scaling of its data; the robustness map compares several."
            claim = replace(claim, note=f"{claim.note} {why}")
        found.append(claim)
    tf1, torch = (arms.arm(name, 1) for name in _definitions("adam"))
    for depth in DEPTHS[1:]:
        against = f"Adam: depth {depth} against depth 1"
        found.append(_judge(ADAM, against + TF1, arms.arm("adam_tf1", depth), tf1, setting))
        rescaled = arms.arm("adam_tf1", depth, matched=True)
        found.append(_judge(ADAM, against + MATCHED, rescaled, tf1, setting, control=True))
        found.append(_judge(ADAM, against + TORCH, arms.arm("adam", depth), torch, setting, control=True))
    against = "Adam at depth 1 against depth 3"
    found.append(_judge(ADAM_WINS, against + TF1, tf1, deep, setting))
    found.append(_judge(ADAM_WINS, against + MATCHED, tf1, matched, setting, control=True))
    found.append(_judge(ADAM_WINS, against + TORCH, torch, deep, setting, control=True))
    return found


def _judge(
    statement: Statement,
    comparison: str,
    arm: xr.Dataset,
    reference: xr.Dataset,
    setting: Setting,
    *,
    note: str = "",
    control: bool = False,
) -> Claim:
    """The verdict on the catch-up of one arm over another, each at its best learning rate."""
    steps = arm["step"].values
    pairs = [(tuned(arm, seed), tuned(reference, seed)) for seed in setting.seeds]
    ratios = [caught_up(first.gap, second.gap, steps) for first, second in pairs]
    rates = dict.fromkeys((first.lr, second.lr) for first, second in pairs)
    note = f"Chosen lr (first, second): {', '.join(f'({a:g}, {b:g})' for a, b in rates)}. {note}"
    return statement.judge(comparison, ratios, setting, note=note, control=control)


class _Arms:
    """The runs by method, depth, and whether their initial W_e is rescaled to depth 1's norm."""

    def __init__(self, data: xr.Dataset) -> None:
        self.data = select(data, objective=OBJECTIVE)

    def arm(self, method: str, depth: int, *, matched: bool = False) -> xr.Dataset:
        return select(self.data, method=method, depth=depth, norm=np.isfinite if matched else None)


def pictures(data: xr.Dataset) -> list[Picture]:
    """The gaps on either side of the figure, and on the left the gap at the horizon against the learning rate."""
    arms = _Arms(data)
    left = [
        ("depth 1", arms.arm("gd", 1), 1, "solid"),
        ("depth 3", arms.arm("gd", 3), 3, "solid"),
        ("depth 3" + MATCHED, arms.arm("gd", 3, matched=True), 3, "dot"),
    ]
    for color, method in ((4, "adagrad"), (5, "adadelta")):
        for name, kind, dash in zip(_definitions(method), (TF1, TORCH), ("solid", "dash"), strict=True):
            left.append((f"{NAMES[method]}{kind}", arms.arm(name, 1), color, dash))
    right = [("gradient descent, depth 3", arms.arm("gd", 3), 0, "solid")]
    for depth in DEPTHS:
        for name, kind, dash in zip(_definitions("adam"), (TF1, TORCH), ("solid", "dash"), strict=True):
            right.append((f"Adam, depth {depth}{kind}", arms.arm(name, depth), depth, dash))
        if depth > 1:
            label = f"Adam, depth {depth}{MATCHED}"
            right.append((label, arms.arm("adam_tf1", depth, matched=True), depth, "dot"))
    steps = data["step"].values
    words = "Solid: TensorFlow 1's definitions; dashed: torch's; dotted: initial W_e rescaled to depth 1's norm."
    return [
        Picture(
            "l4: loss minus optimal loss, each at its best learning rate; the median over seeds is drawn, the band "
            f"spans them. {words}",
            gap_figure(steps, [tuned_curve(n, a, color=c, dash=d) for n, a, c, d in left], title="Figure 4, left"),
        ),
        Picture(
            f"l4: Adam at its default learning rate {ADAM_RATE:g} on depth 1, 2 and 3, and gradient descent on depth 3 "
            f"at its best. {words}",
            gap_figure(steps, [tuned_curve(n, a, color=c, dash=d) for n, a, c, d in right], title="Figure 4, right"),
        ),
        Picture(
            "l4: what is left of the gap at the last iteration, by learning rate. Rates at which a seed diverged are "
            "missing.",
            learning_rate_figure(
                LEARNING_RATES,
                [rate_curve(n, a, color=c, dash=d) for n, a, c, d in left],
                title="Figure 4, left: sensitivity",
            ),
        ),
    ]


ITEM = Item(
    name="fig4",
    title="Figure 4: depth against adaptive methods",
    said=(
        "With l4 loss, a network of depth 3 under gradient descent is faster than one layer under AdaGrad or AdaDelta.",
        "AdaGrad is slower than plain gradient descent.",
        "Adam on one layer is considerably faster than gradient descent at depth 3, and depth speeds Adam up too.",
    ),
    ran=(
        "One layer under AdaGrad and AdaDelta, depth 1 and 3 under gradient descent (Figure 3's runs), hidden width 1, "
        "near-zero start; the learning rate of each is the best of 1e-5, 5e-5, ..., 1e-1, 5e-1.",
        f"Adam at its default learning rate {ADAM_RATE:g} on depth 1, 2 and 3.",
        "The methods are TensorFlow 1's, the paper's framework: AdaGrad's sum starts at 0.1 and has no epsilon, "
        "AdaDelta has rho 0.95, epsilon 1e-8 and multiplies its step by lr, Adam adds epsilon to the root of the raw "
        "second moment.",
        "Control: the same with torch's definitions. Torch's AdaDelta has a default lr of 1, which the grid, kept as "
        "it is, does not contain.",
        "Control: depth 2 and 3 with the initial W_e rescaled to the norm of depth 1's.",
    ),
    statements=(ADAGRAD, ADADELTA, ADAGRAD_SLOW, ADAM, ADAM_WINS),
    work=of_sweeps("fig4", plans),
    claims=claims,
    pictures=pictures,
    minutes=(2.0, 0.1),
)
