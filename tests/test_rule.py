"""The end-to-end rule (Theorem 1, Claims 1 and 2) against literal NumPy sums."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as ref
from torch import Tensor
from torch.autograd.functional import jvp

import overdepth as od

# One rounding of the result: float64 mathematics inside, the working accuracy of the spec outside.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1.01 * 2**-8, torch.float16: 1.01 * 2**-11}
# Between the noise that storing a matrix leaves in its null directions and the smallest singular value drawn here.
REFERENCE_RTOL = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 4 * 2**-23, torch.float16: 4 * 2**-23}

INTEGER_DEPTHS = st.integers(1, 6)
REAL_DEPTHS = st.floats(1.0, 8.0)
ALL_DEPTHS = st.one_of(INTEGER_DEPTHS.map(float), REAL_DEPTHS, st.just(math.inf))
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])


@dataclass(frozen=True)
class Case:
    """A weight of known rank with a gradient."""

    weight: Tensor
    grad: Tensor
    rank: int


def draw_weight(rng: np.random.Generator, k: int, d: int, rank: int, *, equal: bool = False) -> ref.Array:
    """Singular values log-uniform in [1e-2, 1e1], or all equal."""
    values = 10 ** rng.uniform(-2, 1, size=1 if equal else rank)
    return ref.weight_with_singular_values(rng, k, d, list(np.broadcast_to(values, rank)))


@st.composite
def cases(draw: st.DrawFn, dtypes: st.SearchStrategy[torch.dtype] = DTYPES, square: bool = False) -> Case:
    """Shapes up to 6 x 6, any rank, any scale."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    k = draw(st.integers(1, 6))
    d = k if square else draw(st.integers(1, 6))
    rank = min(k, d) if square else draw(st.integers(0, min(k, d)))
    dtype = draw(dtypes)
    scale = draw(st.sampled_from([1.0, 2.0**-20, 2.0**20]))
    weight = scale * draw_weight(rng, k, d, rank, equal=draw(st.booleans()))
    return Case(torch.from_numpy(weight).to(dtype), torch.from_numpy(rng.standard_normal((k, d))).to(dtype), rank)


def pair(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """A standard normal weight and gradient."""
    generator = torch.Generator().manual_seed(seed)
    weight, grad = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return weight, grad


def check_update(actual: Tensor, weight: Tensor, grad: Tensor, depth: float) -> None:
    """Holds an unbatched update against the eigenpairs of Claim 1."""
    rtol, tolerance = REFERENCE_RTOL[weight.dtype], TOLERANCE[weight.dtype]
    expected = ref.end_to_end_update(ref.as_array(weight), ref.as_array(grad), depth, rtol)
    scale = float(np.linalg.norm(expected))
    if math.isinf(depth) and 1 in weight.shape:
        # Only <g, u> u is left, and the inner product may cancel: accurate relative to the rule's norm times |g|.
        scale = float(np.linalg.norm(ref.as_array(weight)) ** 2 * np.linalg.norm(ref.as_array(grad)))
    assert float(np.linalg.norm(ref.as_array(actual) - expected)) <= tolerance * scale


# --- the references themselves ---------------------------------------------------------------------------------------


def test_reference_gram_powers_are_the_powers_of_the_gram_matrix() -> None:
    weight = draw_weight(np.random.default_rng(0), 4, 3, 3)
    gram = weight @ weight.T
    tolerance = 1e-12 * float(np.linalg.norm(gram))
    left, right = ref.gram_powers(weight, 1.0, 1e-12)
    np.testing.assert_allclose(left, gram, rtol=0, atol=tolerance)
    np.testing.assert_allclose(right, weight.T @ weight, rtol=0, atol=tolerance)
    left, right = ref.gram_powers(weight, 1 / 3, 1e-12)
    np.testing.assert_allclose(left @ left @ left, gram, rtol=0, atol=tolerance)
    np.testing.assert_allclose(right @ right @ right, weight.T @ weight, rtol=0, atol=tolerance)
    left, right = ref.gram_powers(weight, 0.0, 1e-12)
    np.testing.assert_allclose(left, np.eye(4), rtol=0, atol=1e-14)  # 0^0 = 1
    np.testing.assert_allclose(right, np.eye(3), rtol=0, atol=1e-14)


def test_reference_quotient_is_the_sum_at_integer_depth() -> None:
    for left, right in [(2.0, 0.3), (0.3, 2.0), (1.7, 1.7), (1.7, 0.0), (0.0, 1.7), (0.0, 0.0), (1.7, 1.7 + 2**-50)]:
        for depth in range(1, 7):
            expected = ref.multiplier_of_sum(left, right, depth)
            assert ref.multiplier_of_quotient(left, right, depth) == pytest.approx(expected, rel=1e-14, abs=0)


# --- the update against the references -------------------------------------------------------------------------------


@given(cases(), INTEGER_DEPTHS)
def test_update_is_the_literal_sum_of_theorem_1(case: Case, depth: int) -> None:
    rtol = REFERENCE_RTOL[case.weight.dtype]
    expected = ref.theorem_1(ref.as_array(case.weight), ref.as_array(case.grad), depth, rtol)
    actual = od.end_to_end_update(case.weight, case.grad, depth)
    assert actual.shape == case.grad.shape
    assert actual.dtype == case.grad.dtype
    assert ref.relative_error(actual, expected) <= TOLERANCE[case.weight.dtype]


@given(cases(), ALL_DEPTHS)
def test_update_has_the_eigenpairs_of_claim_1_at_real_and_infinite_depth(case: Case, depth: float) -> None:
    actual = od.end_to_end_update(case.weight, case.grad, depth, allow_frozen_directions=True)
    assert actual.dtype == case.grad.dtype
    check_update(actual, case.weight, case.grad, depth)


@given(cases(dtypes=st.sampled_from([torch.float64, torch.float32]), square=True), ALL_DEPTHS)
def test_square_full_rank_weights_pass_at_every_depth(case: Case, depth: float) -> None:
    if case.weight.shape[-1] == 1:  # whether one output counts as frozen at infinite depth is not this test's matter
        depth = min(depth, 8.0)
    check_update(od.end_to_end_update(case.weight, case.grad, depth), case.weight, case.grad, depth)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), ALL_DEPTHS, DTYPES, st.booleans())
