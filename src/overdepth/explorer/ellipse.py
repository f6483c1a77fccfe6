"""The view of the preconditioner: what the end-to-end rule does to the circle of all gradients of one length.

The weight is W = R(left) diag(sigma_1, sigma_2) R(right)^T. The rule divided by N has the eigenvalues of Claim 1 over
N: sigma_r^{2-2/N} along u_r v_r^T, and a mean of both across. At depth 1 all are 1, the circle; at infinite depth they
are sigma_1^2, sigma_2^2 and the logarithmic mean of these.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
import torch
from torch import Tensor

from overdepth.explorer.controls import Control, Slider, Values, evenly
from overdepth.explorer.drawing import INK, Picture, Shown, add_line, figure
from overdepth.paper.picture import Curve, add_curve
from overdepth.rule import end_to_end_spectrum, end_to_end_update

if TYPE_CHECKING:
    from overdepth.lab.problem import Array

DIRECTIONS = 97
BESIDE = (1.0, 2.0, 3.0, math.inf)
"""Depths that are drawn beside the chosen one."""
INVERSES = evenly(0, 1, 0.02)

CONTROLS: tuple[Control, ...] = (
    Slider("inverse_depth", "1 / depth (0: infinite)", INVERSES, 0.5),
    Slider("sigma1", "σ₁", evenly(0.1, 2, 0.05), 1.4),
    Slider("sigma2", "σ₂", evenly(0.1, 2, 0.05), 0.5),
    Slider("left", "angle of the outputs (°)", tuple(range(0, 181, 5)), 20),
    Slider("right", "angle of the inputs (°)", tuple(range(0, 181, 5)), 30),
)


def show(values: Values) -> Shown:
    """The view."""
    inverse = float(values["inverse_depth"])
    depth = math.inf if inverse == 0 else 1.0 / inverse
    sigma = (float(values["sigma1"]), float(values["sigma2"]))
    weight = weight_of(sigma, float(values["left"]), float(values["right"]))
    pictures = [
        Picture(
            "In the weight's own directions",
            "Gradients of one length that stretch or shrink the weight along u₁v₁ᵀ and u₂v₂ᵀ, and what the rule makes "
            "of them, over N: the circle becomes an ellipse with half axes σ to the power 2 - 2/N.",
            own_plane(sigma, depth),
        ),
        Picture(
            "The first output's row",
            "Gradients of one length that concern the first output alone, and what the rule does to that output's row. "
            "The ellipse's axes are the weight's right singular vectors (dotted).",
            first_output(weight, depth),
        ),
        Picture(
            "Learning-rate multipliers",
            "Claim 1's, over N, from depth 1 (right) to infinite depth (left). Across both directions it is between.",
            over_depth(sigma, inverse),
        ),
    ]
    first, across, second = multipliers(sigma, depth)
    text = (
        f"Depth **{name(depth)}**: learning-rate multipliers over N of {first:.3g} and {second:.3g} along the weight's "
        f"own directions and {across:.3g} across; the largest is **{max(first, second) / min(first, second):.3g}** "
        f"times the smallest."
    )
    return Shown(text, pictures)


def name(depth: float) -> str:
    """``2``, ``2.5``, ``∞``."""
    return "∞" if math.isinf(depth) else f"{depth:.3g}"


def weight_of(sigma: tuple[float, float], left: float, right: float) -> Tensor:
    """R(left) diag(sigma) R(right)^T, angles in degrees."""
    rotations = []
    for angle in (left, right):
        c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        rotations.append(torch.tensor([[c, -s], [s, c]], dtype=torch.float64))
    return rotations[0] @ torch.diag(torch.tensor(sigma, dtype=torch.float64)) @ rotations[1].mT


def multipliers(sigma: tuple[float, float], depth: float) -> tuple[float, float, float]:
    """Claim 1's eigenvalues over N: along u_1 v_1^T, across, along u_2 v_2^T.

    Example:
        >>> from overdepth.explorer.ellipse import multipliers
        >>> multipliers((2.0, 1.0), 2)
        (2.0, 1.5, 1.0)
    """
    found = end_to_end_spectrum(torch.diag(torch.tensor(sigma, dtype=torch.float64)), depth)
    if sigma[0] < sigma[1]:  # the spectrum is in descending order
        found = found.flip(0, 1)
    over = 1.0 if math.isinf(depth) else depth
    return float(found[0, 0]) / over, float(found[0, 1]) / over, float(found[1, 1]) / over


def ellipse_of_first_output(weight: Tensor, depth: float) -> Array:
    """The first row of the rule over N, for gradients that are a circle in the first row; shape (DIRECTIONS, 2)."""
    circle = _circle()
    grads = torch.zeros(DIRECTIONS, 2, 2, dtype=torch.float64)
    grads[:, 0] = torch.from_numpy(circle)
    update = end_to_end_update(weight.expand(DIRECTIONS, 2, 2), grads, depth, check_finite=False)
    found: Array = (update[:, 0] / (1.0 if math.isinf(depth) else depth)).numpy()
    return found


def own_plane(sigma: tuple[float, float], depth: float) -> go.Figure:
    """The image of the circle in the plane of u_1 v_1^T and u_2 v_2^T."""
    circle = _circle()
    picture = figure(x="along u₁v₁ᵀ", y="along u₂v₂ᵀ", log_y=False)
    for other, dash, width in _drawn(depth):
        first, _, second = multipliers(sigma, other)
        _add_ellipse(picture, circle * np.array([first, second]), other, dash, width)
    return _square(picture, max(1.0, *sigma) ** 2)


def first_output(weight: Tensor, depth: float) -> go.Figure:
    """The image of the circle in the first output's row."""
    picture = figure(x="input 1", y="input 2", log_y=False)
    for other, dash, width in _drawn(depth):
        _add_ellipse(picture, ellipse_of_first_output(weight, other), other, dash, width)
    singular, rows = (part.numpy() for part in torch.linalg.svd(weight)[1:])
    reach = max(1.0, float(singular[0])) ** 2
    for row in rows:
        ends = np.stack([-reach * row, reach * row])
        picture.add_trace(
            go.Scatter(
                x=ends[:, 0],
                y=ends[:, 1],
                mode="lines",
                line={"color": INK, "dash": "dot", "width": 1},
                hoverinfo="skip",
                showlegend=False,
            )
        )
    return _square(picture, reach)


