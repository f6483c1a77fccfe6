"""The imbalance: the discrete identity and the decay law of theory.md, section 2, and factors of a chosen imbalance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from tests.reference import linear_algebra as ref
from torch import Tensor

import overdepth as od
from overdepth.theory.balancing import (
    balance,
    decayed_imbalance,
    factors_with_imbalance,
    imbalance_drift,
    layer_gradients,
)

SEEDS = st.integers(0, 2**32 - 1)
CHAINS = st.lists(st.integers(1, 5), min_size=2, max_size=6)  # n_0, ..., n_N


def make_chain(seed: int, sizes: list[int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Normal factors of about unit norm with layer sizes n_0, ..., n_N."""
    rng = np.random.default_rng(seed)
    return [
        torch.from_numpy(rng.standard_normal((after, before)) / math.sqrt(before)).to(dtype)
        for before, after in itertools.pairwise(sizes)
    ]


def make_grad(seed: int, factors: list[Tensor]) -> Tensor:
    shape = (factors[-1].shape[0], factors[0].shape[1])
    return torch.from_numpy(np.random.default_rng(seed + 1).standard_normal(shape))


def arrays(factors: list[Tensor]) -> list[ref.Array]:
    return [ref.as_array(factor) for factor in factors]


# --- gradients and drift ---------------------------------------------------------------------------------------------


@given(SEEDS, CHAINS, st.sampled_from([torch.float64, torch.float32]))
def test_layer_gradients_are_the_literal_chain_rule(seed: int, sizes: list[int], dtype: torch.dtype) -> None:
    factors = make_chain(seed, sizes, dtype)
    grad = make_grad(seed, factors)
    actual = layer_gradients(factors, grad)
    assert len(actual) == len(factors)
    for a, e in zip(actual, ref.layer_gradients(arrays(factors), ref.as_array(grad)), strict=True):
        assert a.dtype == torch.float64
        assert tuple(a.shape) == e.shape
        assert float(np.linalg.norm(a.numpy() - e)) <= 1e-13 * max(1.0, float(np.linalg.norm(e)))


def test_layer_gradients_are_those_of_autograd() -> None:
    factors = [f.requires_grad_() for f in make_chain(1, [4, 3, 5, 2])]
    grad = make_grad(1, factors)
    (od.product(factors) * grad).sum().backward()  # type: ignore[no-untyped-call]
    for found, factor in zip(layer_gradients(factors, grad), factors, strict=True):
        assert not found.requires_grad
        torch.testing.assert_close(found, factor.grad, rtol=1e-13, atol=1e-14)


def test_the_gradient_of_a_single_factor_is_the_gradient() -> None:
    (weight,) = make_chain(2, [4, 3])
    grad = make_grad(2, [weight])
    (found,) = layer_gradients([weight], grad)
    assert torch.equal(found, grad)
    assert imbalance_drift([weight], grad, lr=0.1) == []
    assert decayed_imbalance([weight], 1.0, 0.1) == []


@given(
    SEEDS, st.lists(st.integers(1, 5), min_size=3, max_size=5), st.sampled_from([0.0, 0.3, 7.0]), st.floats(1e-3, 1.0)
)
def test_the_drift_is_exact_for_a_step_of_any_size(seed: int, sizes: list[int], decay: float, lr: float) -> None:
    """D+ - D, with the step taken literally; 1e-15 of the numbers that are squared."""
    factors = make_chain(seed, sizes)
    grad = make_grad(seed, factors)
    before = arrays(factors)
    gradients = ref.layer_gradients(before, ref.as_array(grad))
    after = [(1 - lr * decay) * w - lr * g for w, g in zip(before, gradients, strict=True)]
    drift = imbalance_drift(factors, grad, lr, decay)
    scale = sum(float(np.linalg.norm(w)) ** 2 for w in [*before, *after])
    scale += sum((lr * float(np.linalg.norm(g))) ** 2 for g in gradients)
    assert len(drift) == len(factors) - 1
    for change, new, old in zip(drift, ref.imbalance(after), ref.imbalance(before), strict=True):
        assert float(np.linalg.norm(change.numpy() - (new - old))) <= 1e-14 * scale