def test_single_output_and_single_input_follow_claim_2(
    seed: int, size: int, depth: float, dtype: torch.dtype, column: bool
) -> None:
    weight, grad = pair(seed, 1, size, dtype=dtype)
    if column:
        weight, grad = weight.mT, grad.mT
    expected = ref.claim_2(ref.as_array(weight), ref.as_array(grad), depth)
    actual = od.end_to_end_update(weight, grad, depth, allow_frozen_directions=True)
    assert actual.shape == grad.shape
    assert actual.dtype == dtype
    error = float(np.linalg.norm(ref.as_array(actual) - expected))
    norm = float(np.linalg.norm(ref.as_array(weight)) ** (2 - 2 / depth) * np.linalg.norm(ref.as_array(grad)))
    # At infinite depth <g, u> may cancel; at finite depth the result is no smaller than this norm.
    assert error <= TOLERANCE[dtype] * max(norm, float(np.linalg.norm(expected)))


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
@pytest.mark.parametrize("depth", [1.5, 2, 3, 6])
def test_claim_2_is_theorem_1_for_one_output(shape: tuple[int, int], depth: float) -> None:
    weight, grad = pair(5, *shape)
    expected = ref.end_to_end_update(ref.as_array(weight), ref.as_array(grad), depth, 1e-12)
    assert ref.relative_error(od.end_to_end_update(weight, grad, depth), expected) <= 1e-12


@given(st.integers(0, 2**32 - 1), st.sampled_from([(2,), (3, 2), (1, 1, 2)]), ALL_DEPTHS, DTYPES)
def test_leading_dimensions_are_a_batch(seed: int, batch: tuple[int, ...], depth: float, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    k, d = rng.integers(1, 5, size=2)
    ranks = rng.integers(0, min(k, d) + 1, size=math.prod(batch))
    weights = torch.stack([torch.from_numpy(draw_weight(rng, k, d, rank)) for rank in ranks]).to(dtype)
    grads = torch.from_numpy(rng.standard_normal(weights.shape)).to(dtype)
    shape = (*batch, k, d)
    actual = od.end_to_end_update(weights.view(shape), grads.view(shape), depth, allow_frozen_directions=True)
    spectra = od.end_to_end_spectrum(weights.view(shape), depth)
    assert actual.shape == shape
    assert spectra.shape == shape
    rtol = REFERENCE_RTOL[dtype]
    for i, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
        check_update(actual.view(-1, k, d)[i], weight, grad, depth)
        expected = ref.spectrum(ref.as_array(weight), depth, rtol)
        assert ref.relative_error(spectra.view(-1, k, d)[i], expected) <= TOLERANCE[dtype]


def test_mixed_dtypes_give_the_dtype_of_the_gradient() -> None:
    weight, grad = pair(1, 3, 4)
    expected = ref.theorem_1(ref.as_array(weight.float()), ref.as_array(grad.bfloat16()), 3, 1e-6)
    actual = od.end_to_end_update(weight.float(), grad.bfloat16(), 3)
    assert actual.dtype == torch.bfloat16
    assert ref.relative_error(actual, expected) <= TOLERANCE[torch.bfloat16]
    assert od.end_to_end_update(weight, grad.float(), 3).dtype == torch.float32
    assert od.end_to_end_update(weight[:1].float(), grad[:1], 3).dtype == torch.float64


def test_float16_is_rounded_once_at_the_end() -> None:
    weight, grad = pair(2, 5, 3, dtype=torch.float16)
    expected = ref.theorem_1(ref.as_array(weight), ref.as_array(grad), 4, REFERENCE_RTOL[torch.float16])
    assert ref.relative_error(od.end_to_end_update(weight, grad, 4), expected) <= TOLERANCE[torch.float16]


@given(cases(dtypes=st.just(torch.float64)), ALL_DEPTHS)
def test_transposing_weight_and_gradient_transposes_the_update(case: Case, depth: float) -> None:
    update = od.end_to_end_update(case.weight, case.grad, depth, allow_frozen_directions=True)
    mirrored = od.end_to_end_update(case.weight.mT, case.grad.mT, depth, allow_frozen_directions=True)
    assert ref.relative_error(mirrored.mT, ref.as_array(update)) <= 1e-12


@pytest.mark.parametrize("depth", [1.5, 2, 3, 5, math.inf])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (5, 3), (1, 5), (5, 1)])
def test_update_is_homogeneous_of_degree_2_minus_2_over_depth(shape: tuple[int, int], depth: float) -> None:
    weight, grad = pair(7, *shape)
    degree = 2 - 2 / depth
    once = ref.as_array(od.end_to_end_update(weight, grad, depth, allow_frozen_directions=True))
    for scale in (1e-20, 1e-3, 1e15):
        scaled = od.end_to_end_update(scale * weight, grad, depth, allow_frozen_directions=True)
        assert ref.relative_error(scaled, scale**degree * once) <= 1e-12


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (1, 5), (5, 1)])
@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e30])
def test_float32_weights_whose_squares_leave_the_range_of_float32(shape: tuple[int, int], scale: float) -> None:
    weight, grad = pair(8, *shape, dtype=torch.float32)
    weight = scale * weight
    expected = ref.theorem_1(ref.as_array(weight), ref.as_array(grad), 2, 1e-6)  # of the size of the weight: it fits
    assert ref.relative_error(od.end_to_end_update(weight, grad, 2), expected) <= 1e-6


