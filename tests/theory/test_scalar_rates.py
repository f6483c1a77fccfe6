"""Chains of numbers and homogeneous chains: theory.md, sections 4 and 6.1, its order of factors reversed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from tests.reference import rates as ref
from torch import Tensor

from overdepth.theory import homogeneous_rate, scalar_rate, scalar_rate_bound

Numbers = ref.Array


def to_library(ws: ref.Chain) -> list[Tensor]:
    """W_l = factors[L - l]."""
    return [torch.from_numpy(np.ascontiguousarray(w)) for w in reversed(ws)]


def tensor(numbers: object) -> Tensor:
    return torch.tensor(np.asarray(numbers), dtype=torch.float64)


def of_offsets(c: list[float], x: float = 0.7) -> Tensor:
    """Numbers with these offsets, in the library's order."""
    return tensor([math.sqrt(x + a) for a in reversed(c)])


def nets(rng: np.random.Generator, count: int, depth: int) -> Numbers:
    """Numbers (count, depth) of random scales; a fifth balanced, a fifth with ties, signs at random."""
    w = 10 ** rng.uniform(-1.5, 1, size=(count, depth)) * rng.choice([-1, 1], size=(count, depth))
    fifth = count // 5
    w[:fifth] = np.abs(w[:fifth, :1]) * np.sign(w[:fifth])
    ties = rng.integers(depth, size=(2, fifth))
    rows = np.arange(fifth) + fifth
    w[rows, ties[0]] = w[rows, ties[1]]
    return np.asarray(w)


def literal_rate(w: Numbers) -> Numbers:
    """sum_l prod_{k != l} w_k^2, by rows."""
    return np.asarray([sum(math.prod(v**2 for k, v in enumerate(row) if k != j) for j in range(len(row))) for row in w])


def offsets_of(w: Numbers) -> Numbers:
    return np.asarray(w**2 - (w**2).min(axis=1, keepdims=True))


SIZES = [200, pytest.param(3000, marks=pytest.mark.slow)]  # of every depth 2 .. 8

# --- golden values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("margin", "exact", "lower"),
    [(0.0, 8.0, 8.0), (0.5, 8.849787587577, 8.124038404636), (2.0, 18.720387484033, 13.856406460551)],
)
def test_golden_g3(margin: float, exact: float, lower: float) -> None:
    c = ref.offsets([3, -1, 2])
    assert c == [4, 1, 2, 0]
    for x in (0.01, 0.7, 5.0):  # only the imbalances count once there is a margin
        assert float(scalar_rate(of_offsets(c, x), margin)) == pytest.approx(exact, rel=1e-9)
        assert float(scalar_rate_bound(of_offsets(c, x), margin)) == pytest.approx(lower, rel=1e-9)


@pytest.mark.parametrize(("margin", "exact"), [(0.0, 8.0), (1e-3, 8.0000035), (1.0, 11.16865659657)])
def test_golden_g3b(margin: float, exact: float) -> None:
    assert float(scalar_rate(of_offsets([4, 2, 1, 0]), margin)) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(
    ("n", "m", "exact"), [(2, 2, 4.26463299874), (2, 3, 0.430159709002), (3, 2, 0.754877666247), (1, 4, 0.430159709002)]
)
def test_golden_g8(n: int, m: int, exact: float) -> None:
    ws = ref.homogeneous_chain(np.random.default_rng(1), n, m, [1, -2], np.linspace(0.5, 2, min(n, m)).tolist())
    assert homogeneous_rate(to_library(ws), margin=1.0) == pytest.approx(exact, rel=1e-9)
    c = ref.offsets([1, -2])
    assert float(scalar_rate_bound(of_offsets(c), 1.0)) == pytest.approx(3.605551275464, rel=1e-9)


# --- chains of numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", range(2, 9))
@pytest.mark.parametrize("count", SIZES)
def test_the_rate_is_exact_at_the_current_product_and_below_it_elsewhere(count: int, depth: int) -> None:
    rng = np.random.default_rng(depth)
    w = nets(rng, count, depth)
    true = literal_rate(w)
    slack = 1e-9 * true  # T is 1 x 1: lambda_max is the rate itself
    at_product = scalar_rate(tensor(w[:, ::-1].copy())).numpy()
    np.testing.assert_allclose(at_product, true, rtol=1e-10)
    product = np.abs(w.prod(axis=1))
    for part in (np.zeros(count), rng.uniform(0, 1, count), 10 ** rng.uniform(-6, 0, count), np.ones(count)):
        exact = scalar_rate(tensor(w), tensor(part * product)).numpy()
        lower = scalar_rate_bound(tensor(w), tensor(part * product)).numpy()
        assert (exact <= true + slack).all()
        assert (lower <= exact * (1 + 1e-9)).all()


