"""The rule for JAX, against NumPy, against the rule on tensors, and step by step against EndToEndSGD."""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as ref

import overdepth as od
from overdepth.optax import _multipliers, scale_by_end_to_end

# float64 inside; float32 inside, where 2e-6 is what a 256 x 512 matrix was measured to have up to a condition of 1e4.
TOLERANCE = {True: 1e-12, False: 5e-6}
STORED = {"float32": 2**-24, "bfloat16": 2**-8, "float16": 2**-11}  # one rounding of the result
REFERENCE_RTOL = 1e-6  # between the noise of a null direction and the smallest singular value drawn here
SHAPES = [(1, 1), (1, 5), (4, 4), (3, 5), (5, 3)]  # each shape is compiled once
DEPTHS = [1, 1.5, 2, 3, 5, math.inf]


def precondition(weight: ref.Array, grad: ref.Array, depth: float, dtype: Any = None, **options: Any) -> Any:
    """The update of one leaf, with what it computes in under the caller's setting."""
    transform = scale_by_end_to_end(depth, **{"allow_frozen_directions": True, **options})
    params, updates = jnp.asarray(weight, dtype), jnp.asarray(grad, dtype)
    return transform.update(updates, transform.init(params), params)[0]


def as_array(leaf: Any) -> ref.Array:
    return np.asarray(leaf, dtype=np.float64)


def error(actual: Any, expected: ref.Array, weight: ref.Array, grad: ref.Array, depth: float) -> float:
    """Relative to the result, or where an inner product may cancel (infinite depth) to the rule's norm times |g|."""
    scale = float(np.linalg.norm(expected))
    if math.isinf(depth):
        scale = float(np.linalg.norm(weight, 2) ** 2 * np.linalg.norm(grad))
    gap = float(np.linalg.norm(as_array(actual) - expected))
    return gap / scale if scale > 0 else gap


def draw(seed: int, shape: tuple[int, int], rank: int, spread: float = 3.0) -> tuple[ref.Array, ref.Array]:
    """A weight of a known rank with singular values from 10 down, and a gradient."""
    rng = np.random.default_rng(seed)
    values = 10 ** rng.uniform(1 - spread, 1, size=rank)
    return ref.weight_with_singular_values(rng, *shape, list(values)), rng.standard_normal(shape)


# --- against NumPy and the rule on tensors ----------------------------------------------------------------------------


@given(
    st.integers(0, 2**32 - 1), st.sampled_from(SHAPES), st.integers(0, 5), st.sampled_from(DEPTHS) | st.floats(1, 8),
    st.booleans(),
)  # fmt: skip
def test_it_is_the_rule(seed: int, shape: tuple[int, int], rank: int, depth: float, x64: bool) -> None:
    weight, grad = draw(seed, shape, min(rank, *shape))
    if not x64:
        weight, grad = as_array(np.float32(weight)), as_array(np.float32(grad))
    with jax.enable_x64(x64):
        actual = precondition(weight, grad, depth)
    assert actual.dtype == (np.float64 if x64 else np.float32)
    expected = ref.end_to_end_update(weight, grad, depth, REFERENCE_RTOL)
    assert error(actual, expected, weight, grad, depth) <= TOLERANCE[x64]
    tensors = torch.from_numpy(weight), torch.from_numpy(grad)
    rule = od.end_to_end_update(*tensors, depth, rank_rtol=REFERENCE_RTOL, allow_frozen_directions=True)
    assert error(actual, ref.as_array(rule), weight, grad, depth) <= TOLERANCE[x64]


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("x64", [False, True])
def test_accuracy_of_float32_weights_by_condition(depth: int, x64: bool) -> None:
    rng = np.random.default_rng(0)
    grad = as_array(np.float32(rng.standard_normal((64, 96))))
    for condition, tolerance in [(1e2, 5e-6), (1e4, 5e-6), (1e5, 3e-5), (1e6, 1e-3)]:
        values = np.geomspace(1, 1 / condition, 64)
        weight = as_array(np.float32(ref.weight_with_singular_values(rng, 64, 96, list(values))))
        expected = ref.theorem_1(weight, grad, depth, 1e-8)
        with jax.enable_x64(x64):
            actual = precondition(weight, grad, depth, dtype=jnp.float32)
        assert error(actual, expected, weight, grad, depth) <= (2**-24 if x64 else tolerance)


