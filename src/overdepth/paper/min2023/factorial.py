"""The product of cumulative imbalances grows like a factorial of the depth, and with it the rate of the flow."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr

from overdepth.paper.claim import Claim, Setting, Statement, number
from overdepth.paper.context import Context
from overdepth.paper.item import Item, Picture
from overdepth.paper.min2023.envelopes import largest_ratio
from overdepth.paper.min2023.rates import ENOUGH, SOURCE, STATISTIC, THRESHOLD
from overdepth.paper.picture import Curve, add_curve, blank_figure
from overdepth.paper.rates import Start, study, towards
from overdepth.paper.rates.path import FlowPath
from overdepth.theory.scalar_chains import scalar_rate_bound
from overdepth.transfer import transfer_operator

NAME = "min2023-factorial"
DEPTHS = tuple(range(2, 11))
STARTS, FEW = 12, 1  # per depth, of all seeds together; with --quick
EXACT = 1e-9
TEXT = "With equal gaps between the squared weights, the product of the cumulative imbalances, which bounds the rate "
TEXT += "from below, grows like a factorial of the depth: (N-1)! for gaps of 1."

GROWTH = Statement(
    id="min2023.factorial",
    source=f"{SOURCE}, corrected",
    text=TEXT,
    statistic="product of the cumulative imbalances of random chains / (N-1)!",
    threshold=f"1 to {EXACT:g}",
    holds=lambda ratio: abs(ratio - 1) <= EXACT,
)
RATE = Statement(
    id="min2023.factorial",
    source=f"{SOURCE}, corrected",
    text=TEXT,
    statistic=STATISTIC,
    threshold=THRESHOLD,
    holds=lambda ratio: ratio <= 1.0,
)
MEANINGS = {
    "seed": "seed of the start",
    "depth": "number of weights",
    "product": "product of the cumulative imbalances",
    "measured_rate": "mean rate at which the gap fell to 1e-10 of the first one, over gamma",
    "first_rate": "transfer operator at the start",
    "balanced_rate": "transfer operator of balanced weights at the minimizer",
    "largest_ratio": "largest gap / envelope of the rate (N-1)!, after the start, beyond the integrator's error",
}


def chain(depth: int, rng: np.random.Generator) -> list[torch.Tensor]:
    """Weights of which the squares are x, x + 1, ..., x + N - 1, in random order and with random signs."""
    squares = 10 ** rng.uniform(-6, 0) + np.arange(depth)
    weights = np.sqrt(rng.permutation(squares)) * rng.choice([-1.0, 1.0], depth)
    return [torch.tensor([[float(weight)]], dtype=torch.float64) for weight in weights]


def _row(depth: int, number: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(depth, number)))
    factors = chain(depth, rng)
    target = float(rng.normal(scale=2.0))
    objective = towards(torch.tensor([[target]], dtype=torch.float64), "drawn")
    (result,) = study([Start(f"depth {depth}", factors)], objective)
    seen = np.isfinite(result.curves["gap"])
    times, gaps = result.times[seen][1:], result.curves["gap"][seen][1:]
    pl, alpha = result.certificate.pl, math.factorial(depth - 1)
    envelope = result.certificate.gap * np.exp(-alpha * pl * times)
    return {
        "seed": seed,
        "depth": depth,
        "product": float(scalar_rate_bound(torch.cat(factors).squeeze(-1), margin=0.0)),
        "measured_rate": result.mean_rate / pl,
        "first_rate": transfer_operator(factors).min_eigenvalue(),
        "balanced_rate": depth * abs(target) ** (2 - 2 / depth),
        "largest_ratio": largest_ratio(gaps, envelope, FlowPath(factors, objective.loss).error),
    }


def starts_data(seed: int, count: int) -> xr.Dataset:
    """The variables of ``MEANINGS`` over ``start``, ``count`` of them for every depth."""
    rows = [_row(depth, index, seed) for depth in DEPTHS for index in range(count)]
    columns = {name: np.array([row[name] for row in rows]) for name in MEANINGS}
    return xr.Dataset({name: ("start", columns[name], {"long_name": said}) for name, said in MEANINGS.items()})


def work(context: Context) -> xr.Dataset:
    """Chains of every depth and seed with their flows."""
    count = FEW if context.quick else math.ceil(STARTS / len(context.seeds))
    parts = []
    context.reporter.begin(NAME, len(context.seeds), 1)
    for done, seed in enumerate(context.seeds):
        context.reporter.advance(0, len(context.seeds) - done)
        settings = {"seed": int(seed), "count": count}
        parts.append(context.keep(NAME, settings, lambda seed=seed: starts_data(int(seed), count)))  # type: ignore[misc]
    context.reporter.advance(1, len(context.seeds))
    return xr.concat(parts, dim="start", join="exact")


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdict on the product, and on the flow below the envelope that it gives."""
    depths, starts = data["depth"].values.astype(int), data.sizes["start"]
    expected = np.array([math.factorial(depth - 1) for depth in depths], dtype=np.float64)
    few = f"{starts} starts; the statement asks for {ENOUGH}." if starts < ENOUGH else ""
    over = data["measured_rate"].values / expected
    comparison = f"depth {depths.min()} to {depths.max()}, gaps of 1, {starts} starts"
    note = (
        "An identity by construction: gaps of 1 make the cumulative imbalances 1, ..., N-1, so that only their "
        "computation is tested here. The poster says Theta(N!), which is larger by the factor N and takes cumulative "
        "imbalances 2, ..., N."
    )
    deepest = depths == depths.max()
    also = (
        f"At depth {depths.max()} the flow falls at {number(float(np.median(over[deepest])))} times the rate (N-1)! in "
        f"the median, which is {number(float(np.median(data['measured_rate'].values[deepest])))}."
    )
    return [
        GROWTH.judge(
            f"product, {comparison}", [(data["product"].values / expected).tolist()], setting, note=note, too_few=few
        ),
        RATE.judge(f"flow, {comparison}", [float(data["largest_ratio"].values.max())], setting, note=also, too_few=few),
    ]