@pytest.mark.parametrize("depth", range(2, 9))
@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_rate_is_that_of_bisection(count: int, depth: int) -> None:
    rng = np.random.default_rng(100 + depth)
    w = nets(rng, count, depth)
    margins = np.where(rng.uniform(size=count) < 0.1, 0.0, 10 ** rng.uniform(-8, 3, count))
    found, lower = scalar_rate(tensor(w), tensor(margins)), scalar_rate_bound(tensor(w), tensor(margins))
    for i, (c, margin) in enumerate(zip(offsets_of(w), margins, strict=True)):
        offsets = [float(a) for a in c]
        expected = ref.scalar_rate(offsets, float(margin))
        assert float(found[i]) == pytest.approx(expected, rel=1e-9, abs=1e-12 * math.prod(sorted(offsets)[1:]))
        assert float(lower[i]) == pytest.approx(ref.scalar_rate_bound(offsets, float(margin)), rel=1e-10)
        assert float(lower[i]) <= expected * (1 + 1e-9)


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.slow)])
def test_brute_force_over_the_constraint_set_finds_nothing_smaller(count: int) -> None:
    """All nets with the same imbalances are x >= 0; the least T among those with |w| >= margin is alpha*."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        depth = int(rng.integers(2, 7))
        c = offsets_of(nets(rng, 5, depth)[-1:])[0]
        margin = float(10 ** rng.uniform(-3, 1))
        x = np.linspace(0, margin ** (2 / depth), 4001)
        allowed = x[np.prod(x[:, None] + c, axis=1) >= margin**2 * (1 - 1e-12)]
        least = ref.scalar_slope(float(allowed[0]), c.tolist())
        before = ref.scalar_slope(float(max(allowed[0] - x[1], 0.0)), c.tolist())
        alpha = float(scalar_rate(of_offsets(c.tolist()), margin))
        assert before * (1 - 1e-9) <= alpha <= least * (1 + 1e-9)


@pytest.mark.parametrize("count", SIZES)
def test_two_numbers_have_the_closed_form(count: int) -> None:
    rng = np.random.default_rng(8)
    w, margin = nets(rng, count, 2), 10 ** rng.uniform(-4, 1, count)
    expected = np.hypot(w[:, 0] ** 2 - w[:, 1] ** 2, 2 * margin)
    np.testing.assert_allclose(scalar_rate(tensor(w), tensor(margin)).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(scalar_rate_bound(tensor(w), tensor(margin)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("depth", range(2, 9))
def test_balanced_numbers_and_unit_gaps(depth: int) -> None:
    for margin in (1e-4, 0.3, 1.0, 7.0):
        expected = depth * margin ** (2 - 2 / depth)
        assert float(scalar_rate(torch.full((depth,), 2.0), margin)) == pytest.approx(expected, rel=1e-11)
        assert float(scalar_rate_bound(torch.full((depth,), 2.0), margin)) == pytest.approx(expected, rel=1e-11)
    gaps = of_offsets(list(range(depth)))  # adjacent squares differ by 1: (L - 1)!, not L!
    assert float(scalar_rate(gaps, 0.0)) == pytest.approx(math.factorial(depth - 1), rel=1e-12)
    assert float(scalar_rate_bound(gaps, 0.0)) == pytest.approx(math.factorial(depth - 1), rel=1e-12)


def test_adjacent_differences_in_layer_order_would_be_wrong() -> None:
    """w^2 = (1, 10, 1), margin 1e-3: the smallest T is 0.006; |d_1 d_2| = 81 is none of its bounds."""
    w = tensor(np.sqrt([1.0, 10.0, 1.0]))
    exact = float(scalar_rate(w, 1e-3))
    assert exact == pytest.approx(0.006, rel=1e-2)
    assert 0 < float(scalar_rate_bound(w, 1e-3)) <= exact


def test_the_exponent_is_on_the_margin_alone() -> None:
    """Balanced L = 3 at margin 1: 3, not 3^(4/3) = 4.33."""
    assert float(scalar_rate(torch.ones(3), 1.0)) == pytest.approx(3, rel=1e-12)
    assert float(scalar_rate_bound(torch.ones(3), 1.0)) == pytest.approx(3, rel=1e-12)


def test_a_tied_smallest_number_has_no_rate_without_margin() -> None:
    assert float(scalar_rate(tensor([0.5, 3.0, -0.5]), 0.0)) == 0
    assert float(scalar_rate_bound(tensor([0.5, 3.0, -0.5]), 0.0)) == 0
    assert float(scalar_rate(torch.zeros(4))) == 0


@pytest.mark.parametrize("margin", [1e-150, 1e-30, 1e-8, 1e8, 1e30])
@pytest.mark.parametrize("c", [[0.0, 0.0, 0.0], [0.0, 1e-12, 1.0], [5.0, 0.0, 1e6], [0.0, 0.0, 3.0]])
def test_margins_of_every_size(c: list[float], margin: float) -> None:
    # The offsets go through squared numbers: their rounding, not the root's, sets the tolerance.
    weights = of_offsets(c, 0.0)
    as_stored = [float(a) for a in offsets_of(weights.numpy()[None, ::-1])[0]]
    assert float(scalar_rate(weights, margin)) == pytest.approx(ref.scalar_rate(as_stored, margin), rel=1e-11)


def test_leading_dimensions_are_a_batch() -> None:
    rng = np.random.default_rng(9)
    w, margin = tensor(rng.standard_normal((2, 3, 4))), tensor(rng.uniform(0, 1, (2, 3)))
    found = scalar_rate(w, margin)
    assert found.shape == (2, 3)
    assert found.dtype == torch.float64
    for i, j in itertools.product(range(2), range(3)):
        assert float(found[i, j]) == pytest.approx(float(scalar_rate(w[i, j], float(margin[i, j]))), rel=1e-13)
    assert scalar_rate(w).shape == scalar_rate_bound(w, 0.5).shape == (2, 3)
    assert scalar_rate(w.float()).dtype == torch.float64


def test_the_rate_grows_with_the_margin_and_ignores_signs_and_order() -> None:
    w = tensor([0.3, -2.0, 1.1, 0.9])
    curve = scalar_rate(w.expand(50, 4), torch.linspace(0, 5, 50))
    assert bool((curve.diff() > 0).all())
    for order in itertools.permutations(range(4)):
        assert float(scalar_rate(-w[list(order)], 0.4)) == pytest.approx(float(scalar_rate(w, 0.4)), rel=1e-13)


# --- homogeneous chains ----------------------------------------------------------------------------------------------


def homogeneous(
    rng: np.random.Generator, n: int, m: int, depth: int
) -> tuple[list[ref.Array], list[float], list[float]]:
    differences = rng.choice([rng.uniform(-2, 2, depth - 1), np.zeros(depth - 1), rng.integers(-2, 3, depth - 1)])
    x = (10 ** rng.uniform(-2, 1, min(n, m))).tolist()
    return ref.homogeneous_chain(rng, n, m, differences.tolist(), x), ref.offsets(differences.tolist()), x


def instances(seed: int, count: int, shape: Callable[[np.random.Generator], tuple[int, int]]) -> Iterator[
    tuple[list[ref.Array], list[float], int, int, np.random.Generator]
]:  # fmt: skip
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n, m = shape(rng)
        ws, c, _ = homogeneous(rng, n, m, int(rng.integers(2, 7)))
        yield ws, c, n, m, rng


def square(rng: np.random.Generator) -> tuple[int, int]:
    n = int(rng.integers(1, 6))
    return n, n


def oblong(rng: np.random.Generator) -> tuple[int, int]:
    n, m = (int(i) for i in rng.choice(np.arange(1, 6), 2, replace=False))
    return n, m


@pytest.mark.parametrize("shape", [square, oblong])
@pytest.mark.parametrize("count", [150, pytest.param(1500, marks=pytest.mark.slow)])
def test_homogeneous_chains_are_exact_now_and_bounded_at_smaller_margins(
    count: int, shape: Callable[[np.random.Generator], tuple[int, int]]
) -> None:
    """Square: p'(x), exact. Oblong: one term of it, exact with hidden widths min(n, m); the factor L would be wrong."""
    for ws, c, n, m, rng in instances(10, count, shape):
        factors, true, scale = to_library(ws), ref.rate(ws), ref.upper(ws)
        assert homogeneous_rate(factors) == pytest.approx(true, rel=0, abs=1e-9 * scale)
        current = ref.singular_value(ref.weight(ws), min(n, m))
        part = float(rng.uniform(0, 1)) * current
        for margin in (0.0, part):
            bound = homogeneous_rate(factors, margin=margin)
            assert bound <= true + 1e-9 * scale
            expected = ref.homogeneous_rate(c, margin, n, m)
            assert bound == pytest.approx(expected, rel=0, abs=1e-9 * ref.size(ws))
            if n == m:
                assert ref.scalar_rate_bound(c, margin) <= bound + 1e-9 * scale


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_wider_hidden_layers_of_oblong_homogeneous_chains(count: int) -> None:
    """n < m with hidden width m: the modes beyond n begin in layer 2 with x = 0, if layer 1 is the smallest."""
    rng = np.random.default_rng(11)
    for _ in range(count):
        n, depth = int(rng.integers(1, 4)), int(rng.integers(2, 6))
        m = n + int(rng.integers(1, 3))
        c = np.concatenate([[0.0], rng.uniform(0, 2, depth - 1)])
        x = np.concatenate([10 ** rng.uniform(-2, 1, n), np.zeros(m - n)])
        strengths = np.sqrt(np.add.outer(c, x))
        bases = [ref.orthogonal(rng, h) for h in [n, *[m] * depth]]
        ws = [bases[0] @ np.diag(strengths[0])[:n] @ bases[1].T]
        ws += [bases[j] @ np.diag(strengths[j]) @ bases[j + 1].T for j in range(1, depth)]
        for chain in (ws, [w.T for w in reversed(ws)]):
            current = ref.singular_value(ref.weight(chain), n)
            true, scale = ref.rate(chain), ref.upper(chain)
            for margin in (None, 0.0, 0.5 * current):
                bound = homogeneous_rate(to_library(chain), margin)
                assert bound <= true + 1e-9 * scale
                expected = ref.homogeneous_rate(
                    c.tolist() if chain is ws else c[::-1].tolist(),
                    current if margin is None else margin,
                    chain[0].shape[0],
                    chain[-1].shape[1],
                )
                assert bound == pytest.approx(expected, rel=0, abs=1e-9 * ref.size(chain))


