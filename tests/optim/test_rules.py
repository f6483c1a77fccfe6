"""The methods of the end-to-end rule against NumPy float64."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as ref
from torch import Tensor

from overdepth.optim import rules
from overdepth.optim.rules import STATELESS, choose, precondition

DEPTHS = [2, 3, 5, 2.5, math.inf]
SHAPES = [(12, 12), (7, 18), (18, 7), (64, 64), (48, 80)]
# Between the noise that storing a float32 matrix leaves in null directions and the smallest singular value drawn here.
RTOL = 4 * 2.0**-23


def reference(weight: Tensor, grad: Tensor, depth: float, rtol: float = RTOL) -> ref.Array:
    """Claim 1 in the full singular bases: sums of powers at whole depths, the quotient in Decimal at others."""
    w, g = ref.as_array(weight), ref.as_array(grad)
    if float(depth).is_integer():
        u, rows, columns, vt = ref.singular_system(w, rtol)
        whole = int(depth)
        terms = [
            np.outer(
                [ref.power(float(a), 2 * (whole - j) / whole) for a in rows],
                [ref.power(float(b), 2 * (j - 1) / whole) for b in columns],
            )
            for j in range(1, whole + 1)
        ]
        result: ref.Array = u @ (np.sum(terms, axis=0) * (u.T @ g @ vt.T)) @ vt
        return result
    return ref.end_to_end_update(w, g, depth, rtol)


def conditioned(seed: int, shape: tuple[int, int], condition: float, dtype: torch.dtype = torch.float32) -> Any:
    """A weight whose singular values go from 2 down to 2 / condition evenly in the logarithm, and a gradient."""
    rng = np.random.default_rng(seed)
    values = list(2 * np.logspace(0, -math.log10(condition), min(shape)))
    weight = ref.weight_with_singular_values(rng, *shape, values)
    return torch.from_numpy(weight).to(dtype), torch.from_numpy(rng.standard_normal(shape)).to(dtype)


def shapes_for(depth: float) -> list[tuple[int, int]]:
    return SHAPES if float(depth).is_integer() else SHAPES[:3]  # Decimal is slow


def test_the_vectorized_reference_is_the_literal_one() -> None:
    weight, grad = conditioned(0, (4, 6), 1e2)
    for depth in (1, 2, 3, 5):
        expected = ref.theorem_1(ref.as_array(weight), ref.as_array(grad), depth, RTOL)
        np.testing.assert_allclose(reference(weight, grad, depth), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("condition", [1e1, 1e2, 1e3, 1e4, 1e5, 1e6])
@pytest.mark.parametrize("depth", DEPTHS)
def test_eigh_is_within_1e_6_at_any_condition(depth: float, condition: float) -> None:
    for seed, shape in enumerate(shapes_for(depth)):
        weight, grad = conditioned(seed, shape, condition)
        error = ref.relative_error(precondition(weight, grad, depth, "eigh"), reference(weight, grad, depth))
        assert error <= 1e-6, (shape, error)


def stated_errors() -> dict[float, float]:
    """The figures that the module's docstring gives for ``eigh_float32``, by condition number."""
    found = re.search(r"from (\S+) \(10\) to (\S+) \(1e6 at depth 5\)", rules.__doc__ or "")
    assert found is not None
    return {1e1: float(found[1]), 1e6: float(found[2])}


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("condition", [1e1, 1e6])
def test_eigh_float32_has_the_error_that_its_docstring_states(depth: int, condition: float) -> None:
    bound = stated_errors()[condition]
    assert bound <= 5e-2  # above that it would be no method
    for seed in range(40):
        for shape in ((6, 6), (12, 12), (7, 18), (18, 7), (64, 64)):
            weight, grad = conditioned(seed, shape, condition)
            actual = precondition(weight, grad, depth, "eigh_float32")
            assert actual.dtype == torch.float32
            error = ref.relative_error(actual, reference(weight, grad, depth))
            assert error <= bound, (seed, shape, error)


@pytest.mark.parametrize("depth", DEPTHS)
def test_eigh_float32_is_right_to_the_digits_it_has_at_a_condition_of_ten(depth: float) -> None:
    for seed, shape in enumerate(shapes_for(depth)):
        if math.isinf(depth) and shape[0] != shape[1]:
            continue
        weight, grad = conditioned(seed, shape, 1e1)
        actual = precondition(weight, grad, depth, "eigh_float32")
        assert ref.relative_error(actual, reference(weight, grad, depth)) <= 2e-6


@pytest.mark.parametrize("rank", [0, 1, 3])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shape", [(6, 6), (5, 9), (9, 5)])
def test_rank_deficient_weights(shape: tuple[int, int], depth: float, rank: int) -> None:
    rng = np.random.default_rng(rank)
    values = list(10 ** rng.uniform(-1, 1, rank))
    weight = torch.from_numpy(ref.weight_with_singular_values(rng, *shape, values)).float()
    grad = torch.from_numpy(rng.standard_normal(shape)).float()
    expected = reference(weight, grad, depth)
    assert ref.relative_error(precondition(weight, grad, depth, "eigh"), expected) <= 1e-6
    single = precondition(weight, grad, depth, "eigh_float32")
    assert bool(torch.isfinite(single).all())
    if math.isfinite(depth):  # at infinite depth the multiplier of noise falls off like 1 / log only
        assert ref.relative_error(single, expected) <= 1e-2


