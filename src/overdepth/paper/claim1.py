"""Claim 1: the preconditioner's eigenvalues along a run, against those of the factors that actually move."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import torch
import xarray as xr
from plotly.subplots import make_subplots
from torch import Tensor

from overdepth.chain import balanced_factors, factor_gradients, product
from overdepth.lab.problem import Array
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context
from overdepth.paper.item import Item, Picture
from overdepth.paper.picture import Curve, add_curve, blank_figure
from overdepth.rule import end_to_end_spectrum
from overdepth.theory.gradient_flow import flow
from overdepth.theory.losses import LeastSquares, least_squares
from overdepth.transfer import transfer_operator

SOURCE = "Arora, Cohen & Hazan 2018, Claim 1"
EXACT = 1e-8
DEPTHS = (2, 3, 4)
OUTPUTS, FEATURES, EXAMPLES = 3, 4, 40
LAST = 4.0  # time, learning rate times steps
POINTS = 33
LEARNING_RATES = (4e-3, 2e-3, 1e-3, 5e-4)
SHOWN_DEPTH = 3
SHOWN_TIMES = (0, 8, 16, 32)  # positions among the points

SPECTRUM = Statement(
    id="claim1.spectrum",
    source=SOURCE,
    text="The preconditioner's eigenvalues are sums over j of sigma_r^(2(N-j)/N) sigma_r'^(2(j-1)/N).",
    statistic="largest |eigenvalue of the factors' transfer operator - Claim 1| / largest eigenvalue, along the flow",
    threshold=f"<= {EXACT:g}",
    holds=lambda error: error <= EXACT,
)
DIRECTIONS = Statement(
    id="claim1.directions",
    source=SOURCE,
    text="They belong to the products u_r v_r'^T of left and right singular vectors of the end-to-end weight.",
    statistic="largest ||T(u v^T) - eigenvalue u v^T|| / largest eigenvalue, along the flow",
    threshold=SPECTRUM.threshold,
    holds=SPECTRUM.holds,
)
DESCENT = Statement(
    id="claim1.descent",
    source=SOURCE,
    text="Under gradient descent the eigenvalues are Claim 1's up to an error that falls with the learning rate.",
    statistic="slope of log(largest relative error along the run) over log(lr)",
    threshold="in [0.9, 1.1]",
    holds=lambda slope: 0.9 <= slope <= 1.1,
)


def draw(seed: int, depth: int) -> tuple[list[Tensor], LeastSquares]:
    """Balanced factors of a random weight of norm 1/2, and a regression with several outputs."""
    rng = np.random.default_rng([seed, depth])
    weight = rng.standard_normal((OUTPUTS, FEATURES))
    X = rng.standard_normal((EXAMPLES, FEATURES))
    Y = X @ rng.standard_normal((FEATURES, OUTPUTS)) + 0.3 * rng.standard_normal((EXAMPLES, OUTPUTS))
    start = torch.from_numpy(0.5 * weight / np.linalg.norm(weight))
    return balanced_factors(start, depth), least_squares(torch.from_numpy(X), torch.from_numpy(Y))


def spectra(factors: list[Tensor]) -> tuple[Array, Array, float]:
    """Eigenvalues of the factors' transfer operator, ascending; Claim 1's, (k, d); and how far its directions are off.

    The directions are the singular vectors of the factors' product, completed to bases.
    """
    operator, weight = transfer_operator(factors), product(factors)
    claimed = end_to_end_spectrum(weight, len(factors))
    u, _, vh = torch.linalg.svd(weight, full_matrices=True)
    directions = u.mT[:, None, :, None] * vh[None, :, None, :]  # (r, r', k, d)
    away = operator(directions) - claimed[:, :, None, None] * directions
    residual = torch.linalg.vector_norm(away, dim=(-2, -1)).max() / claimed.max()
    return operator.spectrum().numpy(), claimed.numpy(), float(residual)


def error(actual: Array, claimed: Array) -> float:
    """Largest difference of the sorted eigenvalues over the largest one."""
    return float(np.abs(actual - np.sort(claimed, axis=None)).max() / claimed.max())


def descend(factors: list[Tensor], loss: LeastSquares, lr: float, steps: int) -> list[Tensor]:
    """The factors after so many steps of gradient descent."""
    for _ in range(steps):
        grads = factor_gradients(factors, loss.gradient(product(factors)))
        factors = [factor - lr * grad for factor, grad in zip(factors, grads, strict=True)]
    return factors


def _work(context: Context) -> xr.Dataset:
    rates = LEARNING_RATES[:2] if context.quick else LEARNING_RATES

    def compute() -> xr.Dataset:
        total = len(context.seeds) * len(DEPTHS) * (1 + len(rates))
        done = itertools.count(1)
        context.reporter.begin("spectrum along a run", 1, total)

        def told() -> None:
            context.reporter.advance(next(done), 1)

        rows = [_of_seed(seed, rates, told) for seed in context.seeds]
        return xr.concat(rows, dim="seed", join="exact").assign_coords(seed=list(context.seeds))

    return context.keep("claim1", {"seeds": list(context.seeds), "quick": context.quick}, compute)


def _of_seed(seed: int, rates: tuple[float, ...], told: Callable[[], None]) -> xr.Dataset:
    times = np.linspace(0.0, LAST, POINTS)
    actual = np.empty((len(DEPTHS), POINTS, OUTPUTS * FEATURES))
    claimed = np.empty((len(DEPTHS), POINTS, OUTPUTS, FEATURES))
    residual = np.empty((len(DEPTHS), POINTS))
    descent = np.zeros((len(DEPTHS), len(rates)))
    for i, depth in enumerate(DEPTHS):
        factors, loss = draw(seed, depth)
        path = flow(factors, loss, times, rtol=1e-11, atol=1e-13)
        for t in range(POINTS):
            now = [torch.from_numpy(path[f"factor_{j + 1}"].values[t]) for j in range(depth)]
            actual[i, t], claimed[i, t], residual[i, t] = spectra(now)
        told()
        for r, lr in enumerate(rates):
            now, each = factors, round(LAST / lr) // (POINTS - 1)
            for _ in range(POINTS - 1):
                now = descend(now, loss, lr, each)
                descent[i, r] = np.maximum(descent[i, r], error(*spectra(now)[:2]))
            told()
    return xr.Dataset(
        {
            "eigenvalue": (("depth", "time", "index"), actual),
            "claimed": (("depth", "time", "left", "right"), claimed),
            "residual": (("depth", "time"), residual),
            "descent_error": (("depth", "lr"), descent),
        },
        coords={"depth": list(DEPTHS), "time": times, "lr": list(rates)},
    )


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts on eigenvalues and eigenvectors along the flow, and on descent."""
    setting = replace(setting, horizon=0)
    is_quick = data.sizes["lr"] < len(LEARNING_RATES)
    few = f"Only {data.sizes['lr']} learning rates were run." if is_quick else ""
    found = []
    for depth in DEPTHS:
        part = data.sel(depth=depth)
        pairs = zip(
            part["eigenvalue"].values.reshape(-1, OUTPUTS * FEATURES),
            part["claimed"].values.reshape(-1, OUTPUTS, FEATURES),
            strict=True,
        )
        worst = float(np.max([error(actual, claimed) for actual, claimed in pairs]))
        what = f"depth {depth}, {OUTPUTS} x {FEATURES} weight"
        found.append(SPECTRUM.judge(what, [worst], setting))
        found.append(DIRECTIONS.judge(what, [float(part["residual"].max(skipna=False))], setting))
    for depth in DEPTHS:
        errors = data["descent_error"].sel(depth=depth).values
        with np.errstate(divide="ignore"):
            slopes = [float(np.polyfit(np.log(data["lr"].values), np.log(row), 1)[0]) for row in errors]
        finest = float(errors[:, -1].max())
        note = f"At lr {float(data['lr'][-1]):g} the largest relative error is {finest:.2g}."
        found.append(DESCENT.judge(f"depth {depth}", slopes, setting, note=note, control=True, too_few=few))
    return found