@pytest.mark.parametrize("shape", [(3, 5), (1, 5)])
@pytest.mark.parametrize(("dtype", "x64"), [("float32", True), ("bfloat16", False), ("float16", True)])
def test_results_are_rounded_once_to_the_type_of_the_updates(dtype: str, x64: bool, shape: tuple[int, int]) -> None:
    weight, grad = draw(3, shape, min(shape), spread=1.0)
    with jax.enable_x64(x64):
        weight_, grad_ = as_array(jnp.asarray(weight, dtype)), as_array(jnp.asarray(grad, dtype))
        actual = precondition(weight, grad, 3, dtype=dtype)
    assert actual.dtype == dtype
    expected = ref.theorem_1(weight_, grad_, 3, REFERENCE_RTOL)
    assert error(actual, expected, weight_, grad_, 3) <= TOLERANCE[x64] + STORED[dtype]


def test_weights_and_updates_may_differ_in_type() -> None:
    weight, grad = draw(3, (3, 5), 3, spread=1.0)
    weight, low = as_array(np.float32(weight)), jnp.asarray(grad, jnp.bfloat16)
    actual, _ = scale_by_end_to_end(3).update(low, optax.EmptyState(), jnp.asarray(weight))
    assert actual.dtype == jnp.bfloat16
    expected = ref.theorem_1(weight, as_array(low), 3, REFERENCE_RTOL)
    assert error(actual, expected, weight, grad, 3) <= TOLERANCE[False] + STORED["bfloat16"]


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12])
@pytest.mark.parametrize("shape", [(1, 5), (3, 5)])
def test_float32_holds_the_rule_at_extreme_scales(scale: float, shape: tuple[int, int]) -> None:
    weight, grad = draw(5, shape, min(shape), spread=1.0)
    weight, grad = as_array(np.float32(scale * weight)), as_array(np.float32(grad))
    expected = ref.end_to_end_update(weight, grad, 3, REFERENCE_RTOL)
    exponent = 2 * abs(math.log(scale)) * 2**-24  # what rounding 2 - 2/N to float32 costs there
    assert error(precondition(weight, grad, 3), expected, weight, grad, 3) <= TOLERANCE[False] + exponent


@pytest.mark.parametrize("x64", [False, True])
def test_the_noise_of_null_directions_counts_as_zero(x64: bool) -> None:
    weight, grad = draw(7, (64, 96), 20, spread=0.0)  # equal singular values: the most noise
    weight, grad = as_array(np.float32(weight)), as_array(np.float32(grad))
    expected = ref.end_to_end_update(weight, grad, 5, REFERENCE_RTOL)
    with jax.enable_x64(x64):
        kept, raw = (precondition(weight, grad, 5, dtype=jnp.float32, rank_rtol=r) for r in (None, 0.0))
    assert error(kept, expected, weight, grad, 5) <= TOLERANCE[False]
    assert error(raw, expected, weight, grad, 5) > 1e-4


def test_rank_rtol_is_what_is_asked() -> None:
    weight, grad = np.diag([1.0, 1e-2]), np.eye(2)[::-1]
    expected = ref.end_to_end_update(weight, grad, 3, 0.1)
    assert error(precondition(weight, grad, 3, rank_rtol=0.1), expected, weight, grad, 3) <= TOLERANCE[False]
    assert error(precondition(weight, grad, 3), expected, weight, grad, 3) > 0.04  # 1e-2 ** (2 / 3)


# --- shapes and layouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2.5])
@pytest.mark.parametrize("shape", [(3, 5), (1, 5)])
def test_a_kernel_may_lie_either_way(shape: tuple[int, int], depth: float) -> None:
    weight, grad = draw(11, shape, min(shape))
    with jax.enable_x64(True):
        update, mirrored = precondition(weight, grad, depth), precondition(weight.T, grad.T, depth)
    assert error(mirrored.T, as_array(update), weight, grad, depth) <= 1e-12


@pytest.mark.parametrize("depth", [1.5, 3])
@pytest.mark.parametrize("size", [(4, 2, 3, 3), (1, 2, 3, 1), (4, 1, 1, 1), (5, 3, 1)])
def test_convolutions_are_the_last_axis_against_the_others(size: tuple[int, ...], depth: float) -> None:
    rng = np.random.default_rng(13)
    weight, grad = rng.standard_normal((2, *size))  # torch: out, in, then space
    flax = (*range(2, len(size)), 1, 0)
    with jax.enable_x64(True):
        actual = precondition(weight.transpose(flax), grad.transpose(flax), depth)
    assert actual.shape == weight.transpose(flax).shape
    expected = od.end_to_end_update(torch.from_numpy(weight).flatten(1), torch.from_numpy(grad).flatten(1), depth)
    back = as_array(actual).transpose(np.argsort(flax)).reshape(size[0], -1)
    assert ref.relative_error(expected, back) <= 1e-12


