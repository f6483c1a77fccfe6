"""The end-to-end rule against AdaGrad, AdaDelta and Adam, at equal steps and at equal time."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import xarray as xr

from overdepth.lab.curves import select
from overdepth.lab.engine import Engine
from overdepth.lab.objectives import objective
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run, grid
from overdepth.lab.settings import Settings
from overdepth.paper.beyond.methods import compared
from overdepth.paper.claim import Claim, Setting, Statement, number
from overdepth.paper.context import Context, Plan
from overdepth.paper.item import LEARNING_RATES, Item, Picture, start_norm
from overdepth.paper.picture import add_curve, blank_figure, gap_figure, thinned
from overdepth.paper.tuning import tuned_curve

RECORD_EVERY = 100
OBJECTIVE = "l4"
DEPTHS = (2, 3)
RATES: dict[str, tuple[float, ...]] = {
    "gd": LEARNING_RATES,
    "adagrad": LEARNING_RATES[4:],
    "adadelta": (*LEARNING_RATES[4:], 1.0, 5.0),
    "adam": LEARNING_RATES[2:8],
}
NAMES = {"gd": "gradient descent", "adagrad": "AdaGrad", "adadelta": "AdaDelta", "adam": "Adam"}
BLOCK = 20  # steps between two looks at the clock
ROUNDS, QUICK_ROUNDS = 100, 5

STEPS = Statement(
    id="beyond.equal-cost",
    source="ours",
    text="With l4 loss the end-to-end rule on one layer is faster than the adaptive method, step for step.",
    statistic="catch-up C(the rule over the method), learning rates tuned",
    threshold="> 1",
    holds=lambda ratio: ratio > 1.0,
)
TIME = Statement(
    id="beyond.equal-cost-time",
    source="ours",
    text="The same at equal time.",
    statistic="time of all steps of the method / time of the rule to the gap reached by them",
    threshold="> 1",
    holds=lambda ratio: ratio > 1.0,
)
SAME = Statement(
    id="beyond.equal-cost-step",
    source="ours",
    text="A step of the rule costs as much as one of the method.",
    statistic="time of a step, the rule / the method, each the fastest of blocks measured in turns in one process",
    threshold="in [0.8, 1.25]",
    holds=lambda ratio: 0.8 <= ratio <= 1.25,
)


def plans(problem: Problem, seeds: Sequence[int]) -> list[Plan]:
    """The rule from depth 1's norm and from the network's own, and one layer under every method."""
    runs: list[Run] = []
    for seed in seeds:
        norm = start_norm(problem, Run(depth=1, seed=seed))
        for start in (norm, None):
            runs += grid(method="end_to_end", depth=DEPTHS, lr=LEARNING_RATES, seed=seed, norm=start)
        for method, rates in RATES.items():
            runs += grid(method=method, lr=rates, seed=seed)
    return [Plan(OBJECTIVE, runs, RECORD_EVERY)]


def work(context: Context) -> xr.Dataset:
    """The runs, and the time of a step of every method, which is not kept: it is this machine's and today's."""
    problem = context.problem
    data = context.sweep("equal-cost", plans(problem, context.seeds))
    times = step_times(problem, QUICK_ROUNDS if context.quick else ROUNDS)
    return data.merge(times, combine_attrs="no_conflicts")


def step_times(problem: Problem, rounds: int) -> xr.Dataset:
    """Seconds of a step of one run under every method: the fastest of blocks measured in turns."""
    arms = {f"rule {depth}": Run(method="end_to_end", depth=depth, lr=1e-5) for depth in DEPTHS}
    arms |= dict(zip(RATES, grid(method=list(RATES), lr=1e-5), strict=True))
    settings = Settings(steps=BLOCK * (rounds + 1), record_every=BLOCK * (rounds + 1))
    engines = {name: Engine(problem, [run], objective(OBJECTIVE), settings) for name, run in arms.items()}
    states = {name: engine.start() for name, engine in engines.items()}
    seconds = np.empty((rounds + 1, len(arms)))
    for turn in range(rounds + 1):
        for i, (name, engine) in enumerate(engines.items()):
            began = time.perf_counter()
            engine.advance(states[name], until=BLOCK * (turn + 1))
            seconds[turn, i] = (time.perf_counter() - began) / BLOCK
    fastest = seconds[1:].min(axis=0)  # the first turn warms up; what else the machine does only adds
    return xr.Dataset(
        {"step_seconds": ("arm", fastest, {"long_name": "time of a step of one run", "units": "s"})},
        coords={"arm": list(arms)},
        attrs={"rounds": rounds},
    )


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts at equal steps, at equal time, and on a step's cost; descent, and the other start, are controls."""
    rounds = int(data.attrs["rounds"])
    few = f"{rounds} rounds are too few to tell the time of a step." if rounds < ROUNDS else ""
    found = []
    for depth in DEPTHS:
        for method, name in NAMES.items():
            what, reference = f"rule N = {depth} against {name}", _layer(data, method)
            control = method == "gd"
            cost = _seconds(data, f"rule {depth}") / _seconds(data, method)
            for own, words in ((False, ""), (True, ", from the network's own initial norm")):
                ratios, note = compared(_rule(data, depth, own=own), reference, setting.seeds)
                claim = STEPS.judge(what + words, ratios, setting, note=note, control=control or own)
                found.append(claim)
                if not own:
                    note += f" A step of the rule takes {number(cost)} times as long."
                    times = [ratio / cost for ratio in ratios]
                    found.append(TIME.judge(what, times, setting, note=note, control=control, too_few=few))
    # A step's cost is no matter of the horizon.
    step = Setting(setting.data, setting.scaling, setting.seeds, setting.steps, horizon=0)
    for depth in DEPTHS:
        for method, name in NAMES.items():
            cost = _seconds(data, f"rule {depth}") / _seconds(data, method)
            what, note = f"rule N = {depth} against {name}", f"{1e6 * _seconds(data, method):.3g} microseconds a step"
            note += f" under {name}."
            found.append(SAME.judge(what, [cost], step, note=note, control=method == "gd", too_few=few))
    return found