def test_inputs_are_left_alone() -> None:
    for shape in [(3, 4), (1, 4)]:
        weight, grad = pair(3, *shape)
        weight_before, grad_before = weight.clone(), grad.clone()
        od.end_to_end_update(weight, grad, 3)
        od.end_to_end_spectrum(weight, 3)
        assert torch.equal(weight, weight_before)
        assert torch.equal(grad, grad_before)


def test_non_contiguous_inputs() -> None:
    weight, grad = pair(4, 6, 8)
    weight, grad = weight[::2, ::2], grad[::2, ::2]
    expected = ref.theorem_1(ref.as_array(weight), ref.as_array(grad), 3, 1e-12)
    assert ref.relative_error(od.end_to_end_update(weight, grad, 3), expected) <= 1e-12


# --- golden values (theory.md, section 11) ---------------------------------------------------------------------------


def test_golden_g2_balanced_eigenvalues() -> None:
    weight = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    expected = [[7.559526299369, 5.107243151758, 2.51984209979], [5.107243151758, 3.0, 1.0]]
    np.testing.assert_allclose(od.end_to_end_spectrum(weight, 3).numpy(), expected, rtol=1e-9)


def test_golden_g14_single_output() -> None:
    weight = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    grad = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    expected = [[14.70579314142, 8.207884544048]]
    np.testing.assert_allclose(od.end_to_end_update(weight, grad, 3).numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(od.end_to_end_update(weight.mT, grad.mT, 3).mT.numpy(), expected, rtol=1e-9)


def test_golden_g15_riemannian_inner_product_of_identities() -> None:
    """<I, A^{-1} I> at W = diag(2, 1), N = 2: in this basis A only multiplies the entries."""
    weight = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    assert float((1 / od.end_to_end_spectrum(weight, 2)).diagonal().sum()) == pytest.approx(0.75, rel=1e-9)
    inverse_of_identity = torch.diag(torch.tensor([0.25, 0.5], dtype=torch.float64))
    identity = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(od.end_to_end_update(weight, inverse_of_identity, 2), identity, rtol=1e-12, atol=1e-14)


# --- Theorem 1, Claim 1 and the consequences in sections 1 and 9 -----------------------------------------------------


def flow(factors: list[Tensor], grad: Tensor, decay: float) -> Tensor:
    """dW_e/dt under gradient flow of the factors with weight decay, by forward differentiation of the product."""
    gradients = ref.layer_gradients([ref.as_array(f) for f in factors], ref.as_array(grad))
    velocities = [-torch.from_numpy(g) - decay * f for g, f in zip(gradients, factors, strict=True)]
    _, velocity = jvp(lambda *fs: od.product(fs), tuple(factors), tuple(velocities))  # type: ignore[no-untyped-call]
    assert isinstance(velocity, Tensor)
    return velocity


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(0, 3), st.sampled_from([0.0, 0.3]))
def test_theorem_1_balanced_factors_move_their_product_by_the_rule(
    seed: int, depth: int, extra: int, decay: float
) -> None:
    """Any sizes, full rank: dW_e/dt = -lam N W_e - sum_j [W W^T]^((N-j)/N) G [W^T W]^((j-1)/N)."""
    rng = np.random.default_rng(seed)
    k, d = rng.integers(1, 6, size=2)
    weight = draw_weight(rng, k, d, min(k, d))
    grad = torch.from_numpy(rng.standard_normal((k, d)))
    chain = ref.balanced_chain(rng, weight, depth, min(k, d) + extra)
    factors = [torch.from_numpy(f) for f in chain]
    product = torch.from_numpy(ref.product(chain))
    expected = -decay * depth * product - od.end_to_end_update(product, grad, depth)
    assert ref.relative_error(flow(factors, grad, decay), ref.as_array(expected)) <= 1e-10


