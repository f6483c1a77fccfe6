"""The computations behind Theorem 2: line integrals, certificates, the exception N = 2, and the field on a grid."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from overdepth.lab.problem import Array
from overdepth.theory.line_integrals import closed_curve, curve_integral, curve_integral_exact, field_exponent
from overdepth.theory.no_regularizer import no_regularizer_certificate
from overdepth.theory.rule_field import Gradient, field_curl, two_layer_potential, vector_field

DEPTHS = (1.0, 1.5, 2.0, 2.1, 2.5, 3.0, 3.7, 4.0, 5.0, 6.0, 7.0, 8.0, 16.0, math.inf)
RADII = ((0.1, 0.2), (0.5, 1.0), (0.2, 2.0), (1.0, 3.0))
DIMENSIONS = (2, 5)
LOSSES = 30  # as many random losses a seed are asked for
CERTIFIED_DEPTHS = (2.5, 3.0, 4.0, 8.0, math.inf)
SHOWN_DEPTH, SHOWN_RADII = 3.0, (0.5, 1.0)
NODES = 32  # of the quadrature on each of the curve's four pieces: exact to rounding here
ARROWS, PIXELS = 17, 41


def of_seed(seed: int, *, quick: bool) -> xr.Dataset:
    """Integrals, certificates and the exception for the random gradients and losses of one seed."""
    rng = np.random.default_rng(seed)
    losses, all_radii, dimensions = (3, RADII[1:3], DIMENSIONS[:1]) if quick else (LOSSES, RADII, DIMENSIONS)
    sizes = (len(DEPTHS), len(all_radii), len(dimensions))
    quadrature, exact, scale = np.empty(sizes), np.empty(sizes), np.empty(sizes)
    for (i, depth), (j, (inner, outer)), (k, dimension) in itertools.product(
        enumerate(DEPTHS), enumerate(all_radii), enumerate(dimensions)
    ):
        gradient, normal = torch.from_numpy(rng.standard_normal((2, 1, dimension)))
        strength, q = float(gradient.norm()), field_exponent(depth)
        curve = closed_curve(gradient, inner, outer, normal=normal, nodes=NODES)
        quadrature[i, j, k] = curve_integral(_constant(gradient), curve, depth)
        exact[i, j, k] = curve_integral_exact(inner, outer, depth, strength)
        scale[i, j, k] = strength * (outer**q - inner**q)
    certified = np.array([_certified(rng) for _ in range(losses)])
    potential, curl = zip(*(_at_depth_two(rng) for _ in range(losses)), strict=True)
    where = ("depth", "radii", "dimension")
    return xr.Dataset(
        {
            "integral": (where, quadrature),
            "closed_form": (where, exact),
            "scale": (where, scale),
            "certificate": (("loss", "certified_depth"), certified.astype(np.int64)),
            "potential_error": ("loss", list(potential)),
            "curl": ("loss", list(curl)),
        },
        coords={
            "depth": list(DEPTHS),
            "inner": ("radii", [inner for inner, _ in all_radii]),
            "outer": ("radii", [outer for _, outer in all_radii]),
            "dimension": list(dimensions),
            "certified_depth": list(CERTIFIED_DEPTHS),
        },
    )


def _constant(gradient: Tensor) -> Gradient:
    """The gradient of a linear loss."""
    return lambda weight: gradient


def _quadratic(rng: np.random.Generator, dimension: int) -> tuple[Tensor, Tensor]:
    """The Hessian and the minimizer of a random strictly convex quadratic loss."""
    root = rng.standard_normal((2 * dimension, dimension)) / math.sqrt(2 * dimension)
    return torch.from_numpy(root.T @ root), torch.from_numpy(rng.standard_normal((1, dimension)))


def _certified(rng: np.random.Generator) -> list[bool]:
    """For every depth whether Lemma 2's bound is positive and respected, for one random loss."""
    dimension = int(rng.integers(2, 7))
    hessian, target = _quadratic(rng, dimension)
    smoothness = float(torch.linalg.matrix_norm(hessian, ord=2))
    return [
        no_regularizer_certificate(lambda w: (w - target) @ hessian, dimension, depth, smoothness=smoothness).holds
        for depth in CERTIFIED_DEPTHS
    ]


def _at_depth_two(rng: np.random.Generator) -> tuple[float, float]:
    """For a linear loss, how far field and potential's gradient differ; for a quadratic one, its field's curl."""
    weight, direction = torch.from_numpy(rng.standard_normal((2, 1, 3)))
    field = vector_field(weight, _constant(direction), 2)
    slope = torch.func.grad(lambda w: two_layer_potential(w, direction))(weight)
    hessian, target = _quadratic(rng, 3)

    def gradient(w: Tensor) -> Tensor:
        return (w - target) @ hessian

    size = vector_field(weight, gradient, 2).norm() / weight.norm()
    curl = field_curl(weight, gradient, 2).abs().max() / size
    return float((field - slope).norm() / field.norm()), float(curl)


def field_on_grid(*, quick: bool) -> dict[str, tuple[tuple[str, ...], Array]]:
    """The field of the constant gradient (1, 0) on a grid of arrows, and its curl on a finer one."""
    pixels = PIXELS // 2 if quick else PIXELS
    reach = 1.25 * SHOWN_RADII[1]
    constant = _constant(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    arrows, fine = np.linspace(-reach, reach, ARROWS), np.linspace(-reach, reach, pixels)
    grid = torch.from_numpy(np.stack(np.meshgrid(arrows, arrows), axis=-1))[:, :, None, :]
    field = vector_field(grid, constant, SHOWN_DEPTH).numpy()[:, :, 0]
    curl = np.zeros((pixels, pixels))
    for (i, y), (j, x) in itertools.product(enumerate(fine), enumerate(fine)):
        if math.hypot(x, y) > 1e-9:  # at 0 it is 0, of degree 1 - 2/N
            weight = torch.tensor([[x, y]], dtype=torch.float64)
            curl[i, j] = float(field_curl(weight, constant, SHOWN_DEPTH)[1, 0])  # dF_2/dw_1 - dF_1/dw_2
    return {
        "field": (("arrow_y", "arrow_x", "component"), field),
        "arrow_place": (("arrow_x",), arrows),
        "field_curl": (("y", "x"), curl),
        "place": (("x",), fine),
    }
