"""The numbers of a chain against NumPy in float64, with every product and operator written out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as reference

from overdepth.inspection import measures
from overdepth.inspection.levels import POINTS, Levels
from overdepth.inspection.measures import measure

Array = reference.Array
TOLERANCE = 1e-9  # of eigenvalues from Gram matrices in float64, relative to the largest


def tensors(factors: Sequence[Array]) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(f)) for f in factors]


def drawn(seed: int, *dims: int) -> list[Array]:
    """Factors of the dims n_0, ..., n_N."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((rows, columns)) for columns, rows in itertools.pairwise(dims)]


def dense_spectrum(factors: Sequence[Array]) -> Array:
    """All eigenvalues of the transfer operator."""
    return np.asarray(np.linalg.eigvalsh(reference.transfer_matrix(factors)), dtype=np.float64)


def claim1(factors: Sequence[Array]) -> Array:
    """Claim 1's eigenvalues for the product."""
    weight = reference.product(factors)
    return reference.spectrum(weight, len(factors), max(weight.shape) * float(np.finfo(float).eps)).ravel()


def assert_spectrum(found: measures.Multipliers, expected: Array) -> None:
    expected = np.sort(expected)
    atol = TOLERANCE * expected[-1]
    assert found.smallest == pytest.approx(expected[0], abs=atol)
    assert found.largest == pytest.approx(expected[-1], abs=atol)
    assert found.mean == pytest.approx(expected.mean(), abs=atol)
    assert found.frozen == pytest.approx((expected <= atol).mean())
    falling = expected[::-1]
    places = np.maximum(-(-np.arange(POINTS) * len(falling) // (POINTS - 1)) - 1, 0)  # rounded up, less one
    np.testing.assert_allclose(found.curve, falling[places], atol=atol, rtol=0)


DIMS = [
    (5, 3),
    (5, 3, 4),
    (3, 5, 4),
    (6, 2, 6),
    (4, 4, 4),
    (5, 2, 3, 6),
    (3, 4, 4, 3),
    (7, 2, 2, 3, 7),
    (1, 3, 1),
    (4, 1, 1, 5),
]


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_small_chains_are_exact(dims: tuple[int, ...]) -> None:
    factors = drawn(len(dims) * 7 + dims[0], *dims)
    found = measure(tensors(factors), 1.0)
    assert found.multipliers.is_exact
    assert_spectrum(found.multipliers, dense_spectrum(factors))
    assert_spectrum(found.balanced_multipliers, claim1(factors))
    weight = reference.product(factors)
    assert found.norm == pytest.approx(np.linalg.norm(weight))
    assert found.rank == found.largest_rank == min(dims)
    sigma = np.linalg.svd(weight, compute_uv=False)
    assert found.condition == pytest.approx(sigma[0] / sigma[min(dims) - 1])


@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_imbalance(dims: tuple[int, ...]) -> None:
    factors = drawn(3, *dims)
    found = measure(tensors(factors), 1.0)
    expected = [np.linalg.norm(d) for d in reference.imbalance(factors)]
    np.testing.assert_allclose(found.imbalance, expected)
    relative = [
        d / math.hypot(np.linalg.norm(upper.T @ upper), np.linalg.norm(lower @ lower.T))
        for d, lower, upper in zip(expected, factors, factors[1:], strict=False)
    ]
    assert found.relative_imbalance == pytest.approx(max(relative, default=0.0))


def test_the_ends_of_relative_imbalance() -> None:
    rng = np.random.default_rng(0)
    balanced = reference.balanced_chain(rng, rng.standard_normal((4, 6)), 3, 5)
    assert measure(tensors(balanced), 1.0).relative_imbalance < 1e-14
    a = rng.standard_normal((2, 6))
    assert measure(tensors([a, np.zeros((4, 2))]), 1.0).relative_imbalance == pytest.approx(1.0)
    assert measure(tensors([np.zeros((2, 6)), np.zeros((4, 2))]), 1.0).relative_imbalance == 0.0


def test_balanced_factors_have_the_multipliers_of_claim_1() -> None:
    rng = np.random.default_rng(1)
    for depth in (2, 3, 4):
        factors = reference.balanced_chain(rng, rng.standard_normal((4, 6)), depth, 5)
        found = measure(tensors(factors), 1.0)
        assert found.multipliers.largest == pytest.approx(found.balanced_multipliers.largest)
        assert found.multipliers.smallest == pytest.approx(found.balanced_multipliers.smallest)
        np.testing.assert_allclose(found.multipliers.curve, found.balanced_multipliers.curve, rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 6), min_size=3, max_size=5), st.floats(0.1, 10))
