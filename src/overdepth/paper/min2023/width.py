"""The frozen (NTK) prediction becomes accurate only at large width."""

from __future__ import annotations

import numpy as np
import xarray as xr

from overdepth.lab.problem import Array
from overdepth.paper.claim import Claim, Setting, Statement, number
from overdepth.paper.context import Context
from overdepth.paper.item import Item, Picture
from overdepth.paper.min2023.frozen_width import FALL, SIZE, FrozenRun, frozen_run
from overdepth.paper.min2023.rates import SOURCE
from overdepth.paper.picture import Curve, add_curve, blank_figure

NAME = "min2023-width"
WIDTHS = {2: (3, 10, 30, 100, 300, 1000), 3: (3, 10, 30, 100, 300)}
DRAWS, FEW_DRAWS = 8, 3  # per width and seed; where a flow takes long
QUICK = 30  # the largest width with --quick
ACCURATE = (0.8, 1.25)
POINTS = 401

TEXT = "The prediction from the frozen transfer operator (NTK) describes the flow only at large width."
STATISTIC = "rate of the flow / frozen rate, median over draws"
WIDE = Statement(
    id="min2023.ntk-width",
    source=SOURCE,
    text=TEXT,
    statistic=f"{STATISTIC}, at the largest width",
    threshold=f"in [{ACCURATE[0]:g}, {ACCURATE[1]:g}]",
    holds=lambda ratio: ACCURATE[0] <= ratio <= ACCURATE[1],
)
NARROW = Statement(
    id="min2023.ntk-width",
    source=SOURCE,
    text=TEXT,
    statistic=f"{STATISTIC}, at the smallest width",
    threshold=f"outside [{ACCURATE[0]:g}, {ACCURATE[1]:g}]",
    holds=lambda ratio: not ACCURATE[0] <= ratio <= ACCURATE[1],
)


def draws_of(depth: int, width: int) -> int:
    """How many flows a width and seed: fewer of the slow ones."""
    return FEW_DRAWS if depth > 2 and width > 100 else DRAWS


def widths_data(seed: int, depth: int, *, quick: bool) -> xr.Dataset:
    """The ratios over ``run``, and the first flow of every width over ``curve`` and ``point``."""
    widths = [width for width in WIDTHS[depth] if width <= QUICK or not quick]
    draws = {width: 2 if quick else draws_of(depth, width) for width in widths}
    runs: list[tuple[int, FrozenRun]] = []
    for width in widths:
        for draw in range(draws[width]):
            sequence = np.random.SeedSequence(seed, spawn_key=(depth, width, draw))
            runs.append((width, frozen_run(depth, width, int(sequence.generate_state(1)[0]))))
    data = xr.Dataset(
        {
            "depth": ("run", np.full(len(runs), depth), {"long_name": "number of factors"}),
            "width": ("run", np.array([width for width, _ in runs]), {"long_name": "hidden width"}),
            "seed": ("run", np.full(len(runs), seed)),
            "ratio": (
                "run",
                np.array([run.ratio for _, run in runs]),
                {"long_name": f"rate at which the flow takes the gap to {FALL:g}, over the frozen rate"},
            ),
            "certified": (
                "run",
                np.array([int(run.certified) for _, run in runs]),
                {"long_name": "1 if the lazy certificate, which proves the prediction up to a factor, applies"},
            ),
            "curve_depth": ("curve", np.full(len(widths), depth)),
            "curve_width": ("curve", np.array(widths)),
        }
    )
    times, gaps = np.full((2, len(widths), POINTS), np.nan)
    for index, width in enumerate(widths):
        first = next(run for at, run in runs if at == width)
        times[index, : len(first.times)], gaps[index, : len(first.gaps)] = first.times, first.gaps
    data["curve_time"] = (("curve", "point"), times, {"long_name": "time, in units of the predicted fall by e"})
    data["curve_gap"] = (("curve", "point"), gaps, {"long_name": "gap / first gap"})
    return data