def pictures(data: xr.Dataset) -> list[Picture]:
    """The multipliers over time, those of every direction at a few times, and the error of descent."""
    return [
        Picture(
            f"Learning-rate multipliers along a run of depth {SHOWN_DEPTH}, first seed: the eigenvalues of the "
            "transfer operator of the moving factors (lines), and Claim 1 from their product alone (dots).",
            _over_time(data),
        ),
        Picture(
            "Claim 1's multiplier of every direction u_r v_r'^T at four times of the same run, as log10. Directions of "
            "large singular values are amplified most.",
            _heat_maps(data),
        ),
        Picture(
            "Gradient descent loses balance by a term of order lr in all: the largest relative error of Claim 1 along "
            "the run against the learning rate.",
            _descent_figure(data),
        ),
    ]


def _over_time(data: xr.Dataset) -> go.Figure:
    part = data.isel(seed=0).sel(depth=SHOWN_DEPTH)
    figure = blank_figure("Claim 1: multipliers over time", x="time", y="multiplier")
    times = np.append(part["time"].values, np.nan)  # a gap between one line and the next
    claimed = np.sort(part["claimed"].values.reshape(len(times) - 1, -1), axis=1)
    for label, values, color, mode in (("the factors' transfer operator", part["eigenvalue"].values, 1, "lines"),
                                       ("Claim 1", claimed, 2, "markers")):  # fmt: skip
        rows = np.hstack([values.T, np.full((values.shape[1], 1), np.nan)])
        add_curve(figure, np.tile(times, len(rows)), Curve(label, rows.reshape(1, -1), color=color), mode=mode)
    figure.update_layout(hovermode="closest")
    return figure


