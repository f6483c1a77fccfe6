"""Two layers of any imbalance: theory.md, section 5, its order of factors reversed."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.reference import rates as ref
from tests.theory.test_scalar_rates import to_library

from overdepth.theory import two_layer_rate, two_layer_rates

Chain = list[ref.Array]
G4: Chain = [np.array([[0.1, 0.0]]), np.diag([10.0, 1.0])]
G5: Chain = [np.array([[2.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [1.0, 3.0]])]


def sigmas(ws: ref.Chain) -> tuple[float, float]:
    """sigma_n(W) and sigma_m(W)."""
    w = ref.weight(ws)
    return ref.singular_value(w, w.shape[0]), ref.singular_value(w, w.shape[1])


# --- golden values ---------------------------------------------------------------------------------------------------


def test_golden_g4_and_its_pairing() -> None:
    """Correct 1.01, which is exact; Delta_+ with sigma_n would say 1.618, the poster's line 99."""
    factors = to_library(G4)
    assert two_layer_rate(factors) == pytest.approx(1.01, rel=1e-9)
    output_side, input_side = two_layer_rates(factors)
    assert output_side == pytest.approx(0.01, rel=1e-9)
    assert input_side == pytest.approx(1.0, rel=1e-9)
    assert ref.rate(G4) == pytest.approx(1.01, rel=1e-9)


def test_golden_g5() -> None:
    assert two_layer_rate(to_library(G5)) == pytest.approx(0.55201961267, rel=1e-9)
    assert ref.rate(G5) == pytest.approx(1.654159793854, rel=1e-9)


# --- families --------------------------------------------------------------------------------------------------------


def shape(rng: np.random.Generator) -> tuple[int, int]:
    return int(rng.integers(1, 9)), int(rng.integers(1, 9))


def random(rng: np.random.Generator) -> Chain:
    n, m = shape(rng)
    return ref.random_chain(rng, [n, int(rng.integers(min(n, m), 16)), m])


def wide(rng: np.random.Generator) -> Chain:
    n, m = shape(rng)
    return ref.random_chain(rng, [n, n + m - 1 + int(rng.integers(0, 3)), m])


def narrow(rng: np.random.Generator) -> Chain:
    n, m = (int(i) for i in rng.integers(2, 9, 2))
    return ref.random_chain(rng, [n, int(rng.integers(1, min(n, m))), m])


def deficient(rng: np.random.Generator) -> Chain:
    n, m = shape(rng)
    h, rank = int(rng.integers(1, 16)), int(rng.integers(1, 4))
    return [
        ref.weight(ref.random_chain(rng, [n, rank, h])),
        ref.weight(ref.random_chain(rng, [h, int(rng.integers(1, 4)), m])),
    ]


def balanced(rng: np.random.Generator) -> Chain:
    n, m = shape(rng)
    h = int(rng.integers(1, 12))
    x = 10 ** rng.uniform(-2, 1, int(rng.integers(1, min(n, m, h) + 1)))
    return ref.spectral_chain(rng, [n, h, m], np.sqrt([x, x]))


def spectral(rng: np.random.Generator) -> Chain:
    n, m = shape(rng)
    h = int(rng.integers(min(n, m), 16))
    return ref.spectral_chain(rng, [n, h, m], 10 ** rng.uniform(-1.5, 1, (2, min(n, m, h))))


def noisy_spectral(rng: np.random.Generator) -> Chain:
    return [w + 1e-3 * rng.standard_normal(w.shape) for w in spectral(rng)]


def single(rng: np.random.Generator) -> Chain:
    return ref.random_chain(rng, [1, int(rng.integers(1, 16)), 1])


def square(rng: np.random.Generator) -> Chain:
    return ref.random_chain(rng, [int(rng.integers(1, 9))] * 3)


def homogeneous(rng: np.random.Generator) -> Chain:
    n = int(rng.integers(1, 9))
    return ref.homogeneous_chain(rng, n, n, [float(rng.uniform(-3, 3))], (10 ** rng.uniform(-2, 1, n)).tolist())


FAMILIES: list[Callable[[np.random.Generator], Chain]] = [
    random, wide, narrow, deficient, balanced, spectral, noisy_spectral, single, square, homogeneous
]  # fmt: skip
EXACT = {balanced, single, homogeneous}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family.__name__))
@pytest.mark.parametrize("count", [60, pytest.param(3000, marks=pytest.mark.slow)])
def test_the_bounds_hold_and_are_those_of_the_paper(count: int, family: Callable[[np.random.Generator], Chain]) -> None:
    rng = np.random.default_rng(20)
    for _ in range(count):
        ws = family(rng)
        factors, norms = to_library(ws), ref.size(ws)
        scale = ref.upper(ws)
        left, right = (float(np.linalg.eigvalsh(a)[0]) for a in (ws[0] @ ws[0].T, ws[1].T @ ws[1]))
        sigma_n, sigma_m = sigmas(ws)
        bound, (output_side, input_side) = two_layer_rate(factors), two_layer_rates(factors)
        assert output_side <= left + 1e-9 * scale
        assert input_side <= right + 1e-9 * scale
        assert bound <= left + right + 1e-9 * scale
        assert 0 <= min(output_side, input_side)
        assert bound == pytest.approx(output_side + input_side, rel=1e-12, abs=1e-12 * norms)
        # the library takes off what rounding may have added to the imbalance
        a, c = ref.two_layer_rates(ws, sigma_n, sigma_m)
        assert output_side == pytest.approx(a, rel=0, abs=1e-9 * norms)
        assert input_side == pytest.approx(c, rel=0, abs=1e-9 * norms)
        assert bound == pytest.approx(ref.two_layer_rate(ws, sigma_n, sigma_m), rel=0, abs=1e-9 * norms)
        if family in EXACT:
            assert bound == pytest.approx(left + right, rel=0, abs=1e-9 * norms)
        # with a smaller margin: still below, and the reference's
        margin = float(rng.uniform(0, 1)) * max(sigma_n, sigma_m)
        n, m = ws[0].shape[0], ws[1].shape[1]
        reduced = two_layer_rate(factors, margin)
        assert reduced <= bound + 1e-9 * norms
        expected = ref.two_layer_rate(ws, margin if n <= m else 0.0, margin if n >= m else 0.0)
        assert reduced == pytest.approx(expected, rel=0, abs=1e-9 * norms)


