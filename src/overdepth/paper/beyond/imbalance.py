"""Imbalance as a dial: the same W_e, split into two factors of which one is larger than the other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from typing_extensions import override

from overdepth.chain import factor_gradients, product
from overdepth.lab.curves import Ratio, first_step, gaps, ratio_of_times, select
from overdepth.lab.problem import Array, Problem
from overdepth.lab.run import Run, grid
from overdepth.paper.beyond.methods import compared
from overdepth.paper.claim import Claim, Setting, Statement, number
from overdepth.paper.context import Context, Plan, joined
from overdepth.paper.item import LEARNING_RATES, Item, Picture
from overdepth.paper.picture import Curve, add_curve, blank_figure, gap_figure
from overdepth.paper.tuning import tuned_curve
from overdepth.theory import Certificate, LeastSquares, Loss, certify, factors_with_imbalance, least_squares, whiten

RECORD_EVERY = 100
OBJECTIVE = "l4"
IMBALANCES = (-1.0, -0.1, 0.0, 0.1, 1.0)
RATES = LEARNING_RATES[2:]
SAME_RATE = 1e-3
LEVEL = 0.1
WHITE_STEPS = 5_000
WHITE_RECORDS = 101
ROUNDING = 1e-20
"""Certified gaps below this part of the initial one are not compared: float64 does not come so close to a weight."""

FASTER = Statement(
    id="beyond.imbalance",
    source="ours",
    text="At one learning rate, the larger the output's factor the faster, though W_e starts the same.",
    statistic=f"iterations to 10% of the initial gap at lr {SAME_RATE:g}, more imbalance / less",
    threshold="< 1",
    holds=lambda ratio: ratio < 1.0,
)
TUNED = Statement(
    id="beyond.imbalance-tuned",
    source="ours",
    text="With tuned learning rates imbalance makes little difference: it acts as a learning rate does.",
    statistic="tuned catch-up C(imbalanced over balanced), or 1 / C(balanced over imbalanced) if it is slower",
    threshold="in [0.8, 1.25]",
    holds=lambda ratio: 0.8 <= ratio <= 1.25,
)
CERTIFIED = Statement(
    id="beyond.imbalance-certified",
    source="ours",
    text="On whitened data with l2 loss, imbalance buys a proved rate, and descent keeps to it.",
    statistic="largest gap / certified gap after the first step, over steps and seeds, at the certified learning rate",
    threshold="<= 1",
    holds=lambda ratio: ratio <= 1.0 + 1e-9,
)


@dataclass(frozen=True)
class StartedRun(Run):
    """A run from given factors instead of drawn ones; not to be looked up in a cache, which does not know them."""

    factors: tuple[Tensor, ...] = field(default=(), compare=False, repr=False)

    @override
    def start(self, out_features: int, in_features: int) -> list[Tensor]:
        return [factor.clone() for factor in self.factors]


def work(context: Context) -> xr.Dataset:
    """The runs of depth 2 by imbalance, depth 1 from the same W_e, and what is certified on whitened data."""
    problem, seeds = context.problem, [int(seed) for seed in context.seeds]
    plain = grid(depth=1, lr=RATES, seed=seeds)
    depth_1 = context.sweep("imbalance, depth 1", [Plan(OBJECTIVE, plain, RECORD_EVERY)])
    settings = {"data": problem.checksum, "scaling": problem.scaling, "seeds": seeds, "steps": context.steps}
    depth_2 = context.keep("imbalance", settings, lambda: _dialled(context, seeds))
    both = joined([depth_1.assign_coords(imbalance=("run", [np.nan] * depth_1.sizes["run"])), depth_2])
    return both.merge(_whitened(problem, seeds), combine_attrs="no_conflicts")


def _dialled(context: Context, seeds: Sequence[int]) -> xr.Dataset:
    runs: list[Run] = []
    dial = []
    for seed in seeds:
        weight = _weight(context.problem.d, seed)
        for imbalance in IMBALANCES:
            factors = tuple(factors_with_imbalance(weight, 2, imbalance))
            runs += [StartedRun(depth=2, seed=seed, lr=rate, factors=factors) for rate in RATES]
            dial += [imbalance] * len(RATES)
    plan = Plan(OBJECTIVE, runs, RECORD_EVERY)
    return replace(context, cache=None).sweep("imbalance", [plan]).assign_coords(imbalance=("run", dial))


def _weight(features: int, seed: int) -> Tensor:
    """The initial W_e of depth 1, shape (1, features)."""
    return product(Run(depth=1, seed=seed).start(1, features))


def _whitened(problem: Problem, seeds: Sequence[int]) -> xr.Dataset:
    """Per imbalance and seed the gaps of descent on whitened data, the certified ones, and the certified rate.

    All NaN where the features are linearly dependent, since they cannot be whitened then.
    """
    at = np.unique(np.linspace(0, WHITE_STEPS, WHITE_RECORDS).astype(int))
    shape = (len(IMBALANCES), len(seeds))
    measured, proved, rate = np.full((*shape, len(at)), np.nan), np.full((*shape, len(at)), np.nan), np.zeros(shape)
    loss = whitened_loss(problem)
    for j, seed in enumerate(seeds):
        if loss is None:
            break
        starts = [factors_with_imbalance(_weight(problem.d, seed), 2, dial) for dial in IMBALANCES]
        found = [_certificate(loss, start) for start in starts]
        fallback = min((c.step_size for c in found if c.step_size is not None), default=1e-2)
        measured[:, j] = descent_gaps(loss, starts, [c.step_size or fallback for c in found])[:, at]
        for i, certificate in enumerate(found):
            if certificate.step_size is not None:
                proved[i, j] = certificate.discrete_envelope(torch.from_numpy(at)).numpy()
            rate[i, j] = certificate.alpha
    dims = ("dial", "start", "white_step")
    return xr.Dataset(
        {
            "whitened_gap": (dims, measured, {"long_name": "l2 loss minus optimal loss on whitened data"}),
            "certified_gap": (dims, proved, {"long_name": "what that gap is proved not to exceed; NaN: nothing is"}),
            "certified_rate": (dims[:2], rate, {"long_name": "proved bound of the transfer operator; 0: none"}),
        },
        coords={"dial": list(IMBALANCES), "start": list(seeds), "white_step": at},
        attrs={"whitened": int(loss is not None)},
    )


def whitened_loss(problem: Problem) -> LeastSquares | None:
    """Least squares on the whitened features; None if these are linearly dependent."""
    try:
        white = whiten(torch.from_numpy(problem.X)).data
    except ValueError:
        return None
    return least_squares(white, torch.from_numpy(problem.Y))


def _certificate(loss: Loss, start: Sequence[Tensor]) -> Certificate:
    return certify(
        start,
        strong_convexity=loss.strong_convexity,
        smoothness=loss.smoothness,
        gap=float(loss.gap(product(start))),
        target=loss.minimizer,
    )


def descent_gaps(
    loss: Loss, starts: Sequence[Sequence[Tensor]], rates: Sequence[float], steps: int = WHITE_STEPS
) -> Array:
    """The gaps of gradient descent on several chains, each at its own rate; shape (chains, steps + 1), float64."""
    factors = [torch.stack(layers) for layers in zip(*starts, strict=True)]
    lr = torch.tensor(rates, dtype=torch.float64)[:, None, None]
    found = []
    for _ in range(steps):
        weight = product(factors)
        found.append(loss.gap(weight))
        for factor, grad in zip(factors, factor_gradients(factors, loss.gradient(weight)), strict=True):
            factor.sub_(lr * grad)
    found.append(loss.gap(product(factors)))
    return np.asarray(torch.stack(found, dim=1))


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts at one learning rate, with tuned ones (the control), and on whitened data."""
    found = []
    for less, more in itertools.pairwise(IMBALANCES):
        ratios = [_ratio(data, more, less, seed) for seed in setting.seeds]
        note = "A number is a bound: one of the two times lies beyond the horizon." if _bounded(ratios) else ""
        values = [ratio.value for ratio in ratios]
        least = [0.0 if ratio.is_bound and ratio.value < 1 else ratio.value for ratio in ratios]
        most = [math.inf if ratio.is_bound and ratio.value > 1 else ratio.value for ratio in ratios]
        few = unknown_median(FASTER, least, most, 1.0, 1.0)
        found.append(FASTER.judge(f"imbalance {more:g} against {less:g}", values, setting, note=note, too_few=few))
    balanced = _arm(data, 0.0)
    for dial in IMBALANCES:
        if dial:
            ratios_tuned, note = _both_ways(_arm(data, dial), balanced, setting.seeds)
            found.append(TUNED.judge(f"imbalance {dial:g} against 0", ratios_tuned, setting, note=note, control=True))
    return [*found, *_certified_claims(data, setting)]


