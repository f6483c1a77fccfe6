"""Extreme eigenvalues of large transfer operators, without the dense matrix: theory.md, sections 1 and 6.1."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.reference import rates as ref
from tests.theory.test_scalar_rates import to_library

import overdepth as od
from overdepth.transfer import DENSE_LIMIT


def analytic(strengths: ref.Array, n: int, m: int) -> ref.Array:
    """All eigenvalues of a chain with shared singular vectors, 6.1: strengths (L, r), zero beyond, by modes i, j."""
    depth = len(strengths)
    left, right = np.zeros((depth, n)), np.zeros((depth, m))
    left[:, : strengths.shape[1]] = right[:, : strengths.shape[1]] = strengths**2
    return np.asarray(sum(np.multiply.outer(left[:j].prod(0), right[j + 1 :].prod(0)) for j in range(depth)))


def claim_1(singular: ref.Array, depth: int, n: int, m: int) -> ref.Array:
    """sum_j sigma_r^(2(j-1)/L) sigma_r'^(2(L-j)/L)."""
    left, right = np.zeros(n), np.zeros(m)
    left[: len(singular)] = right[: len(singular)] = singular
    return np.asarray(
        sum(np.multiply.outer(left ** (2 * j / depth), right ** (2 * (depth - 1 - j) / depth)) for j in range(depth))
    )


def check(ws: ref.Chain, spectrum: ref.Array, *, rtol: float = 1e-6) -> None:
    operator = od.transfer_operator(to_library(ws))
    smallest, largest = operator.extreme_eigenvalue("smallest"), operator.extreme_eigenvalue("largest")
    assert smallest.value == pytest.approx(float(spectrum.min()), rel=rtol)
    assert largest.value == pytest.approx(float(spectrum.max()), rel=rtol)
    for found in (smallest, largest):
        assert found.residual <= 1e-8 * largest.value
        assert found.lower <= found.value <= found.upper
    lower, upper = operator.eigenvalue_bounds()
    assert smallest.lower >= lower
    assert largest.upper <= upper * (1 + 1e-15)
    assert smallest.upper == smallest.value  # a Rayleigh quotient
    assert largest.lower == largest.value
    if spectrum.size > DENSE_LIMIT:
        assert operator.min_eigenvalue() == smallest.value
        assert operator.max_eigenvalue() == largest.value


BALANCED = [
    (72, 72, 3, 1e2), (72, 72, 3, 1e8), (72, 72, 5, 1e8), (66, 80, 3, 1e6), (80, 66, 4, 1e8), (5, 900, 3, 1e4)
]  # fmt: skip


@pytest.mark.parametrize(("n", "m", "depth", "condition"), BALANCED)
def test_balanced_chains_have_the_spectrum_of_claim_1(n: int, m: int, depth: int, condition: float) -> None:
    assert n * m > DENSE_LIMIT
    r = min(n, m)
    singular = np.geomspace(1.0, condition ** (-depth / (2 * depth - 2)), r)
    strengths = np.tile(singular ** (1 / depth), (depth, 1))
    ws = ref.spectral_chain(np.random.default_rng(60), [n, *[r] * (depth - 1), m], strengths)
    spectrum = claim_1(singular, depth, n, m)
    if n == m:
        assert spectrum.max() / spectrum.min() == pytest.approx(condition, rel=1e-6)
    check(ws, spectrum)


@pytest.mark.parametrize(("n", "m", "depth"), [(72, 72, 3), (72, 72, 4), (68, 76, 3), (76, 68, 5)])
@pytest.mark.parametrize("spread", [0.2, 0.8])
def test_chains_with_shared_singular_vectors_have_the_spectrum_of_their_modes(
    n: int, m: int, depth: int, spread: float
) -> None:
    rng = np.random.default_rng(62)
    r = min(n, m)
    strengths = 10 ** rng.uniform(-spread, spread, (depth, r))
    ws = ref.spectral_chain(rng, [n, *[r + 3] * (depth - 1), m], strengths)
    spectrum = analytic(strengths, n, m)
    if n == m:
        assert spectrum.max() / spectrum.min() <= 1e8
    check(ws, spectrum)


