"""Section 7 and Appendix B: two points on which over-parameterization is faster by any factor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context
from overdepth.paper.item import Item, Picture
from overdepth.paper.picture import COLORS, Curve, add_curve, blank_figure
from overdepth.paper.section7_runs import DEPTHS, NEAR_LARGEST, POWERS, TOLERANCE, work

SOURCE = "Arora, Cohen & Hazan 2018, Section 7 and Appendix B"
PAPERS = (4, 2)  # p and N of the paper
WITHIN = 0.03

ACCELERATION = Statement(
    id="section7.acceleration",
    source=SOURCE,
    text="Over-parameterization is faster by at least (y1/eps1)^(2-2/N) / (2N), which is y1 / (4 eps1) at N = 2.",
    statistic="smallest measured acceleration over that bound, all cases",
    threshold=">= 1",
    holds=lambda ratio: ratio >= 1.0,
)
ONE_STEP = Statement(
    id="section7.one-step",
    source=SOURCE,
    text="The over-parameterized step brings w1 to y1 at once.",
    statistic="largest |w1 - y1| / y1 after one step, all cases",
    threshold=f"<= {WITHIN:g}",
    holds=lambda error: error <= WITHIN,
)
RATE = Statement(
    id="section7.rate",
    source=SOURCE,
    text="From then on w2 moves with the effective rate eta y1^(2-2/N), which is 1 / (2 eps1 y1) at N = 2, p = 4.",
    statistic="largest relative error of the effective rate of w2 after one step, all cases",
    threshold=f"<= {WITHIN:g}",
    holds=lambda error: error <= WITHIN,
)
THRESHOLD = Statement(
    id="section7.threshold",
    source=SOURCE,
    text="w2 converges if and only if its effective rate is below 2 (N/y2)^(p-2), that is eps1 y1 > y2^2/16 at N = 2, "
    "p = 4; the paper's condition, eps1 y1 >> 1, is sufficient only.",
    statistic="share of the runs beside that threshold, 12% in the effective rate, that go as predicted",
    threshold="1",
    holds=lambda share: share == 1.0,
)


def _work(context: Context) -> xr.Dataset:
    def advance(done: int, pieces: int) -> None:
        if done == 1:
            context.reporter.begin("two points", 1, pieces)
        context.reporter.advance(done, 1)

    def compute() -> xr.Dataset:
        return work(quick=context.quick, advance=advance)

    return context.keep("section7", {"quick": context.quick}, compute)


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts for every power and depth; but for the paper's they are controls."""
    setting = replace(setting, seeds=(), horizon=0)
    few = "Only a corner of the grid was run." if data.attrs["quick"] else ""
    found = []
    for power in POWERS:
        for depth in DEPTHS:
            part = data.isel(case=np.flatnonzero((data["power"] == power) & (data["depth"] == depth)))
            what, control = f"p = {power}, N = {depth}", (power, depth) != PAPERS
            ratio = part["plain_steps"] / part["deep_steps"] / part["predicted"]
            first = abs(part["first_w1"] / part["y1"] - 1.0)
            rate = abs(part["effective_rate"] / part["planned_rate"] - 1.0)
            note = _cases(part)
            for statement, values, worst in ((ACCELERATION, ratio, np.min), (ONE_STEP, first, np.max),
                                             (RATE, rate, np.max)):  # fmt: skip
                said = note if statement is ACCELERATION else ""
                value = float(worst(values.values))
                found.append(statement.judge(what, [value], setting, note=said, control=control, too_few=few))
    right = (data["beside_predicted"] == data["beside_converged"]) & (
        data["beside_converged"] + data["beside_diverged"] == 1
    )
    what = f"{data.sizes['trial']} runs at y1 = 100, N = 2, 3, 4 and p = 4, 6"
    found.append(THRESHOLD.judge(what, [float(right.mean())], setting, control=True))
    return found


def _cases(part: xr.Dataset) -> str:
    """How many cases there were, and how the steps of plain descent were found."""
    covered, size = int(part["covered"].sum()), part.sizes["case"]
    unfitted = size - int(np.isfinite(part["deep_steps"].values).sum())
    others = f"{unfitted} do not converge" if unfitted else "the others converge nevertheless"
    note = (
        f"{size} cases with y1 up to {float(part['y1'].max()):g}; {covered} of them meet the paper's own test, "
        f"effective rate < 2 / y2^(p-2), {others}."
    )
    bounded = size - int(part["plain_counted"].sum())
    return f"{note} In {bounded}, plain descent's steps are bounded from below, not counted." if bounded else note


def pictures(data: xr.Dataset) -> list[Picture]:
    """Trajectories over the contours, error and effective rates over time, measured against predicted acceleration."""
    y1, eps1 = data.attrs["shown_y1"], data.attrs["shown_eps1"]
    case = f"y1 = {y1:g}, y2 = {data.attrs['y2']:g}, eps1 = {eps1:g}, l4"
    return [
        Picture(
            f"Paths over the contours of log10(loss), {case}. At {NEAR_LARGEST:g} of its largest stable rate plain "
            "descent swings between both walls of the valley, then creeps up it; the over-parameterized step lands in "
            "the valley at once.",
            _paths(data, y1),
        ),
        Picture(
            f"How far w2, the coordinate that crawls, is from its label over time, {case}. Lines end where both labels "
            f"are fitted to {TOLERANCE:g}.",
            _errors(data),
        ),
        Picture(
            f"Effective learning rates, learning rate times entry of the preconditioner, {case}. The first update "
            "makes the weight large, and with it the rate of w2 (solid); dashed: the rate of w1. Plain descent's is "
            "constant.",
            _effective(data),
        ),
        Picture(
            "Measured acceleration (steps of plain descent over steps of the over-parameterized one, until fitted to "
            f"{TOLERANCE:g}) against the bound, for all cases. No point should lie below the line; those far above it, "
            "at twice the threshold, happen to land on the small label in one step.",
            _measured(data),
        ),
    ]