def test_a_scale_acts_on_the_norm_once_and_on_multipliers_twice(seed: int, dims: list[int], scale: float) -> None:
    factors = drawn(seed, *dims)
    plain, scaled = measure(tensors(factors), 1.0), measure(tensors(factors), -scale)
    assert scaled.norm == pytest.approx(scale * plain.norm)
    assert scaled.multipliers.mean == pytest.approx(scale**2 * plain.multipliers.mean)
    assert scaled.multipliers.largest == pytest.approx(scale**2 * plain.multipliers.largest)
    assert scaled.balanced_multipliers.largest == pytest.approx(scale**2 * plain.balanced_multipliers.largest)
    assert scaled.imbalance == plain.imbalance


def test_what_the_scale_means() -> None:
    """A gradient step on both factors of s B A moves s B A by s^2 times the transfer operator, to first order."""
    a, b = tensors(drawn(5, 4, 2, 3))
    scale, lr = 0.7, 1e-6
    a, b = a.requires_grad_(), b.requires_grad_()
    grad = torch.from_numpy(np.random.default_rng(6).standard_normal((3, 4)))
    product = scale * b @ a
    product.backward(grad)  # type: ignore[no-untyped-call]
    assert a.grad is not None
    assert b.grad is not None
    with torch.no_grad():
        moved = (product - scale * (b - lr * b.grad) @ (a - lr * a.grad)) / lr
        expected = scale**2 * (b @ b.mT @ grad + grad @ a.mT @ a)
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-5)


def test_a_zero_product_has_no_condition() -> None:
    a = np.random.default_rng(0).standard_normal((2, 6))
    found = measure(tensors([a, np.zeros((4, 2))]), 2.0)
    assert (found.norm, found.rank, found.largest_rank) == (0.0, 0, 2)
    assert math.isnan(found.condition)
    assert_spectrum(found.multipliers, 4.0 * dense_spectrum([a, np.zeros((4, 2))]))


def test_below_full_rank_the_condition_is_infinite() -> None:
    factors = drawn(0, 5, 4, 5)
    factors[0][3] = factors[0][2]
    found = measure(tensors(factors), 1.0)
    assert (found.rank, found.largest_rank, found.condition) == (3, 4, math.inf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_taken_at_its_word(dtype: torch.dtype) -> None:
    factors = [f.to(dtype) for f in tensors(drawn(2, 6, 3, 6))]
    exact = [f.double().numpy() for f in factors]
    found = measure(factors, 1.0)
    assert_spectrum(found.multipliers, dense_spectrum(exact))
    assert found.rank == 3


def test_bounds_and_iterations_enclose_what_is_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, dims in enumerate([(6, 4, 5, 7), (7, 3, 3, 8), (5, 6, 7, 5)]):
        factors = drawn(seed, *dims)
        expected = dense_spectrum(factors)
        monkeypatch.setattr(measures, "DENSE", 0)
        monkeypatch.setattr(measures, "ITERATED", 2**14)
        iterated = measure(tensors(factors), 2.0).multipliers
        assert iterated.is_exact
        assert iterated.curve == ()
        assert iterated.smallest == pytest.approx(4 * expected[0], abs=1e-6 * expected[-1])
        assert iterated.largest == pytest.approx(4 * expected[-1], rel=1e-6)
        monkeypatch.setattr(measures, "ITERATED", 0)
        bounds = measure(tensors(factors), 2.0).multipliers
        assert not bounds.is_exact
        assert bounds.smallest <= 4 * expected[0] + 1e-9
        assert bounds.largest >= 4 * expected[-1] - 1e-9
        assert bounds.mean == pytest.approx(4 * expected.mean())
        assert bounds.frozen == pytest.approx((expected <= TOLERANCE * expected[-1]).mean())


def test_large_balanced_chains_have_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "DENSE", 0)
    monkeypatch.setattr(measures, "ITERATED", 0)
    rng = np.random.default_rng(0)
    factors = reference.balanced_chain(rng, rng.standard_normal((5, 7)), 3, 5)
    found = measure(tensors(factors), 1.0).multipliers
    assert found.is_exact
    assert_spectrum(found, dense_spectrum(factors))


def test_a_thinned_sum_keeps_its_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = (Levels.of(torch.from_numpy(rng.random(300)), zeros=10) for _ in range(2))
    exact = a.plus(b)
    monkeypatch.setattr("overdepth.inspection.levels._MOST", 100**2)
    thin = a.plus(b)
    assert len(thin.values) == 100**2
    assert (thin.smallest, thin.largest) == (exact.smallest, exact.largest)
    assert float(thin.counts.sum()) == float(exact.counts.sum()) == 310**2
    np.testing.assert_allclose(thin.curve(), exact.curve(), atol=0.03)
