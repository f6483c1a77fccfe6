"""Theorem 1: the layers' gradient flow from a balanced start is the end-to-end flow of their product."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from overdepth.chain import balanced_factors
from overdepth.lab.problem import Array
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context
from overdepth.paper.item import Item, Picture
from overdepth.paper.picture import Curve, add_curve, blank_figure
from overdepth.theory.balancing import factors_with_imbalance
from overdepth.theory.discretization import discretization_gap
from overdepth.theory.gradient_flow import flow
from overdepth.theory.losses import LeastSquares, least_squares

SOURCE = "Arora, Cohen & Hazan 2018, Theorem 1"
EXACT = 1e-8
DEPTHS = (2, 3, 4)
SHAPES = ((1, 4), (3, 3), (2, 4), (4, 2))
DECAYS = (0.0, 0.1)
TIMES = np.linspace(0.25, 3.0, 12)
IMBALANCES = (0.0, 1e-4, 1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0)
LEARNING_RATES = (0.02, 0.01, 0.005, 0.0025, 0.00125)
DIAL_SHAPE = (3, 3)
RTOL, ATOL = 1e-11, 1e-13

FLOW = Statement(
    id="theorem1.flow",
    source=SOURCE,
    text="From a balanced start the product of the layers follows the end-to-end flow, weight decay included.",
    statistic="largest relative deviation between the two flows at the output times, all instances",
    threshold=f"<= {EXACT:g}",
    holds=lambda deviation: deviation <= EXACT,
)
TRANSFER = Statement(
    id="theorem1.transfer",
    source=SOURCE,
    text="With the transfer operator of the layers in place of their product's rule this is so from any start.",
    statistic="largest relative deviation between the two flows at the output times, all imbalances",
    threshold=FLOW.threshold,
    holds=FLOW.holds,
)
IMBALANCE = Statement(
    id="theorem1.imbalance",
    source=SOURCE,
    text="Balance is needed: from an imbalanced start the layers leave the end-to-end flow.",
    statistic="smallest relative deviation at imbalance 1, all depths and seeds",
    threshold=">= 0.01",
    holds=lambda deviation: deviation >= 0.01,
)
DESCENT = Statement(
    id="theorem1.descent",
    source=SOURCE,
    text="Gradient descent tends to the flow as the learning rate tends to 0.",
    statistic="slope of log(distance to the flow at time 1) over log(lr)",
    threshold="in [0.9, 1.1]",
    holds=lambda slope: 0.9 <= slope <= 1.1,
)


class Instance(NamedTuple):
    """A random start and least-squares loss, and how they are drawn."""

    depth: int
    shape: tuple[int, int]
    decay: float
    is_low_rank: bool = False

    def draw(self, seed: int) -> tuple[Tensor, LeastSquares]:
        """The initial end-to-end weight, of norm about 1, and the loss."""
        digits = [seed, self.depth, *self.shape, round(100 * self.decay), int(self.is_low_rank)]
        rng = np.random.default_rng(digits)
        k, d = self.shape
        inner = max(min(k, d) - 1, 1) if self.is_low_rank else min(k, d)
        weight = rng.standard_normal((k, inner)) @ rng.standard_normal((inner, d))
        weight /= np.linalg.norm(weight)
        X = rng.standard_normal((5 * d, d))
        Y = X @ rng.standard_normal((d, k)) / np.sqrt(d) + 0.3 * rng.standard_normal((5 * d, k))
        return torch.from_numpy(weight), least_squares(torch.from_numpy(X), torch.from_numpy(Y))


def instances(*, quick: bool) -> list[Instance]:
    """For each seed: all depths, shapes and decays, and starts without full rank."""
    if quick:
        return [Instance(depth, SHAPES[depth - 1], DECAYS[depth % 2]) for depth in DEPTHS]
    full = [Instance(*row) for row in itertools.product(DEPTHS, SHAPES, DECAYS)]
    return full + [Instance(depth, SHAPES[1], decay, is_low_rank=True) for depth in DEPTHS for decay in DECAYS]


def _work(context: Context) -> xr.Dataset:
    def compute() -> xr.Dataset:
        chosen = instances(quick=context.quick)
        parts = len(context.seeds) * (len(chosen) + 2 * len(DEPTHS))
        context.reporter.begin("flow of the layers and of their product", 1, parts)
        done = itertools.count(1)
        dials = (0.0, 0.1, 1.0) if context.quick else IMBALANCES
        rows = [
            _of_seed(seed, chosen, dials, lambda: context.reporter.advance(next(done), 1)) for seed in context.seeds
        ]
        return xr.concat(rows, dim="seed", join="exact").assign_coords(seed=list(context.seeds))

    return context.keep("theorem1", {"seeds": list(context.seeds), "quick": context.quick}, compute)


def _of_seed(seed: int, chosen: list[Instance], dials: Sequence[float], advance: Callable[[], None]) -> xr.Dataset:
    deviations = []
    for instance in chosen:
        weight, loss = instance.draw(seed)
        factors = balanced_factors(weight, instance.depth, width=min(instance.shape) + instance.depth % 2)
        product = _path(factors, loss, "end_to_end", instance.decay)
        deviations.append(_apart(_path(factors, loss, "layers", instance.decay), product))
        advance()
    from_product, from_operator, gaps = [], [], []
    for depth in DEPTHS:
        weight, loss = Instance(depth, DIAL_SHAPE, 0.0).draw(seed)
        product = _path(balanced_factors(weight, depth), loss, "end_to_end")
        for dial in dials:
            factors = factors_with_imbalance(weight, depth, dial)
            layers = _path(factors, loss, "layers")
            from_product.append(_apart(layers, product))
            from_operator.append(_apart(layers, _path(factors, loss, "preconditioned")))
        gaps.append(_gaps(weight, loss, depth))
        advance()
    orders, distances = [], []
    for depth in DEPTHS:
        weight, loss = Instance(depth, DIAL_SHAPE, 0.0).draw(seed)
        found = discretization_gap(
            balanced_factors(weight, depth), loss, LEARNING_RATES, time=1.0, rtol=RTOL, atol=ATOL
        )
        orders.append(found.attrs["order"])
        distances.append(found["distance"].values)
        advance()
    columns = {name: [getattr(instance, name) for instance in chosen] for name in ("depth", "decay", "is_low_rank")}
    sizes = (len(DEPTHS), len(dials))
    return xr.Dataset(
        {
            "deviation": ("instance", deviations),
            "dial_deviation": (("order", "imbalance"), np.reshape(from_product, sizes)),
            "operator_deviation": (("order", "imbalance"), np.reshape(from_operator, sizes)),
            "gap": (("order", "kind", "time"), np.stack(gaps)),
            "slope": ("order", orders),
            "distance": (("order", "lr"), np.stack(distances)),
        },
        coords={
            "instance_depth": ("instance", columns["depth"]),
            "instance_decay": ("instance", columns["decay"]),
            "instance_low_rank": ("instance", [int(low) for low in columns["is_low_rank"]]),
            "order": list(DEPTHS),
            "imbalance": list(dials),
            "lr": list(LEARNING_RATES),
            "time": np.concatenate([[0.0], TIMES]),
            "kind": ["layers", "end_to_end", "imbalanced layers"],
        },
    )


def _path(factors: list[Tensor], loss: LeastSquares, kind: str, decay: float = 0.0) -> Array:
    """The end-to-end weights at the output times."""
    found = flow(factors, loss, TIMES, kind=kind, weight_decay=decay, rtol=RTOL, atol=ATOL)
    return np.asarray(found["weight"].values)


def _apart(layers: Array, other: Array) -> float:
    """Largest ||W_layers - W_other||_F / ||W_layers||_F over time."""
    return float((np.linalg.norm(layers - other, axis=(1, 2)) / np.linalg.norm(layers, axis=(1, 2))).max())


def _gaps(weight: Tensor, loss: LeastSquares, depth: int) -> Array:
    """Loss minus optimal loss of the layers, of the end-to-end flow, and of layers with imbalance 1."""
    times = np.concatenate([[0.0], TIMES])
    balanced = balanced_factors(weight, depth)
    other = factors_with_imbalance(weight, depth, 1.0)
    paths = [flow(balanced, loss, times), flow(balanced, loss, times, kind="end_to_end"), flow(other, loss, times)]
    return np.stack([path["gap"].values for path in paths])


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts on the flows, and on what becomes of them without balance and in discrete time."""
    setting = replace(setting, horizon=0)
    count = data.sizes["instance"]
    few = f"Only {count} instances a seed were run, at least 20 are asked for." if count < 20 else ""
    found = []
    for low_rank in (False, True):
        chosen = data["instance_low_rank"].values == low_rank
        if not chosen.any():
            continue
        worst = float(data["deviation"].values[:, chosen].max())
        what = f"{chosen.sum()} random instances a seed, depth 2 to 4, with and without decay"
        what += ", low rank" if low_rank else ""
        note = "Starts without full rank, whose rank is kept: else roots would magnify rounding." if low_rank else ""
        found.append(FLOW.judge(what, [worst], setting, note=note, control=low_rank, too_few=few))
    operator = float(data["operator_deviation"].max(skipna=False))
    what = f"imbalance 0 to {float(data['imbalance'].max()):g}, depth 2 to 4"
    found.append(TRANSFER.judge(what, [operator], setting, control=True))
    dial = float(data["dial_deviation"].sel(imbalance=1.0).min(skipna=False))
    found.append(IMBALANCE.judge("imbalance 1, depth 2 to 4", [dial], setting, control=True))
    for depth in DEPTHS:
        slopes = data["slope"].sel(order=depth).values
        found.append(DESCENT.judge(f"depth {depth}", slopes.tolist(), setting, control=True))
    return found