def test_the_drift_without_decay_is_of_second_order() -> None:
    factors = make_chain(3, [3, 4, 2])
    grad = make_grad(3, factors)
    (coarse,), (fine,) = imbalance_drift(factors, grad, 1e-2), imbalance_drift(factors, grad, 5e-3)
    torch.testing.assert_close(coarse, 4 * fine, rtol=1e-14, atol=0)


@pytest.mark.parametrize(("decay", "lr"), [(0.0, 1.0), (0.3, 1.0), (0.3, 0.5)])
@pytest.mark.parametrize("sizes", [[2, 3, 2], [3, 2, 4, 2], [2, 2, 3, 2, 1]])
def test_the_flow_follows_the_decay_law(sizes: list[int], decay: float, lr: float) -> None:
    """dW_j/dt = -eta (G_j + lam W_j) by SciPy; theory.md reports 2e-12 for the law."""
    factors = make_chain(4, sizes)
    target = ref.as_array(make_grad(5, factors))
    shapes = [tuple(f.shape) for f in factors]
    cuts = np.cumsum([math.prod(s) for s in shapes])[:-1]

    def unpack(state: ref.Array) -> list[ref.Array]:
        return [part.reshape(s) for part, s in zip(np.split(state, cuts), shapes, strict=True)]

    def velocity(_time: float, state: ref.Array) -> ref.Array:
        chain = unpack(state)
        gradients = ref.layer_gradients(chain, ref.product(chain) - target)
        return np.concatenate([(-lr * (g + decay * w)).reshape(-1) for g, w in zip(gradients, chain, strict=True)])

    start = np.concatenate([f.reshape(-1) for f in arrays(factors)])
    end = solve_ivp(velocity, (0, 1.5), start, method="DOP853", rtol=1e-12, atol=1e-13).y[:, -1]
    expected = decayed_imbalance(factors, time=1.5, weight_decay=decay, lr=lr)
    for law, found in zip(expected, ref.imbalance(unpack(end)), strict=True):
        np.testing.assert_allclose(found, law.numpy(), rtol=0, atol=2e-11)


# --- balance ---------------------------------------------------------------------------------------------------------


@given(SEEDS, CHAINS, st.sampled_from([torch.float64, torch.float32]))
def test_balanced_factors_keep_the_product_and_the_widths(seed: int, sizes: list[int], dtype: torch.dtype) -> None:
    factors = make_chain(seed, sizes, dtype)
    balanced = balance(factors)
    assert [f.shape for f in balanced] == [f.shape for f in factors]
    assert all(f.dtype == torch.float64 for f in balanced)
    chain, target = arrays(balanced), ref.product(arrays(factors))
    rounding = 1e-14 * math.prod(float(np.linalg.norm(f)) for f in arrays(factors))
    assert float(np.linalg.norm(ref.product(chain) - target)) <= rounding
    for difference in ref.imbalance(chain):
        assert float(np.linalg.norm(difference)) <= 1e-13 * float(np.linalg.norm(target, 2)) ** (2 / len(factors))


@pytest.mark.parametrize("sizes", [[5, 1, 4, 3], [4, 7, 2, 6, 4], [3, 9, 3], [2, 1, 1, 2]])
def test_narrow_and_uneven_widths_are_kept(sizes: list[int]) -> None:
    factors = make_chain(6, sizes)
    balanced = balance(factors)
    assert [f.shape for f in balanced] == [f.shape for f in factors]
    torch.testing.assert_close(od.product(balanced), od.product(factors), rtol=1e-12, atol=1e-13)
    for difference in od.imbalance(balanced):
        assert float(difference.norm()) <= 1e-13


def test_zero_factors_stay_zero() -> None:
    assert all(not bool(f.any()) for f in balance([torch.zeros(3, 2), torch.ones(4, 3)]))


def test_balancing_shares_no_memory() -> None:
    for sizes in ([3, 2], [3, 2, 4]):
        factors = make_chain(7, sizes)
        before = [f.clone() for f in factors]
        for factor in balance(factors):
            factor.zero_()
        assert all(torch.equal(a, b) for a, b in zip(factors, before, strict=True))


# --- factors with a chosen imbalance ---------------------------------------------------------------------------------