def _both_ways(arm: xr.Dataset, reference: xr.Dataset, seeds: Sequence[int]) -> tuple[list[float], str]:
    """Catch-ups that say how much slower an arm is where it never gets there; a plain one is 0 then."""
    forward, note = compared(arm, reference, seeds)
    backward, _ = compared(reference, arm, seeds)
    pairs = zip(forward, backward, strict=True)
    return [1 / there if here == 0 and there > 0 else here for here, there in pairs], note


def _bounded(ratios: Sequence[tuple[float, bool]]) -> bool:
    return any(is_bound for _, is_bound in ratios)


def unknown_median(
    statement: Statement,
    least: Sequence[float] | Sequence[Sequence[float]],
    most: Sequence[float] | Sequence[Sequence[float]],
    low: float,
    high: float,
) -> str:
    """A sentence if the statement hangs on a median of which only bounds are known, as of an even number it may.

    Args:
        statement: Which is about ``low`` and ``high``.
        least: Per seed the smallest that its number, or each of several, can be. NaN: undefined.
        most: The largest.
        low: Where the statement's verdict changes.
        high: The same; at least ``low``.
    """
    medians = np.median(np.array([least, most], dtype=np.float64), axis=1).reshape(2, -1)
    side = (medians >= low).astype(int) + (medians > high)
    is_open = side[0] != side[1]
    known = medians[0, ~is_open & ~np.isnan(medians[0])]
    if not is_open.any() or not all(statement.holds(float(median)) for median in known):
        return ""
    return "Of an even number of seeds one time is only bounded, so that their median is not known."


