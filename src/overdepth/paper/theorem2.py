"""Theorem 2: the end-to-end rule's field has line integrals along closed curves that are not zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from overdepth.lab.problem import Array
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context
from overdepth.paper.item import Item, Picture
from overdepth.paper.picture import COLORS, Curve, add_curve, blank_figure
from overdepth.paper.theorem2_runs import LOSSES, SHOWN_DEPTH, SHOWN_RADII, field_on_grid, of_seed
from overdepth.theory.line_integrals import curve_integral_exact, field_exponent

SOURCE = "Arora, Cohen & Hazan 2018, Theorem 2"
EXACT = 1e-10

INTEGRAL = Statement(
    id="theorem2.integral",
    source=SOURCE,
    text="For a constant gradient c e the line integral along the curve is c (2N/q - 2)(R^q - r^q), q = 3 - 2/N.",
    statistic="largest |quadrature - closed form| over c (R^q - r^q), all depths, radii and directions",
    threshold=f"<= {EXACT:g}",
    holds=lambda error: error <= EXACT,
)
NONZERO = Statement(
    id="theorem2.nonzero",
    source=SOURCE,
    text="It is not zero beyond N = 2: no regularizer has this field as its loss's gradient.",
    statistic="smallest integral over c (R^q - r^q), all depths above 2",
    threshold="> 1e-6",
    holds=lambda integral: integral > 1e-6,
)
CERTIFICATE = Statement(
    id="theorem2.certificate",
    source=SOURCE,
    text="The same for any loss with a gradient that is continuous, and not zero, at 0: close to 0 Lemma 2's bound is "
    "positive, and the integral respects it.",
    statistic="share of random quadratic losses and depths for which it is so",
    threshold="1",
    holds=lambda share: share == 1.0,
)
POTENTIAL = Statement(
    id="theorem2.potential",
    source=SOURCE,
    text="At N = 2, which the theorem leaves out, a linear loss <u, w> has the potential |w| <u, w>.",
    statistic="largest relative difference between the field and the potential's gradient",
    threshold=f"<= {EXACT:g}",
    holds=lambda error: error <= EXACT,
)
CURL = Statement(
    id="theorem2.curl",
    source=SOURCE,
    text="At N = 2 a quadratic loss has none: its field has a curl.",
    statistic="smallest |curl| of the field over |field| / |w|, random quadratic losses and weights",
    threshold="> 1e-6",
    holds=lambda curl: curl > 1e-6,
)


def _work(context: Context) -> xr.Dataset:
    def compute() -> xr.Dataset:
        context.reporter.begin("line integrals", 1, len(context.seeds) + 1)
        rows = []
        for i, seed in enumerate(context.seeds):
            rows.append(of_seed(seed, quick=context.quick))
            context.reporter.advance(i + 1, 1)
        data = xr.concat(rows, dim="seed", join="exact").assign_coords(seed=list(context.seeds))
        data = data.assign(field_on_grid(quick=context.quick))
        context.reporter.advance(len(context.seeds) + 1, 1)
        return data

    return context.keep("theorem2", {"seeds": list(context.seeds), "quick": context.quick}, compute)


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts on the integral, on losses at large, and on the exception N = 2."""
    setting = replace(setting, horizon=0)
    count = data.sizes["loss"]
    few = f"Only {count} random losses a seed were drawn, {LOSSES} are asked for." if count < LOSSES else ""
    relative = data["integral"] / data["scale"]
    closed = data["closed_form"] / data["scale"]
    beyond = relative.sel(depth=data["depth"] > 2.0)
    curves = f"{data.sizes['depth']} depths from 1 to infinity, {data.sizes['radii']} pairs of radii"
    note = "At infinite depth field and integral are divided by N."
    two = float(abs(relative.sel(depth=2.0)).max(skipna=False))
    at_two = f"At N = 2 it is {two:.1g}{': zero, rounded' if two <= EXACT else ''}."
    error = float(abs(relative - closed).max(skipna=False))
    potential = float(data["potential_error"].max(skipna=False))
    curl = float(data["curl"].min(skipna=False))
    return [
        INTEGRAL.judge(curves, [error], setting, note=note),
        NONZERO.judge("depths 2.1 to infinity", [float(beyond.min(skipna=False))], setting, note=at_two),
        CERTIFICATE.judge(
            f"{count} losses a seed in 2 to 6 dimensions, depth 2.5 to infinity",
            [float(data["certificate"].mean(skipna=False))],
            setting,
            note="The theorem needs two dimensions at least, which the paper does not say.",
            too_few=few,
        ),
        POTENTIAL.judge(f"{count} linear losses a seed", [potential], setting, control=True, too_few=few),
        CURL.judge(f"{count} quadratic losses a seed", [curl], setting, control=True, too_few=few),
    ]