def check_chosen(factors: list[Tensor], weight: Tensor, differences: list[float], modes: int) -> None:
    """Product and imbalance to rounding, both relative to the sizes of what is multiplied."""
    chain = arrays(factors)
    largest = float(np.linalg.norm(ref.as_array(weight), 2))
    assert float(np.linalg.norm(ref.product(chain) - ref.as_array(weight))) <= 1e-13 * max(largest, 1e-300)
    scale = max(float(np.linalg.norm(f, 2)) ** 2 for f in chain)
    for d, found in zip(differences, ref.imbalance(chain), strict=True):
        expected = np.zeros_like(found)
        expected[:modes, :modes] = d * np.eye(modes)
        assert float(np.linalg.norm(found - expected)) <= 1e-12 * scale


@given(
    SEEDS, st.integers(1, 5), st.integers(1, 5), st.lists(st.floats(-4, 4), min_size=1, max_size=5), st.integers(0, 3)
)
def test_the_imbalance_is_the_chosen_one_on_the_modes(
    seed: int, k: int, d: int, differences: list[float], extra: int
) -> None:
    (weight,) = make_chain(seed, [d, k])
    width = min(k, d) + extra
    factors = factors_with_imbalance(weight, len(differences) + 1, differences, width)
    assert [tuple(f.shape) for f in factors] == [
        (after, before) for before, after in itertools.pairwise([d, *[width] * len(differences), k])
    ]
    assert all(f.dtype == torch.float64 for f in factors)
    check_chosen(factors, weight, differences, min(k, d))


@given(SEEDS, st.lists(st.sampled_from([0.0, 1.0, -2.0, 0.5]), min_size=1, max_size=4), st.integers(0, 3))
def test_weights_without_full_rank_keep_the_imbalance(seed: int, differences: list[float], rank: int) -> None:
    rng = np.random.default_rng(seed)
    values = list(10.0 ** rng.uniform(-4, 1, size=rank))
    weight = torch.from_numpy(ref.weight_with_singular_values(rng, 4, 5, values))
    factors = factors_with_imbalance(weight, len(differences) + 1, differences)
    check_chosen(factors, weight, differences, 4)
    if rank > 0:
        check_chosen(factors_with_imbalance(weight, len(differences) + 1, differences, rank), weight, differences, rank)


@pytest.mark.parametrize("size", [1e-200, 1e-30, 1e-8, 1.0, 1e8])
@pytest.mark.parametrize("differences", [[3.0, -1.0, 2.0], [0.0, 0.0, 5.0], [-1e6, 1e-6, 1.0]])
def test_products_of_every_size_are_kept(size: float, differences: list[float]) -> None:
    weight = size * make_chain(8, [3, 2])[0]
    check_chosen(factors_with_imbalance(weight, 4, differences), weight, differences, 2)


def test_one_number_holds_for_all_neighbours() -> None:
    (weight,) = make_chain(9, [3, 3])
    expected = factors_with_imbalance(weight, 4, [-0.7, -0.7, -0.7])
    for given_as in (-0.7, torch.tensor(-0.7, dtype=torch.float64), torch.tensor([-0.7] * 3, dtype=torch.float64)):
        found = factors_with_imbalance(weight, 4, given_as)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_imbalance_is_the_balanced_split() -> None:
    (weight,) = make_chain(10, [4, 3])
    for found, expected in zip(factors_with_imbalance(weight, 3, 0.0), od.balanced_factors(weight, 3), strict=True):
        torch.testing.assert_close(found.abs(), expected.abs(), rtol=1e-12, atol=1e-13)  # up to the modes' signs


def test_depth_one_is_a_copy() -> None:
    (weight,) = make_chain(11, [4, 3])
    (found,) = factors_with_imbalance(weight, 1, 2.0)
    assert torch.equal(found, weight)
    assert found.data_ptr() != weight.data_ptr()
    assert torch.equal(factors_with_imbalance(weight, 1, [])[0], weight)


def test_the_hand_made_two_layer_mode() -> None:
    """w = 6 = 2 * 3 with 3^2 - 2^2 = 5, and reversed for -5."""
    for difference, numbers in ((5.0, (2.0, 3.0)), (-5.0, (3.0, 2.0))):
        factors = factors_with_imbalance(torch.tensor([[6.0]]), 2, difference)
        assert [abs(float(f)) for f in factors] == pytest.approx(numbers, rel=1e-14)