def test_the_factor_of_the_depth_needs_a_square_weight() -> None:
    """Errata 10: balanced 2 x 3 at depth 3 has lambda_min = sigma^(4/3), not 3 sigma^(4/3)."""
    ws = ref.homogeneous_chain(np.random.default_rng(12), 2, 3, [0, 0], [1.0, 2.0])
    assert ref.rate(ws) == pytest.approx(1.0, rel=1e-12)
    assert homogeneous_rate(to_library(ws)) == pytest.approx(1.0, rel=1e-9)


def test_a_single_factor_has_rate_one() -> None:
    assert homogeneous_rate([torch.randn(3, 2)]) == pytest.approx(1.0, rel=1e-12)
    assert float(scalar_rate(torch.tensor([0.3]))) == pytest.approx(1.0, rel=1e-12)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [scalar_rate, scalar_rate_bound])
def test_numbers_and_margins_that_are_none_are_refused(function: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match=r"weights.*non-finite"):
        function(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match="weights has shape"):
        function(torch.tensor(1.0))
    with pytest.raises(ValueError, match="weights has shape"):
        function(torch.ones(2, 0))
    for margin in (-1.0, math.nan):
        with pytest.raises(ValueError, match="margin is"):
            function(torch.ones(2), margin)


def test_imbalances_that_are_not_homogeneous_are_refused() -> None:
    rng = np.random.default_rng(13)
    with pytest.raises(ValueError, match="imbalance"):
        homogeneous_rate(to_library(ref.random_chain(rng, [3, 3, 3])))
    with pytest.raises(ValueError, match="margin is"):
        homogeneous_rate([torch.eye(2), torch.eye(2)], margin=-1.0)
    with pytest.raises(ValueError, match=r"factors\[1\]"):
        homogeneous_rate([torch.ones(3, 2), torch.ones(2, 4)])
    with pytest.raises(ValueError, match=r"factors\[0\].*non-finite"):
        homogeneous_rate([torch.full((2, 2), math.inf), torch.eye(2)])
    with pytest.raises(ValueError, match="width"):  # a hidden width below min(k, d)
        homogeneous_rate([torch.ones(1, 2), torch.ones(2, 1)])