def test_a_tree_keeps_its_structure_and_vectors_their_updates() -> None:
    rng = np.random.default_rng(17)
    weight, grad = as_array(rng.standard_normal((2, 3, 5)).astype(np.float32))
    vector = rng.standard_normal(5).astype(np.float32)
    empty = np.zeros((0, 5), np.float32)
    params: Any = {"a": [weight, (vector, 2.0)], "b": None, "frozen": weight, "empty": empty}
    grads: Any = {"a": [grad, (vector, 1.0)], "b": None, "frozen": None, "empty": empty}
    transform = scale_by_end_to_end(2)
    updates, state = transform.update(grads, transform.init(params), params)
    assert state == optax.EmptyState()
    assert updates.keys() == grads.keys()
    assert updates["b"] is updates["frozen"] is None
    assert updates["a"][1] == grads["a"][1]  # the very objects
    assert updates["empty"] is empty
    expected = ref.end_to_end_update(weight, grad, 2, REFERENCE_RTOL)
    assert error(updates["a"][0], expected, weight, grad, 2) <= TOLERANCE[False]


# --- null directions, zero, what is not finite ------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS[1:])
def test_multipliers_are_those_of_claim_1_without_a_nan_or_infinity_on_the_way(depth: float) -> None:
    values = np.array([0.0, 1e-3, 1.7, 1.7 + 2**-50, 1.7 + 2**-30, 300.0])
    with jax.enable_x64(True), jax.debug_nans(True), jax.debug_infs(True):
        actual = _multipliers(jnp.asarray(values)[:, None], jnp.asarray(values)[None, :], depth, math.isinf(depth))
    expected = [[ref.multiplier_of_quotient(a, b, depth) for b in values] for a in values]
    np.testing.assert_allclose(actual, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("depth", DEPTHS[1:])
@pytest.mark.parametrize("shape", [(3, 5), (1, 5)])
def test_zeros_stay_zeros(shape: tuple[int, int], depth: float) -> None:
    weight, grad = draw(19, shape, min(shape))
    zero = np.zeros(shape)
    with jax.debug_nans(True), jax.debug_infs(True):
        assert not precondition(zero, grad, depth).any()
        assert not precondition(weight, zero, depth).any()
        assert precondition(np.eye(*shape), grad, depth).any()  # equal singular values, null ones too


def test_infinite_depth_leaves_directions_with_one_null_side_still() -> None:
    weight, grad = draw(23, (4, 4), 2, spread=1.0)
    u, _, vh = np.linalg.svd(weight)
    with jax.enable_x64(True):
        moved = u.T @ as_array(precondition(weight, grad, math.inf)) @ vh.T
    assert np.abs(moved[:2, :2]).min() > 1e-3
    moved[:2, :2] = 0
    assert np.abs(moved).max() <= 1e-12


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("shape", [(3, 5), (1, 5)])
def test_a_weight_that_is_not_finite_gives_nan_and_comes_back(shape: tuple[int, int], value: float) -> None:
    weight = np.ones(shape)
    weight[0, 0] = value
    assert np.isnan(precondition(weight, np.ones(shape), 2)).all()


# --- in optax ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("depth", "momentum"), [(1, 0.9), (2, 0.0), (2.5, 0.9), (math.inf, 0.0)])
def test_twenty_steps_are_those_of_end_to_end_sgd(depth: float, momentum: float) -> None:
    rng = np.random.default_rng(29)
    x, y = rng.standard_normal((30, 4)), rng.standard_normal((30, 4))
    start = rng.standard_normal((4, 4))

    layer = torch.nn.Linear(4, 4, bias=False, dtype=torch.float64)
    layer.weight.data = torch.from_numpy(start.T.copy())
    sgd = od.optim.EndToEndSGD(layer.parameters(), 0.02, depth=depth, momentum=momentum)
    for _ in range(20):
        sgd.zero_grad()
        (layer(torch.from_numpy(x)) - torch.from_numpy(y)).square().mean().backward()
        sgd.step()

    with jax.enable_x64(True):
        ours = optax.chain(scale_by_end_to_end(depth), optax.sgd(0.02, momentum=momentum))

        @jax.jit
        def step(kernel: jax.Array, state: Any) -> tuple[Any, Any]:
            grad = jax.grad(lambda w: jnp.square(x @ w - y).mean())(kernel)
            updates, state = ours.update(grad, state, kernel)
            return optax.apply_updates(kernel, updates), state

        kernel = jnp.asarray(start)
        state = ours.init(kernel)
        for _ in range(20):
            kernel, state = step(kernel, state)
        ended = as_array(kernel)
    assert np.abs(ended - start).max() > 0.1
    assert np.abs(ended - ref.as_array(layer.weight).T).max() <= 1e-12


def test_masked_leaves_weights_out() -> None:
    weight, grad = (as_array(np.float32(a)) for a in draw(31, (3, 5), 3, spread=1.0))
    params = {"head": jnp.asarray(weight), "hidden": jnp.asarray(weight), "bias": jnp.ones(5)}
    grads = {"head": jnp.asarray(grad), "hidden": jnp.asarray(grad), "bias": jnp.ones(5)}
    transform = optax.masked(scale_by_end_to_end(3), {"head": False, "hidden": True, "bias": False})
    updates, _ = jax.jit(transform.update)(grads, transform.init(params), params)
    np.testing.assert_array_equal(updates["head"], grad)
    expected = ref.theorem_1(weight, grad, 3, REFERENCE_RTOL)
    assert error(updates["hidden"], expected, weight, grad, 3) <= TOLERANCE[False]


def test_products_ask_for_full_precision() -> None:
    """Accelerators take fewer bits unless they are asked; on a CPU that cannot be seen in the numbers."""
    transform = scale_by_end_to_end(3)
    weight = jnp.ones((3, 5))
    program = jax.jit(transform.update).lower(weight, transform.init(weight), weight).as_text()
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert len(products) == 4
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_leaves_of_one_shape_are_compiled_once() -> None:
    weights = [jnp.ones((3, 5))] * 4
    transform = scale_by_end_to_end(3)
    program = jax.jit(transform.update).lower(weights, transform.init(weights), weights).as_text()
    assert program.count("stablehlo.dot_general") == 4


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0.5, -1, math.nan, True, "2", None])
def test_depths_are_checked_at_construction(depth: Any) -> None:
    with pytest.raises(ValueError, match=r"depth is .*expected a real number >= 1 or math\.inf"):
        scale_by_end_to_end(depth)


