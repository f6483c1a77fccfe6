"""The view of rates: the imbalance between the layers is a dial of the rate that is proved.

Two modes, depth N, the loss ||W - W*||_F^2 / 2 with W* = diag(sigma_1, sigma_2) and the start f W*. The square of every
layer exceeds that of the one before by the imbalance, on both modes: the smallest eigenvalue of the transfer operator
is then that of the smaller mode, and at least alpha = p'(x*) with p(x*) = margin^2.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import torch

from overdepth.explorer.controls import Control, Slider, Values, decades, evenly
from overdepth.explorer.drawing import INK, Picture, Shown, figure, fit_decades
from overdepth.explorer.mode_times import log_error, mode_path, offsets, rate
from overdepth.paper.picture import Curve, add_curve
from overdepth.theory.balancing import factors_with_imbalance
from overdepth.theory.certificate import Certificate, certify

if TYPE_CHECKING:
    from overdepth.lab.problem import Array

DEPTHS = (2, 3, 4, 5)
IMBALANCES = evenly(0, 8, 0.1)
CURVE = evenly(0, 8, 0.2)
"""Where the curves are computed."""
FALL = 1e-10
"""Of the gap: how far down the picture goes."""

CONTROLS: tuple[Control, ...] = (
    Slider("depth", "depth N", DEPTHS, 2),
    Slider("imbalance", "imbalance between layers", IMBALANCES, 2),
    Slider("fraction", "start, over the target", (*decades(-3, -1), *evenly(0.15, 0.95, 0.05), 1.05, 1.1, 1.2), 0.01),
    Slider("sigma1", "larger singular value", evenly(1, 3, 0.1), 2),
    Slider("sigma2", "smaller singular value", evenly(0.2, 1, 0.1), 1),
)


def show(values: Values) -> Shown:
    """The view."""
    depth, imbalance, fraction = int(values["depth"]), float(values["imbalance"]), float(values["fraction"])
    sigma = (float(values["sigma1"]), float(values["sigma2"]))
    found = certificate(depth, imbalance, fraction, sigma)
    pictures = [
        Picture(
            "Rate by imbalance",
            "The transfer operator's smallest eigenvalue. Solid: what is certified for all time; dotted: at the start "
            "(frozen, no bound); dashed: at the target, with which the flow ends.",
            by_imbalance(depth, imbalance, fraction, sigma),
        ),
        Picture(
            "Loss minus optimal loss",
            "The flow's gap, what is certified of it, and the frozen prediction, which is no bound.",
            over_time(depth, imbalance, fraction, sigma),
        ),
    ]
    said = (
        "Nothing is certified: balanced layers near zero have a margin of 0, and the flow may wait for ever."
        if found.is_vacuous
        else f"The gap falls at least as exp(-{found.alpha * found.pl:.4g} t), by the bound '{found.bound}'."
    )
    at_start = float(rate(_chain(depth, imbalance), np.array(fraction * sigma[1])))
    at_end = float(rate(_chain(depth, imbalance), np.array(sigma[1])))
    text = (
        f"{said} Certified alpha **{found.alpha:.4g}**; at the start {at_start:.4g}, at the target {at_end:.4g}. "
        f"Margin {found.margin:.3g}."
    )
    return Shown(text, pictures)


def certified_alphas(depth: int, fraction: float, sigma: tuple[float, float]) -> Array:
    """The proved alpha for every imbalance of ``CURVE``, in closed form."""
    return _rates(depth, margin_of(fraction, sigma))


@functools.lru_cache(maxsize=256)
def _rates(depth: int, level: float) -> Array:
    """The smaller mode's transfer operator at this size for every imbalance of ``CURVE``."""
    chains = np.stack([_chain(depth, imbalance) for imbalance in CURVE])
    return rate(chains, np.full(len(chains), level))