# --- errors ----------------------------------------------------------------------------------------------------------

PAIR = [torch.ones(3, 2), torch.ones(1, 3)]
OF_FACTORS: list[Callable[[list[Tensor]], object]] = [
    balance,
    lambda factors: layer_gradients(factors, torch.ones(1, 2)),
    lambda factors: imbalance_drift(factors, torch.ones(1, 2), 0.1),
    lambda factors: decayed_imbalance(factors, 1.0, 0.1),
]


@pytest.mark.parametrize("function", OF_FACTORS)
def test_chains_that_are_none_are_refused(function: Callable[[list[Tensor]], object]) -> None:
    with pytest.raises(ValueError, match="factors is empty"):
        function([])
    with pytest.raises(ValueError, match=r"factors\[1\].*\(1, 4\).*factors\[0\].*\(3, 2\)"):
        function([torch.ones(3, 2), torch.ones(1, 4)])
    with pytest.raises(ValueError, match=r"factors\[0\].*\(2, 3, 2\)"):
        function([torch.ones(2, 3, 2), torch.ones(2, 1, 3)])
    with pytest.raises(ValueError, match=r"factors\[1\].*non-finite"):
        function([torch.ones(3, 2), torch.full((1, 3), math.nan)])


@pytest.mark.parametrize(
    "function", [lambda grad: layer_gradients(PAIR, grad), lambda grad: imbalance_drift(PAIR, grad, 0.1)]
)
def test_gradients_of_another_shape_or_not_finite_are_refused(function: Callable[[object], object]) -> None:
    with pytest.raises(ValueError, match=r"grad.*\(2, 1\).*\(1, 2\)"):
        function(torch.ones(2, 1))
    with pytest.raises(ValueError, match=r"grad.*non-finite"):
        function(torch.tensor([[1.0, math.inf]]))
    with pytest.raises(TypeError, match="grad is a list"):
        function([[1.0, 2.0]])


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, "1", True])
def test_numbers_out_of_range_are_refused_by_name(bad: float) -> None:
    grad = torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"^lr is"):
        imbalance_drift(PAIR, grad, lr=bad)
    with pytest.raises(ValueError, match=r"^weight_decay is"):
        imbalance_drift(PAIR, grad, lr=0.1, weight_decay=bad)
    with pytest.raises(ValueError, match=r"^time is"):
        decayed_imbalance(PAIR, bad, 0.1)
    with pytest.raises(ValueError, match=r"^weight_decay is"):
        decayed_imbalance(PAIR, 1.0, bad)
    with pytest.raises(ValueError, match=r"^lr is"):
        decayed_imbalance(PAIR, 1.0, 0.1, lr=bad)


def test_bad_weights_depths_widths_and_imbalances_are_refused() -> None:
    weight = torch.eye(3)
    with pytest.raises(TypeError, match="weight is a list"):
        factors_with_imbalance([[1.0]], 2, 0.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"weight.*\(2, 3, 3\)"):
        factors_with_imbalance(torch.ones(2, 3, 3), 2, 0.0)
    with pytest.raises(ValueError, match=r"weight.*non-finite"):
        factors_with_imbalance(torch.full((2, 2), math.nan), 2, 0.0)
    with pytest.raises(ValueError, match="depth is 0"):
        factors_with_imbalance(weight, 0, 0.0)
    with pytest.raises(ValueError, match=r"depth is 2\.5"):
        factors_with_imbalance(weight, 2.5, 0.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="width is 2, below the rank 3"):
        factors_with_imbalance(weight, 2, 0.0, width=2)
    with pytest.raises(ValueError, match="width is 0"):
        factors_with_imbalance(weight, 2, 0.0, width=0)
    with pytest.raises(ValueError, match=r"imbalance has shape \(3,\).*2 numbers"):
        factors_with_imbalance(weight, 3, [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="imbalance is"):
        factors_with_imbalance(weight, 3, [1.0, math.nan])
    with pytest.raises(ValueError, match="imbalance is"):
        factors_with_imbalance(weight, 3, math.inf)