@pytest.mark.parametrize("count", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_the_opposite_pairing_would_be_wrong(count: int) -> None:
    """Delta_+ with sigma_n exceeds the true rate in many oblong chains; the library never gives that value."""
    rng = np.random.default_rng(21)
    wrong = 0
    for _ in range(count):
        n, m = (int(i) for i in rng.choice(np.arange(1, 6), 2, replace=False))
        ws = ref.random_chain(rng, [n, int(rng.integers(min(n, m), 9)), m])
        sigma_n, sigma_m = sigmas(ws)
        swapped, true = ref.two_layer_rate(ws, sigma_m, sigma_n), ref.rate(ws)
        wrong += swapped > true + 1e-9 * ref.upper(ws)
        assert two_layer_rate(to_library(ws)) <= true + 1e-9 * ref.upper(ws)
    assert wrong > count // 20


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_aligned_chains_whose_extreme_modes_carry_the_smallest_singular_value_are_exact(count: int) -> None:
    """W_1 = diag(a_1, a_2), W_2 = diag(b_1, b_2) with a_i b_i = sigma and D = diag(P, -Q), rotated."""
    rng = np.random.default_rng(22)
    for _ in range(count):
        P, Q, sigma = rng.uniform(0, 3, 3)
        a = [math.sqrt((d + math.hypot(d, 2 * sigma)) / 2) for d in (P, -Q)]
        ws = [np.diag(a), np.diag([sigma / x for x in a])]
        u, v = ref.orthogonal(rng, 2), ref.orthogonal(rng, 2)
        rotated = [u @ ws[0] @ v, v.T @ ws[1] @ ref.orthogonal(rng, 2)]
        assert two_layer_rate(to_library(rotated)) == pytest.approx(ref.rate(rotated), rel=1e-9)


def test_reductions() -> None:
    rng = np.random.default_rng(23)
    for h in range(1, 6):  # n = m = 1: P and -Q are the two nonzero eigenvalues of D
        ws = ref.random_chain(rng, [1, h, 1])
        values = np.linalg.eigvalsh(ref.imbalances(ws)[0])
        P, Q = max(values[-1], 0.0), max(-values[0], 0.0)
        expected = math.hypot(P + Q, 2 * float(ref.weight(ws)[0, 0]))
        assert two_layer_rate(to_library(ws)) == pytest.approx(expected, rel=1e-9)
    ws = ref.homogeneous_chain(rng, 3, 3, [0.8], [0.5, 1.0, 2.0])
    sigma = ref.singular_value(ref.weight(ws), 3)
    assert two_layer_rate(to_library(ws)) == pytest.approx(math.hypot(0.8, 2 * sigma), rel=1e-9)
    ws = ref.homogeneous_chain(rng, 3, 4, [0.0], [0.5, 1.0, 2.0])
    assert two_layer_rate(to_library(ws)) == pytest.approx(0.5, rel=1e-9)  # sigma_n + sigma_m = 0.5 + 0


@pytest.mark.parametrize("large", [1e2, 1e4, 1e6])
def test_a_margin_far_below_the_imbalance_does_not_cancel(large: float) -> None:
    """-P + sqrt(P^2 + 4 sigma^2) with P = large^2 and sigma = 1 is 2 / large^2, below P's rounding."""
    ws: Chain = [np.array([[large]]), np.array([[1 / large]])]
    assert two_layer_rates(to_library(ws)) == pytest.approx((large**2, large**-2), rel=1e-9)
    assert two_layer_rates(to_library(ws[::-1])) == pytest.approx((large**-2, large**2), rel=1e-9)


def test_narrow_chains_say_nothing() -> None:
    assert two_layer_rate(to_library([np.ones((2, 1)), np.ones((1, 3))])) == pytest.approx(0, abs=1e-10)


def test_sides_belong_to_output_and_input() -> None:
    """G4 transposed has its sides exchanged."""
    transposed = [w.T for w in reversed(G4)]
    assert two_layer_rates(to_library(transposed)) == pytest.approx(two_layer_rates(to_library(G4))[::-1], rel=1e-9)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [two_layer_rate, two_layer_rates])
def test_chains_and_margins_that_do_not_fit_are_refused(function: Callable[..., object]) -> None:
    pair = [torch.ones(3, 2), torch.ones(1, 3)]
    with pytest.raises(ValueError, match=r"factors\[1\].*\(2, 4\).*factors\[0\]"):
        function([torch.ones(3, 2), torch.ones(2, 4)])
    with pytest.raises(ValueError, match=r"factors\[0\].*non-finite"):
        function([torch.full((3, 2), math.nan), torch.ones(1, 3)])
    for count in (1, 3):
        with pytest.raises(ValueError, match=f"{count}.*(2|two)"):
            function([torch.eye(2)] * count)
    for margin in (-0.1, math.nan):
        with pytest.raises(ValueError, match="margin is"):
            function(pair, margin)