def _ratio(data: xr.Dataset, more: float, less: float, seed: int) -> Ratio:
    """Of the times to the level; NaN if a run diverged before it."""
    steps, times = data["step"].values, []
    for dial in (more, less):
        gap = gaps(select(_arm(data, dial), seed=seed, lr=SAME_RATE))[0]
        times.append(first_step(gap, steps, LEVEL * float(gap[0])))
        if math.isnan(times[-1]) and not np.isfinite(gap).all():
            return Ratio(math.nan)
    return ratio_of_times(times[0], times[1], float(steps[-1]), 1.0, 1.0)


def _certified_claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """One for each imbalance at which something is proved, about ``WHITE_STEPS`` steps whatever the horizon."""
    own = replace(setting, scaling="whitened", steps=WHITE_STEPS, horizon=0)
    if not data.attrs["whitened"]:
        why = "The features are linearly dependent, so that they cannot be whitened."
        return [CERTIFIED.not_run("whitened data, l2", own, why)]
    found = []
    silent = [float(dial) for dial in data["dial"].values if (data["certified_rate"].sel(dial=dial) == 0).any()]
    initial = data["whitened_gap"].isel(white_step=0).max(skipna=False)
    for dial in data["dial"].values.tolist():
        if dial in silent:
            continue
        part = data.sel(dial=dial).isel(white_step=slice(1, None))
        is_rounding = part["certified_gap"] <= ROUNDING * initial
        ratios = (part["whitened_gap"] / part["certified_gap"]).where(~is_rounding, 0.0)
        worst = float(ratios.max(skipna=False))  # over seeds too: a bound knows no medians
        note = f"Certified bound of the transfer operator: {number(float(part['certified_rate'].median()))}."
        if silent:
            note += f" At imbalance {', '.join(f'{value:g}' for value in silent)} nothing is proved."
        found.append(CERTIFIED.judge(f"whitened data, l2: imbalance {dial:g}", [worst], own, note=note))
    return found or [CERTIFIED.not_run("whitened data, l2", own, "At no imbalance is anything proved.")]