def over_depth(sigma: tuple[float, float], inverse: float) -> go.Figure:
    """The multipliers against 1 / N, the chosen depth marked."""
    picture = figure(x="1 / N", y="multiplier over N", log_y=False)
    table = _table(sigma)
    labels = ("u₁v₁ᵀ", "u₁v₂ᵀ and u₂v₁ᵀ", "u₂v₂ᵀ")
    for column, (label, color) in enumerate(zip(labels, (1, 3, 2), strict=True)):
        add_curve(picture, np.asarray(INVERSES), Curve(label, table[None, :, column], color=color, width=2.5))
    picture.add_vline(x=inverse, line={"color": INK, "width": 2, "dash": "dot"})
    return picture


@functools.lru_cache(maxsize=32)
def _table(sigma: tuple[float, float]) -> Array:
    return np.array([multipliers(sigma, math.inf if inverse == 0 else 1.0 / inverse) for inverse in INVERSES])


def _drawn(depth: float) -> list[tuple[float, str, float]]:
    others = [(other, "dot", 1.2) for other in BESIDE if other != depth]
    return [*others, (depth, "solid", 3.2)]


def _add_ellipse(picture: go.Figure, points: Array, depth: float, dash: str, width: float) -> None:
    color = 2 if width > 2 else (0, 1, 3, 4)[BESIDE.index(depth)]
    add_line(picture, points[:, 0], points[:, 1], f"N = {name(depth)}", color=color, dash=dash, width=width)


def _square(picture: go.Figure, reach: float) -> go.Figure:
    """Equal scales on both axes, which do not move with the depth."""
    picture.update_xaxes(range=[-1.08 * reach, 1.08 * reach], constrain="domain")
    picture.update_yaxes(range=[-1.08 * reach, 1.08 * reach], scaleanchor="x")
    return picture


def _circle() -> Array:
    angles = np.linspace(0, 2 * np.pi, DIRECTIONS)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)
