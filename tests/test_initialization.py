"""Initial factors: what every word promises, and what it keeps."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as ref
from torch import Tensor

import overdepth as od
from overdepth.initialization import INITIALIZATIONS, Init

SEEDS = st.integers(0, 2**32 - 1)
INITS = st.sampled_from(INITIALIZATIONS)
DRAWN: list[Init] = ["near_zero", "near_identity", "orthogonal"]
KEEPING: list[Init] = ["balanced", "identity"]
# A product of a few rounded factors: relative accuracy of its norm.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 0.05}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, k: int, d: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(k, d, generator=generator(seed), dtype=torch.float64).to(dtype)


def arrays(factors: list[Tensor]) -> list[ref.Array]:
    return [ref.as_array(factor) for factor in factors]


def test_the_words_are_those_of_the_design() -> None:
    assert set(INITIALIZATIONS) == {"near_zero", "near_identity", "orthogonal", "balanced", "identity"}
    assert set(get_args(Init)) == set(INITIALIZATIONS)


@given(
    SEEDS, INITS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 3),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_every_initialization_makes_a_chain_of_the_asked_shapes(
    seed: int, init: Init, k: int, d: int, depth: int, extra: int, dtype: torch.dtype
) -> None:
    width = min(k, d) + extra
    factors = od.initial_factors(k, d, depth, width=width, init=init, generator=generator(seed), dtype=dtype)
    sizes = [d] + [width] * (depth - 1) + [k]
    assert [tuple(f.shape) for f in factors] == [(sizes[j + 1], sizes[j]) for j in range(depth)]
    assert all(f.dtype == dtype for f in factors)
    assert all(bool(f.isfinite().all()) for f in factors)


def test_defaults_are_two_near_zero_float32_factors_of_the_smaller_width() -> None:
    factors = od.initial_factors(5, 3, generator=generator(0))
    assert [tuple(f.shape) for f in factors] == [(3, 3), (5, 3)]
    assert all(f.dtype == torch.float32 for f in factors)
    explicit = od.initial_factors(
        5, 3, 2, width=3, init="near_zero", scale=0.01, generator=generator(0), dtype=torch.float32
    )
    assert all(torch.equal(a, b) for a, b in zip(factors, explicit, strict=True))


# --- random numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", INITIALIZATIONS)
def test_equal_seeds_give_equal_factors_and_other_seeds_do_not(init: Init) -> None:
    def draw(seed: int) -> Tensor:
        return od.product(od.initial_factors(3, 4, 3, init=init, generator=generator(seed)))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("init", INITIALIZATIONS)
def test_the_global_generator_is_the_default(init: Init) -> None:
    def draw() -> Tensor:
        return od.product(od.initial_factors(3, 4, 3, init=init))

    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, second = draw(), draw()
        torch.manual_seed(5)
        assert torch.equal(draw(), first)
        assert not torch.equal(first, second)
    explicit = od.product(od.initial_factors(3, 4, 3, init=init, generator=generator(5)))
    assert torch.equal(explicit, first)


@pytest.mark.parametrize("init", INITIALIZATIONS)
def test_an_own_generator_leaves_the_global_one_alone(init: Init) -> None:
    state = torch.get_rng_state()
    od.initial_factors(3, 4, 3, init=init, generator=generator(5))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("init", DRAWN)
@pytest.mark.parametrize(("k", "d", "width"), [(3, 4, 3), (4, 3, 5), (1, 6, 2), (3, 4, 6)])
def test_equal_seeds_give_equal_w_1_at_every_depth(init: Init, k: int, d: int, width: int) -> None:
    chains = [od.initial_factors(k, d, depth, width=width, init=init, generator=generator(6)) for depth in range(2, 6)]
    for chain in chains[1:]:
        assert torch.equal(chain[0], chains[0][0])
    for deeper, shallower in zip(chains[1:], chains[:-1], strict=True):  # as far as the shapes agree
        for a, b in zip(deeper[: len(shallower) - 1], shallower[:-1], strict=True):
            assert torch.equal(a, b)


def test_equal_seeds_give_equal_w_1_to_the_plain_model_of_that_width() -> None:
    plain, deep = (od.initial_factors(3, 4, depth, width=3, generator=generator(7)) for depth in (1, 4))
    assert torch.equal(plain[0], deep[0])


@pytest.mark.parametrize("init", DRAWN)
def test_numbers_are_drawn_in_float64_and_rounded_once(init: Init) -> None:
    exact = od.initial_factors(3, 4, 3, init=init, generator=generator(8), dtype=torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        rounded = od.initial_factors(3, 4, 3, init=init, generator=generator(8), dtype=dtype)
        assert all(torch.equal(r, e.to(dtype)) for r, e in zip(rounded, exact, strict=True))


# --- near_zero and near_identity -------------------------------------------------------------------------------------


def check_normal(sample: ref.Array, scale: float) -> None:
    """Mean, variance, fourth moment and the correlation of neighbours within 5 standard errors of N(0, scale^2)."""
    z = sample.reshape(-1) / scale
    n = z.size
    assert abs(float(z.mean())) <= 5 / math.sqrt(n)
    assert abs(float((z**2).mean()) - 1) <= 5 * math.sqrt(2 / n)
    assert abs(float((z**4).mean()) - 3) <= 5 * math.sqrt(96 / n)
    assert abs(float((z[1:] * z[:-1]).mean())) <= 5 / math.sqrt(n)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_near_zero_entries_are_normal_with_the_given_scale(scale: float) -> None:
    factors = od.initial_factors(70, 130, 3, width=90, scale=scale, generator=generator(9), dtype=torch.float64)
    for factor in factors:  # not divided by any size
        check_normal(ref.as_array(factor), scale)
    check_normal(np.concatenate([ref.as_array(f).reshape(-1) for f in factors]), scale)
    first, second = ref.as_array(factors[0]).reshape(-1)[:6000], ref.as_array(factors[1]).reshape(-1)[:6000]
    assert abs(float((first * second).mean())) / scale**2 <= 5 / math.sqrt(6000)


@pytest.mark.parametrize(("k", "d", "width"), [(3, 4, 3), (5, 2, 4), (1, 6, 2), (3, 3, 7)])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_near_identity_is_near_zero_plus_ones_on_the_main_diagonals(k: int, d: int, width: int, depth: int) -> None:
    def draw(init: Init, scale: float) -> list[ref.Array]:
        factors = od.initial_factors(
            k, d, depth, width=width, init=init, scale=scale, generator=generator(10), dtype=torch.float64
        )
        return arrays(factors)

    for near_identity, near_zero in zip(draw("near_identity", 0.1), draw("near_zero", 0.1), strict=True):
        np.testing.assert_allclose(near_identity, near_zero + np.eye(*near_zero.shape), rtol=0, atol=1e-15)
    for factor in draw("near_identity", 1e-20):
        np.testing.assert_allclose(factor, np.eye(*factor.shape), rtol=0, atol=1e-18)


# --- orthogonal ------------------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), st.integers(1, 7))
def test_orthogonal_factors_have_all_singular_values_at_scale(
    seed: int, k: int, d: int, depth: int, width: int
) -> None:
    factors = od.initial_factors(
        k, d, depth, width=width, init="orthogonal", scale=0.7, generator=generator(seed), dtype=torch.float64
    )
    for factor in arrays(factors):
        np.testing.assert_allclose(np.linalg.svd(factor, compute_uv=False), 0.7, rtol=1e-13)


def test_orthogonal_factors_of_equal_widths_are_balanced() -> None:
    factors = od.initial_factors(4, 4, 3, init="orthogonal", scale=0.7, generator=generator(11), dtype=torch.float64)
    for difference in od.imbalance(factors):
        assert float(difference.norm()) <= 1e-14


def test_orthogonal_matrices_prefer_no_direction() -> None:
    """Haar measure: the mean of Q vanishes, E Q_ij^2 = 1/n, and both signs of the determinant occur equally often."""
    draws = 2000
    source = generator(12)
    sample = np.stack(
        [
            ref.as_array(
                od.initial_factors(3, 3, 1, init="orthogonal", scale=1.0, generator=source, dtype=torch.float64)[0]
            )
            for _ in range(draws)
        ]
    )
    assert float(np.abs(sample.mean(axis=0)).max()) <= 5 * math.sqrt(1 / 3 / draws)
    # Var Q_ij^2 = 3/(n(n+2)) - 1/n^2 = 4/45 for n = 3.
    assert float(np.abs((sample**2).mean(axis=0) - 1 / 3).max()) <= 5 * math.sqrt(4 / 45 / draws)
    assert abs(float(np.linalg.det(sample).mean())) <= 5 / math.sqrt(draws)


# --- balanced and identity -------------------------------------------------------------------------------------------


@given(SEEDS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 3))
def test_balanced_keeps_a_given_weight_without_imbalance(seed: int, k: int, d: int, depth: int, extra: int) -> None:
    weight = normal(seed, k, d)
    factors = od.initial_factors(
        k, d, depth, width=min(k, d) + extra, init="balanced", weight=weight, dtype=torch.float64
    )
    largest = float(torch.linalg.matrix_norm(weight, 2))
    assert float(np.linalg.norm(ref.product(arrays(factors)) - ref.as_array(weight))) <= 1e-12 * largest
    for difference in ref.imbalance(arrays(factors)):
        assert float(np.linalg.norm(difference)) <= 1e-12 * largest ** (2 / depth)


@given(SEEDS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 5))
def test_balanced_without_a_weight_starts_from_the_product_of_near_zero(seed: int, k: int, d: int, depth: int) -> None:
    def draw(init: Init) -> list[ref.Array]:
        return arrays(
            od.initial_factors(k, d, depth, init=init, scale=0.3, generator=generator(seed), dtype=torch.float64)
        )

    expected, factors = ref.product(draw("near_zero")), draw("balanced")
    largest = float(np.linalg.norm(expected, 2))
    assert float(np.linalg.norm(ref.product(factors) - expected)) <= 1e-12 * largest
    for difference in ref.imbalance(factors):
        assert float(np.linalg.norm(difference)) <= 1e-12 * largest ** (2 / depth)


@given(
    SEEDS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 3),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
)  # fmt: skip
def test_identity_keeps_the_weight_exactly_in_the_factor_at_the_wide_end(
    seed: int, k: int, d: int, depth: int, extra: int, dtype: torch.dtype
) -> None:
    weight = normal(seed, k, d, dtype)
    width = min(k, d) + extra
    factors = od.initial_factors(k, d, depth, width=width, init="identity", weight=weight, dtype=dtype)
    assert torch.equal(od.product(factors), weight)
    wide_end = 0 if d > k else depth - 1
    holders = [j for j, f in enumerate(factors) if not np.array_equal(ref.as_array(f), np.eye(*f.shape))]
    holder = holders[0] if holders else wide_end
    if d != k:
        assert holder == wide_end
    else:
        assert holder in (0, depth - 1)
    for j, factor in enumerate(factors):
        if j == holder:
            assert torch.equal(factor[: min(k, factor.shape[0]), : min(d, factor.shape[1])], weight)
            assert int(torch.count_nonzero(factor)) == int(torch.count_nonzero(weight))
        else:
            np.testing.assert_array_equal(ref.as_array(factor), np.eye(*factor.shape))


def test_identity_is_not_balanced() -> None:
    factors = od.initial_factors(3, 3, 2, init="identity", weight=2 * torch.eye(3))
    assert float(od.imbalance(factors)[0].norm()) == pytest.approx(3 * math.sqrt(3), rel=1e-6)


def test_identity_without_a_weight_holds_a_normal_one() -> None:
    factors = od.initial_factors(60, 80, 3, init="identity", scale=0.2, generator=generator(13), dtype=torch.float64)
    check_normal(ref.as_array(od.product(factors)), 0.2)


@pytest.mark.parametrize("init", KEEPING)
def test_a_given_weight_makes_scale_and_generator_irrelevant(init: Init) -> None:
    weight = normal(14, 3, 4)
    one = od.initial_factors(3, 4, 3, init=init, weight=weight, scale=0.1, generator=generator(1))
    other = od.initial_factors(3, 4, 3, init=init, weight=weight, scale=5.0, generator=generator(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("init", KEEPING)
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_given_weight_is_left_alone(init: Init, depth: int) -> None:
    weight = normal(15, 3, 3)
    before = weight.clone()
    for factor in od.initial_factors(3, 3, depth, init=init, weight=weight, norm=2.0, dtype=torch.float64):
        factor.zero_()
    assert torch.equal(weight, before)


# --- norm ------------------------------------------------------------------------------------------------------------


@given(
    SEEDS, INITS, st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.sampled_from([1e-6, 0.3, 1.0, 1e4]),
    st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_the_product_has_the_asked_norm(
    seed: int, init: Init, k: int, d: int, depth: int, norm: float, dtype: torch.dtype
) -> None:
    factors = od.initial_factors(k, d, depth, init=init, norm=norm, generator=generator(seed), dtype=dtype)
    assert float(np.linalg.norm(ref.product(arrays(factors)))) == pytest.approx(norm, rel=ROUNDING[dtype])


@pytest.mark.parametrize("init", KEEPING)
def test_a_given_weight_is_rescaled_to_the_asked_norm(init: Init) -> None:
    weight = normal(16, 3, 4)
    factors = od.initial_factors(3, 4, 3, init=init, weight=weight, norm=0.5, dtype=torch.float64)
    expected = ref.as_array(weight * (0.5 / weight.norm()))
    assert ref.relative_error(od.product(factors), expected) <= 1e-12


@pytest.mark.parametrize("init", ["near_zero", "near_identity", "orthogonal", "balanced"])
def test_the_norm_rescales_all_factors_alike(init: Init) -> None:
    plain, scaled = (
        od.initial_factors(3, 4, 3, init=init, norm=norm, generator=generator(17), dtype=torch.float64)
        for norm in (None, 0.5)
    )
    common = (0.5 / float(od.product(plain).norm())) ** (1 / 3)
    for a, b in zip(plain, scaled, strict=True):
        assert ref.relative_error(b, common * ref.as_array(a)) <= 1e-12


def test_the_norm_of_identity_rescales_the_holder_alone() -> None:
    for k, d, holder in [(3, 4, 0), (4, 3, 2)]:
        factors = od.initial_factors(k, d, 3, init="identity", weight=normal(18, k, d), norm=0.5, dtype=torch.float64)
        for j, factor in enumerate(arrays(factors)):
            if j != holder:
                np.testing.assert_array_equal(factor, np.eye(*factor.shape))


def test_small_entries_and_great_depth_still_reach_the_norm() -> None:
    """0.01^100 underflows float32 many times over; the chain of float64 numbers does not."""
    factors = od.initial_factors(1, 4, 60, norm=0.5, generator=generator(19), dtype=torch.float64)
    assert float(np.linalg.norm(ref.product(arrays(factors)))) == pytest.approx(0.5, rel=1e-12)


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", ["nearzero", "", "Balanced", None, 3])
def test_unknown_words_are_refused_and_the_known_ones_named(init: object) -> None:
    with pytest.raises(ValueError, match=r"init.*near_zero") as caught:
        od.initial_factors(3, 4, init=init)  # type: ignore[arg-type]
    assert all(word in str(caught.value) for word in INITIALIZATIONS)
    assert repr(init) in str(caught.value)


@pytest.mark.parametrize("init", KEEPING)
def test_a_vector_is_no_weight(init: Init) -> None:
    with pytest.raises(ValueError, match=r"weight.*\(4,\)"):
        od.initial_factors(1, 4, init=init, weight=torch.ones(4))


@pytest.mark.parametrize("value", [0, -1, 2.5, True])
def test_sizes_that_are_no_integers_from_one_on_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="out_features"):
        od.initial_factors(value, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in_features"):
        od.initial_factors(3, value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, -1, 2.5, 3.0, math.nan, math.inf, True, "3", None])
def test_depths_and_widths_that_are_no_integers_from_one_on_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="depth"):
        od.initial_factors(3, 4, value)  # type: ignore[arg-type]
    if value is not None:
        with pytest.raises(ValueError, match="width"):
            od.initial_factors(3, 4, width=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_scales_out_of_range_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="scale"):
        od.initial_factors(3, 4, scale=value)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_norms_out_of_range_are_refused(value: float) -> None:
    for init in INITIALIZATIONS:
        with pytest.raises(ValueError, match="norm"):
            od.initial_factors(3, 4, init=init, norm=value)


@pytest.mark.parametrize("init", KEEPING)
def test_a_zero_product_cannot_have_a_norm(init: Init) -> None:
    with pytest.raises(ValueError, match="norm"):
        od.initial_factors(3, 4, init=init, weight=torch.zeros(3, 4), norm=1.0)


@pytest.mark.parametrize("init", DRAWN)
def test_a_weight_that_would_be_ignored_is_refused(init: Init) -> None:
    with pytest.raises(ValueError, match="weight"):
        od.initial_factors(3, 4, init=init, weight=torch.ones(3, 4))


@pytest.mark.parametrize("init", KEEPING)
@pytest.mark.parametrize("shape", [(4, 3), (3, 3), (2, 3, 4)])
def test_weights_of_another_shape_are_shown_with_the_expected_one(init: Init, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="weight") as caught:
        od.initial_factors(3, 4, init=init, weight=torch.ones(shape))
    assert str(shape) in str(caught.value)
    assert "(3, 4)" in str(caught.value)


@pytest.mark.parametrize("init", KEEPING)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_refused(init: Init, value: float) -> None:
    weight = torch.ones(2, 3)
    weight[0, 0] = value
    with pytest.raises(ValueError, match="weight"):
        od.initial_factors(2, 3, init=init, weight=weight)


@pytest.mark.parametrize("init", KEEPING)
@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_weights_that_are_not_real_floats_are_refused(init: Init, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"weight.*{dtype}"):
        od.initial_factors(2, 3, init=init, weight=torch.ones(2, 3).to(dtype))


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64])
def test_result_dtypes_that_are_not_real_floats_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="dtype"):
        od.initial_factors(2, 3, dtype=dtype)


@pytest.mark.parametrize("init", KEEPING)
def test_a_width_too_small_to_hold_the_weight_is_refused(init: Init) -> None:
    with pytest.raises(ValueError, match="width"):
        od.initial_factors(3, 4, 2, width=2, init=init, weight=torch.eye(3, 4))
    assert len(od.initial_factors(3, 4, 2, width=3, init=init, weight=torch.eye(3, 4))) == 2


def test_balanced_needs_only_the_rank_of_the_weight() -> None:
    weight = torch.outer(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, -1.0]))
    factors = od.initial_factors(3, 2, 3, width=1, init="balanced", weight=weight)
    torch.testing.assert_close(od.product(factors), weight, rtol=1e-6, atol=0)


def test_balanced_finds_the_rank_of_a_weight_that_was_stored_in_float32() -> None:
    """As od.balanced_factors does: rounding to float32 adds no directions."""
    weight = (normal(20, 6, 2) @ normal(21, 2, 5)).float()
    assert [tuple(f.shape) for f in od.balanced_factors(weight, 2, 2)] == [(2, 5), (6, 2)]
    factors = od.initial_factors(6, 5, 2, width=2, init="balanced", weight=weight)
    assert ref.relative_error(od.product(factors), ref.as_array(weight)) <= 1e-6


@pytest.mark.parametrize("init", DRAWN)
def test_drawn_factors_may_be_narrower_than_the_weight(init: Init) -> None:
    assert [tuple(f.shape) for f in od.initial_factors(3, 4, 3, width=1, init=init)] == [(1, 4), (1, 1), (3, 1)]
