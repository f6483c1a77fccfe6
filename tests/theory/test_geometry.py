"""The metric of depth and the implicit regularizer of weight decay against dense inverses and autograd."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as ref
from tests.reference import statements
from torch import Tensor

import overdepth as od
from overdepth.theory import decay_gradient, decay_potential, riemannian_gradient, riemannian_inner

IDENTITY = 1e-10


@dataclass(frozen=True)
class Case:
    """A weight of full rank with two directions."""

    weight: Tensor
    first: Tensor
    second: Tensor


def case(seed: int, k: int | None = None, d: int | None = None) -> Case:
    """Singular values log-uniform in [1e-1, 1e1]."""
    rng = np.random.default_rng(seed)
    k, d = k or int(rng.integers(1, 6)), d or int(rng.integers(1, 6))
    weight = ref.weight_with_singular_values(rng, k, d, list(10 ** rng.uniform(-1, 1, size=min(k, d))))
    return Case(torch.from_numpy(weight), *(torch.from_numpy(rng.standard_normal((k, d))) for _ in range(2)))


SEEDS = st.integers(0, 2**32 - 1)
DEPTHS = st.one_of(st.integers(1, 6).map(float), st.floats(1.0, 8.0))


def test_golden_value() -> None:  # G15
    eye = torch.eye(2, dtype=torch.float64)
    inner = riemannian_inner(torch.diag(torch.tensor([2.0, 1.0])), eye, eye, depth=2)
    assert inner.dtype == torch.float64
    assert float(inner) == pytest.approx(0.75, rel=1e-12)


@given(seed=SEEDS, depth=st.integers(1, 5))
def test_the_inner_product_is_the_inverse_of_the_operator(seed: int, depth: int) -> None:
    c = case(seed)
    dense = statements.metric(ref.as_array(c.weight), depth)
    expected = ref.as_array(c.first).reshape(-1) @ dense @ ref.as_array(c.second).reshape(-1)
    size = np.linalg.norm(dense, 2) * float(c.first.norm() * c.second.norm())
    assert abs(float(riemannian_inner(c.weight, c.first, c.second, depth)) - expected) <= IDENTITY * size


@given(seed=SEEDS, depth=DEPTHS)
def test_the_gradient_is_dual_to_the_differential(seed: int, depth: float) -> None:
    c = case(seed)
    gradient = riemannian_gradient(c.weight, c.first, depth)
    size = float(c.first.norm() * c.second.norm())
    dual = float(riemannian_inner(c.weight, gradient, c.second, depth))
    assert abs(dual - float((c.first * c.second).sum())) <= IDENTITY * size
    slope = float(riemannian_inner(c.weight, gradient, gradient, depth))  # -dE/dt along the flow
    assert slope == pytest.approx(float((c.first * gradient).sum()), rel=IDENTITY)


@given(seed=SEEDS, depth=DEPTHS)
def test_it_is_an_inner_product(seed: int, depth: float) -> None:
    c = case(seed)
    one_two = float(riemannian_inner(c.weight, c.first, c.second, depth))
    one_one = float(riemannian_inner(c.weight, c.first, c.first, depth))
    two_two = float(riemannian_inner(c.weight, c.second, c.second, depth))
    assert one_one > 0
    assert two_two > 0
    assert one_two == pytest.approx(
        float(riemannian_inner(c.weight, c.second, c.first, depth)), abs=IDENTITY * math.sqrt(one_one * two_two)
    )
    assert abs(one_two) <= math.sqrt(one_one * two_two) * (1 + IDENTITY)


def test_depth_one_is_the_frobenius_inner_product_at_any_weight() -> None:
    c = case(0, 3, 4)
    inner = riemannian_inner(torch.zeros(3, 4), c.first, c.second, 1)
    torch.testing.assert_close(inner, (c.first * c.second).sum(), check_dtype=False, rtol=1e-6, atol=1e-6)


def test_batches_and_float32() -> None:
    cases = [case(seed, 2, 3) for seed in range(4)]
    weight, first, second = (torch.stack([getattr(c, name) for c in cases]) for name in ("weight", "first", "second"))
    single = torch.stack([riemannian_inner(c.weight, c.first, c.second, 3) for c in cases])
    torch.testing.assert_close(riemannian_inner(weight, first, second, 3), single)
    floats = riemannian_inner(weight.float(), first.float(), second.float(), 3)
    assert floats.dtype == torch.float64
    torch.testing.assert_close(floats, single, rtol=1e-3, atol=1e-3)
    assert riemannian_gradient(weight.float(), first.float(), 3).dtype == torch.float64


# --- infinite depth --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_infinite_depth_is_the_limit_of_n_times_the_metric(seed: int) -> None:
    c = case(seed, 3, 3)
    limit = float(riemannian_inner(c.weight, c.first, c.first, math.inf))
    errors = [
        abs(depth * float(riemannian_inner(c.weight, c.first, c.first, depth)) - limit) for depth in (1e3, 1e4, 1e5)
    ]
    assert errors[2] <= 1e-3 * limit
    assert errors[0] > 5 * errors[1] > 25 * errors[2]  # like 1 / N
    gradient = riemannian_gradient(c.weight, c.first, math.inf)
    torch.testing.assert_close(riemannian_gradient(c.weight, c.first, 1e7) / 1e7, gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(10))
def test_infinite_depth_does_not_see_the_scale(seed: int) -> None:
    c = case(seed, 3, 3)
    inner = float(riemannian_inner(c.weight, c.first, c.second, math.inf))
    scaled = float(riemannian_inner(7 * c.weight, 7 * c.first, 7 * c.second, math.inf))
    assert scaled == pytest.approx(inner, rel=IDENTITY)
    gradient = riemannian_gradient(c.weight, c.first, math.inf)
    dual = float(riemannian_inner(c.weight, gradient, c.second, math.inf))
    assert dual == pytest.approx(float((c.first * c.second).sum()), abs=1e-9)


def test_infinite_depth_of_a_number_is_the_metric_of_its_logarithm() -> None:
    w, z = torch.tensor([[-3.0]]), torch.tensor([[2.0]])
    assert float(riemannian_inner(w, z, z, math.inf)) == pytest.approx((2 / 3) ** 2, rel=1e-12)


# --- weight decay ----------------------------------------------------------------------------------------------------


@given(seed=SEEDS, depth=DEPTHS, decay=st.floats(0.0, 2.0))
def test_decay_is_the_riemannian_gradient_of_its_potential(seed: int, depth: float, decay: float) -> None:
    c = case(seed)
    gradient = riemannian_gradient(c.weight, decay_gradient(c.weight, depth, decay), depth)
    assert float((gradient - decay * depth * c.weight).norm()) <= IDENTITY * max(decay, 1e-3) * depth * c.weight.norm()


@pytest.mark.parametrize("depth", [1, 2, 3, 5, 2.5])
def test_decay_of_a_weight_of_low_rank(depth: float) -> None:
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(ref.weight_with_singular_values(rng, 4, 5, [3.0, 0.5]))
    gradient = riemannian_gradient(weight, decay_gradient(weight, depth, 0.5), depth)
    torch.testing.assert_close(gradient, 0.5 * depth * weight, rtol=IDENTITY, atol=IDENTITY)


@pytest.mark.parametrize("depth", [1, 2, 3, 4.5, math.inf])
@pytest.mark.parametrize("seed", range(5))
def test_the_decay_gradient_is_that_of_autograd(seed: int, depth: float) -> None:
    weight = case(seed, 3, 4).weight.requires_grad_()
    (expected,) = torch.autograd.grad(decay_potential(weight, depth, 0.7), weight)
    torch.testing.assert_close(decay_gradient(weight.detach(), depth, 0.7), expected, rtol=1e-9, atol=1e-9)


@given(seed=SEEDS, depth=st.integers(1, 5))
def test_the_potential_is_what_balanced_factors_pay_and_others_do_not_pay_less(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    k, h, d = (int(n) for n in rng.integers(1, 5, size=3))
    widths = [d, *[h] * (depth - 1), k]
    factors = [torch.from_numpy(rng.standard_normal((widths[j + 1], widths[j]))) for j in range(depth)]
    weight = od.product(factors)
    potential = float(decay_potential(weight, depth, 0.3))
    balanced = od.balanced_factors(weight, depth)
    paid = 0.15 * sum(float(f.square().sum()) for f in balanced)
    assert potential == pytest.approx(paid, rel=1e-8)
    assert potential <= 0.15 * sum(float(f.square().sum()) for f in factors) * (1 + 1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_infinite_depth_decays_by_the_logarithm_of_the_determinant(seed: int) -> None:
    weight = case(seed, 3, 3).weight
    potential = float(decay_potential(weight, math.inf, 0.4))
    assert potential == pytest.approx(0.4 * float(torch.linalg.slogdet(weight).logabsdet), rel=1e-10)
    deep = float(decay_potential(weight, 1e6, 0.4)) - 0.4 * 1e6 * 3 / 2
    assert deep == pytest.approx(potential, abs=1e-4)
    gradient = riemannian_gradient(weight, decay_gradient(weight, math.inf, 0.4), math.inf)
    torch.testing.assert_close(gradient, 0.4 * weight, rtol=IDENTITY, atol=IDENTITY)


def test_infinite_depth_of_a_singular_weight() -> None:
    weight = torch.diag(torch.tensor([1.0, 0.0]))
    assert float(decay_potential(weight, math.inf, 0.1)) == -math.inf
    assert float(decay_potential(weight, math.inf, 0.0)) == 0.0


# --- refusals --------------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    weight, z = torch.ones(2, 3), torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"rank below 2, expected full rank.*riemannian_gradient"):
        riemannian_inner(weight, z, z, 2)
    with pytest.raises(ValueError, match=r"second has shape \(3, 2\) and weight has shape \(2, 3\)"):
        riemannian_inner(weight, z, z.mT, 2)
    with pytest.raises(ValueError, match=r"first of shape \(2, 3\) has non-finite"):
        riemannian_inner(weight, z / 0, z, 2)
    with pytest.raises(ValueError, match=r"depth is 0.5"):
        riemannian_inner(weight, z, z, 0.5)
    with pytest.raises(TypeError, match=r"weight is a list"):
        riemannian_inner([[1.0]], z, z, 2)  # type: ignore[arg-type]
    full = case(0, 2, 3)
    with pytest.raises(ValueError, match=r"depth is infinite and weight has shape \(2, 3\), expected a square"):
        riemannian_inner(full.weight, full.first, full.second, math.inf)
    with pytest.raises(ValueError, match=r"weight_decay is -1.0, expected a finite number >= 0"):
        decay_potential(weight, 2, -1.0)
    with pytest.raises(ValueError, match=r"weight of shape \(2, 3\) has non-finite"):
        decay_gradient(weight * math.nan, 2, 1.0)
    with pytest.raises(ValueError, match=r"depth"):
        decay_gradient(weight, 0, 1.0)


@pytest.mark.slow
def test_two_hundred_cases() -> None:
    worst = 0.0
    for seed in range(200):
        c = case(seed)
        depth = seed % 5 + 1
        gradient = riemannian_gradient(c.weight, c.first, depth)
        slope = float(riemannian_inner(c.weight, gradient, gradient, depth))
        worst = max(worst, abs(slope / float((c.first * gradient).sum()) - 1))
    assert worst <= 1e-12
