"""The robustness map: which statement of the figures holds under which scaling, seed and horizon."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from overdepth.lab.problem import SCALING_MEANINGS, SCALINGS, Array, Problem
from overdepth.lab.run import Run
from overdepth.paper import fig2, fig3, fig4, fig5
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context, Plan, joined
from overdepth.paper.item import Item, Picture
from overdepth.paper.picture import COLORS, blank_figure

HORIZONS = (10_000, 30_000, 100_000)
CONTROLS = (fig2.RULE_BALANCED.id,)
"""Statements that are controls throughout and are mapped nevertheless; other controls are not."""
FAILS, HOLDS, UNKNOWN = COLORS[2], COLORS[1], COLORS[0]


@dataclass(frozen=True)
class Figure:
    """A figure of the papers: its item, and the sweeps that it needs."""

    item: Item
    plans: Callable[[Problem, Sequence[int]], Sequence[Plan]]


FIGURES = (
    Figure(fig2.ITEM, fig2.plans),
    Figure(fig3.ITEM, fig3.plans),
    Figure(fig4.ITEM, fig4.plans),
    Figure(fig5.ITEM, fig5.plans),
)


def _robust(statement: Statement) -> Statement:
    return Statement(
        id=f"robust.{statement.id}",
        source="ours",
        text=f"Under every scaling and seed: {statement.text[0].lower()}{statement.text[1:]}",
        statistic="fraction of cells (comparison, scaling, seed) at the full horizon in which the statement holds",
        threshold="= 1",
        holds=lambda fraction: fraction == 1.0,
    )


def _of_figures(figures: Iterable[Figure]) -> tuple[Statement, ...]:
    """One statement for every id of the figures."""
    by_id: dict[str, Statement] = {}
    for figure in figures:
        for statement in figure.item.statements:
            first = by_id.setdefault(statement.id, statement)
            if first is not statement:  # two statements under one id, judged together
                by_id[statement.id] = replace(first, text=f"{first.text} {statement.text}")
    return tuple(_robust(statement) for statement in by_id.values())


def horizons(steps: int) -> list[int]:
    """The horizons that runs of this length can tell about: those below it, and the last iteration."""
    return [*(horizon for horizon in HORIZONS if horizon < steps), steps]


def work(context: Context) -> xr.Dataset:
    """The verdicts of all figures' claims but the controls', by scaling, horizon and seed."""
    seeds = [int(seed) for seed in context.seeds]
    own = context.problem.scaling
    scalings = [*SCALINGS, *([] if own in SCALINGS else [own])]
    found: dict[tuple[str, str], Array] = {}
    values: dict[tuple[str, str], Array] = {}
    shape = (len(scalings), len(horizons(context.steps)), len(seeds))
    left_out = []
    for i, scaling in enumerate(scalings):
        try:
            problem = context.scaled(scaling)
        except ValueError as error:
            left_out.append(f"{scaling}: {error}")
            continue
        for figure, data in zip(FIGURES, swept(context, problem, FIGURES), strict=True):
            for j, horizon in enumerate(horizons(context.steps)):
                shorter = truncated(data, horizon)
                for k, seed in enumerate(seeds):
                    setting = Setting(problem.name, scaling, (seed,), horizon, horizon=horizon)
                    for claim in figure.item.claims(of_seed(shorter, seed), setting):
                        if not claim.is_control or claim.id in CONTROLS:
                            row = (claim.id, claim.comparison)
                            cell = found.setdefault(row, np.full(shape, np.nan))
                            cell[i, j, k] = {"holds": 1.0, "fails": 0.0}.get(claim.verdict, np.nan)
                            values.setdefault(row, np.full(shape, np.nan))[i, j, k] = _number(claim.value)
    return _dataset(found, values, scalings, context, left_out)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _dataset(
    found: Mapping[tuple[str, str], Array],
    values: Mapping[tuple[str, str], Array],
    scalings: Sequence[str],
    context: Context,
    left_out: Sequence[str],
) -> xr.Dataset:
    dims = ("row", "scaling", "horizon", "seed")
    order = [statement.id.removeprefix("robust.") for statement in ITEM.statements]
    rows = sorted(found, key=lambda row: order.index(row[0]))
    if not found:
        raise ValueError(f"no scaling of {context.problem.name!r} can be run: {' '.join(left_out)}")
    return xr.Dataset(
        {
            "holds": (
                dims,
                np.stack([found[row] for row in rows]),
                {"long_name": "1 holds, 0 fails, NaN inconclusive"},
            ),
            "value": (dims, np.stack([values[row] for row in rows]), {"long_name": "the statistic of the claim"}),
        },
        coords={
            "statement": ("row", [statement for statement, _ in rows]),
            "comparison": ("row", [comparison for _, comparison in rows]),
            "scaling": list(scalings),
            "horizon": horizons(context.steps),
            "seed": [int(seed) for seed in context.seeds],
        },
        attrs={"left_out": "; ".join(left_out)},
    )


def swept(context: Context, problem: Problem, figures: Sequence[Figure]) -> list[xr.Dataset]:
    """The data of every figure; runs that several of them need, or that can share a sweep, are run together."""
    plans = [figure.plans(problem, context.seeds) for figure in figures]
    together: dict[tuple[str, int, int | None], dict[Run, int]] = {}
    for plan in (plan for several in plans for plan in several):
        runs = together.setdefault(_kind(plan), {})
        for run in plan.runs:
            runs.setdefault(run, len(runs))
    data = {}
    for kind, runs in together.items():
        name = f"map, {problem.scaling}"
        data[kind] = context.sweep(name, [Plan(kind[0], list(runs), kind[1], kind[2])], problem)
    return [
        joined([data[_kind(plan)].isel(run=[together[_kind(plan)][run] for run in plan.runs]) for plan in several])
        for several in plans
    ]


def _kind(plan: Plan) -> tuple[str, int, int | None]:
    return plan.objective, plan.record_every, plan.batch_size


def truncated(data: xr.Dataset, horizon: int) -> xr.Dataset:
    """The same runs as if they had ended at an earlier iteration."""
    shorter = data.sel(step=slice(None, horizon))
    late = shorter["diverged_at"] > horizon
    return shorter.assign(diverged_at=shorter["diverged_at"].where(~late)).assign_attrs(steps=horizon)


def of_seed(data: xr.Dataset, seed: int) -> xr.Dataset:
    """The runs of one seed."""
    return data.isel(run=np.flatnonzero(data["seed"].values == seed))


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """Per statement, whether it holds in every cell at the full horizon."""
    full = data.isel(horizon=-1)
    left_out = data.attrs["left_out"]
    own = replace(setting, scaling=", ".join(data["scaling"].values.tolist()))
    found = []
    for statement in ITEM.statements:
        cells = full["holds"].isel(row=np.flatnonzero(full["statement"].values == statement.id.removeprefix("robust.")))
        verdicts = cells.transpose("scaling", "row", "seed").values.reshape(cells.sizes["scaling"], -1)
        known = verdicts[np.isfinite(verdicts)]
        samples = [float(known.mean()) if known.size else math.nan]
        if known.size < verdicts.size:
            samples.append(math.nan)  # undecided cells leave the verdict open unless another one fails
        note = _by_scaling(cells["scaling"].values.tolist(), verdicts)
        if left_out:
            note += f" Left out: {left_out}"
        what = f"{cells.sizes['row']} comparisons, {cells.sizes['scaling']} scalings, {cells.sizes['seed']} seeds"
        found.append(statement.judge(what, [samples], own, note=note))
    return found


def _by_scaling(scalings: Sequence[str], verdicts: Array) -> str:
    """The numbers of cells that hold, scaling by scaling."""
    words = []
    for scaling, cells in zip(scalings, verdicts, strict=True):
        known = cells[np.isfinite(cells)]
        unknown = len(cells.ravel()) - len(known)
        more = f" ({unknown} undecided)" if unknown else ""
        words.append(f"{scaling} {int(known.sum())} of {len(known)}{more}" if len(known) else f"{scaling} undecided")
    return f"Holds: {', '.join(words)}."


def pictures(data: xr.Dataset) -> list[Picture]:
    """The map: a row a comparison, a column a scaling and horizon."""
    decided = np.isfinite(data["holds"].values)
    counts = decided.sum(axis=-1)
    held = np.nansum(data["holds"].values, axis=-1)
    fraction = np.where(counts > 0, held / np.maximum(counts, 1), np.nan)
    rows = [
        "<br>".join([f"<b>{statement}</b>", *textwrap.wrap(comparison, 32)])
        for statement, comparison in zip(data["statement"].values, data["comparison"].values, strict=True)
    ]
    scalings, lengths = data["scaling"].values.tolist(), data["horizon"].values.tolist()
    columns = [
        [scaling for scaling in scalings for _ in lengths],
        [_short(length) for _ in scalings for length in lengths],
    ]
    table = fraction.reshape(len(rows), -1)
    figure = blank_figure("Where the statements hold", x="", y="", log_y=False, height=160 + 46 * len(rows))
    unknown = np.where(np.isnan(table), 0.0, np.nan)
    shared = {"x": columns, "y": rows, "xgap": 1, "ygap": 1}
    figure.add_trace(
        go.Heatmap(
            z=unknown.astype(np.float32),
            colorscale=[[0, UNKNOWN], [1, UNKNOWN]],
            opacity=0.3,
            showscale=False,
            hovertemplate="%{y}<br>%{x}: undecided<extra></extra>",
            **shared,
        )
    )
    figure.add_trace(
        go.Heatmap(
            z=table.astype(np.float32),
            zmin=0,
            zmax=1,
            colorscale=[[0, FAILS], [1, HOLDS]],
            showscale=False,
            hovertemplate="%{y}<br>%{x}: holds for %{z:.0%} of the seeds<extra></extra>",
            **shared,
        )
    )
    figure.update_yaxes(autorange="reversed", tickfont={"size": 9}, automargin=True, showgrid=False)
    figure.update_xaxes(tickfont={"size": 9}, side="top", showgrid=False)
    figure.update_layout(hovermode="closest", margin={"t": 110})
    caption = (
        "Blue: the statement holds; orange: it fails; between: it holds for some of the seeds; grey: undecided (a "
        "level not reached, every run diverged or converged to rounding, or a horizon too short for the statement). "
        f"Columns: the scaling of the data, and the iterations ({', '.join(map(_short, lengths))}) at which "
        "learning rates are chosen and curves end."
    )
    return [Picture(caption, figure)]


def _short(length: int) -> str:
    return f"{length // 1000}k" if length % 1000 == 0 else str(length)


ITEM = Item(
    name="map",
    title="The robustness map",
    said=(
        "The papers do not say how their data were scaled. Which of the statements of Figures 2 to 5 depend on the "
        "scaling, on the seed, or on how long one trains?",
    ),
    ran=(
        "The runs of Figures 2 to 5 (left) under every scaling: "
        + "; ".join(f"{name}: {SCALING_MEANINGS[name]}" for name in SCALINGS)
        + ".",
        f"The claims are judged seed by seed on the first {', '.join(f'{h:,}' for h in HORIZONS)} iterations, as far "
        "as the runs go, as if training had ended there: learning rates are those that are best by then. Controls are "
        "left out but for the rule against balanced networks.",
    ),
    statements=_of_figures(FIGURES),
    work=work,
    claims=claims,
    pictures=pictures,
    part="map",
    minutes=(16.0, 1.0),
)
