"""Three layers and more: theory.md, sections 6.2 to 6.5, its order of factors reversed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from tests.reference import rates as ref
from tests.theory.test_scalar_rates import tensor, to_library
from torch import Tensor

from overdepth.theory import (
    chain_rate,
    frozen_rate,
    lazy_rate,
    scalar_rate,
    single_io_rate,
    supported_single_io_rate,
    three_layer_rate,
)

Chain = list[ref.Array]


def chain(*rows: list[list[float]]) -> Chain:
    return [np.array(r, dtype=np.float64) for r in rows]


G6 = chain(
    [[2, 0, 1], [0, 1.5, 0]], [[0.5, 0.1, 0], [0, 0.4, 0.3], [0, 0, 1]], [[1.5, 0], [0.3, 2], [0, 0.2]]
)  # fmt: skip
G7 = chain([[1, -1]], [[2, 0], [1, 2]], [[0.5], [1]])

# --- golden values ---------------------------------------------------------------------------------------------------


def test_golden_g1() -> None:
    ws = chain([[1, 2, 0], [0, 1, -1]], [[1, 0], [2, 1], [0, 3]], [[1, 1, 0], [0, 1, 2]])
    assert frozen_rate(to_library(ws)) == pytest.approx(6.406613377552, rel=1e-9)


def test_golden_g6() -> None:
    factors = to_library(G6)
    assert three_layer_rate(factors) == pytest.approx(3.868760084344, rel=1e-9)
    assert chain_rate(factors) == pytest.approx(3.868760084344, rel=1e-9)
    assert frozen_rate(factors) == pytest.approx(5.841999142764, rel=1e-9)


def test_golden_g7() -> None:
    factors = to_library(G7)
    assert three_layer_rate(factors) == pytest.approx(11.236504302941, rel=1e-9)
    assert single_io_rate(factors) == pytest.approx(5.15121409149, rel=1e-9)
    assert supported_single_io_rate(factors) == pytest.approx(12.360988454261, rel=1e-9)
    assert frozen_rate(factors) == pytest.approx(14.75, rel=1e-9)


def test_golden_g9() -> None:
    found = lazy_rate([torch.eye(2)] * 3, gap=1e-3, pl=2.0)
    assert found.alpha == pytest.approx(2.676, rel=1e-3)
    assert found.radius == pytest.approx(0.027338327591, rel=1e-3)
    assert found.theta == pytest.approx(2.676 / 3, rel=1e-3)


# --- three layers ----------------------------------------------------------------------------------------------------


def three_layers(rng: np.random.Generator, sizes: int = 5, hidden: int = 7) -> Chain:
    n, m = (int(i) for i in rng.integers(1, sizes, 2))
    return ref.random_chain(rng, [n, *(int(i) for i in rng.integers(1, hidden, 2)), m])


@pytest.mark.parametrize("count", [600, pytest.param(8000, marks=pytest.mark.slow)])
def test_three_layers_of_any_sizes_are_bounded(count: int) -> None:
    rng = np.random.default_rng(30)
    informative = 0
    for _ in range(count):
        ws = three_layers(rng)
        factors, true, scale, norms = to_library(ws), ref.rate(ws), ref.upper(ws), ref.size(ws)
        bound = three_layer_rate(factors)
        assert 0 <= bound <= true + 1e-9 * scale
        assert bound == pytest.approx(ref.three_layer_rate(ws), rel=0, abs=1e-9 * norms)
        assert chain_rate(factors) <= bound + 1e-9 * norms  # 6.3 is never larger
        informative += bound > 1e-9 * norms
    assert 0.2 < informative / count < 0.8


def test_balanced_chains_have_no_bound_without_a_margin() -> None:
    rng = np.random.default_rng(31)
    for n, m in ((2, 2), (2, 3), (3, 1)):
        factors = to_library(ref.homogeneous_chain(rng, n, m, [0, 0], np.linspace(1, 2, min(n, m)).tolist()))
        assert three_layer_rate(factors) == pytest.approx(0, abs=1e-9)
        assert chain_rate(factors) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_a_single_input_and_output_attains_the_three_layer_bound(count: int) -> None:
    """The net with the imbalance spectra of a given one and T equal to the bound, by rank-one eigenvalue problems.

    s are the squared singular values of W_2; W_1 is the z with diag(lambda(D_21)) + z z^T of spectrum s, W_3 likewise.
    """
    rng = np.random.default_rng(32)
    attained = 0
    for _ in range(count):
        h = int(rng.integers(1, 5))
        given = ref.random_chain(rng, [1, h, h, 1])
        first, second = ref.imbalances(given)
        spectra = [np.linalg.eigvalsh(-first)[::-1], np.linalg.eigvalsh(second)[::-1]]
        s = np.maximum(np.maximum(*spectra), 0.0)
        sides = []
        for values in spectra:
            z2 = [
                math.prod(s - value) / math.prod(value_j - value for j, value_j in enumerate(values) if j != i)
                for i, value in enumerate(values)
            ]
            z = np.sqrt(np.maximum(z2, 0.0))
            sides.append((z, np.linalg.eigh(np.diag(values) + np.outer(z, z))[1][:, ::-1]))
        (z1, u), (z3, v) = sides
        built = [z1[None, :], u @ np.diag(np.sqrt(s)) @ v.T, z3[:, None]]
        norms = ref.size(built)
        built_first, built_second = ref.imbalances(built)
        for values, matrix in zip(spectra, (-built_first, built_second), strict=True):
            np.testing.assert_allclose(np.linalg.eigvalsh(matrix)[::-1], values, atol=1e-8 * math.sqrt(norms))
        bound = three_layer_rate(to_library(built))
        assert bound == pytest.approx(ref.rate(built), rel=0, abs=1e-8 * norms)
        assert bound == pytest.approx(three_layer_rate(to_library(given)), rel=0, abs=1e-8 * norms)
        attained += ref.rate(given) > bound * (1 + 1e-6)
    assert attained > count // 3  # while the given nets themselves lie above


# --- any depth -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [400, pytest.param(8000, marks=pytest.mark.slow)])
def test_chains_of_any_depth_are_bounded(count: int) -> None:
    rng = np.random.default_rng(33)
    informative = 0
    for _ in range(count):
        depth = int(rng.integers(2, 7))
        widths = np.sort(rng.integers(1, 5, depth + 1))  # a random peak: growing widths, then falling ones
        cut = int(rng.integers(0, depth + 2))
        dims = [*widths[:cut].tolist(), *widths[cut:][::-1].tolist()]
        ws = ref.random_chain(rng, dims if rng.uniform() < 0.7 else rng.permutation(dims).tolist())
        true, scale, norms = ref.rate(ws), ref.upper(ws), ref.size(ws)
        bound = chain_rate(to_library(ws))
        assert 0 <= bound <= true + 1e-9 * scale
        assert bound == pytest.approx(ref.chain_rate(ws), rel=0, abs=1e-9 * norms)
        informative += bound > 1e-9 * norms
    assert informative / count > 0.15


@pytest.mark.parametrize("depth", range(2, 7))
def test_chains_of_numbers_give_the_product_of_the_cumulative_imbalances(depth: int) -> None:
    rng = np.random.default_rng(34)
    for _ in range(20):
        ws = ref.random_chain(rng, [1] * (depth + 1))
        expected = float(scalar_rate(tensor([w.item() for w in ws]), 0.0))
        assert chain_rate(to_library(ws)) == pytest.approx(expected, rel=1e-9, abs=1e-9 * ref.size(ws))
        if depth == 3:
            assert three_layer_rate(to_library(ws)) == pytest.approx(expected, rel=1e-9, abs=1e-9 * ref.size(ws))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "dims"),
    [
        (three_layer_rate, [2, 3, 2, 2]), (three_layer_rate, [1, 2, 3, 2]), (chain_rate, [2, 2, 3, 2, 1]),
        (supported_single_io_rate, [1, 2, 2, 1]), (supported_single_io_rate, [1, 2, 3, 2, 1]),
    ],
)  # fmt: skip
def test_no_search_pushes_a_bound_above_the_rate(function: Callable[[list[Tensor]], float], dims: list[int]) -> None:
    """Nelder-Mead on bound / true."""
    shapes = list(itertools.pairwise(dims))
    cuts = np.cumsum([a * b for a, b in shapes])[:-1]

    def unpack(x: ref.Array) -> Chain:
        return [part.reshape(shape) for part, shape in zip(np.split(x, cuts), shapes, strict=True)]

    def ratio(x: ref.Array) -> float:
        ws = unpack(x)
        true = ref.rate(ws)
        return -function(to_library(ws)) / true if true > 1e-7 * ref.upper(ws) else 0.0

    rng = np.random.default_rng(35)
    best = 0.0
    for _ in range(6):
        start = rng.standard_normal(sum(a * b for a, b in shapes))
        while ratio(start) > -1e-3:  # flat where the bound says nothing
            start = rng.standard_normal(len(start))
        found = minimize(ratio, start, method="Nelder-Mead", options={"maxfev": 800, "adaptive": True})
        best = max(best, -float(found.fun))
    assert 0.5 < best <= 1 + 1e-6


# --- a single input and output ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", range(2, 7))
@pytest.mark.parametrize("count", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_single_input_and_output_is_bounded(count: int, depth: int) -> None:
    rng = np.random.default_rng(36 + depth)
    for _ in range(count):
        ws = ref.random_chain(rng, [1, *(int(i) for i in rng.integers(1, 6, depth - 1)), 1])
        factors, true, scale = to_library(ws), ref.rate(ws), ref.upper(ws)
        product = abs(ref.weight(ws).item())
        bound = single_io_rate(factors)
        assert bound == pytest.approx(ref.single_io_rate(product, depth), rel=1e-10)
        assert bound <= true + 1e-9 * scale
        assert single_io_rate(factors, 0.3 * product) == pytest.approx(
            ref.single_io_rate(0.3 * product, depth), rel=1e-10
        )
        supported = supported_single_io_rate(factors)
        base = ref.three_layer_rate(ws) if depth == 3 else ref.chain_rate(ws)
        assert supported <= true + 1e-9 * scale  # no proof, no counterexample
        assert supported >= math.hypot(base, bound) - 1e-9 * ref.size(ws)
        assert supported_single_io_rate(factors, 0.0) <= supported + 1e-9 * ref.size(ws)


def test_balanced_numbers_attain_it() -> None:
    for depth in range(1, 7):
        factors = [torch.full((1, 1), 0.8, dtype=torch.float64)] * depth
        assert single_io_rate(factors) == pytest.approx(frozen_rate(factors), rel=1e-12)


def test_its_generalization_to_matrices_would_be_wrong() -> None:
    """W_1 = diag(1, e), W_2 = diag(e, 1): sigma_min = e, but lambda_min(T) = 2 e^2 < 2 e."""
    e = 0.1
    factors = to_library([np.diag([1.0, e]), np.diag([e, 1.0])])
    assert frozen_rate(factors) == pytest.approx(2 * e**2, rel=1e-12)
    for function in (single_io_rate, supported_single_io_rate):
        with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
            function(factors)


# --- the lazy certificate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [40, pytest.param(400, marks=pytest.mark.slow)])
def test_the_lazy_rate_is_the_largest_that_the_inequality_allows(count: int) -> None:
    rng = np.random.default_rng(40)
    certified = 0
    for _ in range(count):
        depth = int(rng.integers(2, 6))
        dims = [int(i) for i in rng.integers(1, 4, depth + 1)]
        ws = [np.eye(a, b) + 0.2 * rng.standard_normal((a, b)) for a, b in itertools.pairwise(dims)]
        gap, gamma = float(10 ** rng.uniform(-8, -1)), float(10 ** rng.uniform(-1, 1))
        found = lazy_rate(to_library(ws), gap=gap, pl=gamma)
        grid = ref.lazy_rate(ws, gap, gamma, points=400)
        start = ref.positive(ref.rate(ws))
        if found.alpha == 0:
            assert grid <= 1e-9 * start
            assert found.theta == found.radius == 0
            continue
        certified += 1
        assert 0 < found.theta <= 1
        assert found.alpha == pytest.approx(found.theta * start, rel=1e-9)
        assert found.radius == pytest.approx(2 * math.sqrt(gap / (found.alpha * gamma)), rel=1e-9)
        assert ref.lazy_holds(ws, start, gap, gamma, found.theta * (1 - 1e-9))
        assert grid - 1e-9 * start <= found.alpha <= grid + start / 400
    assert certified > count // 5


def test_no_gap_keeps_the_whole_rate_and_a_large_one_nothing() -> None:
    factors = [torch.eye(3)] * 3
    at_minimum = lazy_rate(factors, gap=0.0, pl=2.0)
    assert at_minimum.alpha == pytest.approx(3.0, rel=1e-9)
    assert at_minimum.radius == 0
    assert lazy_rate(factors, gap=100.0, pl=2.0) == (0.0, 0.0, 0.0)
    assert lazy_rate([torch.zeros(2, 2)] * 3, gap=1e-3, pl=2.0).alpha == 0


@pytest.mark.parametrize("count", [8, pytest.param(80, marks=pytest.mark.slow)])
def test_layers_stay_within_the_radius_and_the_rate_above_alpha(count: int) -> None:
    rng = np.random.default_rng(41)
    for _ in range(count):
        n, depth = int(rng.integers(1, 4)), int(rng.integers(2, 5))
        ws = [np.eye(n) + 0.1 * rng.standard_normal((n, n)) for _ in range(depth)]
        minimizer = ref.weight(ws) + 0.02 * rng.standard_normal((n, n))
        loss = ref.Quadratic(minimizer, np.eye(n))
        found = lazy_rate(to_library(ws), gap=loss.gap(ref.weight(ws)), pl=2.0)
        if found.alpha == 0:
            continue
        for now in ref.flow(ws, loss.gradient, [0.05, 0.2, 0.5, 1, 2, 4, 8]):
            moved = math.sqrt(sum(float(np.sum((a - b) ** 2)) for a, b in zip(now, ws, strict=True)))
            assert moved <= found.radius * (1 + 1e-9)
            assert ref.rate(now) >= found.alpha - 1e-9 * ref.upper(now)


# --- the frozen rate and errors --------------------------------------------------------------------------------------


def test_the_frozen_rate_is_the_smallest_eigenvalue() -> None:
    rng = np.random.default_rng(42)
    for _ in range(30):
        ws = ref.random_chain(rng, [int(i) for i in rng.integers(1, 5, int(rng.integers(2, 6)))])
        assert frozen_rate(to_library(ws)) == pytest.approx(ref.rate(ws), rel=0, abs=1e-11 * ref.upper(ws))


OF_FACTORS: list[Callable[[list[Tensor]], object]] = [
    chain_rate, frozen_rate, single_io_rate, supported_single_io_rate, lambda factors: lazy_rate(factors, gap=1.0, pl=2)
]  # fmt: skip


@pytest.mark.parametrize("function", [*OF_FACTORS, three_layer_rate])
def test_chains_that_are_none_are_refused(function: Callable[[list[Tensor]], object]) -> None:
    with pytest.raises(ValueError, match="factors is empty"):
        function([])
    with pytest.raises(ValueError, match=r"factors\[1\].*\(1, 4\).*factors\[0\].*\(3, 1\)"):
        function([torch.ones(3, 1), torch.ones(1, 4), torch.ones(1, 1)])
    with pytest.raises(ValueError, match=r"factors\[2\].*non-finite"):
        function([torch.ones(3, 1), torch.ones(2, 3), torch.full((1, 2), math.nan)])
    with pytest.raises(ValueError, match=r"factors\[0\].*\(2, 1, 1\)"):
        function([torch.ones(2, 1, 1), torch.ones(2, 1, 1), torch.ones(2, 1, 1)])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_three_layer_bound_wants_three_layers(count: int) -> None:
    with pytest.raises(ValueError, match=rf"{count}.*(3|three)|(3|three).*{count}"):
        three_layer_rate([torch.eye(2)] * count)


@pytest.mark.parametrize("function", [single_io_rate, supported_single_io_rate])
@pytest.mark.parametrize("shapes", [((2, 3), (1, 2)), ((2, 1), (3, 2))])
def test_several_inputs_or_outputs_are_refused(
    function: Callable[..., float], shapes: tuple[tuple[int, int], tuple[int, int]]
) -> None:
    with pytest.raises(ValueError, match=r"shape \((1, 3|3, 1)\).*one input and one output"):
        function([torch.ones(*shape) for shape in shapes])


@pytest.mark.parametrize("function", [single_io_rate, supported_single_io_rate])
@pytest.mark.parametrize("margin", [-1.0, math.nan])
def test_margins_below_zero_are_refused(function: Callable[..., float], margin: float) -> None:
    with pytest.raises(ValueError, match="margin is"):
        function([torch.ones(1, 1)] * 3, margin)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf])
def test_gaps_and_constants_out_of_range_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="gap is"):
        lazy_rate([torch.eye(2)] * 3, gap=bad, pl=2.0)
    for pl in (bad, 0.0):
        with pytest.raises(ValueError, match="pl is"):
            lazy_rate([torch.eye(2)] * 3, gap=1.0, pl=pl)
