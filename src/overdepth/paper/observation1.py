"""Observation 1: gradient descent on vector times scalar as descent with adaptive rates and momentum, on a real run."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from overdepth.lab.curves import best_run
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run, grid
from overdepth.lab.sweeps import sweep
from overdepth.paper.claim import Claim, Setting, Statement, number
from overdepth.paper.context import Context
from overdepth.paper.item import LEARNING_RATES, Item, Picture
from overdepth.paper.picture import Curve, add_curve, blank_figure, thinned
from overdepth.theory.momentum import MomentumKernel, momentum_kernel

SOURCE = "Arora, Cohen & Hazan 2018, Observation 1"
OBJECTIVES = {"l2": 2, "l4": 4}
STEPS = 400
EXACT = 1e-10
FINER = (4, 8, 16)  # times as many steps at so much smaller a learning rate, over half of the time
SHOWN = 100  # rows of the heat map

KERNEL = Statement(
    id="observation1.kernel",
    source=SOURCE,
    text="Gradient descent on w = w1 w2, vector times scalar, is descent on w with adaptive rates and momentum.",
    statistic="largest |weight replayed from the gradients and these coefficients - weight of the run| / largest |w|",
    threshold=f"<= {EXACT:g}",
    holds=lambda error: error <= EXACT,
)
FIRST_ORDER = Statement(
    id="observation1.first-order",
    source=SOURCE,
    text="The paper's coefficients, which drop a term of order lr^2 a step, replay the run as lr tends to 0.",
    statistic="slope of log(largest relative error of the replay) over log(lr)",
    threshold="in [0.9, 1.1]",
    holds=lambda slope: 0.9 <= slope <= 1.1,
)
START = Statement(
    id="observation1.start",
    source=SOURCE,
    text="The term of the starting vector can be left out, as the paper does, from a near-zero start.",
    statistic="largest relative error of the replay without that term",
    threshold="<= 0.1",
    holds=lambda error: error <= 0.1,
)


class Record(NamedTuple):
    """A run of gradient descent: w1 (T + 1, d), w2 (T + 1,), the gradients at w (T, d), and the losses (T + 1,)."""

    first: Tensor
    second: Tensor
    grads: Tensor
    losses: Tensor

    @property
    def weights(self) -> Tensor:
        """W = w2 w1, shape (T + 1, d)."""
        return self.second[:, None] * self.first

    def error(self, replayed: Tensor) -> float:
        """Largest distance of replayed weights from the run's, over the largest norm."""
        weights = self.weights
        away = torch.linalg.vector_norm(replayed - weights, dim=1).max()
        return float(away / torch.linalg.vector_norm(weights, dim=1).max())


def record_run(problem: Problem, power: int, seed: int, lr: float, steps: int) -> Record:
    """Full-batch gradient descent in float64 on (1/m) sum (1/p) (x w - y)^p from the near-zero start of a seed."""
    X, y = torch.from_numpy(problem.X), torch.from_numpy(problem.Y[:, 0])
    w1, w2 = (factor.reshape(-1) for factor in Run(depth=2, seed=seed).start(1, problem.d))
    firsts, seconds, grads, losses = [w1], [w2], [], []
    for step in range(steps + 1):
        errors = X @ (w2 * w1) - y
        losses.append((errors**power).mean() / power)
        if step == steps:
            break
        grad = X.mT @ errors ** (power - 1) / len(y)
        w1, w2 = w1 - lr * w2 * grad, w2 - lr * (grad @ w1)
        firsts.append(w1)
        seconds.append(w2)
        grads.append(grad)
    return Record(torch.stack(firsts), torch.cat(seconds), torch.stack(grads), torch.stack(losses))


def _work(context: Context) -> xr.Dataset:
    problem = context.problem

    def compute() -> xr.Dataset:
        context.reporter.begin("momentum kernel", len(OBJECTIVES) * len(context.seeds), 1)
        parts = []
        for name in OBJECTIVES:
            rows = [_of_run(context, name, seed) for seed in context.seeds]
            parts.append(xr.concat(rows, dim="seed", join="exact").assign_coords(seed=list(context.seeds)))
        context.reporter.advance(1, len(OBJECTIVES) * len(context.seeds))
        return xr.concat(parts, dim="objective", join="exact").assign_coords(objective=list(OBJECTIVES))

    settings = {"seeds": list(context.seeds), "quick": context.quick, "checksum": problem.checksum}
    return context.keep("observation1", {**settings, "scaling": problem.scaling}, compute)