def _arm(data: xr.Dataset, dial: float) -> xr.Dataset:
    return select(data, depth=2, imbalance=dial)


def pictures(data: xr.Dataset) -> list[Picture]:
    """The gaps at one learning rate, at the tuned ones, and on whitened data beside the certified ones."""
    steps = data["step"].values
    same, best = [], []
    plain = select(data, depth=1)
    for color, dial in enumerate(IMBALANCES, 1):
        label = f"imbalance {dial:g}"
        same.append(Curve(label, gaps(select(_arm(data, dial), lr=SAME_RATE)), color=color))
        best.append(tuned_curve(label, _arm(data, dial), color=color))
    same.append(Curve("depth 1", gaps(select(plain, lr=SAME_RATE)), color=0, dash="dash"))
    best.append(tuned_curve("depth 1", plain, color=0, dash="dash"))
    shown = [
        Picture(
            f"{OBJECTIVE}, depth 2 from one W_e at lr {SAME_RATE:g}. Imbalance is the squared norm of the output's "
            "factor less the input's.",
            gap_figure(steps, same, title="Imbalance at one learning rate"),
        ),
        Picture(
            "The same, every imbalance at its best learning rate.",
            gap_figure(steps, best, title="Imbalance at the best learning rates"),
        ),
    ]
    if data.attrs["whitened"]:
        figure = blank_figure("Whitened data, l2", x="iterations", y="loss minus optimal loss")
        for color, dial in enumerate(IMBALANCES, 1):
            part = data.sel(dial=dial)
            add_curve(
                figure, part["white_step"].values, Curve(f"imbalance {dial:g}", part["whitened_gap"].values, color)
            )
            if (part["certified_rate"] > 0).all():
                curve = Curve(f"certified, imbalance {dial:g}", part["certified_gap"].values, color, dash="dash")
                add_curve(figure, part["white_step"].values, curve)
        caption = (
            "Gradient descent on whitened data with l2 loss, each imbalance at the learning rate certified for it (the "
            "smallest of these where none is). Dashed: what is proved beforehand. Where a gap is flat near 1e-30, "
            "rounding is all that is left."
        )
        shown.append(Picture(caption, figure))
    return shown


ITEM = Item(
    name="imbalance",
    title="Imbalance as a dial",
    said=(
        "Gradient flow keeps the imbalance of two neighbouring factors. Does a start that makes the output's factor "
        "larger speed training up, and is it more than a larger learning rate?",
    ),
    ran=(
        "Depth 2, width 1, l4 loss, all data a step, from the initial W_e of depth 1 split into factors with imbalance "
        "w_2^2 - ||w_1||^2 = -1, -0.1, 0, 0.1 and 1.",
        f"Once at lr {SAME_RATE:g}, and, as control, at the best of the paper's grid from 1e-4 on for each imbalance.",
        f"The same starts on whitened data with l2 loss: {WHITE_STEPS:,} steps in float64 at the learning rate that is "
        "certified beforehand, beside the certified gap.",
    ),
    statements=(FASTER, TUNED, CERTIFIED),
    work=work,
    claims=claims,
    pictures=pictures,
    part="beyond",
    minutes=(1.0, 0.1),
)
