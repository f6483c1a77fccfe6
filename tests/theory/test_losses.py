"""The quadratic losses against what they are defined as, and whitening."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from overdepth.theory.losses import least_squares, matrix_distance, whiten

SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.integers(1, 6)


def data(seed: int, m: int, d: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """X (m, d), Y (m, k) and some weight (k, d)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((m, d), (m, k), (k, d))
    X, Y, weight = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in sizes)
    return X, Y, weight


@given(SEEDS, SIZES, SIZES, st.integers(1, 12))
def test_least_squares_is_the_sum_of_squares(seed: int, k: int, d: int, m: int) -> None:
    X, Y, weight = data(seed, m, d, k)
    loss = least_squares(X, Y)
    weight.requires_grad_()
    literal = ((Y - X @ weight.mT) ** 2).sum() / (2 * m)
    (grad,) = torch.autograd.grad(literal, weight)
    literal = literal.detach()
    scale = float(literal) + 1.0
    assert float(loss.value(weight.detach())) == pytest.approx(float(literal), abs=1e-12 * scale)
    assert torch.allclose(loss.gradient(weight.detach()), grad, rtol=0, atol=1e-12 * scale)
    assert torch.allclose(loss.covariance, X.mT @ X / m, rtol=0, atol=1e-12 * scale)
    at_best = ((Y - X @ loss.minimizer.mT) ** 2).sum() / (2 * m)
    assert loss.optimal_value == pytest.approx(float(at_best), abs=1e-12)
    assert float(loss.gap(weight.detach())) >= 0


@given(SEEDS, SIZES, SIZES)
def test_constants_bound_the_loss(seed: int, k: int, d: int) -> None:
    X, Y, weight = data(seed, d + 4, d, k)
    loss = least_squares(X, Y)
    eigenvalues = torch.linalg.eigvalsh(X.mT @ X / len(X))
    assert loss.strong_convexity == pytest.approx(float(eigenvalues[0]), abs=1e-12 * float(eigenvalues[-1]))
    assert loss.smoothness == pytest.approx(float(eigenvalues[-1]))
    assert loss.pl == 2 * loss.strong_convexity
    squared, gap = float((loss.gradient(weight) ** 2).sum()), float(loss.gap(weight))
    assert loss.pl * gap <= squared * (1 + 1e-10) <= 2 * loss.smoothness * gap * (1 + 1e-9)
    apart = float(((weight - loss.minimizer) ** 2).sum())
    assert loss.strong_convexity * apart / 2 <= gap * (1 + 1e-10) <= loss.smoothness * apart / 2 * (1 + 1e-9)


def test_the_gap_keeps_its_digits_where_the_sum_of_squares_loses_them() -> None:
    X, Y, direction = data(0, 20, 4, 2)
    loss = least_squares(X, Y)
    for size in (1e-3, 1e-6, 1e-9):
        exact = size**2 * float(((direction @ loss.covariance) * direction).sum()) / 2
        assert float(loss.gap(loss.minimizer + size * direction)) == pytest.approx(exact, rel=1e-5)


def test_batches_of_weights() -> None:
    X, Y, _ = data(1, 8, 3, 2)
    loss = least_squares(X, Y)
    weights = torch.randn(5, 2, 3)
    assert loss.value(weights).shape == (5,)
    assert torch.equal(loss.gradient(weights)[2], loss.gradient(weights[2]))


def test_matrix_distance() -> None:
    target, weight = torch.randn(2, 3), torch.randn(2, 3)
    loss = matrix_distance(target)
    assert (loss.strong_convexity, loss.smoothness, loss.pl, loss.optimal_value) == (1.0, 1.0, 2.0, 0.0)
    assert torch.equal(loss.gradient(weight), weight.double() - target.double())
    assert torch.allclose(loss.value(weight), ((weight.double() - target.double()) ** 2).sum() / 2)


@given(SEEDS, SIZES, st.integers(2, 6))
def test_rank_deficient_data_have_a_flow_but_no_strong_convexity(seed: int, k: int, d: int) -> None:
    X, Y, weight = data(seed, 10, d, k)
    X[:, -1] = X[:, 0]
    loss = least_squares(X, Y)
    for name in ("strong_convexity", "pl"):
        with pytest.raises(ValueError, match=rf"X of shape \(10, {d}\) and rank {d - 1}.*fewer features"):
            getattr(loss, name)
    assert torch.allclose(loss.minimizer, (torch.linalg.pinv(X) @ Y).mT, atol=1e-10)
    assert float(loss.gap(weight)) >= 0
    with pytest.raises(ValueError, match=f"rank {d - 1}, expected full column rank {d}"):
        whiten(X)


def test_fewer_examples_than_features() -> None:
    X, Y, _ = data(2, 3, 5, 1)
    with pytest.raises(ValueError, match=r"X of shape \(3, 5\) and rank 3"):
        least_squares(X, Y).strong_convexity  # noqa: B018 - a property that refuses
    with pytest.raises(ValueError, match="rank 0"):
        least_squares(torch.zeros(3, 2), Y).strong_convexity  # noqa: B018


@given(SEEDS, SIZES, SIZES)
def test_whitening_and_the_way_back(seed: int, k: int, d: int) -> None:
    X, Y, weight = data(seed, d + 5, d, k)
    white = whiten(X)
    assert torch.allclose(white.data.mT @ white.data / len(X), torch.eye(d).double(), rtol=0, atol=1e-12)
    scale = 1e-10 * float(torch.linalg.cond(X))
    assert torch.allclose(white.data @ weight.mT, X @ white.to_original(weight).mT, rtol=0, atol=scale)
    assert torch.allclose(white.to_whitened(white.to_original(weight)), weight, rtol=0, atol=scale)
    loss = least_squares(white.data, Y)
    assert loss.strong_convexity == pytest.approx(1.0)
    assert loss.smoothness == pytest.approx(1.0)
    assert torch.allclose(white.to_original(loss.minimizer), least_squares(X, Y).minimizer, rtol=0, atol=scale)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_entries_are_refused_by_name(bad: float) -> None:
    fine, broken = torch.ones(2, 1), torch.tensor([[1.0], [bad]])
    with pytest.raises(ValueError, match="X of shape"):
        least_squares(broken, fine)
    with pytest.raises(ValueError, match="Y of shape"):
        least_squares(fine, broken)
    with pytest.raises(ValueError, match="X of shape"):
        whiten(broken)
    with pytest.raises(ValueError, match="target of shape"):
        matrix_distance(broken)


def test_shapes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"Y has shape \(3, 1\) and X has shape \(2, 1\)"):
        least_squares(torch.ones(2, 1), torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"X has shape .* no batch"):
        least_squares(torch.ones(2, 2, 1), torch.ones(2, 1))
    with pytest.raises(TypeError, match="target is a list"):
        matrix_distance([[1.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight has shape \(1, 2\), expected \(..., 2, 2\)"):
        matrix_distance(torch.eye(2)).value(torch.ones(1, 2))