def work(context: Context) -> xr.Dataset:
    """The flows of every depth, width and seed."""
    parts = []
    pairs = [(int(seed), depth) for seed in context.seeds for depth in WIDTHS]
    context.reporter.begin(NAME, len(pairs), 1)
    for done, (seed, depth) in enumerate(pairs):
        context.reporter.advance(0, len(pairs) - done)
        settings = {"seed": seed, "depth": depth, "quick": context.quick}
        parts.append(
            context.keep(
                NAME,
                settings,
                lambda seed=seed, depth=depth: widths_data(seed, depth, quick=context.quick),  # type: ignore[misc]
            )
        )
    context.reporter.advance(1, len(pairs))
    names = {dim: [str(name) for name in parts[0] if parts[0][name].dims[0] == dim] for dim in ("run", "curve")}
    return xr.merge(xr.concat([part[names[dim]] for part in parts], dim=dim, join="exact") for dim in names)


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """Per depth: accurate at the largest width, and not at the smallest."""
    found = []
    for depth in WIDTHS:
        widths = np.unique(data["width"].values[data["depth"].values == depth])
        medians = {int(width): float(np.median(_ratios(data, depth, int(width)))) for width in widths}
        few = "" if max(medians) == WIDTHS[depth][-1] else f"Widths up to {max(medians)} only."
        along = ", ".join(f"{width}: {number(ratio)}" for width, ratio in medians.items())
        chosen = (data["depth"].values == depth) & (data["width"].values == max(medians))
        proved = data["certified"].values[chosen]
        for statement, width, note in (
            (
                WIDE,
                max(medians),
                f"By width {along}. The lazy certificate, which proves the prediction up to a factor, applies to "
                f"{int(proved.sum())} of {len(proved)} flows at width {max(medians)}.",
            ),
            (NARROW, min(medians), "The smallest width that loses no expressiveness."),
        ):
            per_seed = [float(np.median(_ratios(data, depth, width, seed))) for seed in setting.seeds]
            found.append(statement.judge(f"depth {depth}, width {width}", per_seed, setting, note=note, too_few=few))
    return found


def _ratios(data: xr.Dataset, depth: int, width: int, seed: int | None = None) -> Array:
    chosen = (data["depth"].values == depth) & (data["width"].values == width)
    if seed is not None:
        chosen &= data["seed"].values == seed
    found: Array = data["ratio"].values[chosen]
    return found


def pictures(data: xr.Dataset) -> list[Picture]:
    """The ratio of the rates against the width, and a flow of every width beside the prediction."""
    ratios = blank_figure("Flow against frozen prediction", x="hidden width", y="rate / frozen rate", log_x=True)
    for depth in WIDTHS:
        widths = np.unique(data["width"].values[data["depth"].values == depth])
        spread = [np.quantile(_ratios(data, depth, int(width)), (0.0, 0.5, 1.0)) for width in widths]
        curve = Curve(f"depth {depth}", np.stack(spread, axis=1), color=depth)
        add_curve(ratios, widths, curve, mode="lines+markers")
    everywhere = np.unique(data["width"].values)
    exact = Curve("exact", np.ones((1, len(everywhere))), color=0, dash="dot", width=1.5)
    add_curve(ratios, everywhere, exact)
    ratios.update_xaxes(tickvals=everywhere.tolist(), ticktext=[str(width) for width in everywhere])
    ratios.update_yaxes(dtick=1)
    flows = blank_figure("Flows of depth 2", x="time, in units of the predicted fall by e", y="gap / first gap")
    flows.update_layout(hovermode="closest")
    depths, widths = data["curve_depth"].values, data["curve_width"].values
    for color, width in enumerate(WIDTHS[2], 1):
        found = np.flatnonzero((depths == 2) & (widths == width))
        if not len(found):
            continue
        times, gaps = data["curve_time"].values[found[0]], data["curve_gap"].values[found[0]]
        seen = np.isfinite(times)
        add_curve(flows, times[seen], Curve(f"width {width}", gaps[seen][None], color=color))
    clock = np.linspace(0, -np.log(FALL), 60)
    add_curve(flows, clock, Curve("frozen prediction", np.exp(-clock)[None], color=0, dash="dash"))
    return [
        Picture(
            "How much faster the flow takes the gap to a thousandth than the frozen prediction says, against the "
            "hidden width: median over the draws, the band spans them all. At 1 the prediction is exact.",
            ratios,
        ),
        Picture(
            "One draw a width, with time in units of each one's own prediction; dashed: that prediction.",
            flows,
        ),
    ]


ITEM = Item(
    name=NAME,
    title="The frozen (NTK) prediction against the width",
    said=("The prediction with the frozen (neural tangent kernel) operator becomes accurate only at large width.",),
    ran=(
        f"Gradient flow of ||W - W*||^2 / 2, W* {SIZE} x {SIZE} with standard normal entries, from random factors in "
        "the NTK parametrization: entries of the initial W_e have variance 1 at every width.",
        f"Depth 2 at widths {', '.join(map(str, WIDTHS[2]))}, depth 3 at widths {', '.join(map(str, WIDTHS[3]))}; "
        f"{DRAWS} draws a width and seed, {FEW_DRAWS} at depth 3 and width {WIDTHS[3][-1]}.",
        f"Compared: the rate at which the flow takes the gap to {FALL:g}, and the rate predicted from the start.",
        "Accurate means within [0.8, 1.25], the range in which Figure 2's rule emulates the network.",
    ),
    statements=(WIDE, NARROW),
    work=work,
    claims=claims,
    pictures=pictures,
    needs="random starts",
    drawn="random factors",
    minutes=(0.3, 0.02),
)