def _heat_maps(data: xr.Dataset) -> go.Figure:
    part = data.isel(seed=0).sel(depth=SHOWN_DEPTH)
    titles = [f"time {float(part['time'][t]):g}" for t in SHOWN_TIMES]
    figure = make_subplots(rows=2, cols=2, subplot_titles=titles, horizontal_spacing=0.12, vertical_spacing=0.16)
    for place, t in enumerate(SHOWN_TIMES):
        figure.add_trace(
            go.Heatmap(
                x=[f"v{r}" for r in range(1, FEATURES + 1)],
                y=[f"u{r}" for r in range(1, OUTPUTS + 1)],
                z=np.log10(part["claimed"].values[t]).astype(np.float32),
                texttemplate="%{z:.2f}",
                coloraxis="coloraxis",
                hovertemplate="%{y} %{x}: %{z:.3f}<extra></extra>",
            ),
            row=place // 2 + 1,
            col=place % 2 + 1,
        )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        blank_figure("Claim 1: multipliers by direction", x="", y="", log_y=False).layout.to_plotly_json()
        | {"coloraxis": {"colorscale": "Viridis", "colorbar": {"thickness": 10, "title": {"text": "log10"}}}},
        overwrite=False,
    )
    return figure


def _descent_figure(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Claim 1: gradient descent", x="learning rate", y="largest relative error", log_x=True)
    for depth in DEPTHS:
        curve = Curve(f"depth {depth}", data["descent_error"].sel(depth=depth).values, color=depth)
        add_curve(figure, data["lr"].values, curve, mode="lines+markers")
    return figure


ITEM = Item(
    name="claim1",
    title="Claim 1: the preconditioner's spectrum along a run",
    said=(
        "The end-to-end rule is a preconditioner: positive semidefinite, with eigenvectors u_r v_r'^T made of the "
        "weight's singular vectors and eigenvalues made of its singular values, so that it favours directions the "
        "weight has already taken.",
    ),
    ran=(
        f"Regressions with {OUTPUTS} outputs and {FEATURES} features from balanced starts of norm 1/2, depth 2, 3, 4, "
        f"by gradient flow to time {LAST:g}; at {POINTS} times the dense transfer operator of the factors themselves "
        "against Claim 1 for their product.",
        "Control: gradient descent over the same time at several learning rates.",
    ),
    statements=(SPECTRUM, DIRECTIONS, DESCENT),
    work=_work,
    claims=claims,
    pictures=pictures,
    needs="random starts",
    drawn="random regressions",
    minutes=(0.15, 0.04),
)