@given(st.integers(0, 2**32 - 1), st.integers(2, 5))
def test_theorem_1_at_rank_deficient_weights_with_a_wide_rank_tolerance(seed: int, depth: int) -> None:
    rng = np.random.default_rng(seed)
    k, d = rng.integers(2, 6, size=2)
    rank = int(rng.integers(1, min(k, d)))
    weight = draw_weight(rng, k, d, rank)
    grad = torch.from_numpy(rng.standard_normal((k, d)))
    chain = ref.balanced_chain(rng, weight, depth, rank)  # width = rank: nothing in the null directions of the factors
    product = torch.from_numpy(ref.product(chain))
    expected = -od.end_to_end_update(product, grad, depth, rank_rtol=1e-7)
    assert ref.relative_error(flow([torch.from_numpy(f) for f in chain], grad, 0.0), ref.as_array(expected)) <= 1e-10


@given(cases(dtypes=st.just(torch.float64)), INTEGER_DEPTHS)
def test_claim_1_spectrum_is_that_of_the_kronecker_matrix(case: Case, depth: int) -> None:
    dense = np.linalg.eigvalsh(ref.claim_1_matrix(ref.as_array(case.weight), depth, 1e-12))
    eigenvalues = np.sort(ref.as_array(od.end_to_end_spectrum(case.weight, depth)).reshape(-1))
    np.testing.assert_allclose(eigenvalues, dense, rtol=0, atol=1e-12 * max(dense.max(), 1e-300))


@given(cases(dtypes=st.just(torch.float64)), INTEGER_DEPTHS)
def test_update_on_column_major_vectors_is_the_kronecker_matrix(case: Case, depth: int) -> None:
    matrix = ref.claim_1_matrix(ref.as_array(case.weight), depth, 1e-12)
    expected = (matrix @ ref.as_array(case.grad).reshape(-1, order="F")).reshape(case.grad.shape, order="F")
    assert ref.relative_error(od.end_to_end_update(case.weight, case.grad, depth), expected) <= 1e-12


@given(cases(), ALL_DEPTHS)
def test_spectrum_is_claim_1_by_loops(case: Case, depth: float) -> None:
    """Entry (r, r') with sigma in descending order; relative accuracy of every single entry."""
    dtype = case.weight.dtype
    actual = od.end_to_end_spectrum(case.weight, depth)
    expected = ref.spectrum(ref.as_array(case.weight), depth, REFERENCE_RTOL[dtype])
    assert actual.shape == case.weight.shape
    assert actual.dtype == dtype
    # sigma_r carries an absolute error of eps64 * sigma_1, so that a small one is known to cond * eps64 only.
    rtol = {torch.float64: 1e-11, torch.float32: 1e-6, torch.bfloat16: TOLERANCE[torch.bfloat16]}[dtype]
    np.testing.assert_allclose(ref.as_array(actual), expected, rtol=rtol, atol=0)


@given(cases(dtypes=st.just(torch.float64)), st.one_of(st.integers(2, 6).map(float), st.floats(1.1, 8.0)))
def test_claim_1_zero_eigenvalues_and_half_null_directions(case: Case, depth: float) -> None:
    """Exactly (k-r)(d-r) zeros; one null side leaves sigma^(2-2/N), neither 0 nor N times that."""
    (k, d), r = case.weight.shape, case.rank
    eigenvalues = ref.as_array(od.end_to_end_spectrum(case.weight, depth))
    assert int(np.sum(eigenvalues == 0)) == (k - r) * (d - r)
    if r == 0:
        return
    singular = np.linalg.svd(ref.as_array(case.weight), compute_uv=False)[:r]
    half_null = singular ** (2 - 2 / depth)
    for s in range(r, d):
        np.testing.assert_allclose(eigenvalues[:r, s], half_null, rtol=1e-11)
    for s in range(r, k):
        np.testing.assert_allclose(eigenvalues[s, :r], half_null, rtol=1e-11)
    np.testing.assert_allclose(np.diag(eigenvalues)[:r], depth * half_null, rtol=1e-11)


@pytest.mark.parametrize(("shape", "times"), [((3, 3), 4), ((3, 5), 1), ((5, 3), 1)])
def test_smallest_eigenvalue_has_the_factor_depth_only_for_square_weights(shape: tuple[int, int], times: int) -> None:
    weight = draw_weight(np.random.default_rng(11), *shape, 3)
    smallest = np.linalg.svd(weight, compute_uv=False).min()
    actual = float(od.end_to_end_spectrum(torch.from_numpy(weight), 4).min())
    assert actual == pytest.approx(times * smallest ** (2 - 2 / 4), rel=1e-11)


@given(st.integers(0, 2**32 - 1), st.one_of(INTEGER_DEPTHS.map(float), REAL_DEPTHS))
def test_the_rule_maps_the_gradient_of_the_schatten_quasi_norm_to_depth_times_the_weight(
    seed: int, depth: float
) -> None:
    """A_N(sum sigma^(2/N-1) u v^T) = N W (theory.md, section 9, Metric)."""
    rng = np.random.default_rng(seed)
    k, d = rng.integers(1, 6, size=2)
    weight = draw_weight(rng, k, d, min(k, d))
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    grad = torch.from_numpy(u @ np.diag(s ** (2 / depth - 1)) @ vt)
    update = od.end_to_end_update(torch.from_numpy(weight), grad, depth)
    assert ref.relative_error(update, depth * weight) <= 1e-11  # the smallest sigma is 1e-3 of the largest


