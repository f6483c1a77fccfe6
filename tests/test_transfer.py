"""The transfer operator against literal sums, Kronecker matrices and derivatives of the product."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as ref
from torch import Tensor
from torch.autograd.functional import jvp

import overdepth as od
from overdepth.transfer import DENSE_LIMIT

SEEDS = st.integers(0, 2**32 - 1)
CHAINS = st.lists(st.integers(1, 5), min_size=2, max_size=6)  # n_0, ..., n_N
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])

GOLDEN: dict[str, list[list[list[float]]]] = {  # theory.md, section 11, in its order W = W_1 W_2 ... W_L
    "G1": [[[1, 2, 0], [0, 1, -1]], [[1, 0], [2, 1], [0, 3]], [[1, 1, 0], [0, 1, 2]]],
    "G4": [[[0.1, 0]], [[10, 0], [0, 1]]],
    "G5": [[[2, 1], [0, 1]], [[1, 0], [1, 3]]],
    "G6": [[[2, 0, 1], [0, 1.5, 0]], [[0.5, 0.1, 0], [0, 0.4, 0.3], [0, 0, 1]], [[1.5, 0], [0.3, 2], [0, 0.2]]],
    "G7": [[[1, -1]], [[2, 0], [1, 2]], [[0.5], [1]]],
}


def golden(name: str) -> list[Tensor]:
    """A golden chain in the library's order, by the reverse map W_l = W^A_(N+1-l)."""
    return [torch.tensor(matrix, dtype=torch.float64) for matrix in reversed(GOLDEN[name])]


