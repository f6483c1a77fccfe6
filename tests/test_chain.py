"""Products, imbalances and balanced splits of chains, and what importing the package loads."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as ref
from torch import Tensor
from torch.autograd.functional import jvp
from torch.utils.flop_counter import FlopCounterMode

import overdepth as od

UNIT_ROUNDOFF = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-8, torch.float16: 2**-11}
# What "to rounding" means for factors and products of sizes up to 8: a few dozen units of the working type.
ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-6}

SEEDS = st.integers(0, 2**32 - 1)
BATCHES = st.sampled_from([(), (2,), (2, 3), (1, 1)])
DTYPES = st.sampled_from([torch.float64, torch.float32, torch.bfloat16])
CHAINS = st.lists(st.integers(1, 5), min_size=2, max_size=6)  # n_0, ..., n_N


def make_chain(
    seed: int, sizes: list[int], batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Standard normal factors with layer sizes n_0, ..., n_N."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(*batch, sizes[j + 1], sizes[j], generator=generator, dtype=torch.float64).to(dtype)
        for j in range(len(sizes) - 1)
    ]


def unbatched(factors: list[Tensor], index: tuple[int, ...]) -> list[ref.Array]:
    return [ref.as_array(factor[index]) for factor in factors]


def golden_g1() -> list[Tensor]:
    """G1 of theory.md, whose W = W_1 W_2 W_3, in the library's order by the reverse map."""
    matrices = [[[1, 2, 0], [0, 1, -1]], [[1, 0], [2, 1], [0, 3]], [[1, 1, 0], [0, 1, 2]]]
    return [torch.tensor(matrix, dtype=torch.float64) for matrix in reversed(matrices)]


# --- product ---------------------------------------------------------------------------------------------------------


@given(SEEDS, CHAINS, BATCHES, DTYPES)
def test_product_is_w_n_to_w_1(seed: int, sizes: list[int], batch: tuple[int, ...], dtype: torch.dtype) -> None:
    """Within the forward error bound of N - 1 stored products with sums in at least float32."""
    factors = make_chain(seed, sizes, batch, dtype)
    actual = od.product(factors)
    assert actual.shape == (*batch, sizes[-1], sizes[0])
    assert actual.dtype == dtype
    u = UNIT_ROUNDOFF[dtype]
    relative = 1.05 * (len(factors) - 1) * u + sum(sizes[1:-1]) * min(u, 2**-24)
    for index in np.ndindex(*batch):
        chain = unbatched(factors, index)
        bound = relative * ref.product([np.abs(factor) for factor in chain])
        assert np.all(np.abs(ref.as_array(actual[index]) - ref.product(chain)) <= bound)