@pytest.mark.parametrize("method", ["eigh", "eigh_float32", "auto"])
@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (4, 4), (3, 5), (5, 3)])
@pytest.mark.parametrize("depth", DEPTHS)
def test_zero_weights_do_not_move(shape: tuple[int, int], depth: float, method: Any) -> None:
    assert not bool(precondition(torch.zeros(shape), torch.ones(shape), depth, method).any())


@pytest.mark.parametrize("method", STATELESS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (1, 300)])
@pytest.mark.parametrize("depth", DEPTHS)
def test_single_rows_and_columns_follow_claim_2_by_every_method(
    shape: tuple[int, int], depth: float, method: Any
) -> None:
    rng = np.random.default_rng(5)
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.float64, 1e-14)):
        if dtype == torch.float64 and method == "eigh_float32":
            continue
        weight = torch.from_numpy(rng.standard_normal(shape)).to(dtype)
        grad = weight + torch.from_numpy(rng.standard_normal(shape)).to(dtype)
        expected = ref.claim_2(ref.as_array(weight), ref.as_array(grad), depth)
        actual = precondition(weight, grad, depth, method)
        assert actual.shape == weight.shape
        assert ref.relative_error(actual, expected) <= tolerance


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 8), st.floats(1.01, 8.0), st.sampled_from(STATELESS)
)
def test_batches_are_their_matrices_one_by_one(seed: int, k: int, d: int, depth: float, method: Any) -> None:
    if method == "single_output":
        k = 1
    generator = torch.Generator().manual_seed(seed)
    weight, grad = torch.randn(2, 2, 3, k, d, generator=generator).unbind()
    together = precondition(weight, grad, depth, method)
    for i in range(2):
        for j in range(3):
            alone = precondition(weight[i, j], grad[i, j], depth, method)
            assert float((together[i, j] - alone).norm()) <= 1e-3 * float(alone.norm())
            if method == "eigh":
                torch.testing.assert_close(together[i, j], alone, rtol=0, atol=1e-6 * float(alone.norm()))


def test_transposing_weight_and_gradient_transposes_the_result() -> None:
    weight, grad = conditioned(1, (5, 9), 1e2)
    for method in ("eigh", "eigh_float32"):
        tall = precondition(weight.mT, grad.mT, 3, method)
        torch.testing.assert_close(tall, precondition(weight, grad, 3, method).mT, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 1.01 * 2**-8), (torch.float16, 1.01 * 2**-11), (torch.float64, 1e-12)]
)
@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (1, 9), (9, 1)])
def test_other_dtypes_are_rounded_once(shape: tuple[int, int], dtype: torch.dtype, tolerance: float) -> None:
    for depth in (2, 3, 2.5):
        weight, grad = conditioned(2, shape, 10, dtype)
        actual = precondition(weight, grad, depth)
        assert actual.dtype == dtype
        rtol = 1e-12 if dtype == torch.float64 else RTOL
        assert ref.relative_error(actual, reference(weight, grad, depth, rtol)) <= tolerance


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_eigh_float32_returns_the_dtype_of_the_gradient(dtype: torch.dtype) -> None:
    weight, grad = conditioned(2, (4, 9), 10, dtype)
    actual = precondition(weight, grad, 3, "eigh_float32")
    assert actual.dtype == dtype
    tolerance = 2e-6 if dtype == torch.float64 else 1.01 * torch.finfo(dtype).eps
    assert ref.relative_error(actual, reference(weight, grad, 3)) <= tolerance


def test_float64_keeps_directions_that_float32_would_drop() -> None:
    weight, grad = conditioned(3, (6, 6), 1e9, torch.float64)
    assert ref.relative_error(precondition(weight, grad, 5, "eigh"), reference(weight, grad, 5, 1e-13)) <= 1e-8


def test_weights_of_any_scale() -> None:
    weight, grad = conditioned(4, (6, 8), 10)
    for method, tolerance in (("eigh", 1e-6), ("eigh_float32", 1e-5)):
        for scale in (1e-12, 1e-6, 1e6, 1e12):
            scaled = weight * scale
            actual = precondition(scaled, grad, 2, method)  # type: ignore[arg-type]
            assert ref.relative_error(actual, reference(scaled, grad, 2)) <= tolerance, (method, scale)


def test_what_auto_chooses() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for device in (cpu, gpu):
        for shape in ((1, 5), (5, 1), (1, 1), (3, 1, 4)):
            assert choose("auto", torch.Size(shape), device) == "single_output"
    assert choose("auto", torch.Size((4, 5)), cpu) == "eigh"
    assert choose("auto", torch.Size((7, 4, 5)), gpu) == "eigh_float32"
    for method in STATELESS[1:]:
        assert choose(method, torch.Size((1, 5)), cpu) == method


def test_auto_is_bit_for_bit_what_it_chooses() -> None:
    for shape, method in (((5, 6), "eigh"), ((1, 6), "single_output"), ((6, 1), "single_output")):
        weight, grad = conditioned(6, shape, 10)
        assert torch.equal(precondition(weight, grad, 3), precondition(weight, grad, 3, method))  # type: ignore[arg-type]


def test_inputs_are_left_as_they_were() -> None:
    for method, shape in (("eigh", (3, 4)), ("eigh_float32", (3, 4)), ("single_output", (1, 4))):
        weight, grad = conditioned(7, shape, 10)
        before = weight.clone(), grad.clone()
        result = precondition(weight, grad, 2, method)  # type: ignore[arg-type]
        assert torch.equal(weight, before[0])
        assert torch.equal(grad, before[1])
        assert result.data_ptr() not in (weight.data_ptr(), grad.data_ptr())
