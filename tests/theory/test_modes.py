"""The closed forms against golden values, small steps, quadrature and the flow."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from tests.reference import dynamics
from tests.reference import linear_algebra as ref
from torch import Tensor

import overdepth as od
from overdepth.theory.gradient_flow import flow
from overdepth.theory.hitting import balanced_hitting_time, escape_time
from overdepth.theory.losses import matrix_distance
from overdepth.theory.matrix_modes import riccati, spectral_factors
from overdepth.theory.modes import deep_mode, logistic_mode, two_layer_mode

SEEDS = st.integers(0, 2**32 - 1)
NUMBERS = st.floats(-1.5, 1.5)
STRICT: dict[str, Any] = {"rtol": 1e-12, "atol": 1e-14}
FEW = settings(max_examples=20)


# --- two scalar layers -----------------------------------------------------------------------------------------------


def test_golden_modes() -> None:
    times = [0.0, 0.5, 1.0, 2.0]
    two = [-0.1, 0.07467888073, 0.366292249797, 1.305319069845]
    assert two_layer_mode(times, 0.5, -0.2, 1.5).tolist() == pytest.approx(two, rel=1e-9)
    three = [-0.08, 0.028408301381, 0.18704872608, 1.351746750572]
    assert deep_mode(times, [0.5, -0.2, 0.8], 1.5).tolist() == pytest.approx(three, rel=1e-8)


@FEW
@given(NUMBERS, NUMBERS, NUMBERS)
def test_two_layers_against_small_steps(a: float, b: float, target: float) -> None:
    times = [0.0, 0.5, 2.0]
    found = two_layer_mode(times, a, b, target).tolist()
    assert found[0] == pytest.approx(a * b, abs=1e-15)
    for u, time in zip(found[1:], times[1:], strict=True):
        assert u == pytest.approx(dynamics.scalar_flow([a, b], target, time, 400), abs=1e-8)


EDGES = [
    (0.5, 0.5, 0.0),  # balanced towards 0: R = 0
    (0.0, 0.0, 0.0),
    (0.0, 0.0, 1.0),  # never leaves 0
    (0.5, -0.5, 1.0),  # a + b = 0: stops at 0
    (0.5, -0.5, -1.0),
    (-0.5, 0.5, 0.0),
    (0.5, 0.5, -1.0),
    (0.7, 0.0, 1.0),
    (0.0, -0.7, -1.0),
    (1.0, 1e-9, 1e-9),  # R nearly 0 beside the weights
    (1e-160, 1e-160, 1e-170),
    (2.0, 2.0, 1.0),  # from above
    (30.0, -1e-3, 2.0),
]


@pytest.mark.parametrize(("a", "b", "target"), EDGES)
def test_two_layers_at_the_edges(a: float, b: float, target: float) -> None:
    for time in (0.3, 1.0):
        expected = dynamics.scalar_flow([a, b], target, time, 4000)
        assert float(two_layer_mode(time, a, b, target)) == pytest.approx(expected, rel=1e-8, abs=1e-13)
    assert math.isfinite(float(two_layer_mode(1e6, a, b, target)))


def test_two_layers_end_at_the_target_at_the_final_rate() -> None:
    for a, b, target in [(0.5, -0.2, 1.5), (0.1, 0.9, -0.7), (2.0, 0.1, 0.3)]:
        rate = math.hypot(2 * target, a * a - b * b)
        early, late = (float(two_layer_mode(t / rate, a, b, target)) - target for t in (18.0, 20.0))
        assert late / early == pytest.approx(math.exp(-2), rel=1e-3)


@FEW
@given(st.floats(-2, 2), NUMBERS)
def test_the_logistic_curve(start: float, target: float) -> None:
    for time in (0.0, 0.4, 3.0):
        found = float(logistic_mode(time, start, target))
        if start > 0 and abs(target) > 1e-3:
            literal = target / (1 + (target / start - 1) * math.exp(-2 * target * time))
            assert found == pytest.approx(literal, rel=1e-9, abs=1e-15)
        root = math.sqrt(abs(start))
        expected = dynamics.scalar_flow([root, math.copysign(root, start)], target, time, 400)
        assert found == pytest.approx(expected, abs=1e-8)


def test_shapes_of_times() -> None:
    assert two_layer_mode(1.0, 0.5, 0.1, 1.0).shape == ()
    assert logistic_mode(torch.ones(2, 3), 0.5, 1.0).shape == (2, 3)
    assert deep_mode(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), [0.5, 0.2], 1.0).shape == (2, 2)


# --- deep scalar networks --------------------------------------------------------------------------------------------


@FEW
@given(st.lists(NUMBERS, min_size=1, max_size=5), NUMBERS)
def test_deep_modes_against_small_steps(weights: list[float], target: float) -> None:
    found = deep_mode([2.0, 0.0, 0.7], weights, target).tolist()
    assert found[1] == pytest.approx(math.prod(weights), abs=1e-15)
    for u, time in ((found[0], 2.0), (found[2], 0.7)):
        assert u == pytest.approx(dynamics.scalar_flow(weights, target, time, 1000), abs=1e-8)


@pytest.mark.parametrize(
    "weights",
    [[0.4, 0.4, 0.4], [0.4, -0.4, 0.9], [-0.3, -0.3, -0.3, 1.0], [0.0, 0.5, 0.7], [0.0, 0.0, 0.7], [-0.2, 0.9, 1.1]],
)
@pytest.mark.parametrize("target", [1.0, -1.0])
def test_ties_zeros_and_changes_of_sign(weights: list[float], target: float) -> None:
    expected = dynamics.scalar_flow(weights, target, 3.0, 3000)
    assert float(deep_mode(3.0, weights, target)) == pytest.approx(expected, abs=1e-8)


def test_two_layers_are_a_deep_mode() -> None:
    times = np.linspace(0, 5, 11)
    for a, b, target in EDGES[:-1]:
        assert torch.allclose(deep_mode(times, [a, b], target), two_layer_mode(times, a, b, target), rtol=0, atol=1e-9)


def test_stiff_modes_by_a_stiff_method() -> None:
    found = deep_mode([1e3], [20.0, -15.0, 0.1], 1.0, method="Radau", rtol=1e-8)
    assert float(found) == pytest.approx(1.0, abs=1e-6)


# --- when a balanced mode arrives ------------------------------------------------------------------------------------


def test_golden_times() -> None:
    expected = [4.595119850135, 4.595119850135, 5.395879888186, 5.943924841568, 6.18481841708]
    assert [balanced_hitting_time(0.01, 0.99, 1.0, n) for n in range(1, 6)] == pytest.approx(expected, rel=1e-9)


DEPTHS = st.one_of(
    st.floats(1, 40), st.sampled_from([1.0, 2.0, 2 - 1e-9, 2 + 1e-9, 2.0001, 3.0, 1e3, 1e8]), st.integers(1, 9)
)


@given(st.floats(1e-6, 0.99), st.floats(1e-3, 0.999999), st.floats(0.1, 10), DEPTHS)
def test_hitting_times_against_quadrature(start: float, way: float, target: float, depth: float) -> None:
    """Any real depth; in x = log(u / (s - u)) the integrand is u^{2/N-1} / (N s), without a pole."""
    low = start * target
    high = low + way * (target - low)

    def integrand(x: float) -> float:
        u = target / (1 + math.exp(-x))
        return float(u ** (2 / depth - 1) / (depth * target))

    ends = [math.log(u / (target - u)) for u in (low, high)]
    expected = quad(integrand, *ends, epsabs=0, epsrel=1e-12, limit=400)[0]
    # the difference of two terms of about the size of the pole loses digits over short ways
    slack = 1e-14 / (depth * target ** (2 - 2 / depth)) * (1 + (low / target) ** (2 / depth - 1))
    assert balanced_hitting_time(low, high, target, depth) == pytest.approx(expected, rel=1e-9, abs=slack)


@FEW
@given(st.integers(1, 8), st.floats(0.05, 0.5), st.floats(0.5, 0.95))
def test_the_flow_of_the_layers_arrives_then(depth: int, start: float, level: float) -> None:
    time = balanced_hitting_time(start, level, 1.0, depth)
    factors = od.balanced_factors(torch.tensor([[start]], dtype=torch.float64), depth)
    target = matrix_distance(torch.ones(1, 1))
    assert float(flow(factors, target, [time + 1e-300], **STRICT).weight[0, 0, 0]) == pytest.approx(level, abs=1e-8)
    assert float(deep_mode(time, [start ** (1 / depth)] * depth, 1.0)) == pytest.approx(level, abs=1e-8)


@pytest.mark.parametrize("depth", [1.3, 2.5, 3.7])
def test_the_flow_of_a_real_depth_arrives_then(depth: float) -> None:
    time = balanced_hitting_time(0.1, 1.7, 2.0, depth)
    loss = matrix_distance(torch.tensor([[2.0]]))
    path = flow(torch.tensor([[0.1]], dtype=torch.float64), loss, [time], kind="end_to_end", depth=depth, **STRICT)
    assert float(path.weight[0, 0, 0]) == pytest.approx(1.7, abs=1e-8)


def test_the_plateau() -> None:
    starts = [1e-4, 1e-6, 1e-8, 1e-10]
    for depth in (3, 4, 7.5):
        ratios = [1 - e.time / e.asymptotic for e in (escape_time(u, 2.0, depth) for u in starts)]
        assert all(abs(b) < abs(a) for a, b in itertools.pairwise(ratios))
        assert abs(ratios[-1]) < 2e-3
    for u in starts:  # at depth 2 the logarithm, exactly so at half way
        two = escape_time(u, 2.0, 2)
        assert two.time == pytest.approx(two.asymptotic, rel=2 * u)
    for depth in (1, 1.5):  # no plateau: a finite limit
        found = escape_time(1e-30, 2.0, depth)
        assert found.time == pytest.approx(found.asymptotic, rel=1e-6)
    assert escape_time(1e-30, 2.0, 1).asymptotic == pytest.approx(math.log(2))


def test_hitting_times_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"start is 0.5, level is 0.4 and target is 1.0, expected start <= level"):
        balanced_hitting_time(0.5, 0.4, 1.0, 2)
    with pytest.raises(ValueError, match="expected start <= level < target"):
        balanced_hitting_time(0.5, 1.0, 1.0, 2)
    with pytest.raises(ValueError, match=r"start is 0.0"):
        balanced_hitting_time(0.0, 0.5, 1.0, 2)
    with pytest.raises(ValueError, match="start is nan"):
        balanced_hitting_time(math.nan, 0.5, 1.0, 1)
    with pytest.raises(ValueError, match=r"target is -1.0"):
        balanced_hitting_time(0.1, 0.5, -1.0, 2)
    with pytest.raises(ValueError, match="depth is inf"):
        balanced_hitting_time(0.1, 0.5, 1.0, math.inf)
    with pytest.raises(ValueError, match=r"depth is 0.5"):
        escape_time(0.1, 1.0, 0.5)
    with pytest.raises(ValueError, match=r"fraction is 1.0"):
        escape_time(0.1, 1.0, 2, fraction=1.0)
    assert balanced_hitting_time(0.5, 0.5, 1.0, 3) == 0


# --- matrices --------------------------------------------------------------------------------------------------------


@FEW
@given(SEEDS, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2))
def test_spectral_factors_fall_into_modes(seed: int, k: int, d: int, depth: int, wider: int) -> None:
    rng = np.random.default_rng(seed)
    target, small = rng.standard_normal((k, d)), min(k, d)
    strengths = rng.uniform(-1, 1, (depth, small))
    factors = spectral_factors(torch.from_numpy(target), torch.from_numpy(strengths), width=small + wider)
    assert [f.shape[0] for f in factors[:-1]] == [small + wider] * (depth - 1)
    path = flow(factors, matrix_distance(torch.from_numpy(target)), [0.5, 1.5], **STRICT)
    u, s, vh = np.linalg.svd(target, full_matrices=False)
    for time, weight in zip(path.time.values, path.weight.values, strict=True):
        modes = [float(deep_mode(time, strengths[:, i], float(s[i]))) for i in range(small)]
        assert np.abs(weight - (u * modes) @ vh).max() < 1e-8


def test_one_strength_a_layer() -> None:
    target = torch.randn(3, 2, dtype=torch.float64)
    one = spectral_factors(target, [0.1, -0.2, 0.3])
    each = spectral_factors(target, torch.tensor([0.1, -0.2, 0.3]).double()[:, None].expand(3, 2))
    assert all(torch.allclose(a, b) for a, b in zip(one, each, strict=True))


def test_spectral_factors_are_refused_by_name() -> None:
    target = torch.eye(2)
    with pytest.raises(ValueError, match=r"strengths has shape \(2, 3\), expected .* \(N, 2\)"):
        spectral_factors(target, torch.ones(2, 3))
    with pytest.raises(ValueError, match="strengths has shape"):
        spectral_factors(target, [math.nan])
    with pytest.raises(ValueError, match="width is 1, expected at least 2"):
        spectral_factors(target, [1.0, 1.0], width=1)
    with pytest.raises(TypeError, match="target is a list"):
        spectral_factors([[1.0]], [1.0])  # type: ignore[arg-type]


def test_golden_riccati() -> None:
    half = torch.eye(2, dtype=torch.float64) / 2
    found = riccati([half, half], torch.tensor([[1.0, 2.0], [0.0, 1.0]]), 1.0)
    expected = [0.931044201411, 1.809676986221, 0.121529447369, 0.931044201411]
    assert found.flatten().tolist() == pytest.approx(expected, rel=1e-8)


def homogeneous(seed: int, sizes: tuple[int, int, int], multiple: float, rank: int) -> list[Tensor]:
    """W_1 (h, d), W_2 (k, h) with W_2^T W_2 - W_1 W_1^T = multiple I, singular vectors at random.

    A multiple > 0 needs W_2 of rank h (h <= k), one < 0 W_1 of rank h (h <= d).
    """
    rng = np.random.default_rng(seed)
    d, h, k = sizes
    x = np.where(np.arange(h) < rank, rng.uniform(0.1, 1.5, h), 0.0)
    upper, lower = x + max(multiple, 0.0), x + max(-multiple, 0.0)
    left, middle, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (k, h, d))

    def between(bases: tuple[ref.Array, ref.Array], squares: ref.Array) -> Tensor:
        n = min(len(bases[0]), len(bases[1]), h)
        return torch.from_numpy((bases[0][:, :n] * np.sqrt(squares[:n])) @ bases[1][:, :n].T)

    return [between((middle, right), lower), between((left, middle), upper)]


CASES = [
    ((2, 2, 2), 0.0, 2),
    ((4, 2, 3), 0.0, 2),
    ((3, 3, 2), 0.0, 1),
    ((2, 5, 4), 0.0, 1),
    ((3, 3, 3), 0.0, 0),
    ((3, 3, 3), 0.8, 3),
    ((3, 3, 3), -0.8, 3),
    ((2, 3, 4), 0.6, 2),
    ((4, 3, 2), -0.6, 1),
    ((1, 1, 1), -1.1, 1),
]


@pytest.mark.parametrize(("sizes", "multiple", "rank"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_riccati_against_the_flow(sizes: tuple[int, int, int], multiple: float, rank: int, seed: int) -> None:
    factors = homogeneous(seed, sizes, multiple, rank)
    target = torch.from_numpy(np.random.default_rng(seed + 99).standard_normal((sizes[2], sizes[0])))
    times = [0.0, 0.4, 2.0, 12.0]
    found = riccati(factors, target, times)
    path = flow(factors, matrix_distance(target), times, **STRICT)
    assert np.abs(found.numpy() - path.weight.values).max() < 1e-8
    assert torch.allclose(riccati(factors, target, 0.4), found[1], rtol=0, atol=1e-12)


def test_riccati_over_long_times_ends_at_the_target() -> None:
    target = torch.from_numpy(np.random.default_rng(5).standard_normal((3, 3)))
    found = riccati(homogeneous(5, (3, 3, 3), 0.5, 3), target, 1e3)
    assert torch.allclose(found, target, rtol=0, atol=1e-10)


def test_riccati_refuses_others_by_name() -> None:
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="factors has 3 matrices, expected two; use flow"):
        riccati([eye, eye, eye], eye, 1.0)
    with pytest.raises(ValueError, match="expected a multiple of the identity; use flow"):
        riccati([eye, torch.diag(torch.tensor([1.0, 2.0]))], eye, 1.0)
    with pytest.raises(ValueError, match=r"target has shape \(1, 2\)"):
        riccati([eye, eye], torch.ones(1, 2), 1.0)
    with pytest.raises(ValueError, match="times is"):
        riccati([eye, eye], eye, -1.0)
    with pytest.raises(ValueError, match=r"times is .*increasing"):
        riccati([eye, eye], eye, [1.0, 0.5])


@pytest.mark.parametrize("name", ["a", "b", "target"])
def test_numbers_are_refused_by_name(name: str) -> None:
    numbers = {"a": 1.0, "b": 1.0, "target": 1.0, name: math.nan}
    with pytest.raises(ValueError, match=f"{name} is nan"):
        two_layer_mode(1.0, **numbers)


def test_modes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="start is inf"):
        logistic_mode(1.0, math.inf, 1.0)
    with pytest.raises(ValueError, match="times is"):
        logistic_mode([-1.0], 1.0, 1.0)
    for bad in ([], [math.nan], [[1.0]]):
        with pytest.raises(ValueError, match="weights is"):
            deep_mode(1.0, bad, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target is nan"):
        deep_mode(1.0, [1.0], math.nan)
    with pytest.raises(ValueError, match="method is 'Euler'"):
        deep_mode(1.0, [1.0], 1.0, method="Euler")
