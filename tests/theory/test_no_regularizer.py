"""Theorem 2: line integrals by quadrature, in closed form and along a polygon; Lemma 2; the exception N = 2."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as ref
from tests.reference import statements
from torch import Tensor

import overdepth as od
from overdepth.theory import (
    closed_curve,
    curve_integral,
    curve_integral_exact,
    field_curl,
    no_regularizer_certificate,
    two_layer_potential,
    vector_field,
)
from overdepth.theory.rule_field import Gradient

SEEDS = st.integers(0, 2**32 - 1)


def unit(seed: int, d: int) -> Tensor:
    """A random row of norm 1."""
    row = torch.from_numpy(np.random.default_rng(seed).standard_normal((1, d)))
    result: Tensor = row / row.norm()
    return result


def quadratic(seed: int, d: int) -> tuple[Gradient, float, Tensor]:
    """The gradient (w - w*) H of a random convex quadratic loss, its smoothness, and its value at 0."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((d, d))
    hessian = torch.from_numpy(root @ root.T)
    target = torch.from_numpy(rng.standard_normal((1, d)))

    def gradient(w: Tensor) -> Tensor:
        result: Tensor = (w - target) @ hessian
        return result

    return gradient, float(torch.linalg.eigvalsh(hessian)[-1]), gradient(torch.zeros_like(target))


def cubic(seed: int, d: int) -> tuple[Gradient, float, Tensor]:
    """That of <c, w> + <a, w>^3 / 3: unlike a quadratic's, its deviation does not cancel on the curve. With |a|^3."""
    rng = np.random.default_rng(seed)
    c, a = (torch.from_numpy(row) for row in rng.standard_normal((2, 1, d)))

    def gradient(w: Tensor) -> Tensor:
        result: Tensor = c + (w * a).sum() ** 2 * a
        return result

    return gradient, float(a.norm()) ** 3, c


def constant(row: Tensor) -> Gradient:
    """The gradient of a linear loss."""
    return lambda w: row


# --- the integral ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "expected"), [(3, 0.458042782002), (2, 0.0), (5, 1.541652020591)])
def test_golden_values(depth: int, expected: float) -> None:  # G13
    e = unit(0, 3)
    assert curve_integral_exact(0.5, 1.0, depth) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert curve_integral(constant(e), closed_curve(e, 0.5, 1.0), depth) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(
    seed=SEEDS,
    d=st.integers(2, 6),
    depth=st.one_of(st.integers(1, 8).map(float), st.floats(1.0, 9.0), st.just(math.inf)),
    inner=st.floats(0.05, 1.0),
    width=st.floats(0.05, 2.0),
    strength=st.floats(0.1, 10.0),
)
def test_quadrature_and_closed_form(
    seed: int, d: int, depth: float, inner: float, width: float, strength: float
) -> None:
    e, normal, outer = unit(seed, d), unit(seed + 1, d), inner + width
    exact = curve_integral_exact(inner, outer, depth, strength)
    scale = strength * outer**3 * (1.0 if math.isinf(depth) else depth)
    for curve in (closed_curve(e, inner, outer), closed_curve(3 * e, inner, outer, normal=normal)):
        assert curve.points.shape == curve.steps.shape == (256, 1, d)
        assert abs(curve_integral(constant(strength * e), curve, depth) - exact) <= 1e-12 * max(scale, 1.0)
        assert float(curve.steps.sum(0).norm()) <= 1e-12 * outer  # it closes


@pytest.mark.parametrize("depth", [2, 3, 5, math.inf])
def test_against_a_polygon(depth: float) -> None:
    gradient, _, _ = quadratic(3, 3)
    e, across = unit(4, 3), unit(5, 3)
    normal = across - (across * e).sum() * e
    normal /= normal.norm()
    corners = statements.polygon(e.numpy()[0], normal.numpy()[0], 0.3, 0.8, pieces=2000)
    expected = statements.line_integral(lambda w: gradient(torch.from_numpy(w)[None]).numpy()[0], corners, depth)
    actual = curve_integral(gradient, closed_curve(e, 0.3, 0.8, normal=across), depth)
    assert actual == pytest.approx(expected, rel=1e-5, abs=1e-5)


@given(seed=SEEDS, d=st.integers(2, 5))
def test_a_gradient_has_no_circulation(seed: int, d: int) -> None:
    gradient, smoothness, _ = quadratic(seed, d)
    integral = curve_integral(gradient, closed_curve(unit(seed, d), 0.5, 1.0), depth=1)
    assert abs(integral) <= 1e-12 * (smoothness + 10)


def test_the_closed_form_is_zero_at_depth_one_and_two_only() -> None:
    assert curve_integral_exact(0.5, 1.0, 1) == curve_integral_exact(0.5, 1.0, 2) == 0.0
    assert all(curve_integral_exact(0.5, 1.0, depth) < 0 for depth in (1.1, 1.5, 1.9))
    assert all(curve_integral_exact(0.5, 1.0, depth) > 0 for depth in (2.1, 3, 8, 100, math.inf))
    assert curve_integral_exact(0.5, 1.0, 1e9) / 1e9 == pytest.approx(curve_integral_exact(0.5, 1.0, math.inf))


