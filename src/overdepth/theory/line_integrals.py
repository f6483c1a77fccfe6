r"""Line integrals of the rule's field along the curve of Theorem 2, by quadrature and in closed form.

Gamma_{r,R} runs along a direction e: from -R e to -r e, on a half circle of radius r to r e, on to R e, and on a half
circle of radius R back to -R e. For a constant gradient c e the integral is c (2N/q - 2) (R^q - r^q), q = 3 - 2/N: the
straight pieces give 2N/q, the half circles -2. It is zero at N = 1 and N = 2 only.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from overdepth._checks import check_depth, check_positive, check_size, shape
from overdepth.theory.rule_field import Gradient, unit_row, vector_field


class ClosedCurve(NamedTuple):
    """A closed curve as a quadrature: the integral of a field F along it is the sum of <F(points), steps>.

    Attributes:
        points: Where to evaluate, shape (n, 1, d), float64.
        steps: The curve's derivative times the weight of the quadrature, shape (n, 1, d).
    """

    points: Tensor
    steps: Tensor


def closed_curve(
    direction: Tensor, inner: float, outer: float, *, normal: Tensor | None = None, nodes: int = 64
) -> ClosedCurve:
    r"""The curve Gamma_{r,R}, with ``nodes`` Gauss-Legendre points on each of its four pieces.

    Args:
        direction: e up to its length, shape (1, d), d >= 2.
        inner: r > 0.
        outer: R > r.
        normal: A second direction, (1, d), that fixes the plane of the half circles; they pass through its side. By
            default the coordinate axis on which ``direction`` has its smallest entry.
        nodes: Points on each piece.

    Raises:
        ValueError: If the radii are not 0 < inner < outer, a direction is zero, not finite, no row, or has a single
            entry, or ``normal`` is a multiple of ``direction``.

    Example:
        >>> import torch
        >>> from overdepth.theory import closed_curve
        >>> points, steps = closed_curve(torch.tensor([[1.0, 0.0]]), 0.5, 1.0)
        >>> float(steps.sum().abs()) < 1e-12  # it closes
        True

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Appendix A.4 (proof of Theorem 2).
    """
    e, n = _plane(direction, normal)
    _check_radii(inner, outer)
    check_size(nodes, "nodes")
    x, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(nodes))
    half = 0.5 * (x + 1.0)[:, None, None]  # on [0, 1]
    weights = 0.5 * weights[:, None, None]
    width, angle = outer - inner, math.pi * half
    away, around = torch.cos(angle), torch.sin(angle)
    points = [
        -(outer - width * half) * e,
        inner * (around * n - away * e),
        (inner + width * half) * e,
        outer * (away * e + around * n),
    ]
    derivatives = [
        (width * e).expand(nodes, 1, -1),
        math.pi * inner * (away * n + around * e),
        (width * e).expand(nodes, 1, -1),
        math.pi * outer * (away * n - around * e),
    ]
    return ClosedCurve(torch.cat(points), torch.cat([weights * d for d in derivatives]))


def curve_integral(gradient: Gradient, curve: ClosedCurve, depth: float) -> float:
    """The line integral of the rule's field F along a closed curve; not zero: F is no gradient.

    Args:
        gradient: From a weight (1, d) in float64 to the loss's gradient there, (1, d).
        curve: From :func:`closed_curve`, or any quadrature of that form.
        depth: N, any real number >= 1, or ``math.inf`` for the limit of F / N.

    Returns:
        The integral; exact to rounding for smooth gradients.

    Raises:
        ValueError: As :func:`vector_field`.

    Example:
        >>> import torch
        >>> from overdepth.theory import closed_curve, curve_integral, curve_integral_exact
        >>> e = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        >>> round(curve_integral(lambda w: e, closed_curve(e, 0.5, 1.0), depth=3), 9)
        0.458042782
        >>> round(curve_integral_exact(0.5, 1.0, depth=3), 9)
        0.458042782

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 2.
    """
    return float((vector_field(curve.points, gradient, depth) * curve.steps).sum())


def curve_integral_exact(inner: float, outer: float, depth: float, strength: float = 1.0) -> float:
    """The integral along Gamma_{r,R} for a constant gradient c e, in closed form: c (2N/q - 2)(R^q - r^q), q = 3 - 2/N.

    Args:
        inner: r > 0.
        outer: R > r.
        depth: N, any real number >= 1, or ``math.inf`` for the limit of the integral / N.
        strength: c.

    Returns:
        The integral: 0 for N = 1 and 2, positive beyond, negative between them.

    Raises:
        ValueError: If the radii are not 0 < inner < outer, or depth < 1.

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Appendix A.4, Lemma 3.
    """
    check_depth(depth, allow_real=True)
    _check_radii(inner, outer)
    q = field_exponent(depth)
    factor = 2.0 / q if math.isinf(depth) else 2.0 * depth / q - 2.0
    return float(strength * factor * (outer**q - inner**q))


def field_exponent(depth: float) -> float:
    """The exponent q = 3 - 2/N: the field is homogeneous of degree q - 1, its line integrals of degree q."""
    return 3.0 - 2.0 / depth


def _check_radii(inner: float, outer: float) -> None:
    check_positive(inner, "inner")
    check_positive(outer, "outer")
    if not inner < outer:
        raise ValueError(f"inner is {inner!r} and outer is {outer!r}, expected 0 < inner < outer.")


def _plane(direction: Tensor, normal: Tensor | None) -> tuple[Tensor, Tensor]:
    """Two orthonormal rows: the direction, and what of the normal (or an axis) lies across it."""
    e = unit_row(direction, "direction")
    if e.shape[-1] < 2:
        raise ValueError(
            f"direction has shape {shape(direction)}, expected at least two entries: there is no such curve on a line."
        )
    if normal is None:
        across = torch.zeros_like(e)
        across[0, int(e.abs().argmin())] = 1.0
    else:
        across = unit_row(normal, "normal")
        if across.shape != e.shape:
            raise ValueError(f"normal has shape {shape(normal)} and direction {shape(direction)}, expected the same.")
    across = across - (across * e).sum() * e
    length = float(torch.linalg.vector_norm(across))
    if length < 1e-6:
        raise ValueError(f"normal of shape {shape(e)} is a multiple of direction, expected another direction.")
    across = across / length
    across = across - (across * e).sum() * e  # twice is enough
    return e, across / torch.linalg.vector_norm(across)