def pictures(data: xr.Dataset) -> list[Picture]:
    """The gaps of the flows, deviation against imbalance, and distance of descent against the learning rate."""
    return [
        Picture(
            "Loss minus optimal loss along the flows, median over seeds. The end-to-end flow (dashed) covers the "
            "balanced layers (solid); layers of the same product with imbalance 1 (dotted) go their own way.",
            _gap_figure(data),
        ),
        Picture(
            "Largest relative deviation of the layers from the end-to-end flow of their product against the imbalance "
            "between neighbours. At 0, not shown on this axis, both agree to the integrator's error.",
            _dial_figure(data),
        ),
        Picture(
            "Distance of gradient descent from the flow at time 1 against the learning rate: a straight line of slope "
            "1, as for every method of first order.",
            _descent_figure(data),
        ),
    ]


def _gap_figure(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Theorem 1: the flows", x="time", y="loss minus optimal loss")
    for depth in DEPTHS:
        for kind, dash, width in (("layers", "solid", 1.5), ("end_to_end", "dash", 4.0),
                                  ("imbalanced layers", "dot", 1.5)):  # fmt: skip
            gap = data["gap"].sel(order=depth, kind=kind).values
            name = kind.replace("end_to_end", "end-to-end flow")
            add_curve(
                figure, data["time"].values, Curve(f"depth {depth}, {name}", gap, color=depth, dash=dash, width=width)
            )
    return figure


def _dial_figure(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Theorem 1: imbalance as a dial", x="imbalance", y="relative deviation", log_x=True)
    for depth in DEPTHS:
        part = data.sel(order=depth).isel(imbalance=slice(1, None))
        for name, label, dash in (("dial_deviation", "end-to-end flow", "solid"),
                                  ("operator_deviation", "transfer operator", "dot")):  # fmt: skip
            curve = Curve(f"depth {depth}, {label}", part[name].values, color=depth, dash=dash)
            add_curve(figure, part["imbalance"].values, curve, mode="lines+markers")
    return figure


def _descent_figure(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Theorem 1: descent and flow", x="learning rate", y="distance to the flow", log_x=True)
    for depth in DEPTHS:
        curve = Curve(f"depth {depth}", data["distance"].sel(order=depth).values, color=depth)
        add_curve(figure, data["lr"].values, curve, mode="lines+markers")
    return figure


ITEM = Item(
    name="theorem1",
    title="Theorem 1: the flow of the layers and the end-to-end flow",
    said=(
        "Gradient flow on the layers of a linear network, balanced at the start, moves their product by a rule that "
        "depends on the product alone.",
    ),
    ran=(
        f"Per seed {len(instances(quick=False))} random starts and regressions, depth 2 to 4, several shapes, with and "
        "without weight decay and full rank: both flows by an integrator at rtol 1e-11, compared at 12 times up to 3.",
        "Controls: starts whose neighbours have a chosen imbalance; the flow of the product under the transfer "
        "operator of its layers; gradient descent at five learning rates against the flow.",
    ),
    statements=(FLOW, TRANSFER, IMBALANCE, DESCENT),
    work=_work,
    claims=claims,
    pictures=pictures,
    needs="random starts",
    drawn="random regressions",
    minutes=(0.25, 0.07),
)