def margin_of(fraction: float, sigma: tuple[float, float]) -> float:
    """How small sigma_2(W) may become while the loss falls: sigma_2 - ||W(0) - W*||_F, or 0."""
    return max(sigma[1] - abs(1 - fraction) * math.hypot(*sigma), 0.0)


@functools.lru_cache(maxsize=256)
def certificate(depth: int, imbalance: float, fraction: float, sigma: tuple[float, float]) -> Certificate:
    """What :func:`overdepth.theory.certify` proves of these factors, by whichever bound is best."""
    target = torch.diag(torch.tensor(sigma, dtype=torch.float64))
    factors = factors_with_imbalance(fraction * target, depth, imbalance)
    gap = (1 - fraction) ** 2 * (sigma[0] ** 2 + sigma[1] ** 2) / 2
    return certify(factors, strong_convexity=1.0, smoothness=1.0, gap=gap, target=target)


def by_imbalance(depth: int, imbalance: float, fraction: float, sigma: tuple[float, float]) -> go.Figure:
    """Certified, first and last rates over the imbalance, at all depths."""
    picture = figure(x="imbalance between neighbouring layers", y="smallest eigenvalue")
    dial = np.asarray(CURVE)
    for other in DEPTHS:
        width = 3.2 if other == depth else 1.2
        curve = Curve(
            f"N = {other}, certified", certified_alphas(other, fraction, sigma)[None], color=other, width=width
        )
        add_curve(picture, dial, curve)
        if other == depth:
            for level, label, dash in (
                (fraction * sigma[1], "at the start", "dot"),
                (sigma[1], "at the target", "dash"),
            ):
                values = _rates(other, level)
                add_curve(picture, dial, Curve(f"N = {other}, {label}", values[None], color=other, dash=dash))
    picture.add_vline(x=imbalance, line={"color": INK, "width": 2, "dash": "dot"})
    fit_decades(picture, 1e-2, 10**4.5)
    return picture


def over_time(depth: int, imbalance: float, fraction: float, sigma: tuple[float, float]) -> go.Figure:
    """The gap of the flow and its envelopes."""
    picture = figure(x="time", y="loss minus optimal loss")
    found = certificate(depth, imbalance, fraction, sigma)
    times, gap = flow_gap(depth, imbalance, fraction, sigma)
    shown = torch.from_numpy(times)
    low = FALL * found.gap
    for label, values, color, dash, width in (
        ("flow", gap, 0, "solid", 3.0),
        ("certified", found.envelope(shown).numpy(), 2, "solid", 2.0),
        ("certified, margin refreshed", found.adaptive_envelope(shown).numpy(), 1, "dash", 2.0),
        ("frozen, no bound", found.frozen(shown).numpy(), 3, "dot", 2.0),
    ):
        seen = np.where(values >= 0.3 * low, values, np.nan)
        add_curve(picture, times, Curve(label, seen[None], color=color, dash=dash, width=width))
    picture.update_xaxes(range=[0, float(times[-1])])
    fit_decades(picture, 0.3 * low, 3 * found.gap)
    return picture


def flow_gap(depth: int, imbalance: float, fraction: float, sigma: tuple[float, float]) -> tuple[Array, Array]:
    """Times, until the gap has fallen by ``FALL``, and the gap of gradient flow then."""
    chain = _chain(depth, imbalance)
    paths = [mode_path(chain, fraction * s, s, fall=1e-7) for s in sigma]
    ends = [times[-1] for times, _ in paths]
    times = np.unique(np.concatenate([*(times for times, _ in paths), np.linspace(0, max(ends), 60)]))
    errors = [log_error(times, chain, path, s) for path, s in zip(paths, sigma, strict=True)]
    total: Array = np.exp(2 * np.stack(errors)).sum(axis=0) / 2
    kept = total >= FALL * total[0]
    kept[: int(np.argmin(kept)) + 1] = True  # one point beyond, where there is one
    return times[kept], total[kept]


def _chain(depth: int, imbalance: float) -> Array:
    return offsets([imbalance] * (depth - 1))
