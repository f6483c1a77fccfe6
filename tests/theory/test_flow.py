"""Gradient flow in its three forms against slow Runge-Kutta steps, conservation laws and each other."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference import dynamics
from tests.reference import linear_algebra as ref
from torch import Tensor

import overdepth as od
from overdepth.theory.gradient_flow import flow
from overdepth.theory.integration import METHODS
from overdepth.theory.losses import LeastSquares, least_squares, matrix_distance, whiten

SEEDS = st.integers(0, 2**32 - 1)
CHAINS = st.lists(st.integers(1, 4), min_size=2, max_size=5)  # n_0, ..., n_N
DECAYS = st.sampled_from([0.0, 0.05, 0.4])
STRICT: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-13}
FEW = settings(max_examples=15)


def problem(seed: int, sizes: list[int]) -> tuple[list[Tensor], LeastSquares]:
    """Factors of about unit norm and a regression of their shape."""
    rng = np.random.default_rng(seed)
    factors = [rng.standard_normal((b, a)) / math.sqrt(a) for a, b in itertools.pairwise(sizes)]
    X, Y = rng.standard_normal((sizes[0] + 6, sizes[0])), rng.standard_normal((sizes[0] + 6, sizes[-1]))
    return [torch.from_numpy(f) for f in factors], least_squares(torch.from_numpy(X), torch.from_numpy(Y))


def low_rank(rng: np.random.Generator, weight: ref.Array, depth: int, rank: int, width: int) -> list[Tensor]:
    """Balanced factors with dense hidden layers whose rank is that of the weight to the last digit.

    The roots of null singular values would not be: those of 1e-17 are 4e-4 at depth 5. So layers of width ``rank``
    are turned into the wider ones by random isometries.
    """
    if rank == 0:
        return [torch.zeros_like(f) for f in low_rank(rng, weight, depth, 1, width)]
    narrow = ref.balanced_chain(rng, weight, depth, rank)
    turns = [np.linalg.qr(rng.standard_normal((width, width)))[0][:, :rank] for _ in range(depth - 1)]
    above = [*turns, np.eye(len(weight))]
    below = [np.eye(weight.shape[1]), *turns]
    return [torch.from_numpy(q @ f @ p.T) for q, f, p in zip(above, narrow, below, strict=True)]


def balanced(seed: int, sizes: tuple[int, int], depth: int, rank: int, width: int) -> tuple[list[Tensor], LeastSquares]:
    """Balanced factors with dense hidden layers, of a weight of a given rank, and a regression of their shape."""
    rng = np.random.default_rng(seed)
    weight = ref.weight_with_singular_values(rng, *sizes, list(rng.uniform(0.3, 1.2, max(rank, 1))))
    return low_rank(rng, weight, depth, rank, width), problem(seed, [sizes[1], sizes[0]])[1]


def largest(values: object) -> float:
    return float(np.abs(np.asarray(values)).max())


# --- the layers ------------------------------------------------------------------------------------------------------


@FEW
@given(SEEDS, CHAINS, DECAYS)
def test_layers_against_small_steps(seed: int, sizes: list[int], decay: float) -> None:
    factors, loss = problem(seed, sizes)
    path = flow(factors, loss, [0.0, 0.5, 1.0], weight_decay=decay, **STRICT)
    gradient = dynamics.least_squares(loss.X.numpy(), loss.Y.numpy())
    expected = dynamics.layer_flow([f.numpy() for f in factors], gradient, 1.0, 500, decay)
    assert largest(path.weight[-1] - ref.product(expected)) < 1e-8
    for j, factor in enumerate(expected):
        assert largest(path[f"factor_{j + 1}"][-1] - factor) < 1e-8
    assert largest(path.weight[0] - od.product(factors).numpy()) < 1e-14
    assert path.gap.values == pytest.approx(path.loss.values - loss.optimal_value)


@FEW
@given(SEEDS, CHAINS, DECAYS)
def test_the_imbalance_is_conserved_or_decays(seed: int, sizes: list[int], decay: float) -> None:
    factors, loss = problem(seed, sizes)
    path = flow(factors, loss, [1.0, 3.0], weight_decay=decay)
    assert float(path.imbalance_error.max()) < 1e-8
    last = [torch.from_numpy(path[f"factor_{j + 1}"].values[-1]) for j in range(len(factors))]
    for start, end in zip(od.imbalance(factors), od.imbalance(last), strict=True):
        assert largest(end - math.exp(-6 * decay) * start) < 1e-8


@FEW
@given(SEEDS, CHAINS)
def test_the_loss_falls_at_the_rate_of_the_transfer_operator(seed: int, sizes: list[int]) -> None:
    factors, loss = problem(seed, sizes)
    h = 1e-4
    path = flow(factors, loss, [h, 2 * h, 3 * h], **STRICT)
    middle = [torch.from_numpy(path[f"factor_{j + 1}"].values[1]) for j in range(len(factors))]
    grad = loss.gradient(od.product(middle))
    expected = -float((grad * od.transfer_operator(middle)(grad)).sum())
    slope = float(path.gap[2] - path.gap[0]) / (2 * h)
    assert slope == pytest.approx(expected, rel=1e-4, abs=1e-9)
    change = (path.weight[2] - path.weight[0]).values / (2 * h)
    assert largest(change + od.transfer_operator(middle)(grad).numpy()) < 1e-4 * (1 + largest(change))


def test_depth_one_is_the_matrix_exponential() -> None:
    factors, loss = problem(0, [3, 2])
    path = flow(factors, loss, [0.0, 0.7, 2.0], **STRICT)
    for time, weight in zip(path.time.values, path.weight.values, strict=True):
        away = (factors[0] - loss.minimizer) @ torch.linalg.matrix_exp(-time * loss.covariance)
        assert largest(weight - (loss.minimizer + away).numpy()) < 1e-10
    assert largest(path.imbalance_error) == 0


@pytest.mark.parametrize("method", list(METHODS))
def test_methods_agree(method: str) -> None:
    factors, loss = problem(3, [3, 2, 2])
    expected = flow(factors, loss, [0.0, 1.0, 4.0], **STRICT)
    path = flow(factors, loss, [0.0, 1.0, 4.0], method=method, rtol=1e-9, atol=1e-11)
    assert largest(path.weight - expected.weight) < 1e-7
    assert path.attrs["method"] == method
    assert path.attrs["evaluations"] > 0


def test_outputs_are_no_interpolants() -> None:
    factors, loss = problem(4, [3, 3, 3, 3])
    times = np.linspace(0, 3, 61)
    dense = flow(factors, loss, times, **STRICT)
    for time in (0.35, 1.5, 3.0):
        alone = flow(factors, loss, [time], **STRICT)
        assert largest(dense.weight.sel(time=time, method="nearest") - alone.weight[0]) < 1e-10


def test_any_gradient_and_loss() -> None:
    factors, _ = problem(5, [2, 3, 1])
    target = torch.tensor([[1.0, -1.0]], dtype=torch.float64)

    def quartic(weight: Tensor) -> Tensor:
        return ((weight - target) ** 4).sum() / 4

    path = flow(factors, torch.func.grad(quartic), [0.0, 1.0, 5.0], loss=quartic)
    assert (np.diff(path.loss.values) < 0).all()
    assert "gap" not in path
    assert float(path.loss[0]) == pytest.approx(float(quartic(od.product(factors))))
    square = matrix_distance(target)
    by_function = flow(factors, square.gradient, [1.0], loss=square)
    assert largest(by_function.weight - flow(factors, square, [1.0]).weight) < 1e-13
    assert largest(by_function.gap) > 0
    assert "loss" not in flow(factors, square.gradient, [1.0])


def test_single_precision_is_widened_and_left_alone() -> None:
    factors = od.balanced_factors(torch.tensor([[0.5, 0.1]]), 2)
    before = [f.clone() for f in factors]
    path = flow(factors, matrix_distance(torch.ones(1, 2)), [1.0])
    assert path.weight.dtype == np.float64
    assert all(torch.equal(a, b) for a, b in zip(factors, before, strict=True))


# --- the product alone -----------------------------------------------------------------------------------------------

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 4))


@FEW
@given(SEEDS, SHAPES, st.integers(1, 5), DECAYS, st.integers(0, 2))
def test_theorem_1_with_decay(seed: int, shape: tuple[int, int], depth: int, decay: float, wider: int) -> None:
    small = min(shape)
    factors, loss = balanced(seed, shape, depth, small, small + wider)
    layers = flow(factors, loss, [0.5, 1.5], weight_decay=decay, **STRICT)
    product = flow(factors, loss, [0.5, 1.5], kind="end_to_end", weight_decay=decay, **STRICT)
    assert largest(layers.weight - product.weight) < 1e-8
    assert "factor_1" not in product


@FEW
@given(SEEDS, st.tuples(st.integers(2, 4), st.integers(2, 4)), st.integers(2, 5), DECAYS)
def test_theorem_1_at_low_rank(seed: int, shape: tuple[int, int], depth: int, decay: float) -> None:
    """The roots of null singular values magnify rounding; the rank of the start is kept instead of a tolerance."""
    rank = seed % min(shape)
    factors, loss = balanced(seed, shape, depth, rank, min(shape))
    layers = flow(factors, loss, [0.5, 1.5], weight_decay=decay, **STRICT)
    product = flow(factors, loss, [0.5, 1.5], kind="end_to_end", weight_decay=decay, **STRICT)
    assert largest(layers.weight - product.weight) < 1e-8
    singular = np.linalg.svd(product.weight.values, compute_uv=False)
    assert (singular[:, rank:] < 1e-9).all()


def test_a_rank_tolerance_at_rounding_would_not_do() -> None:
    """What the fixed rank is for: with noise taken at its word the field is off by far more than the noise."""
    rng = np.random.default_rng(0)
    weight = torch.from_numpy(ref.weight_with_singular_values(rng, 3, 3, [1.0, 0.5]))
    noisy = weight + 1e-11 * torch.from_numpy(rng.standard_normal((3, 3)))
    grad = torch.from_numpy(rng.standard_normal((3, 3)))
    exact = od.end_to_end_update(weight, grad, 5)
    assert 1e-6 < largest(od.end_to_end_update(noisy, grad, 5) - exact) < 1e-3
    assert largest(od.end_to_end_update(noisy, grad, 5, rank_rtol=1e-7) - exact) < 1e-9


@pytest.mark.parametrize("depth", [1.0, 1.5, 2.0, 2.7, 4.0])
def test_real_depth_on_a_diagonal(depth: float) -> None:
    """Modes on the diagonal obey u' = N u^{2-2/N} (s - u), here integrated in small steps."""
    target, u = np.array([2.0, 1.0]), np.array([0.3, 0.6])
    path = flow(torch.diag(torch.from_numpy(u)), matrix_distance(torch.diag(torch.from_numpy(target))), [1.0],
                kind="end_to_end", depth=depth, **STRICT)  # fmt: skip

    def field(v: ref.Array) -> ref.Array:
        result: ref.Array = depth * v ** (2 - 2 / depth) * (target - v)
        return result

    h = 1e-3
    for _ in range(1000):
        k1 = field(u)
        k2 = field(u + h / 2 * k1)
        k3 = field(u + h / 2 * k2)
        u = u + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(u + h * k3))
    assert largest(path.weight[0] - np.diag(u)) < 1e-8
    assert path.attrs["depth"] == depth