@pytest.mark.parametrize("rank_rtol", [-1e-3, 1.0, math.nan])
def test_rank_rtol_is_checked_at_construction(rank_rtol: float) -> None:
    with pytest.raises(ValueError, match="rank_rtol"):
        scale_by_end_to_end(2, rank_rtol=rank_rtol)


@pytest.mark.parametrize("depth", [1, 2])
def test_updates_without_params_are_refused(depth: int) -> None:
    for transform in (scale_by_end_to_end(depth), optax.chain(scale_by_end_to_end(depth), optax.sgd(0.1))):
        with pytest.raises(ValueError, match=r"update\(updates, state, params\)"):
            transform.update(jnp.ones((2, 2)), transform.init(jnp.ones((2, 2))))


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64"])
def test_weights_of_other_types_are_refused_by_name(dtype: str) -> None:
    params = {"layers": [jnp.ones((2, 2), dtype)], "table": jnp.ones(3, dtype)}
    transform = scale_by_end_to_end(2)
    with pytest.raises(ValueError, match=rf"\['layers'\]\[0\] has dtype {dtype}.*optax\.masked"):
        transform.init(params)
    with pytest.raises(ValueError, match=rf"\['layers'\]\[0\] has dtype {dtype}.*optax\.masked"):
        transform.update(params, optax.EmptyState(), params)
    with pytest.raises(ValueError, match=rf"the update of the parameter has dtype {dtype}"):
        transform.update(jnp.ones((2, 2), dtype), optax.EmptyState(), jnp.ones((2, 2)))
    scale_by_end_to_end(1).init(params)


def test_shapes_that_differ_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"\['w'\] has shape \(2, 3\).*\(3, 2\)"):
        scale_by_end_to_end(2).update({"w": jnp.ones((2, 3))}, optax.EmptyState(), {"w": jnp.ones((3, 2))})


@pytest.mark.parametrize("shape", [(2, 3), (1, 3), (2, 2, 3)])
def test_infinite_depth_is_refused_where_directions_would_freeze(shape: tuple[int, ...]) -> None:
    params = jnp.ones(shape)
    with pytest.raises(ValueError, match=r"the parameter is a matrix of \d x 3.*allow_frozen_directions"):
        scale_by_end_to_end(math.inf).init(params)
    scale_by_end_to_end(math.inf, allow_frozen_directions=True).init(params)
    scale_by_end_to_end(math.inf).init(jnp.ones((2, 2, 4)))
    scale_by_end_to_end(math.inf).init(jnp.ones(3))


@pytest.mark.parametrize("missing", ["jax", "optax"])
def test_without_the_extra_the_error_names_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, "overdepth.optax")
    with pytest.raises(ImportError, match=rf"needs {missing}.*pip install 'overdepth\[optax\]'"):
        importlib.import_module("overdepth.optax")


def test_the_package_has_it_as_an_attribute() -> None:
    assert od.optax is sys.modules["overdepth.optax"]
    assert "optax" in dir(od)