@given(cases(dtypes=st.just(torch.float64)), ALL_DEPTHS)
def test_the_rule_is_self_adjoint_and_positive_semidefinite(case: Case, depth: float) -> None:
    other = torch.flip(case.grad, (0, 1)) + 0.5

    def apply(grad: Tensor) -> Tensor:
        return od.end_to_end_update(case.weight, grad, depth, allow_frozen_directions=True)

    scale = float(apply(other).norm() * case.grad.norm())
    assert float((apply(case.grad) * other).sum() - (case.grad * apply(other)).sum()) == pytest.approx(
        0, abs=1e-12 * scale
    )
    assert float((apply(case.grad) * case.grad).sum()) >= -1e-13 * float(case.grad.norm() * apply(case.grad).norm())


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("shape", [(4, 4), (3, 5), (1, 4), (4, 1)])
def test_a_gradient_step_on_balanced_factors_differs_from_the_rule_by_lr_squared(
    shape: tuple[int, int], depth: int
) -> None:
    weight, target = pair(20, *shape)

    def gap(lr: float) -> float:
        factors = [f.requires_grad_() for f in od.balanced_factors(weight, depth)]
        loss = (od.product(factors) - target).pow(4).sum() / 4
        gradients = torch.autograd.grad(loss, factors)
        stepped = od.product([f.detach() - lr * g for f, g in zip(factors, gradients, strict=True)])
        rule = weight - lr * od.end_to_end_update(weight, (weight - target).pow(3), depth)
        return float((stepped - rule).norm())

    coarse, fine = gap(1e-5), gap(5e-6)
    assert coarse > 1e-10  # far above rounding, so that the ratio means something
    assert coarse / fine == pytest.approx(4, abs=0.02)


# --- accuracy and the rank tolerance ---------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("exponent", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("shape", [(8, 8), (8, 24), (24, 8)])
def test_float32_weights_up_to_condition_number_1e6(shape: tuple[int, int], exponent: int, depth: int) -> None:
    rng = np.random.default_rng(100 * exponent + depth)
    weight = torch.from_numpy(ref.weight_with_singular_values(rng, *shape, list(np.logspace(0, -exponent, 8)))).float()
    grad = torch.from_numpy(rng.standard_normal(shape)).float()
    expected = ref.theorem_1(ref.as_array(weight), ref.as_array(grad), depth, 0.0)
    assert ref.relative_error(od.end_to_end_update(weight, grad, depth), expected) <= 1e-6


@pytest.mark.parametrize("exponent", [1, 3, 6])
def test_the_smallest_direction_of_an_ill_conditioned_float32_weight_is_resolved(exponent: int) -> None:
    """The gradient lies along the smallest singular pair alone, where a lost rank would cost everything."""
    for seed in range(10):
        rng = np.random.default_rng(seed)
        values = list(np.logspace(0, -exponent, 6))
        weight = torch.from_numpy(ref.weight_with_singular_values(rng, 6, 6, values)).float()
        u, _, vt = np.linalg.svd(ref.as_array(weight))
        grad = torch.from_numpy(np.outer(u[:, -1], vt[-1]))
        expected = ref.theorem_1(ref.as_array(weight), ref.as_array(grad), 3, 0.0)
        # A decomposition of W W^T in float64 knows sigma_min^2 to a few eps64 sigma_1^2; float32 itself to less.
        tolerance = max(1e-6, 4 * 10.0 ** (2 * exponent) * 2**-52)
        assert ref.relative_error(od.end_to_end_update(weight, grad, 3), expected) <= tolerance