@given(seed=SEEDS, d=st.integers(1, 5), depth=st.floats(1.0, 8.0))
def test_the_field_is_claim_2(seed: int, d: int, depth: float) -> None:
    rng = np.random.default_rng(seed)
    weights, grad = torch.from_numpy(rng.standard_normal((2, 3, 1, d))), torch.from_numpy(rng.standard_normal((1, d)))
    field = vector_field(weights, constant(grad), depth)
    assert field.shape == weights.shape
    for index in np.ndindex(2, 3):
        expected = ref.claim_2(weights[index].numpy(), grad.numpy(), depth)
        np.testing.assert_allclose(field[index].numpy(), expected, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(field[index], od.end_to_end_update(weights[index], grad, depth))
    at_zero = vector_field(torch.zeros(1, d), constant(grad), depth)
    torch.testing.assert_close(at_zero, grad if depth == 1 else torch.zeros_like(grad))


# --- the theorem -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_thirty_quadratic_losses(seed: int) -> None:
    d, depth = seed % 4 + 2, (3, 4, 5, 8, 2.5, math.inf)[seed % 6]
    gradient, smoothness, at_zero = quadratic(seed, d)
    for given_smoothness in (None, smoothness):
        certificate = no_regularizer_certificate(gradient, d, depth, smoothness=given_smoothness)
        assert certificate.holds
        assert certificate.integral >= certificate.lower_bound > 0
        assert certificate.is_rigorous == (given_smoothness is not None)
        assert 0 < certificate.inner < certificate.outer <= 1
        assert certificate.strength == pytest.approx(float(at_zero.norm()), rel=1e-12)
        torch.testing.assert_close(certificate.direction, at_zero / at_zero.norm())
        again = curve_integral(
            gradient, closed_curve(at_zero, certificate.inner, certificate.outer, nodes=20), certificate.depth
        )
        assert certificate.integral == pytest.approx(again, rel=1e-9)


@given(seed=SEEDS, d=st.integers(2, 5), depth=st.floats(1.0, 8.0), outer=st.floats(0.1, 5.0), part=st.floats(0.1, 0.9))
def test_lemma_2_at_any_radii(seed: int, d: int, depth: float, outer: float, part: float) -> None:
    gradient, size, at_zero = cubic(seed, d)
    main = curve_integral_exact(part * outer, outer, depth, float(at_zero.norm()))
    integral = curve_integral(gradient, closed_curve(at_zero, part * outer, outer), depth)
    deviation = size * outer**2
    assert abs(integral - main) <= 2 * math.pi * depth * outer ** (3 - 2 / depth) * deviation


@given(seed=SEEDS, d=st.integers(2, 5), depth=st.floats(1.0, 8.0), outer=st.floats(0.1, 5.0))
def test_a_quadratic_loss_has_the_integral_of_a_linear_one(seed: int, d: int, depth: float, outer: float) -> None:
    """The deviation w H is odd: the straight pieces cancel, and w H w / 2 is the same at both ends of a half circle."""
    gradient, smoothness, at_zero = quadratic(seed, d)
    main = curve_integral_exact(outer / 2, outer, depth, float(at_zero.norm()))
    integral = curve_integral(gradient, closed_curve(at_zero, outer / 2, outer), depth)
    assert integral == pytest.approx(main, abs=1e-12 * depth * outer**3 * (1 + smoothness * (1 + outer)) * 10)


@pytest.mark.parametrize("seed", range(30))
def test_thirty_cubic_losses(seed: int) -> None:
    d, depth = seed % 4 + 2, (3, 4, 5, 8, 2.5, math.inf)[seed % 6]
    gradient, size, _ = cubic(seed, d)
    for smoothness in (None, 2 * size):  # on the ball of radius 1
        certificate = no_regularizer_certificate(gradient, d, depth, smoothness=smoothness)
        assert certificate.holds
        assert certificate.integral >= certificate.lower_bound > 0


@pytest.mark.slow
def test_lemma_2_on_many_losses() -> None:
    """The largest share of the allowed deviation is about 0.05: respected, and not for want of a deviation."""
    rng = np.random.default_rng(0)
    largest = 0.0
    for seed in range(400):
        d, depth = seed % 4 + 2, float(rng.uniform(1, 8))
        outer, part = float(rng.uniform(0.1, 5)), float(rng.uniform(0.05, 0.95))
        gradient, size, at_zero = cubic(seed, d)
        main = curve_integral_exact(part * outer, outer, depth, float(at_zero.norm()))
        integral = curve_integral(gradient, closed_curve(at_zero, part * outer, outer, nodes=32), depth)
        allowed = 2 * math.pi * depth * outer ** (3 - 2 / depth) * size * outer**2
        largest = max(largest, abs(integral - main) / allowed)
    assert 1e-3 < largest < 1, largest


def test_other_losses() -> None:
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.standard_normal((20, 3))), torch.from_numpy(rng.standard_normal((20, 1)))

    def fourth_power(w: Tensor) -> Tensor:
        return ((x @ w.mT - y) ** 3).mT @ x / len(x)

    def logistic(w: Tensor) -> Tensor:
        return -((y * torch.sigmoid(-y * (x @ w.mT))).mT @ x) / len(x)

    for gradient in (fourth_power, logistic):
        for depth in (3, 4):
            assert no_regularizer_certificate(gradient, 3, depth).holds
    largest = float(torch.linalg.eigvalsh((y * x).mT @ (y * x))[-1]) / 4 / len(x)
    assert no_regularizer_certificate(logistic, 3, 3, smoothness=largest).is_rigorous