def _of_run(context: Context, objective: str, seed: int) -> xr.Dataset:
    problem, power = context.problem, OBJECTIVES[objective]
    runs = grid(depth=2, lr=LEARNING_RATES, seed=seed)
    tuned = sweep(problem, runs, objective=objective, steps=STEPS, record_every=STEPS, cache=context.cache)
    best = best_run(tuned)
    lr = LEARNING_RATES[0] if best is None else runs[best].lr
    run = record_run(problem, power, seed, lr, STEPS)
    while not bool(torch.isfinite(run.losses).all()):  # every rate of the grid was too large for these data
        lr /= 10.0
        run = record_run(problem, power, seed, lr, STEPS)
    kernel = momentum_kernel(run.first, run.second, run.grads, lr)
    parts = kernel.parts(run.grads)
    stride = -(-STEPS // SHOWN)
    finer = FINER[:2] if context.quick else FINER
    errors = [_first_order_error(problem, power, seed, lr / factor, factor * STEPS // 2) for factor in finer]
    return xr.Dataset(
        {
            "loss": ("step", run.losses[:-1].numpy()),
            "rate": ("step", kernel.rates.numpy()),
            "part": (("kind", "step"), torch.stack([part.norm(dim=1) for part in parts]).numpy()),
            "coefficient": (("row", "column"), kernel.momentum[::stride, ::stride].numpy() / lr),
            "exact_error": run.error(kernel.replay(run.grads)),
            "start_error": run.error(kernel.replay(run.grads, with_start=False)),
            "first_order_error": ("finer", errors),
            "lr": lr,
            "start_norm": float(run.first[0].norm()),
            "last_norm": float(run.first[-1].norm()),
        },
        coords={
            "step": np.arange(STEPS),
            "shown_step": ("row", np.arange(STEPS)[::stride]),
            "finer": list(finer),
            "kind": list(parts._fields),
        },
    )


def _first_order_error(problem: Problem, power: int, seed: int, lr: float, steps: int) -> float:
    run = record_run(problem, power, seed, lr, steps)
    kernel: MomentumKernel = momentum_kernel(run.first, run.second, run.grads, lr, form="first_order")
    return run.error(kernel.replay(run.grads))


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts on the exact coefficients, on the paper's, and on the term that it leaves out."""
    setting = replace(setting, steps=STEPS, horizon=0)
    few = "" if data.sizes["finer"] == len(FINER) else f"Only {data.sizes['finer']} learning rates were run."
    found = []
    for objective in OBJECTIVES:
        part = data.sel(objective=objective)
        rates = np.abs(part["rate"].values)
        growth = float(np.median(rates.max(axis=1) / rates[:, 0]))
        lrs = ", ".join(f"{lr:g}" for lr in dict.fromkeys(part["lr"].values.tolist()))
        note = f"At lr {lrs} the adaptive learning rate grows to {number(growth)} times (median) what it is at first."
        what = f"{objective}, {STEPS} iterations"
        found.append(KERNEL.judge(what, [float(part["exact_error"].max(skipna=False))], setting, note=note))
        x = -np.log(part["finer"].values)
        slopes = [float(np.polyfit(x, np.log(row), 1)[0]) for row in part["first_order_error"].values]
        worst = float(part["first_order_error"].max(skipna=False))
        note = f"At {1 / FINER[0]:g} of the run's lr the largest relative error is {number(worst)}. Where the "
        note += "run's lr is at the edge of what is stable, a sixteenth of it need not be small yet."
        what = f"{objective}, the first half at smaller rates"
        found.append(FIRST_ORDER.judge(what, slopes, setting, note=note, control=True, too_few=few))
        start, last = float(part["start_norm"].median()), float(part["last_norm"].median())
        note = (
            f"What is left out is (w2(t) - w2(0)) w1(0), of |w1| = {number(start)} here against {number(last)} in the "
        )
        note += "end; the paper does not say how near to 0 w1 must start, a tenth is our choice."
        found.append(START.judge(objective, part["start_error"].values.tolist(), setting, note=note, control=True))
    return found


def pictures(data: xr.Dataset) -> list[Picture]:
    """The coefficients as a heat map, the adaptive learning rate, and what every step is made of."""
    return [
        Picture(
            "Momentum coefficient over lr of every past gradient (across) at every step (down), l4, first seed. All "
            "past gradients come back: positive (red) where the scalar w2 grows in the direction of the sign it had at "
            "that gradient, else negative (blue). Drawn as sign times square root, so that small ones show.",
            _heat_map(data),
        ),
        Picture(
            "The adaptive learning rate over lr, and the loss (dotted).",
            _rate_figure(data),
        ),
        Picture(
            "What the steps of the l4 run are made of: lengths of the parts from the current gradient, from the past "
            "ones (momentum), and from the starting vector, which the paper leaves out.",
            _part_figure(data),
        ),
    ]


def _heat_map(data: xr.Dataset) -> go.Figure:
    part = data.sel(objective="l4").isel(seed=0)
    steps = part["shown_step"].values
    values = part["coefficient"].values
    rooted = np.where(steps[None, :] < steps[:, None], np.sign(values) * np.sqrt(abs(values)), np.nan)
    figure = blank_figure("Observation 1: the momentum kernel", x="past gradient", y="step", log_y=False)
    figure.add_trace(
        go.Heatmap(
            x=steps.astype(np.float32),
            y=steps.astype(np.float32),
            z=rooted.astype(np.float32),
            zmid=0.0,
            colorscale="RdBu",
            reversescale=True,
            colorbar={"thickness": 10, "title": {"text": "±√|μ/lr|"}},
            hovertemplate="step %{y}, gradient %{x}: %{z:.3g}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(hovermode="closest")
    return figure


def _rate_figure(data: xr.Dataset) -> go.Figure:
    data = data.isel(step=thinned(data["step"].values))
    figure = blank_figure("Observation 1: adaptive learning rate", x="iteration", y="adaptive rate / lr; loss")
    for objective, color in zip(OBJECTIVES, (1, 2), strict=True):
        part = data.sel(objective=objective)
        rate = part["rate"].values / part["lr"].values[:, None]
        add_curve(figure, data["step"].values, Curve(f"{objective}, adaptive rate", rate, color=color))
        curve = Curve(f"{objective}, loss", part["loss"].values, color=color, dash="dot", width=1.2)
        add_curve(figure, data["step"].values, curve)
    return figure


def _part_figure(data: xr.Dataset) -> go.Figure:
    data = data.isel(step=thinned(data["step"].values))
    figure = blank_figure("Observation 1: parts of a step", x="iteration", y="length")
    labels = {"current": "current gradient", "momentum": "past gradients", "start": "starting vector"}
    for color, kind in enumerate(data["kind"].values.tolist(), start=1):
        values = data["part"].sel(objective="l4", kind=kind).transpose("seed", "step").values
        add_curve(figure, data["step"].values, Curve(labels[kind], values, color=color))
    return figure


ITEM = Item(
    name="observation1",
    title="Observation 1: momentum and adaptive learning rates from one extra scalar",
    said=(
        "For l_p regression with w = w1 w2, a vector times a scalar, gradient descent on both amounts to descent on w "
        "with an adaptive learning rate and with momentum, whose coefficients vary in time.",
    ),
    ran=(
        f"{STEPS} iterations of full-batch gradient descent on the data, in float64, near-zero start, l2 and l4, at "
        "the learning rate of the grid with the lowest loss at the end.",
        "The weights were then computed again from the recorded gradients with the coefficients alone: the exact ones, "
        "with nothing dropped, and the paper's.",
    ),
    statements=(KERNEL, FIRST_ORDER, START),
    work=_work,
    claims=claims,
    pictures=pictures,
    minutes=(0.15, 0.05),
)