def pictures(data: xr.Dataset) -> list[Picture]:
    """Measured rates over the depth beside the factorials, and those of balanced weights."""
    figure = blank_figure("The rate against the depth", x="depth N", y="rate of the gap / gamma")
    depths = np.unique(data["depth"].values).astype(int)
    exact = np.array([[math.factorial(depth - 1) for depth in depths]], dtype=np.float64)
    add_curve(figure, depths, Curve("(N-1)!, certified", exact, color=2, dash="dash"))
    add_curve(figure, depths, Curve("N!", exact * depths, color=0, dash="dot", width=1.5))
    for name, label, color in (
        ("measured_rate", "flow, measured", 1),
        ("balanced_rate", "balanced, at the minimizer", 3),
    ):
        columns = [data[name].values[data["depth"].values == depth] for depth in depths]
        add_curve(figure, depths, Curve(label, np.stack(columns, axis=1), color=color), mode="lines+markers")
    caption = (
        "Scalar chains whose squared weights are 1 apart. The mean rate at which the gap fell (blue: median, smallest "
        "and largest over starts) lies above (N-1)!, the product of the cumulative imbalances. Green: balanced weights "
        "near the same minimizers, which gain no factorial."
    )
    return [Picture(caption, figure)]


ITEM = Item(
    name=NAME,
    title="Imbalance makes the rate grow like a factorial of the depth",
    said=(
        "The rate of a deep scalar network is bounded below by the product of its cumulative imbalances, which grows "
        "like a factorial of the depth.",
    ),
    ran=(
        f"Scalar chains of depth {DEPTHS[0]} to {DEPTHS[-1]} whose squared weights are x, x + 1, ..., x + N - 1 in "
        f"random order with random signs, x from 1e-6 to 1, {STARTS} starts a depth, shared out among the seeds.",
        "Gradient flow of half the squared distance to a random number, until the gap has fallen by 1e-10.",
        "Shown besides: balanced weights at the same minimizers.",
    ),
    statements=(GROWTH, RATE),
    work=work,
    claims=claims,
    pictures=pictures,
    needs="random starts",
    drawn="random factors",
    minutes=(0.4, 0.04),
)