def pictures(data: xr.Dataset) -> list[Picture]:
    """The field with the curve over its curl, and the integral against depth."""
    return [
        Picture(
            f"The field that the rule with N = {SHOWN_DEPTH:g} makes of the constant gradient (1, 0): arrows of length "
            "|F|, scaled, over the field's curl (colour), with the closed curve of the theorem. The integral along it "
            "is the curl's total inside.",
            _field_figure(data),
        ),
        Picture(
            "Line integral over R^q against depth for a constant gradient of length 1: closed form (lines) and "
            "quadrature (dots, first seed, over its gradient's length). It is zero at N = 1 and N = 2 only.",
            _integral_figure(data),
        ),
    ]


def _field_figure(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Theorem 2: the field and the curve", x="w1", y="w2", log_y=False)
    place = data["place"].values.astype(np.float32)
    curl = data["field_curl"].values.astype(np.float32)
    figure.add_trace(
        go.Heatmap(
            x=place,
            y=place,
            z=curl,
            zmid=0.0,
            colorscale="RdBu",
            zsmooth="best",
            opacity=0.6,
            colorbar={"thickness": 10, "title": {"text": "curl"}},
            hovertemplate="curl %{z:.3f}<extra></extra>",
        )
    )
    x, y = _arrows(data["arrow_place"].values, data["field"].values)
    add_curve(figure, x, Curve("field", y[None], color=0, width=1.2))
    inner, outer = SHOWN_RADII
    angle = np.linspace(0.0, np.pi, 60)
    half = np.stack([-np.cos(angle), np.sin(angle)])
    x, y = np.concatenate([inner * half, outer * half[:, ::-1], inner * half[:, :1]], axis=1)
    add_curve(figure, x, Curve("closed curve", y[None], color=2, width=3.0))
    at = {"x": [0.0, 0.0, -0.75 * outer, 0.75 * outer], "y": [inner, outer, 0.0, 0.0]}
    symbols = ["triangle-right", "triangle-left", "triangle-right", "triangle-right"]
    marker = {"symbol": symbols, "size": 13, "color": COLORS[2]}
    figure.add_trace(go.Scatter(**at, mode="markers", marker=marker, hoverinfo="skip", showlegend=False))
    figure.update_yaxes(scaleanchor="x", constrain="domain")
    figure.update_xaxes(constrain="domain")
    figure.update_layout(hovermode="closest")
    return figure


def _arrows(place: Array, field: Array) -> tuple[Array, Array]:
    """Shafts and heads of all arrows as one broken line."""
    spacing = float(place[1] - place[0])
    x, y = np.meshgrid(place, place)
    root = x + 1j * y
    shaft = (field[..., 0] + 1j * field[..., 1]) * (0.95 * spacing / np.linalg.norm(field, axis=-1).max())
    tip = root + shaft
    heads = [tip - 0.35 * shaft * np.exp(1j * turn) for turn in (0.5, -0.5)]
    line = np.stack([root, tip, heads[0], tip, heads[1], np.full_like(root, np.nan)], axis=-1).ravel()
    return line.real, line.imag


def _integral_figure(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Theorem 2: the integral", x="depth N", y="integral / R^q", log_x=True, log_y=False)
    finite = data.isel(depth=np.flatnonzero(np.isfinite(data["depth"].values)))
    places = finite["depth"].values
    depths = np.geomspace(1.0, places.max(), 120)
    ratios = data["inner"].values / data["outer"].values  # of degree q in the radii: over R^q all depends on r / R
    for color, j in enumerate(np.unique(ratios.round(6), return_index=True)[1], start=1):
        label = f"r / R = {ratios[j]:.2g}"
        exact = np.array([curve_integral_exact(float(ratios[j]), 1.0, float(depth)) for depth in depths])
        add_curve(figure, depths, Curve(label, exact[None], color=color))
        share = 1.0 - ratios[j] ** np.array([field_exponent(float(depth)) for depth in places])
        found = (finite["integral"] / finite["scale"]).isel(seed=0, radii=int(j), dimension=0).values * share
        dots = Curve(f"{label}, quadrature", found[None], color=color)
        add_curve(figure, places, dots, mode="markers")
        figure.data[-1].update(showlegend=False, marker={"color": COLORS[color], "size": 8})
    return figure


ITEM = Item(
    name="theorem2",
    title="Theorem 2: no regularizer does what depth does",
    said=(
        "For a single output and N > 2, the end-to-end rule's update is not the gradient of any loss, regularized or "
        "not: there are closed curves along which its line integral is not zero.",
    ),
    ran=(
        "The integral along the paper's curve by Gauss quadrature for constant gradients, against its closed form: "
        "random directions in 2 and 5 dimensions, four pairs of radii, real depths from 1 to 16, and infinity.",
        f"{LOSSES} random quadratic losses a seed with radii that make Lemma 2's bound positive.",
        "Controls at N = 2: the potential of linear losses, and the curl for quadratic ones.",
    ),
    statements=(INTEGRAL, NONZERO, CERTIFICATE, POTENTIAL, CURL),
    work=_work,
    claims=claims,
    pictures=pictures,
    needs="random starts",
    drawn="random losses",
    minutes=(0.15, 0.06),
)