def _rule(data: xr.Dataset, depth: int, *, own: bool = False) -> xr.Dataset:
    return select(data, method="end_to_end", depth=depth, norm=None if own else np.isfinite)


def _layer(data: xr.Dataset, method: str) -> xr.Dataset:
    return select(data, method=method, depth=1, norm=None)


def _seconds(data: xr.Dataset, arm: str) -> float:
    return float(data["step_seconds"].sel(arm=arm))


def pictures(data: xr.Dataset) -> list[Picture]:
    """The gaps at the best learning rates against steps, and against the measured time."""
    arms = [(f"rule, N = {depth}", f"rule {depth}", _rule(data, depth), depth, "solid") for depth in DEPTHS]
    arms += [
        (f"rule, N = {depth}, own norm", f"rule {depth}", _rule(data, depth, own=True), depth, "dot")
        for depth in DEPTHS
    ]
    colors = {"gd": 1, "adagrad": 4, "adadelta": 5, "adam": 6}
    arms += [(NAMES[method], method, _layer(data, method), color, "dash") for method, color in colors.items()]
    steps = data["step"].values
    curves = [tuned_curve(label, arm, color=color, dash=dash) for label, _, arm, color, dash in arms]
    timed = blank_figure("The rule and adaptive methods by time", x="seconds", y="loss minus optimal loss")
    few = thinned(steps)[::2]
    for curve, (_, clock, *_) in zip(curves, arms, strict=True):
        shorter = type(curve)(curve.label, curve.values[:, few], curve.color, curve.dash)
        add_curve(timed, steps[few] * _seconds(data, clock), shorter)
    words = (
        f"{OBJECTIVE} loss, one layer, each method at its best learning rate. Dotted: the rule from the norm of a "
        "network's near-zero start; solid: from that of a layer's."
    )
    return [
        Picture(words, gap_figure(steps, curves, title="The rule and adaptive methods")),
        Picture(f"{words} Steps times the measured time of one.", timed),
    ]


ITEM = Item(
    name="equal-cost",
    title="The end-to-end rule against adaptive methods at equal cost",
    said=(
        "The rule and the adaptive methods all cost two matrix products with the data a step. Which is faster, step "
        "for step and second for second?",
    ),
    ran=(
        "One layer, l4 loss, all data a step: the end-to-end rule with N = 2 and 3; AdaGrad, AdaDelta and Adam as "
        "torch.optim defines them; gradient descent.",
        "The learning rate of each is the best of the paper's grid: all of it for the rule and gradient descent, 1e-3 "
        "and above for AdaGrad and AdaDelta (and 1 and 5 for AdaDelta), 1e-4 to 5e-2 for Adam.",
        "The rule starts from the norm of a near-zero layer, as the methods do; control: from the much smaller norm of "
        "the near-zero network's W_e.",
        f"A step's time is that of one run alone, the fastest of {ROUNDS} blocks of {BLOCK} steps measured in turns.",
    ),
    statements=(STEPS, TIME, SAME),
    work=work,
    claims=claims,
    pictures=pictures,
    part="beyond",
    minutes=(1.5, 0.2),
)