def make_chain(seed: int, sizes: list[int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Normal factors of about unit norm with layer sizes n_0, ..., n_N."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(sizes[j + 1], sizes[j], generator=generator, dtype=torch.float64) / math.sqrt(sizes[j])).to(dtype)
        for j in range(len(sizes) - 1)
    ]


def arrays(factors: list[Tensor]) -> list[ref.Array]:
    return [ref.as_array(factor) for factor in factors]


def size_of(factors: list[Tensor]) -> float:
    """sum_l ||P_l||^2 ||Q_l||^2 >= lambda_max(T), the scale of every rounding error."""
    chain = arrays(factors)
    return sum(
        float(np.linalg.norm(ref.above(chain, j), 2) ** 2 * np.linalg.norm(ref.below(chain, j), 2) ** 2)
        for j in range(1, len(chain) + 1)
    )


# --- the map ---------------------------------------------------------------------------------------------------------


@given(SEEDS, CHAINS, DTYPES, st.sampled_from([(), (2,), (2, 3)]))
def test_the_operator_is_the_literal_sum(
    seed: int, sizes: list[int], dtype: torch.dtype, batch: tuple[int, ...]
) -> None:
    factors = make_chain(seed, sizes, dtype)
    operator = od.transfer_operator(factors)
    k, d = sizes[-1], sizes[0]
    assert tuple(operator.shape) == (k, d)
    assert operator.depth == len(factors)
    grad = torch.randn(*batch, k, d, generator=torch.Generator().manual_seed(seed)).double()
    actual = operator(grad)
    assert actual.dtype == torch.float64
    assert actual.shape == grad.shape
    tolerance = 1e-13 * size_of(factors)  # float64 inside, whatever the factors are
    for index in np.ndindex(*batch):
        expected = ref.transfer(arrays(factors), ref.as_array(grad[index]))
        error = float(np.linalg.norm(ref.as_array(actual[index]) - expected))
        assert error <= tolerance * float(grad[index].norm())


@pytest.mark.parametrize(
    ("dtype", "rounding"), [(torch.float32, 2**-24), (torch.bfloat16, 2**-8), (torch.float16, 2**-11)]
)
def test_the_result_is_rounded_once_to_the_dtype_of_the_gradient(dtype: torch.dtype, rounding: float) -> None:
    factors = make_chain(1, [4, 3, 5, 3])
    grad = torch.randn(3, 4, generator=torch.Generator().manual_seed(2)).to(dtype)
    actual = od.transfer_operator(factors)(grad)
    assert actual.dtype == dtype
    assert ref.relative_error(actual, ref.transfer(arrays(factors), ref.as_array(grad))) <= 1.01 * rounding


@given(SEEDS, CHAINS)
def test_the_product_moves_against_the_operator_under_gradient_flow(seed: int, sizes: list[int]) -> None:
    """dW_e/dt = -T(G) for any factors, by differentiating the product along the layers' gradients."""
    factors = make_chain(seed, sizes)
    grad = torch.from_numpy(np.random.default_rng(seed).standard_normal((sizes[-1], sizes[0])))
    velocities = [-torch.from_numpy(g) for g in ref.layer_gradients(arrays(factors), ref.as_array(grad))]
    _, velocity = jvp(lambda *fs: od.product(fs), tuple(factors), tuple(velocities))  # type: ignore[no-untyped-call]
    error = float((velocity + od.transfer_operator(factors)(grad)).norm())
    assert error <= 1e-13 * size_of(factors) * float(grad.norm())


@given(SEEDS, CHAINS)
def test_the_layers_gradients_have_the_energy_of_the_operator(seed: int, sizes: list[int]) -> None:
    """sum_l ||grad_(W_l)||^2 = <G, T(G)> = -d loss/dt."""
    factors = make_chain(seed, sizes)
    grad = np.random.default_rng(seed).standard_normal((sizes[-1], sizes[0]))
    energy = sum(float(np.sum(g**2)) for g in ref.layer_gradients(arrays(factors), grad))
    inner = float((torch.from_numpy(grad) * od.transfer_operator(factors)(torch.from_numpy(grad))).sum())
    assert inner == pytest.approx(energy, rel=1e-12, abs=1e-13 * size_of(factors) * float(np.sum(grad**2)))


@given(SEEDS, st.lists(st.integers(1, 4), min_size=2, max_size=5))
def test_the_dense_matrix_acts_on_row_major_vectors(seed: int, sizes: list[int]) -> None:
    factors = make_chain(seed, sizes)
    operator = od.transfer_operator(factors)
    dense = operator.to_dense()
    k, d = sizes[-1], sizes[0]
    assert dense.shape == (k * d, k * d)
    assert dense.dtype == torch.float64
    tolerance = 1e-13 * size_of(factors)
    np.testing.assert_allclose(dense.numpy(), ref.transfer_matrix(arrays(factors)), rtol=0, atol=tolerance)
    np.testing.assert_allclose(dense.numpy(), dense.mT.numpy(), rtol=0, atol=tolerance)
    grad = torch.from_numpy(np.random.default_rng(seed).standard_normal((k, d)))
    np.testing.assert_allclose(
        (dense @ grad.reshape(-1)).numpy(), operator(grad).reshape(-1).numpy(), rtol=0, atol=10 * tolerance
    )


@given(SEEDS, st.integers(1, 5), st.integers(0, 2))
def test_the_end_to_end_rule_is_the_balanced_case(seed: int, depth: int, extra: int) -> None:
    rng = np.random.default_rng(seed)
    k, d = rng.integers(1, 6, size=2)
    values = list(10 ** rng.uniform(-1, 1, size=min(k, d)))
    weight = ref.weight_with_singular_values(rng, k, d, values)
    chain = ref.balanced_chain(rng, weight, depth, min(k, d) + extra)
    grad = torch.from_numpy(rng.standard_normal((k, d)))
    by_factors = od.transfer_operator([torch.from_numpy(f) for f in chain])(grad)
    by_rule = od.end_to_end_update(torch.from_numpy(weight), grad, depth)
    assert ref.relative_error(by_factors, ref.as_array(by_rule)) <= 1e-11
    by_split = od.transfer_operator(od.balanced_factors(torch.from_numpy(weight), depth, min(k, d) + extra))(grad)
    assert ref.relative_error(by_split, ref.as_array(by_rule)) <= 1e-11


def test_a_gradient_step_differs_from_the_operator_by_lr_squared() -> None:
    """For factors that are not balanced at all."""
    factors = make_chain(3, [4, 5, 2, 3])
    target = torch.from_numpy(np.random.default_rng(3).standard_normal((3, 4)))
    weight = od.product(factors)
    grad = weight - target

    def gap(lr: float) -> float:
        gradients = ref.layer_gradients(arrays(factors), ref.as_array(grad))
        stepped = od.product([f - lr * torch.from_numpy(g) for f, g in zip(factors, gradients, strict=True)])
        return float((stepped - weight + lr * od.transfer_operator(factors)(grad)).norm())

    assert gap(1e-4) > 1e-11  # far above rounding
    assert gap(1e-4) / gap(5e-5) == pytest.approx(4, abs=0.02)


# --- eigenvalues -----------------------------------------------------------------------------------------------------


@given(SEEDS, st.lists(st.integers(1, 4), min_size=2, max_size=6), DTYPES)
def test_extreme_eigenvalues_are_those_of_the_dense_matrix_within_certified_bounds(
    seed: int, sizes: list[int], dtype: torch.dtype
) -> None:
    factors = make_chain(seed, sizes, dtype)
    operator = od.transfer_operator(factors)
    eigenvalues = np.linalg.eigvalsh(ref.transfer_matrix(arrays(factors)))
    tolerance = 1e-13 * size_of(factors)
    smallest, largest = operator.min_eigenvalue(), operator.max_eigenvalue()
    assert isinstance(smallest, float)
    assert isinstance(largest, float)
    assert smallest == pytest.approx(eigenvalues[0], rel=0, abs=tolerance)
    assert largest == pytest.approx(eigenvalues[-1], rel=0, abs=tolerance)
    assert smallest >= 0  # round-off is clipped
    lower, upper = operator.eigenvalue_bounds()
    assert 0 <= lower <= smallest + tolerance
    assert largest <= upper + tolerance
    assert upper == pytest.approx(size_of(factors), rel=1e-12)
    chain = arrays(factors)
    expected = 0.0
    for j in range(1, len(chain) + 1):
        above, below = ref.above(chain, j), ref.below(chain, j)
        expected += max(np.linalg.eigvalsh(above @ above.T)[0], 0) * max(np.linalg.eigvalsh(below.T @ below)[0], 0)
    assert lower == pytest.approx(expected, rel=0, abs=tolerance)


def test_golden_g1_spectrum() -> None:
    operator = od.transfer_operator(golden("G1"))
    expected = [6.406613377552, 15.666779150579, 30.593386622448, 47.822638177784, 68.931532536683, 118.579050134954]
    np.testing.assert_allclose(torch.linalg.eigvalsh(operator.to_dense()).numpy(), expected, rtol=1e-9)
    assert operator.min_eigenvalue() == pytest.approx(expected[0], rel=1e-9)
    assert operator.max_eigenvalue() == pytest.approx(expected[-1], rel=1e-9)
    assert operator.eigenvalue_bounds()[0] == pytest.approx(6.40661337755, rel=1e-9)


@pytest.mark.parametrize(
    ("name", "smallest"), [("G4", 1.01), ("G5", 1.654159793854), ("G6", 5.841999142764), ("G7", 14.75)]
)
def test_golden_smallest_eigenvalues(name: str, smallest: float) -> None:
    assert od.transfer_operator(golden(name)).min_eigenvalue() == pytest.approx(smallest, rel=1e-9)


@given(SEEDS, st.integers(1, 5), st.integers(1, 5))
def test_depth_one_is_the_identity(seed: int, k: int, d: int) -> None:
    factors = make_chain(seed, [d, k])
    operator = od.transfer_operator(factors)
    assert torch.equal(operator(factors[0] + 1), factors[0] + 1)
    assert torch.equal(operator.to_dense(), torch.eye(k * d, dtype=torch.float64))
    assert operator.min_eigenvalue() == operator.max_eigenvalue() == 1.0
    assert operator.eigenvalue_bounds() == (1.0, 1.0)


@given(SEEDS, st.integers(1, 5), st.integers(1, 6), st.integers(1, 5))
def test_depth_two_has_sums_of_gram_eigenvalues(seed: int, d: int, h: int, k: int) -> None:
    """Spec T = {lambda_i(W_2 W_2^T) + lambda_j(W_1^T W_1)} in the library's order; bounds are exact."""
    lower, upper = arrays(make_chain(seed, [d, h, k]))
    left, right = np.linalg.eigvalsh(upper @ upper.T), np.linalg.eigvalsh(lower.T @ lower)
    operator = od.transfer_operator(make_chain(seed, [d, h, k]))
    tolerance = 1e-13 * (left[-1] + right[-1])
    spectrum = np.linalg.eigvalsh(operator.to_dense().numpy())
    np.testing.assert_allclose(spectrum, np.sort(np.add.outer(left, right).reshape(-1)), rtol=0, atol=tolerance)
    assert operator.min_eigenvalue() == pytest.approx(max(left[0], 0) + max(right[0], 0), rel=0, abs=tolerance)
    assert operator.max_eigenvalue() == pytest.approx(left[-1] + right[-1], rel=0, abs=tolerance)
    assert operator.eigenvalue_bounds() == pytest.approx(
        (operator.min_eigenvalue(), operator.max_eigenvalue()), rel=0, abs=tolerance
    )


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("shape", [(3, 3), (3, 4), (4, 3)])
def test_balanced_factors_have_the_smallest_eigenvalue_of_claim_1(shape: tuple[int, int], depth: int) -> None:
    """N sigma_min^(2-2/N) for square weights, sigma_min^(2-2/N) for others."""
    rng = np.random.default_rng(4)
    weight = torch.from_numpy(ref.weight_with_singular_values(rng, *shape, [2.0, 1.0, 0.7]))
    operator = od.transfer_operator(od.balanced_factors(weight, depth))
    times = depth if shape[0] == shape[1] else 1
    assert operator.min_eigenvalue() == pytest.approx(times * 0.7 ** (2 - 2 / depth), rel=1e-11)
    assert operator.min_eigenvalue() == pytest.approx(float(od.end_to_end_spectrum(weight, depth).min()), rel=1e-11)


@pytest.mark.parametrize("sizes", [[3, 2, 3], [3, 2, 4], [3, 2, 5, 2, 3], [4, 3, 2, 3, 4]])
def test_narrow_layers_on_both_sides_leave_a_direction_without_motion(sizes: list[int]) -> None:
    operator = od.transfer_operator(make_chain(5, sizes))
    assert 0 <= operator.min_eigenvalue() <= 1e-14 * operator.max_eigenvalue()
    assert 0 <= operator.eigenvalue_bounds()[0] <= 1e-14 * operator.max_eigenvalue()


def test_large_operators_are_exact_up_to_depth_two_and_within_their_bounds_beyond() -> None:
    size = math.isqrt(DENSE_LIMIT) + 1
    shallow, deep = make_chain(6, [size, size, size]), make_chain(6, [size, size, size, size])
    operator = od.transfer_operator(shallow)
    left = np.linalg.svd(shallow[1].numpy(), compute_uv=False) ** 2
    right = np.linalg.svd(shallow[0].numpy(), compute_uv=False) ** 2
    assert operator.min_eigenvalue() == pytest.approx(left[-1] + right[-1], rel=0, abs=1e-13 * (left[0] + right[0]))
    assert operator.max_eigenvalue() == pytest.approx(left[0] + right[0], rel=1e-12)
    operator = od.transfer_operator(deep)
    for method in (operator.to_dense, operator.spectrum):
        with pytest.raises(ValueError, match=str(DENSE_LIMIT)):
            method()
    lower, upper = operator.eigenvalue_bounds()
    smallest, largest = operator.min_eigenvalue(), operator.max_eigenvalue()
    assert lower <= smallest <= largest <= upper
    grad = torch.randn(size, size, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for _ in range(20):  # power iteration towards the top
        image = operator(grad)
        quotient = float((grad * image).sum() / (grad * grad).sum())
        assert lower <= quotient <= upper * (1 + 1e-12)
        assert smallest <= quotient <= largest * (1 + 1e-12)
        grad = image / image.norm()


def test_the_dense_limit_itself_is_still_allowed() -> None:
    factors = make_chain(8, [64, 2, DENSE_LIMIT // 64 + 1])
    with pytest.raises(ValueError, match="to_dense"):
        od.transfer_operator(factors).to_dense()


def test_repr_says_what_it_is() -> None:
    text = repr(od.transfer_operator(make_chain(9, [4, 3, 2])))
    assert "TransferOperator" in text
    assert "2" in text
    assert "4" in text


def test_inputs_are_left_alone() -> None:
    factors = make_chain(10, [4, 3, 2])
    before = [factor.clone() for factor in factors]
    grad = torch.ones(2, 4, dtype=torch.float64)
    operator = od.transfer_operator(factors)
    operator(grad).zero_()
    operator.to_dense().zero_()
    operator.min_eigenvalue()
    assert all(torch.equal(a, b) for a, b in zip(factors, before, strict=True))
    assert torch.equal(grad, torch.ones_like(grad))
    assert ref.relative_error(operator(grad), ref.transfer(arrays(factors), ref.as_array(grad))) <= 1e-12


# --- errors ----------------------------------------------------------------------------------------------------------


def test_chains_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="factors"):
        od.transfer_operator([])
    with pytest.raises(ValueError, match=r"factors\[1\].*\(2, 4\).*factors\[0\].*\(3, 2\)"):
        od.transfer_operator([torch.ones(3, 2), torch.ones(2, 4)])
    with pytest.raises(ValueError, match=r"factors\[0\].*\(3,\)"):
        od.transfer_operator([torch.ones(3)])
    with pytest.raises(ValueError, match=r"factors\[0\].*int64"):
        od.transfer_operator([torch.ones(3, 2, dtype=torch.int64)])


def test_batched_factors_are_refused_and_shown() -> None:
    with pytest.raises(ValueError, match=r"\(5, 3, 2\)"):
        od.transfer_operator([torch.ones(5, 3, 2), torch.ones(5, 1, 3)])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_non_finite_factors_are_refused_by_name(value: float) -> None:
    with pytest.raises(ValueError, match=r"factors\[1\]"):
        od.transfer_operator([torch.ones(3, 2), torch.tensor([[1.0, value, 0.0]])])


@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (2, 4, 3), (4,), (12,), ()])
def test_gradients_of_another_shape_are_shown_with_the_operators(shape: tuple[int, ...]) -> None:
    operator = od.transfer_operator(make_chain(11, [4, 2, 3]))
    with pytest.raises(ValueError, match="grad") as caught:
        operator(torch.ones(shape, dtype=torch.float64))
    assert str(tuple(shape)) in str(caught.value)
    assert "3, 4)" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_gradients_that_are_not_real_floats_are_refused(dtype: torch.dtype) -> None:
    operator = od.transfer_operator(make_chain(12, [4, 2, 3]))
    with pytest.raises(ValueError, match=f"grad.*{dtype}"):
        operator(torch.ones(3, 4).to(dtype))