def test_product_of_integers_is_exact() -> None:
    golden = od.product(golden_g1())
    assert torch.equal(golden, torch.tensor([[5.0, 7.0, 4.0], [2.0, 0.0, -4.0]], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_product_of_one_factor_is_that_factor(dtype: torch.dtype) -> None:
    (factor,) = make_chain(0, [4, 3], (2,), dtype)
    assert torch.equal(od.product([factor]), factor)


def test_product_accepts_any_sequence() -> None:
    factors = make_chain(1, [4, 3, 2])
    assert torch.equal(od.product(tuple(factors)), od.product(factors))


@given(SEEDS, CHAINS)
def test_the_gradient_of_the_product_is_the_chain_rule(seed: int, sizes: list[int]) -> None:
    factors = make_chain(seed, sizes)
    grad = make_chain(seed + 1, [sizes[0], sizes[-1]])[0]
    leaves = [factor.requires_grad_() for factor in factors]
    actual = torch.autograd.grad(od.product(leaves), leaves, grad)
    expected = ref.layer_gradients([ref.as_array(factor) for factor in factors], ref.as_array(grad))
    for a, e in zip(actual, expected, strict=True):
        scale = max(float(np.linalg.norm(e)), 1e-3)
        assert float(np.linalg.norm(ref.as_array(a) - e)) <= 1e-12 * scale


@pytest.mark.parametrize("sizes", [[64, 64, 64, 1], [1, 64, 64, 64]])
def test_product_starts_at_the_cheaper_side(sizes: list[int]) -> None:
    """Two matrix-vector products instead of a matrix-matrix product."""
    factors = make_chain(2, sizes)
    with FlopCounterMode(display=False) as counter:
        od.product(factors)
    assert counter.get_total_flops() == 2 * 2 * 64 * 64


# --- imbalance -------------------------------------------------------------------------------------------------------


@given(SEEDS, CHAINS, BATCHES, DTYPES)
def test_imbalance_is_the_difference_of_the_gram_matrices(
    seed: int, sizes: list[int], batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Within the rounding of the working type (at least float32), and of storing the result."""
    factors = make_chain(seed, sizes, batch, dtype)
    actual = od.imbalance(factors)
    assert len(actual) == len(factors) - 1
    u = min(UNIT_ROUNDOFF[dtype], 2**-24)
    for index in np.ndindex(*batch):
        chain = unbatched(factors, index)
        for j, expected in enumerate(ref.imbalance(chain)):
            n = sizes[j + 1]
            assert actual[j].shape == (*batch, n, n)
            below, above = np.abs(chain[j]), np.abs(chain[j + 1])
            bound = (sizes[j] + sizes[j + 2] + 2) * u * (above.T @ above + below @ below.T)
            bound = bound + 1.01 * UNIT_ROUNDOFF[dtype] * np.abs(expected)
            assert np.all(np.abs(ref.as_array(actual[j][index]) - expected) <= bound)


def test_golden_g1_imbalances_by_the_reverse_map() -> None:
    """D_l of theory.md is + the library's D_(N-l)."""
    first, second = od.imbalance(golden_g1())
    np.testing.assert_allclose(second.numpy().reshape(-1), [0, 0, 0, 0, 0, -4, 0, -4, -8], rtol=1e-9)  # D_1
    np.testing.assert_allclose(first.numpy().reshape(-1), [3, 1, 1, 5], rtol=1e-9)  # D_2


def test_a_single_factor_has_no_imbalance() -> None:
    assert od.imbalance(make_chain(3, [4, 3])) == []


def layer_gradients(factors: list[Tensor], seed: int) -> list[Tensor]:
    """The layers' gradients for a random end-to-end gradient."""
    grad = make_chain(seed, [factors[0].shape[1], factors[-1].shape[0]])[0]
    return [torch.from_numpy(g) for g in ref.layer_gradients([ref.as_array(f) for f in factors], ref.as_array(grad))]


@given(SEEDS, st.lists(st.integers(1, 5), min_size=3, max_size=5), st.sampled_from([0.0, 0.4]))
def test_gradient_flow_keeps_the_imbalance_and_decay_shrinks_it(seed: int, sizes: list[int], decay: float) -> None:
    """dD_j/dt = -2 lam D_j for any gradient of the product."""
    factors = make_chain(seed, sizes)
    velocities = [-g - decay * f for g, f in zip(layer_gradients(factors, seed + 1), factors, strict=True)]
    _, derivatives = jvp(lambda *fs: tuple(od.imbalance(fs)), tuple(factors), tuple(velocities))  # type: ignore[no-untyped-call]
    scale = sum(float(f.norm() * v.norm()) for f, v in zip(factors, velocities, strict=True))
    for derivative, difference in zip(derivatives, od.imbalance(factors), strict=True):
        assert float((derivative + 2 * decay * difference).norm()) <= 1e-12 * scale


@given(SEEDS, st.lists(st.integers(1, 5), min_size=3, max_size=5), st.sampled_from([0.0, 0.4]))
def test_imbalance_after_a_discrete_step_is_an_exact_identity(seed: int, sizes: list[int], decay: float) -> None:
    """D_j+ = (1 - eta lam)^2 D_j + eta^2 (G_{j+1}^T G_{j+1} - G_j G_j^T), library order."""
    eta = 0.1
    factors = make_chain(seed, sizes)
    gradients = layer_gradients(factors, seed + 1)
    stepped = [(1 - eta * decay) * f - eta * g for f, g in zip(factors, gradients, strict=True)]
    scale = sum(float(f.norm() + eta * g.norm()) ** 2 for f, g in zip(factors, gradients, strict=True))
    terms = zip(od.imbalance(stepped), od.imbalance(factors), od.imbalance(gradients), strict=True)
    for after, before, of_gradients in terms:
        expected = (1 - eta * decay) ** 2 * before + eta**2 * of_gradients
        assert float((after - expected).norm()) <= 1e-13 * scale


# --- balanced_factors ------------------------------------------------------------------------------------------------


@given(
    SEEDS, st.integers(1, 8), st.integers(1, 8), st.integers(1, 6), st.one_of(st.none(), st.integers(0, 4)), BATCHES,
    DTYPES,
)  # fmt: skip
def test_balanced_factors_multiply_to_the_weight_and_have_no_imbalance(
    seed: int, k: int, d: int, depth: int, extra: int | None, batch: tuple[int, ...], dtype: torch.dtype
) -> None:
    (weight,) = make_chain(seed, [d, k], batch, dtype)
    width = min(k, d) + (extra or 0)
    factors = od.balanced_factors(weight, depth, None if extra is None else width)
    sizes = [d] + [width] * (depth - 1) + [k]
    assert [tuple(f.shape) for f in factors] == [(*batch, sizes[j + 1], sizes[j]) for j in range(depth)]
    assert all(f.dtype == dtype for f in factors)
    r = min(k, d)
    for index in np.ndindex(*batch):
        chain, target = unbatched(factors, index), ref.as_array(weight[index])
        largest = float(np.linalg.norm(target, 2))
        if dtype == torch.bfloat16:
            # Each factor, of norm <= sqrt(r) sigma_1^(1/N), is rounded once; first order in u, 5% for the rest.
            tolerance = 1.05 * math.sqrt(r) * UNIT_ROUNDOFF[dtype]
            of_product, of_imbalance = depth * tolerance, 4 * tolerance
        else:
            of_product = of_imbalance = ROUNDING[dtype]
        assert float(np.linalg.norm(ref.product(chain) - target)) <= of_product * largest
        for difference in ref.imbalance(chain):
            assert float(np.linalg.norm(difference)) <= of_imbalance * largest ** (2 / depth)


@given(SEEDS, st.integers(2, 5), DTYPES)
def test_factors_share_the_roots_of_the_singular_values(seed: int, depth: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(seed)
    values = list(rng.uniform(0.1, 3, size=3))
    weight = torch.from_numpy(ref.weight_with_singular_values(rng, 4, 3, values)).to(dtype)
    roots = np.linalg.svd(ref.as_array(weight), compute_uv=False) ** (1 / depth)
    tolerance = {**ROUNDING, torch.bfloat16: 1.05 * math.sqrt(3) * UNIT_ROUNDOFF[torch.bfloat16]}[dtype]
    for factor in od.balanced_factors(weight, depth):
        actual = np.linalg.svd(ref.as_array(factor), compute_uv=False)
        np.testing.assert_allclose(actual, roots, rtol=0, atol=tolerance * roots[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 4), (1, 4), (4, 1), (2, 3, 4)])
def test_depth_one_is_the_weight_itself(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(4)).to(dtype)
    factors = od.balanced_factors(weight, 1)
    assert len(factors) == 1
    assert torch.equal(factors[0], weight)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("width", [2, 3, 5, 9])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_a_width_from_the_rank_on_is_enough(depth: int, width: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(5)
    weight = torch.from_numpy(ref.weight_with_singular_values(rng, 6, 5, [3.0, 0.2])).to(dtype)
    factors = od.balanced_factors(weight, depth, width)
    chain = [ref.as_array(factor) for factor in factors]
    assert [f.shape[0] for f in chain] == [width] * (depth - 1) + [6]
    assert float(np.linalg.norm(ref.product(chain) - ref.as_array(weight))) <= ROUNDING[dtype] * 3.0
    for difference in ref.imbalance(chain):
        assert float(np.linalg.norm(difference)) <= ROUNDING[dtype] * 3.0 ** (2 / depth)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rank", "width"), [(3, 2), (4, 1), (4, 3)])
def test_a_width_below_the_rank_is_refused(rank: int, width: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(6)
    weight = torch.from_numpy(ref.weight_with_singular_values(rng, 5, 4, [4.0, 3.0, 2.0, 1.0][:rank])).to(dtype)
    with pytest.raises(ValueError, match=f"width.*{width}") as caught:
        od.balanced_factors(weight, 3, width)
    if dtype != torch.bfloat16:  # whose rounding adds directions of its own
        assert f"rank {rank}" in str(caught.value) or f"rank is {rank}" in str(caught.value)


def test_one_weight_of_a_batch_may_not_exceed_the_width_either() -> None:
    weight = torch.stack([torch.diag(torch.tensor([1.0, 0.0, 0.0])), torch.eye(3)])
    with pytest.raises(ValueError, match="width"):
        od.balanced_factors(weight, 2, width=2)
    factors = od.balanced_factors(weight, 2, width=3)
    torch.testing.assert_close(od.product(factors), weight, rtol=0, atol=1e-6)


@pytest.mark.parametrize("width", [1, 3, 5])
def test_a_zero_weight_has_zero_factors(width: int) -> None:
    for factor in od.balanced_factors(torch.zeros(3, 4), 3, width):
        assert torch.equal(factor, torch.zeros_like(factor))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_balanced_factors_of_very_small_and_large_float32_weights(scale: float) -> None:
    weight = scale * make_chain(7, [4, 3], (), torch.float32)[0]
    chain = [ref.as_array(factor) for factor in od.balanced_factors(weight, 3)]
    target = ref.as_array(weight)
    assert float(np.linalg.norm(ref.product(chain) - target)) <= 1e-6 * float(np.linalg.norm(target, 2))


def test_balanced_factors_leave_the_weight_alone_and_do_not_share_its_memory() -> None:
    (weight,) = make_chain(8, [4, 3])
    before = weight.clone()
    for depth in (2, 3):
        for factor in od.balanced_factors(weight, depth):
            factor.zero_()
    assert torch.equal(weight, before)


def test_numpy_integers_are_depths_and_widths() -> None:
    factors = od.balanced_factors(torch.eye(2), np.int64(3), np.int64(4))  # type: ignore[arg-type]
    assert [tuple(f.shape) for f in factors] == [(4, 2), (4, 4), (2, 4)]


# --- errors ----------------------------------------------------------------------------------------------------------

OF_FACTORS: list[Callable[[list[Tensor]], object]] = [od.product, od.imbalance]


@pytest.mark.parametrize("function", OF_FACTORS)
def test_an_empty_chain_is_refused(function: Callable[[list[Tensor]], object]) -> None:
    with pytest.raises(ValueError, match="factors"):
        function([])


@pytest.mark.parametrize("function", OF_FACTORS)
@pytest.mark.parametrize(
    ("lower", "upper"),
    [((3, 2), (2, 4)), ((3, 2), (3, 2)), ((5, 3, 2), (5, 3, 2)), ((2, 3, 2), (4, 5, 3)), ((2, 2, 3, 2), (3, 2, 5, 3))],
)
def test_neighbours_that_do_not_chain_are_both_shown(
    function: Callable[[list[Tensor]], object], lower: tuple[int, ...], upper: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"factors\[1\]") as caught:
        function([torch.ones(lower), torch.ones(upper)])
    assert str(lower) in str(caught.value)
    assert str(upper) in str(caught.value)


@pytest.mark.parametrize("function", OF_FACTORS)
def test_the_message_names_the_neighbours_in_a_long_chain(function: Callable[[list[Tensor]], object]) -> None:
    factors = [torch.ones(3, 2), torch.ones(4, 3), torch.ones(5, 7), torch.ones(1, 5)]
    with pytest.raises(ValueError, match=r"factors\[2\].*\(5, 7\).*factors\[1\].*\(4, 3\)"):
        function(factors)


@pytest.mark.parametrize("function", OF_FACTORS)
def test_vectors_and_odd_dtypes_in_a_chain_are_refused(function: Callable[[list[Tensor]], object]) -> None:
    with pytest.raises(ValueError, match=r"factors\[1\].*\(3,\)"):
        function([torch.ones(3, 2), torch.ones(3)])
    with pytest.raises(ValueError, match=r"factors\[0\].*int64"):
        function([torch.ones(3, 2, dtype=torch.int64), torch.ones(1, 3)])
    with pytest.raises(ValueError, match=r"factors\[1\].*complex64"):
        function([torch.ones(3, 2), torch.ones(1, 3, dtype=torch.complex64)])
    with pytest.raises(ValueError, match=r"float64.*float32|float32.*float64"):
        function([torch.ones(3, 2), torch.ones(1, 3, dtype=torch.float64)])


@pytest.mark.parametrize("depth", [0, -1, 0.5, 2.5, 2.0, math.nan, math.inf, True, "2", None])
def test_depths_that_are_no_integers_from_one_on_are_refused(depth: object) -> None:
    with pytest.raises(ValueError, match="depth"):
        od.balanced_factors(torch.eye(2), depth)  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [0, -1, 1.5, 3.0, math.nan, math.inf, True, "2"])
@pytest.mark.parametrize("depth", [1, 2])
def test_widths_that_are_no_integers_from_one_on_are_refused(width: object, depth: int) -> None:
    with pytest.raises(ValueError, match="width"):
        od.balanced_factors(torch.ones(1, 2), depth, width)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [1, 2])
def test_weights_that_cannot_be_split_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=r"weight.*\(3,\)"):
        od.balanced_factors(torch.ones(3), depth)
    for dtype in (torch.int64, torch.bool, torch.complex64):
        with pytest.raises(ValueError, match=f"weight.*{dtype}"):
            od.balanced_factors(torch.ones(2, 2).to(dtype), depth)
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="weight"):
            od.balanced_factors(torch.tensor([[1.0, value], [0.0, 1.0]]), depth)


# --- importing -------------------------------------------------------------------------------------------------------

IMPORT_SCRIPT = """
import json, sys
import torch
before = set(sys.modules)
import overdepth as od
loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
extras = sorted(set(sys.modules) & {"xarray", "pandas", "scipy", "plotly", "typer", "sklearn", "h5py", "pooch", "rich"})
early = sorted(name for name in sys.modules if name.startswith(("overdepth.lab", "overdepth.paper")))
lab = od.lab
print(json.dumps({"loaded": loaded, "extras": extras, "early": early, "lab": lab.__name__, "run": hasattr(lab, "Run"),
                  "same": lab is sys.modules["overdepth.lab"]}))
"""


def test_importing_the_package_needs_torch_alone_and_the_lab_comes_on_first_use() -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", IMPORT_SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert set(report["loaded"]) <= {"overdepth", "torch"}
    assert report["extras"] == []
    assert report["early"] == []
    assert report["lab"] == "overdepth.lab"
    assert report["run"]
    assert report["same"]


def test_unknown_attributes_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        od.no_such_name  # noqa: B018


def test_every_public_name_exists() -> None:
    for name in od.__all__:
        assert getattr(od, name) is not None
