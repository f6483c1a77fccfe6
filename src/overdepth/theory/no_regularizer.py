r"""Theorem 2: the acceleration of depth is not the gradient of any regularized loss.

For a single output the end-to-end rule makes of a loss's gradient g the vector field

    F(w) = ||w||^{2-2/N} (g(w) + (N-1) <g(w), u> u),  u = w / ||w||,  F(0) = 0.

Were F a gradient, its line integral along every closed curve would vanish. Gamma_{r,R} runs along e = g(0)/||g(0)||:
from -R e to -r e, on a half circle of radius r to r e, on to R e, and on a half circle of radius R back to -R e. With
q = 3 - 2/N and c = ||g(0)||, a constant gradient c e gives exactly

    c (2N/q - 2) (R^q - r^q),

which is zero only at N = 1 and N = 2, and the rest xi(w) = g(w) - c e takes at most 2 pi N R^q max ||xi|| from it
(Lemma 2). A continuous gradient makes that small for small R, so that the integral is positive for every N > 2.

Theorem 2 needs two dimensions at least: on a line every continuous field is a gradient. At N = 2 the theorem says
nothing, see :mod:`overdepth.theory.rule_field`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from overdepth._checks import check_depth, check_positive, check_size
from overdepth.theory.line_integrals import closed_curve, curve_integral_exact, field_exponent
from overdepth.theory.rule_field import Gradient, evaluate, field_of

_HALVINGS = 60


@dataclass(frozen=True)
class NoRegularizerCertificate:
    """A closed curve along which the rule's field has a line integral above zero: it has no potential.

    Attributes:
        depth: N.
        direction: e = g(0) / ||g(0)||, shape (1, d).
        strength: c = ||g(0)||.
        inner: r.
        outer: R.
        integral: The line integral along Gamma_{r,R}, by quadrature.
        constant_part: Its value for the constant gradient c e, in closed form.
        deviation: max ||g(w) - c e|| on the disc of radius R: smoothness * R where a smoothness was given, else the
            maximum over the curve's nodes.
        lower_bound: Lemma 2: ``constant_part`` - 2 pi N R^q ``deviation`` (at infinite depth divided by N).
        is_rigorous: Whether ``deviation`` is a bound (smoothness given) and not a maximum over samples.
    """

    depth: float
    direction: Tensor
    strength: float
    inner: float
    outer: float
    integral: float
    constant_part: float
    deviation: float
    lower_bound: float
    is_rigorous: bool

    @property
    def holds(self) -> bool:
        """Whether Lemma 2's bound is positive and the integral respects it."""
        slack = 1e-9 * self.constant_part  # the quadrature is good to rounding for smooth gradients
        return self.lower_bound > 0 and self.integral >= self.lower_bound - slack


def no_regularizer_certificate(
    gradient: Gradient,
    dimension: int,
    depth: float,
    *,
    smoothness: float | None = None,
    largest_radius: float = 1.0,
    nodes: int = 64,
) -> NoRegularizerCertificate:
    r"""Theorem 2 for a loss: radii at which Lemma 2 makes the line integral positive, and the integral itself.

    With a smoothness K, ||g(w) - g(0)|| <= K ||w|| gives the radius at which Lemma 2's bound is half of the constant
    part or more; without, the radius is halved until the bound with the largest deviation seen on the curve is
    positive. r is R / 2.

    Args:
        gradient: From a weight (1, d) in float64 to the loss's gradient there, (1, d); continuous at 0 and not zero
            there.
        dimension: d >= 2.
        depth: N > 2, any real number, or ``math.inf`` (everything divided by N).
        smoothness: K, a Lipschitz constant of the gradient on the ball of radius ``largest_radius``.
        largest_radius: Where to start; R is not above it.
        nodes: Points on each of the four pieces.

    Raises:
        ValueError: If d < 2, depth <= 2, the gradient is zero at 0, or it does not become constant near 0.

    Example:
        >>> import torch
        >>> from overdepth.theory import no_regularizer_certificate
        >>> target = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
        >>> certificate = no_regularizer_certificate(lambda w: w - target, 2, depth=3, smoothness=1.0)
        >>> certificate.holds, certificate.lower_bound > 0, certificate.integral > certificate.lower_bound
        (True, True, True)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 2 and its Lemmas 2 and 3 (d >= 2 is not said there).
    """
    check_size(dimension, "dimension")
    _check_theorem(dimension, depth)
    check_positive(largest_radius, "largest_radius")
    origin = torch.zeros(1, dimension, dtype=torch.float64)
    constant = evaluate(gradient, origin)
    strength = float(torch.linalg.vector_norm(constant))
    if strength == 0:
        raise ValueError(
            "gradient is zero at the weight 0, expected another value: Theorem 2 starts from a gradient that is not "
            "zero there; shift the loss."
        )
    q = field_exponent(depth)
    lemma = 2.0 * math.pi * (1.0 if math.isinf(depth) else depth)  # the deviation's share is this times R^q
    outer = largest_radius
    if smoothness is not None:
        check_positive(smoothness, "smoothness")
        main = curve_integral_exact(0.5, 1.0, depth, strength)  # for R = 1; everything scales with R^q
        outer = min(outer, main / (2.0 * lemma * smoothness))
    for _ in range(_HALVINGS):
        curve = closed_curve(constant, outer / 2, outer, nodes=nodes)
        grads = torch.stack([evaluate(gradient, point) for point in curve.points])
        seen = float(torch.linalg.vector_norm(grads - constant, dim=(-2, -1)).max())
        deviation = seen if smoothness is None else smoothness * outer
        main = curve_integral_exact(outer / 2, outer, depth, strength)
        bound = main - lemma * outer**q * deviation
        if bound > 0:
            return NoRegularizerCertificate(
                depth=depth,
                direction=constant / strength,
                strength=strength,
                inner=outer / 2,
                outer=outer,
                integral=float((field_of(curve.points, grads, depth) * curve.steps).sum()),
                constant_part=main,
                deviation=deviation,
                lower_bound=bound,
                is_rigorous=smoothness is not None,
            )
        outer /= 2
    raise ValueError(
        f"gradient still differs from its value at 0 by {deviation:.3g} at radius {2 * outer:.3g}, expected one "
        f"that is continuous there; Theorem 2 covers no other."
    )


def _check_theorem(dimension: int, depth: float) -> None:
    check_depth(depth, allow_real=True)
    if dimension < 2:
        raise ValueError(
            f"dimension is {dimension}, expected at least 2: on a line every continuous field is a gradient."
        )
    if depth <= 2:
        remedy = "; at depth 2 a linear loss has two_layer_potential, and field_curl decides for others"
        raise ValueError(f"depth is {depth!r}, expected a depth above 2{remedy if depth == 2 else ''}.")