# --- any factors, seen at the product --------------------------------------------------------------------------------


@FEW
@given(SEEDS, CHAINS, DECAYS)
def test_preconditioned_is_the_layers_seen_at_the_product(seed: int, sizes: list[int], decay: float) -> None:
    factors, loss = problem(seed, sizes)
    layers = flow(factors, loss, [0.5, 1.5], weight_decay=decay, **STRICT)
    seen = flow(factors, loss, [0.5, 1.5], kind="preconditioned", weight_decay=decay, **STRICT)
    assert largest(layers.weight - seen.weight) < 1e-8
    assert float(seen.product_error.max()) < 1e-8
    assert float(seen.imbalance_error.max()) < 1e-8


def test_unbalanced_factors_do_not_follow_theorem_1() -> None:
    factors, loss = problem(6, [3, 3, 3])
    layers = flow(factors, loss, [1.0])
    product = flow(factors, loss, [1.0], kind="end_to_end")
    assert largest(layers.weight - product.weight) > 1e-2


@pytest.mark.slow
def test_a_wide_regression_down_to_a_tiny_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    X, noise, truth = (torch.randn(n, 20, generator=generator, dtype=torch.float64) for n in (200, 200, 20))
    Y = X @ truth.mT / math.sqrt(20) + 0.1 * noise
    loss = least_squares(whiten(X).data, Y)
    weight = torch.randn(20, 20, generator=generator, dtype=torch.float64)
    weight *= 0.3 / torch.linalg.matrix_norm(weight)
    if float(torch.linalg.det(weight) * torch.linalg.det(loss.minimizer)) < 0:
        weight[0] *= -1  # balanced factors of full rank never leave their sign of the determinant
    path = flow(od.balanced_factors(weight, 3), loss, [0.0, 10.0, 100.0, 2000.0])
    assert float(path.gap[-1]) < 1e-10
    assert float(path.imbalance_error.max()) < 1e-8