@pytest.mark.slow
@pytest.mark.parametrize("condition", [1e4, 1e8])
def test_a_large_deep_chain(condition: float) -> None:
    singular = np.geomspace(1.0, condition ** (-4 / 6), 256)
    ws = ref.spectral_chain(np.random.default_rng(63), [256] * 5, np.tile(singular**0.25, (4, 1)))
    check(ws, claim_1(singular, 4, 256, 256))


@pytest.mark.parametrize(
    ("sizes", "noise"),
    [([40, 40, 40, 40], 0.1), ([40, 45, 50, 40], 0.02), ([12, 30, 9, 40], 0.1), ([25, 25, 25, 25, 25, 25], 0.1),
     ([7, 9, 8, 6], 0.3), ([1, 3, 2, 1], 0.3), ([30, 20, 30], 0.1), ([6, 8], 0.1)],
)  # fmt: skip
def test_it_agrees_with_the_dense_matrix(sizes: list[int], noise: float) -> None:
    """Near the identity, as theory.md reports (8e-9 of lambda_min); errors relative to lambda_min itself."""
    rng = np.random.default_rng(64)
    ws = [
        np.eye(sizes[j], sizes[j + 1]) + noise * rng.standard_normal((sizes[j], sizes[j + 1]))
        for j in range(len(sizes) - 1)
    ]
    check(ws, ref.transfer_spectrum(ws), rtol=1e-7)


@pytest.mark.parametrize("seed", range(10))
def test_it_agrees_with_the_dense_matrix_of_normal_chains(seed: int) -> None:
    """No structure and bad conditioning: here the error counts against the whole operator."""
    rng = np.random.default_rng(65 + seed)
    ws = ref.random_chain(rng, [int(i) for i in rng.integers(2, 13, int(rng.integers(3, 6)))])
    spectrum = ref.transfer_spectrum(ws)
    operator = od.transfer_operator(to_library(ws))
    smallest, largest = operator.extreme_eigenvalue(), operator.extreme_eigenvalue("largest")
    assert smallest.value == pytest.approx(max(float(spectrum[0]), 0.0), rel=1e-6, abs=1e-12 * float(spectrum[-1]))
    assert largest.value == pytest.approx(float(spectrum[-1]), rel=1e-9)
    assert max(smallest.residual, largest.residual) <= 1e-8 * float(spectrum[-1])
    assert smallest.lower <= smallest.value + 1e-13 * float(spectrum[-1])


@pytest.mark.parametrize("sizes", [[72, 40, 60, 72], [70, 30, 30, 75]])
def test_a_null_eigenvalue_is_clipped_at_zero(sizes: list[int]) -> None:
    ws = ref.random_chain(np.random.default_rng(66), sizes)
    operator = od.transfer_operator(to_library(ws))
    found = operator.extreme_eigenvalue("smallest")
    assert 0 <= found.value <= 1e-12 * operator.max_eigenvalue()
    assert found.lower == 0
    assert 0 <= operator.min_eigenvalue() <= 1e-12 * operator.max_eigenvalue()


def test_zero_factors() -> None:
    operator = od.transfer_operator([torch.zeros(70, 70)] * 3)
    assert operator.min_eigenvalue() == operator.max_eigenvalue() == 0


def test_the_whole_spectrum_and_what_is_refused() -> None:
    ws = ref.random_chain(np.random.default_rng(67), [4, 3, 5, 2])
    spectrum = ref.transfer_spectrum(ws)
    found = od.transfer_operator(to_library(ws)).spectrum().numpy()
    np.testing.assert_allclose(found, np.maximum(spectrum, 0), rtol=0, atol=1e-13 * ref.upper(ws))
    large = od.transfer_operator([torch.eye(70)] * 3)
    with pytest.raises(ValueError, match=str(DENSE_LIMIT)):
        large.spectrum()
    with pytest.raises(ValueError, match="which is 'middle'"):
        large.extreme_eigenvalue("middle")  # type: ignore[arg-type]