# --- depth two -------------------------------------------------------------------------------------------------------


@given(seed=SEEDS, d=st.integers(1, 5))
def test_the_potential_of_a_linear_loss(seed: int, d: int) -> None:
    w, u = 2 * unit(seed, d), 3 * unit(seed + 1, d)
    gradient = torch.func.grad(lambda v: two_layer_potential(v, u))(w)
    torch.testing.assert_close(gradient, vector_field(w, constant(u), 2))
    assert float(field_curl(w, constant(u), 2).abs().max()) <= 1e-8
    assert float(field_curl(w, constant(u), 1).abs().max()) <= 1e-8


@pytest.mark.parametrize("depth", [1, 2, 3, 2.5, math.inf])
@pytest.mark.parametrize("seed", range(5))
def test_the_curl_is_that_of_autograd(seed: int, depth: float) -> None:
    gradient, smoothness, _ = quadratic(seed, 4)
    w = unit(seed, 4)

    def field(flat: Tensor) -> Tensor:
        row = flat[None]
        return od.end_to_end_update(row, gradient(row), depth, allow_frozen_directions=True)[0]

    jacobian = torch.func.jacrev(field)(w[0])
    curl = field_curl(w, gradient, depth)
    torch.testing.assert_close(curl, jacobian - jacobian.mT, rtol=1e-7, atol=1e-8 * (1 + smoothness))
    assert (float(curl.abs().max()) > 1e-3) == (depth != 1)  # no exception for quadratic losses


# --- refusals --------------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    e = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"dimension is 1, expected at least 2: on a line"):
        no_regularizer_certificate(constant(e[:, :1]), 1, 3)
    with pytest.raises(ValueError, match=r"depth is 2, expected a depth above 2; at depth 2 .* two_layer_potential"):
        no_regularizer_certificate(constant(e), 2, 2)
    with pytest.raises(ValueError, match=r"depth is 1, expected a depth above 2\.$"):
        no_regularizer_certificate(constant(e), 2, 1)
    with pytest.raises(ValueError, match=r"gradient is zero at the weight 0"):
        no_regularizer_certificate(lambda w: w, 2, 3)
    with pytest.raises(ValueError, match=r"gradient still differs .* continuous"):
        no_regularizer_certificate(lambda w: e + 100 * torch.sign(w), 2, 3)
    with pytest.raises(ValueError, match=r"smoothness is -1"):
        no_regularizer_certificate(constant(e), 2, 3, smoothness=-1.0)
    with pytest.raises(ValueError, match=r"largest_radius is 0"):
        no_regularizer_certificate(constant(e), 2, 3, largest_radius=0.0)
    with pytest.raises(ValueError, match=r"dimension is 2.5"):
        no_regularizer_certificate(constant(e), 2.5, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"inner is 1.0 and outer is 0.5"):
        closed_curve(e, 1.0, 0.5)
    with pytest.raises(ValueError, match=r"inner is 1.0 and outer is 1.0"):
        curve_integral_exact(1.0, 1.0, 3)
    with pytest.raises(ValueError, match=r"direction has shape \(1, 1\), expected at least two"):
        closed_curve(e[:, :1], 0.5, 1.0)
    with pytest.raises(ValueError, match=r"normal of shape .* multiple of direction"):
        closed_curve(e, 0.5, 1.0, normal=-2 * e)
    with pytest.raises(ValueError, match=r"normal has shape \(1, 3\)"):
        closed_curve(e, 0.5, 1.0, normal=torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"direction has shape .* norm 0"):
        closed_curve(0 * e, 0.5, 1.0)
    with pytest.raises(ValueError, match=r"nodes is 0"):
        closed_curve(e, 0.5, 1.0, nodes=0)
    with pytest.raises(ValueError, match=r"weight has shape \(2, 2\), expected \(\.\.\., 1, d\)"):
        vector_field(torch.ones(2, 2), constant(e), 3)
    with pytest.raises(ValueError, match=r"gradient returned \(2,\) for a weight of shape \(1, 2\)"):
        vector_field(e, lambda w: w[0], 3)
    with pytest.raises(ValueError, match=r"gradient returned float"):
        vector_field(e, lambda w: 1.0, 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match=r"gradient returned non-finite"):
        vector_field(e, lambda w: w / 0, 3)
    with pytest.raises(ValueError, match=r"weight of shape .* non-finite"):
        vector_field(e / 0, constant(e), 3)
    with pytest.raises(ValueError, match=r"expected one row"):
        field_curl(0 * e, constant(e), 3)
    with pytest.raises(ValueError, match=r"equally long"):
        two_layer_potential(e, torch.ones(1, 3))