# --- refusals --------------------------------------------------------------------------------------------------------

ONE = [torch.ones(1, 1), torch.ones(1, 1)]
SQUARE = matrix_distance(torch.ones(1, 1))


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 2.0, 1.0], "times is .*increasing"),
        ([1.0, 1.0], "times is .*increasing"),
        ([], "times is .*increasing"),
        ([-1.0, 1.0], "times is .*finite numbers >= 0"),
        ([0.0, math.nan], "times is .*finite numbers >= 0"),
        (list(np.linspace(-1, 0, 30)), "times is an array of shape"),
    ],
)
def test_times_are_refused_by_name(times: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow(ONE, SQUARE, times)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "layer"}, "kind is 'layer', expected one of layers, end_to_end, preconditioned"),
        ({"method": "Euler"}, "method is 'Euler'.*Radau"),
        ({"rtol": 1e-15}, "rtol is 1e-15"),
        ({"atol": -1.0}, "atol is -1.0"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"depth": 2}, "depth is 2 beside a list of 2 factors"),
    ],
)
def test_options_are_refused_by_name(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        flow(ONE, SQUARE, [1.0], **options)


def test_factors_and_gradients_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"factors\[1\] of shape \(1, 1\) has non-finite"):
        flow([torch.ones(1, 1), torch.full((1, 1), math.nan)], SQUARE, [1.0])
    with pytest.raises(ValueError, match=r"factors\[0\] has shape .* no batch"):
        flow([torch.ones(2, 1, 1)], SQUARE, [1.0])
    with pytest.raises(ValueError, match="a single weight goes with kind='end_to_end' and a depth"):
        flow(torch.ones(1, 1), SQUARE, [1.0])
    with pytest.raises(ValueError, match="depth is inf"):
        flow(torch.ones(1, 1), SQUARE, [1.0], kind="end_to_end", depth=math.inf)
    with pytest.raises(ValueError, match=r"weight has shape \(1, 1\), expected \(..., 2, 2\)"):
        flow(ONE, matrix_distance(torch.eye(2)), [1.0])
    with pytest.raises(ValueError, match=r"gradient returned shape \(2, 1\) for a weight of shape \(1, 1\)"):
        flow(ONE, lambda w: torch.ones(2, 1), [1.0])
    with pytest.raises(ValueError, match="gradient returned non-finite entries"):
        flow(ONE, lambda w: w / 0, [1.0])
    with pytest.raises(TypeError, match="gradient returned a float"):
        flow(ONE, lambda w: 1.0, [1.0])  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match="gradient is a int"):
        flow(ONE, 3, [1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("method", list(METHODS))
def test_an_integrator_that_gives_up_says_when(method: str) -> None:
    """With the loss -w^2 / 2, three layers of 1 reach infinity at a finite time: u' = 3 u^{4/3} u."""
    factors = [torch.ones(1, 1)] * 3
    with pytest.raises(RuntimeError, match=f"{method} gave up at time 0.[0-9]+ of 10 .*bounded below"):
        flow(factors, lambda w: -w, [10.0], method=method, rtol=1e-6)