def _arms(data: xr.Dataset) -> list[tuple[int, str, xr.Dataset]]:
    """Every trajectory with its depth and name."""
    depths = [int(depth) for depth in data["arm_depth"].values]
    names = ["plain" if depth == 1 else f"over-parameterized, N = {depth}" for depth in depths]
    return [(depth, name, data.isel(arm=i)) for i, (depth, name) in enumerate(zip(depths, names, strict=True))]


def _paths(data: xr.Dataset, y1: float) -> go.Figure:
    y2 = float(data.attrs["y2"])
    figure = blank_figure("Section 7: paths over the loss", x="w1", y="w2", log_y=False)
    w1, w2 = np.linspace(-0.1 * y1, 2.1 * y1, 67), np.linspace(-0.2 * y2, 1.4 * y2, 49)
    loss = ((w1[None, :] - y1) ** 4 + (w2[:, None] - y2) ** 4) / 4.0
    figure.add_trace(
        go.Contour(
            x=w1.astype(np.float32),
            y=w2.astype(np.float32),
            z=np.log10(np.maximum(loss, 1e-6)).astype(np.float32),
            colorscale="Greys",
            opacity=0.55,
            ncontours=18,
            line={"width": 0.5},
            colorbar={"thickness": 10, "title": {"text": "log10 loss"}},
            hoverinfo="skip",
        )
    )
    for depth, name, arm in _arms(data):
        path = arm["path"].values
        curve = Curve(name, path[None, :, 1], color=depth, width=1.0 if depth == 1 else 2.5)
        add_curve(figure, path[:, 0], curve, mode="lines+markers")
    figure.add_trace(
        go.Scatter(
            x=[y1],
            y=[y2],
            mode="markers",
            name="labels",
            marker={"symbol": "star", "size": 14, "color": COLORS[5], "line": {"width": 1, "color": "black"}},
        )
    )
    figure.update_traces(selector={"mode": "lines+markers"}, marker={"size": 4})
    figure.update_layout(hovermode="closest")
    return figure


def _errors(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Section 7: w2 over time", x="update", y="|w2 - y2|", log_x=True)
    for depth, name, arm in _arms(data):
        error = abs(arm["path"].values[1:, 1] - data.attrs["y2"])
        add_curve(figure, data["update"].values[1:], Curve(name, error[None], color=depth))
    return figure


def _effective(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Section 7: effective rates", x="update", y="effective learning rate", log_x=True)
    updates = data["update"].values + 1  # the first update goes by the rates of the start
    for depth, name, arm in _arms(data):
        rate = arm["rate"].values
        label = f"{name}: w2" if depth > 1 else name
        add_curve(figure, updates, Curve(label, rate[None, :, 2], color=depth, width=2.5))
        if depth > 1:
            add_curve(figure, updates, Curve(f"{name}: w1", rate[None, :, 0], color=depth, dash="dash", width=1.2))
    return figure


def _measured(data: xr.Dataset) -> go.Figure:
    title = "Section 7: measured acceleration"
    figure = blank_figure(title, x="predicted at least", y="measured", log_x=True)
    measured = (data["plain_steps"] / data["deep_steps"]).values
    predicted = data["predicted"].values
    ends = np.array([predicted.min() / 2, predicted.max() * 2])
    add_curve(figure, ends, Curve("the bound", ends[None], color=0, width=1.0))
    for depth in DEPTHS:
        for power, symbol in zip(POWERS, ("circle", "diamond-open"), strict=True):
            chosen = (data["depth"].values == depth) & (data["power"].values == power)
            curve = Curve(f"N = {depth}, p = {power}", measured[None, chosen], color=depth)
            add_curve(figure, predicted[chosen], curve, mode="markers")
            figure.data[-1].update(marker={"symbol": symbol, "size": 9, "color": COLORS[depth]})
    figure.update_layout(hovermode="closest")
    return figure


ITEM = Item(
    name="section7",
    title="Section 7: two points on which depth wins by any factor",
    said=(
        "For two points with labels y1 >> y2 and l4 loss, plain gradient descent must keep its rate below 2 / y1^2.",
        "Over-parameterized with N = 2 it may take 1 / (2 eps1 y1^2): one step brings w1 to y1, and w2 then moves with "
        "the effective rate 1 / (2 eps1 y1), an acceleration of at least y1 / (4 eps1).",
    ),
    ran=(
        "The end-to-end rule on the points ([1, 0], y1) and ([0, 1], 1) from (eps1, eps1 / y1), N = 2, 3, 4, p = 4, 6, "
        "y1 = 10, 30, 100, and eps1 from twice the smallest that converges up to a tenth of y2.",
        f"Plain descent at {NEAR_LARGEST:g} times 2 / y1^(p-2). Where it takes more than two million steps, their "
        "number is bounded from below, which bounds the acceleration from below too.",
        "For N and p other than 2 and 4 the rates follow by the paper's argument; all is to first order in eps1 / y1 "
        "and (y2 / y1)^2.",
    ),
    statements=(ACCELERATION, ONE_STEP, RATE, THRESHOLD),
    work=_work,
    claims=claims,
    pictures=pictures,
    needs="nothing",
    drawn="two points",
    minutes=(0.15, 0.01),
)