@pytest.mark.parametrize("shape", [(2, 2), (6, 6), (48, 48), (16, 64), (64, 16)])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_the_default_tolerance_catches_rank_deficient_float32_products_of_thin_factors(
    shape: tuple[int, int], rank: int
) -> None:
    k, d = shape
    rank = min(rank, min(k, d) - 1)
    for seed in range(5 if k * d < 100 else 2):
        generator = torch.Generator().manual_seed(seed)
        sizes = [d, rank, rank, rank, rank, k]
        factors = [torch.randn(sizes[j + 1], sizes[j], generator=generator) / math.sqrt(sizes[j]) for j in range(5)]
        weight = factors[4] @ (factors[3] @ (factors[2] @ (factors[1] @ factors[0])))
        singular = np.linalg.svd(ref.as_array(weight), compute_uv=False)
        if singular[rank - 1] < 1e-4 * singular[0]:  # not the rank that this test is about
            continue
        grad = torch.randn(k, d, generator=generator)
        expected = ref.theorem_1(ref.as_array(weight), ref.as_array(grad), 5, 1e-5)
        assert ref.relative_error(od.end_to_end_update(weight, grad, 5), expected) <= 1e-6
        zeros = int((od.end_to_end_spectrum(weight, 5) == 0).sum())
        assert zeros == (k - rank) * (d - rank)


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (6, 4), (40, 40), (16, 48)])
def test_the_default_tolerance_catches_rank_deficient_float64_weights(shape: tuple[int, int]) -> None:
    """Stored to the last bit of float64, N = 5: missed noise of 1e-16 would cost (1e-16)^(2/5) = 4e-7."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        rank = int(rng.integers(1, min(shape)))
        weight = torch.from_numpy(draw_weight(rng, *shape, rank))
        grad = torch.from_numpy(rng.standard_normal(shape))
        expected = ref.theorem_1(ref.as_array(weight), ref.as_array(grad), 5, 1e-10)
        assert ref.relative_error(od.end_to_end_update(weight, grad, 5), expected) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rank_rtol_draws_the_line_where_it_says(dtype: torch.dtype) -> None:
    weight = torch.diag(torch.tensor([1.0, 1e-3], dtype=dtype))
    kept, dropped = od.end_to_end_spectrum(weight, 2, rank_rtol=1e-4), od.end_to_end_spectrum(weight, 2, rank_rtol=1e-2)
    np.testing.assert_allclose(kept.numpy(), [[2.0, 1.001], [1.001, 0.002]], rtol=1e-6)
    np.testing.assert_allclose(dropped.numpy(), [[2.0, 1.0], [1.0, 0.0]], rtol=1e-6)
    tie = torch.diag(torch.tensor([1.0, 0.5], dtype=dtype))  # "up to rank_rtol times the largest"
    np.testing.assert_allclose(
        od.end_to_end_spectrum(tie, 2, rank_rtol=0.5).numpy(), [[2.0, 1.0], [1.0, 0.0]], rtol=1e-6
    )
    ones = torch.ones(2, 2, dtype=dtype)
    torch.testing.assert_close(od.end_to_end_update(weight, ones, 2, rank_rtol=1e-4), kept, rtol=1e-6, atol=0)
    torch.testing.assert_close(od.end_to_end_update(weight, ones, 2, rank_rtol=1e-2), dropped, rtol=1e-6, atol=1e-15)


def test_the_rank_tolerance_is_relative() -> None:
    weight, grad = pair(9, 3, 3)
    tiny = od.end_to_end_update(1e-100 * weight, grad, 2)
    assert ref.relative_error(1e100 * tiny, ref.theorem_1(ref.as_array(weight), ref.as_array(grad), 2, 0.0)) <= 1e-12


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 4), (4, 1), (1, 1), (2, 3, 3)])
@pytest.mark.parametrize("depth", [1, 1.0])
def test_depth_one_returns_the_gradient_bit_for_bit(shape: tuple[int, ...], dtype: torch.dtype, depth: float) -> None:
    weight, grad = pair(30, *shape, dtype=dtype)
    assert torch.equal(od.end_to_end_update(weight, grad, depth), grad)
    assert torch.equal(od.end_to_end_update(torch.zeros_like(weight), grad, depth), grad)  # 0^0 = 1
    assert torch.equal(od.end_to_end_spectrum(weight, depth), torch.ones_like(weight))


@pytest.mark.parametrize("depth", [1.5, 2, 3, 7.25, math.inf])
def test_equal_singular_values_have_no_cancellation(depth: float) -> None:
    """A = B: every multiplier is N sigma^(2-2/N), or sigma^2 at infinity."""
    rotation = torch.linalg.qr(pair(31, 5, 5)[0])[0]
    grad = pair(32, 5, 5)[0]
    for sigma in (0.3, 1.0, 7.0):
        factor = sigma**2 if math.isinf(depth) else depth * sigma ** (2 - 2 / depth)
        update = od.end_to_end_update(sigma * rotation, grad, depth)
        assert ref.relative_error(update, factor * ref.as_array(grad)) <= 1e-13
        exactly = od.end_to_end_update(sigma * torch.eye(5, dtype=torch.float64), grad, depth)
        assert ref.relative_error(exactly, factor * ref.as_array(grad)) <= 1e-14


@pytest.mark.parametrize("depth", [1.5, 2, 3, 7.25, 1e6, math.inf])
@pytest.mark.parametrize("difference", [1e-15, 1e-12, 1e-8, 1e-4])
def test_nearly_equal_singular_values_have_no_cancellation(depth: float, difference: float) -> None:
    values = [1.3, 1.3 * (1 - difference)]
    actual = od.end_to_end_spectrum(torch.diag(torch.tensor(values, dtype=torch.float64)), depth)
    expected = [[ref.multiplier_of_quotient(a, b, depth) for b in values] for a in values]
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-13)


@pytest.mark.parametrize("depth", [1.5, 2, 3, 5])
def test_directions_with_one_null_side_keep_sigma_to_the_power_2_minus_2_over_depth(depth: float) -> None:
    """B = 0 and 0^0 = 1: diag(s, 0) multiplies the entries by N s^p, s^p, s^p and 0."""
    weight = torch.diag(torch.tensor([3.0, 0.0], dtype=torch.float64))
    p = 3.0 ** (2 - 2 / depth)
    update = od.end_to_end_update(weight, torch.ones(2, 2, dtype=torch.float64), depth)
    np.testing.assert_allclose(update.numpy(), [[depth * p, p], [p, 0.0]], rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("depth", [1.001, 1.5, 2, 3, 6, math.inf])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (3, 3), (1, 4), (4, 1), (1, 1), (2, 3, 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_zero_weight_does_not_move(shape: tuple[int, ...], depth: float, dtype: torch.dtype) -> None:
    _, grad = pair(33, *shape, dtype=dtype)
    weight = torch.zeros_like(grad)
    assert torch.equal(od.end_to_end_update(weight, grad, depth, allow_frozen_directions=True), weight)
    assert torch.equal(od.end_to_end_spectrum(weight, depth), weight)


def test_a_zero_weight_within_a_batch_does_not_disturb_its_neighbours() -> None:
    for shape in [(3, 4), (1, 4)]:
        weight, grad = pair(34, 3, *shape)
        weight[1] = 0
        update = od.end_to_end_update(weight, grad, 2)
        assert torch.equal(update[1], torch.zeros(shape, dtype=torch.float64))
        for i in (0, 2):
            expected = ref.theorem_1(ref.as_array(weight[i]), ref.as_array(grad[i]), 2, 1e-12)
            assert ref.relative_error(update[i], expected) <= 1e-12


@given(cases(dtypes=st.just(torch.float64)))
def test_infinite_depth_is_the_limit_of_the_sum_over_depth(case: Case) -> None:
    """a^(1/N) = 1 + log a / N + ...: sum / N is off by a factor 1 + max|log sigma^2| / N, null sides by sigma^2 / N."""
    depth = 1e6
    singular = np.linalg.svd(ref.as_array(case.weight), compute_uv=False)
    largest = float(singular[0])
    logarithm = float(np.max(np.abs(np.log(singular[: case.rank] ** 2)), initial=0.0))
    tolerance = 1.01 * (max(logarithm, 1.0) + 1.0) / depth * largest**2
    limit = od.end_to_end_update(case.weight, case.grad, math.inf, allow_frozen_directions=True)
    finite = od.end_to_end_update(case.weight, case.grad, depth) / depth
    assert float((limit - finite).norm()) <= tolerance * float(case.grad.norm())
    spectra = od.end_to_end_spectrum(case.weight, math.inf), od.end_to_end_spectrum(case.weight, depth) / depth
    assert float((spectra[0] - spectra[1]).abs().max()) <= tolerance


def test_real_depths_interpolate_smoothly_between_the_integers() -> None:
    weight, grad = pair(35, 3, 4)
    at_three = ref.theorem_1(ref.as_array(weight), ref.as_array(grad), 3, 1e-12)
    step = 1e-7
    below, above = (od.end_to_end_update(weight, grad, 3 + sign * step) for sign in (-1, 1))
    assert ref.relative_error((below + above) / 2, at_three) <= 1e-12  # second-order in the step
    assert 1e-9 < ref.relative_error(above, at_three) < 1e-6  # and not constant


def test_infinite_depth_leaves_directions_with_a_null_side_where_they_are() -> None:
    weight, grad = pair(36, 3, 5)
    update = ref.as_array(od.end_to_end_update(weight, grad, math.inf, allow_frozen_directions=True))
    rows = np.linalg.svd(ref.as_array(weight), full_matrices=False)[2]
    outside = update - update @ rows.T @ rows
    assert float(np.linalg.norm(outside)) <= 1e-13 * float(np.linalg.norm(update))


def test_infinite_depth_only_rescales_a_single_output() -> None:
    weight, grad = pair(37, 1, 5)
    update = od.end_to_end_update(weight, grad, math.inf, allow_frozen_directions=True)
    torch.testing.assert_close(update, (weight * grad).sum() * weight, rtol=1e-13, atol=0)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 4), (4, 1), (2, 3, 4)])
@pytest.mark.parametrize("check_finite", [True, False])
def test_infinite_depth_is_refused_for_weights_that_are_not_square(shape: tuple[int, ...], check_finite: bool) -> None:
    weight, grad = pair(38, *shape)
    with pytest.raises(ValueError, match="allow_frozen_directions") as caught:
        od.end_to_end_update(weight, grad, math.inf, check_finite=check_finite)
    assert str(tuple(shape)) in str(caught.value)
    update = od.end_to_end_update(weight, grad, math.inf, check_finite=check_finite, allow_frozen_directions=True)
    assert update.shape == grad.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinite_depth_is_refused_for_rank_deficient_weights(dtype: torch.dtype) -> None:
    rng = np.random.default_rng(39)
    weight = torch.from_numpy(draw_weight(rng, 4, 4, 3)).to(dtype)
    grad = torch.ones(4, 4, dtype=dtype)
    with pytest.raises(ValueError, match="allow_frozen_directions"):
        od.end_to_end_update(weight, grad, math.inf)
    with pytest.raises(ValueError, match="allow_frozen_directions"):  # one deficient weight in a batch is enough
        od.end_to_end_update(torch.stack([torch.eye(4, dtype=dtype), weight]), torch.stack([grad, grad]), math.inf)
    expected = ref.end_to_end_update(ref.as_array(weight), ref.as_array(grad), math.inf, 1e-6)
    actual = od.end_to_end_update(weight, grad, math.inf, allow_frozen_directions=True)
    assert ref.relative_error(actual, expected) <= TOLERANCE[dtype]


def test_the_spectrum_at_infinite_depth_needs_no_permission() -> None:
    eigenvalues = od.end_to_end_spectrum(torch.diag(torch.tensor([math.e, 1.0, 0.0], dtype=torch.float64)), math.inf)
    mean = (math.e**2 - 1) / 2
    np.testing.assert_allclose(
        eigenvalues.numpy(), [[math.e**2, mean, 0.0], [mean, 1.0, 0.0], [0.0, 0.0, 0.0]], rtol=1e-14
    )


# --- vmap and compile ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 2.5, math.inf])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 4), (4, 1), (3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_vmap_is_the_loop(shape: tuple[int, int], depth: float, dtype: torch.dtype) -> None:
    weight, grad = pair(40, 5, *shape, dtype=dtype)

    def update(w: Tensor, g: Tensor) -> Tensor:
        return od.end_to_end_update(w, g, depth, check_finite=False, allow_frozen_directions=True)

    actual = torch.func.vmap(update)(weight, grad)
    assert actual.dtype == dtype
    for i in range(5):
        check_update(actual[i], weight[i], grad[i], depth)


def check_compiled(backend: str) -> None:
    for shape in [(3, 5), (1, 5)]:
        for depth in (3, math.inf):
            torch._dynamo.reset()

            def update(w: Tensor, g: Tensor, depth: float = depth) -> Tensor:
                return od.end_to_end_update(w, g, depth, check_finite=False, allow_frozen_directions=True)

            compiled = torch.compile(update, fullgraph=True, backend=backend)
            weight, grad = pair(41, *shape, dtype=torch.float32)
            expected = ref.end_to_end_update(ref.as_array(weight), ref.as_array(grad), depth, 1e-6)
            assert ref.relative_error(compiled(weight, grad), expected) <= 1e-6


def test_compiles_to_one_graph() -> None:
    check_compiled("aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, on importing inductor
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiles_with_inductor() -> None:
    check_compiled("inductor")


def test_without_the_check_non_finite_gradients_pass_through() -> None:
    weight, grad = pair(42, 3, 4)
    grad[0, 0] = math.nan
    assert bool(od.end_to_end_update(weight, grad, 2, check_finite=False).isnan().any())


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight_shape", "grad_shape"),
    [((2, 3), (3, 2)), ((2, 3), (2, 4)), ((4, 2, 3), (2, 3)), ((2, 3), (4, 2, 3)), ((1, 3), (3, 1)), ((1, 3), (2, 3))],
)
@pytest.mark.parametrize("depth", [1, 2, 2.5])
def test_shapes_that_do_not_fit_are_both_shown(
    weight_shape: tuple[int, ...], grad_shape: tuple[int, ...], depth: float
) -> None:
    with pytest.raises(ValueError, match="grad") as caught:
        od.end_to_end_update(torch.ones(weight_shape), torch.ones(grad_shape), depth)
    assert str(weight_shape) in str(caught.value)
    assert str(grad_shape) in str(caught.value)


@pytest.mark.parametrize("depth", [0, -1, 0.5, math.nan, -math.inf, True, "2", None, [2], 2j])
def test_odd_depths_are_refused(depth: object) -> None:
    weight = torch.ones(2, 3)
    with pytest.raises(ValueError, match="depth"):
        od.end_to_end_update(weight, weight, depth)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="depth"):
        od.end_to_end_spectrum(weight, depth)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(2, 3), (1, 3)])
@pytest.mark.parametrize("depth", [1, 2])
def test_non_finite_entries_are_refused_by_name(value: float, shape: tuple[int, int], depth: int) -> None:
    good, bad = torch.ones(shape), torch.ones(shape)
    bad[0, 1] = value
    with pytest.raises(ValueError, match="weight"):
        od.end_to_end_update(bad, good, depth)
    with pytest.raises(ValueError, match="grad"):
        od.end_to_end_update(good, bad, depth)
    with pytest.raises(ValueError, match="weight"):
        od.end_to_end_spectrum(bad, depth)


def test_vectors_are_refused_and_shown() -> None:
    with pytest.raises(ValueError, match=r"weight.*\(3,\)"):
        od.end_to_end_update(torch.ones(3), torch.ones(3), 2)
    with pytest.raises(ValueError, match=r"weight.*\(3,\)"):
        od.end_to_end_spectrum(torch.ones(3), 2)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        od.end_to_end_update(torch.ones(1, 3), torch.ones(3), 2)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_dtypes_that_are_not_real_floats_are_refused(dtype: torch.dtype) -> None:
    odd, good = torch.ones(2, 2).to(dtype), torch.ones(2, 2)
    with pytest.raises(ValueError, match=f"weight.*{dtype}"):
        od.end_to_end_update(odd, good, 2)
    with pytest.raises(ValueError, match=f"grad.*{dtype}"):
        od.end_to_end_update(good, odd, 2)
    with pytest.raises(ValueError, match=f"weight.*{dtype}"):
        od.end_to_end_spectrum(odd, 2)


@pytest.mark.parametrize("rank_rtol", [-1e-3, math.nan])
def test_odd_rank_tolerances_are_refused(rank_rtol: float) -> None:
    weight, grad = pair(43, 3, 3)
    with pytest.raises(ValueError, match="rank_rtol"):
        od.end_to_end_update(weight, grad, 2, rank_rtol=rank_rtol)
    with pytest.raises(ValueError, match="rank_rtol"):
        od.end_to_end_spectrum(weight, 2, rank_rtol=rank_rtol)
