"""How factors begin: which starts keep the weight, which are balanced, and what is drawn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import layers as ref
from tests.reference.linear_algebra import Array, as_array, weight_with_singular_values
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from overdepth.layouts import ComposedLayout, KernelLayout, Layout, MatrixLayout, Start

SEEDS = st.integers(0, 2**32 - 1)
ROUNDOFF = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-8}
# Of float64 arithmetic, in which starts are made: as in test_chain.py.
ARITHMETIC = 1e-12

KEEPING = [
    MatrixLayout((4, 6), 2),
    MatrixLayout((6, 4), 4),
    MatrixLayout((4, 6), 3, 9),
    MatrixLayout((1, 5), 3),
    MatrixLayout((4, 3, 3), 2),
    MatrixLayout((4, 2, 2, 3), 3, None, 2),
    MatrixLayout((6, 1, 3), 2, None, 6),  # depthwise
    MatrixLayout((4, 1, 3, 2), 3, 5, 2),
    MatrixLayout((3, 2, 2, 2, 2), 2),
    KernelLayout((4, 3, 3), 3),
    KernelLayout((3, 4, 3), 4),
    KernelLayout((4, 3, 2), 3, 6),
    KernelLayout((4, 3, 2), 5, 5),
    KernelLayout((4, 2, 2, 3), 3, None, 2),
    KernelLayout((5, 1, 3), 3, None, 5),  # depthwise
    KernelLayout((4, 3, 2, 2, 2), 3),
    KernelLayout((6, 1, 2, 2), 4, None, 2),
]
DRAWING = [
    *KEEPING[:8],
    *KEEPING[9:13],
    ComposedLayout((4, 3, 5), 2),
    ComposedLayout((4, 2, 3, 4), 3, None, 2),
    ComposedLayout((3, 1, 5), 2, 4, 3),
]


def reference(layout: Layout, factors: list[Array]) -> Array:
    if isinstance(layout, KernelLayout):
        return ref.kernel_between(factors, layout.weight_shape, layout.groups)
    if isinstance(layout, ComposedLayout):
        return ref.composed(factors, layout.groups)
    assert isinstance(layout, MatrixLayout)
    return ref.kernel_first(factors, layout.weight_shape, layout.groups)


def weight_of(layout: Layout, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(layout.weight_shape, generator=generator, dtype=torch.float64).to(dtype)


def check_kept(layout: Layout, factors: list[Tensor], weight: Tensor) -> None:
    """Every factor was rounded once, and the product's error is no larger than that explains."""
    assert [tuple(f.shape) for f in factors] == list(layout.factor_shapes)
    assert all(f.dtype == weight.dtype and f.is_contiguous() for f in factors)
    arrays = [as_array(f) for f in factors]
    size = reference(layout, [np.abs(a) for a in arrays])
    bound = 1.05 * layout.depth * ROUNDOFF[weight.dtype] * size + ARITHMETIC * float(weight.double().norm())
    assert np.all(np.abs(reference(layout, arrays) - as_array(weight)) <= bound)


def imbalances(layout: MatrixLayout | KernelLayout, factors: list[Tensor]) -> list[tuple[Array, float]]:
    """D_j and the size of its terms, of every group; kernels are summed over their taps."""
    found = []
    for g in range(layout.groups):
        parts = [ref.by_group(as_array(f), layout.groups)[g] for f in factors]
        sizes = [float(np.sum(upper**2) + np.sum(lower**2)) for lower, upper in itertools.pairwise(parts)]
        found += list(zip(ref.kernel_imbalance(parts), sizes, strict=True))
    return found


# --- balanced --------------------------------------------------------------------------------------------------------


@given(st.sampled_from(KEEPING), SEEDS, st.sampled_from(list(ROUNDOFF)))
def test_balanced_keeps_the_weight_and_has_no_imbalance(
    layout: MatrixLayout | KernelLayout, seed: int, dtype: torch.dtype
) -> None:
    weight = weight_of(layout, seed, dtype)
    before = weight.clone()
    factors = layout.initial(weight, Start("balanced"))
    check_kept(layout, factors, weight)
    for difference, size in imbalances(layout, factors):
        assert float(np.linalg.norm(difference)) <= (4 * ROUNDOFF[dtype] + ARITHMETIC) * size
    assert torch.equal(weight, before)


class Decompositions(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts singular value and eigenvalue decompositions."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += "_linalg_svd" in str(func) or "_linalg_eigh" in str(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("depth", [3, 4, 5])
@pytest.mark.parametrize("kind", ["random", "dead input channel", "dead output channel", "rank one", "ill-conditioned"])
def test_balancing_a_kernel_ends_at_rounding(kind: str, depth: int, dtype: torch.dtype) -> None:
    """Balancing converges linearly: sixty decompositions for every pair of neighbours are ample."""
    layout = KernelLayout((6, 4, 3), depth)
    weight = weight_of(layout, depth)
    if kind == "dead input channel":
        weight[:, 2] = 0
    elif kind == "dead output channel":
        weight[3] = 0
    elif kind == "rank one":
        weight = (weight[:, :1, :1] * weight[:1]).contiguous()
    elif kind == "ill-conditioned":
        weight = weight * torch.logspace(0, -8, 4, dtype=torch.float64)[:, None]
    weight = weight.to(dtype)
    with Decompositions() as counter:
        factors = layout.initial(weight, Start("balanced"))
    assert 1 <= counter.count <= 60 * (depth - 1)
    check_kept(layout, factors, weight)
    for difference, size in imbalances(layout, factors):
        assert float(np.linalg.norm(difference)) <= (4 * ROUNDOFF[dtype] + 1e-14) * size


@pytest.mark.parametrize("dtype", list(ROUNDOFF))
@pytest.mark.parametrize(
    "layout", [MatrixLayout((4, 6), 3), MatrixLayout((4, 1, 3), 2, None, 2), KernelLayout((4, 3, 2), 3)]
)
def test_zero_weights_have_zero_products(layout: Layout, dtype: torch.dtype) -> None:
    for init in ("balanced", "identity"):
        factors = layout.initial(torch.zeros(layout.weight_shape, dtype=dtype), Start(init))
        assert not layout.product(factors).any()
        assert all(f.isfinite().all() for f in factors)
        assert init == "balanced" or any(f.any() for f in factors)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (5, 2, 2), (2, 5, 3)])
def test_rank_deficient_weights_are_kept(shape: tuple[int, ...], depth: int, dtype: torch.dtype) -> None:
    k, d = shape[0], int(np.prod(shape[1:]))
    matrix = weight_with_singular_values(np.random.default_rng(1), k, d, [2.0, 0.5][: min(k, d) - 1])
    weight = torch.from_numpy(matrix).reshape(shape).to(dtype)
    layout = MatrixLayout(shape, depth)
    factors = layout.initial(weight, Start("balanced"))
    check_kept(layout, factors, weight)
    assert layout.null_directions(factors) == min(k, d) - len([2.0, 0.5][: min(k, d) - 1])


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize(("shape", "groups"), [((5, 4), 1), ((4, 2, 2), 1), ((8, 5, 1), 2)])
def test_truncating_keeps_the_nearest_weight_of_that_rank(
    shape: tuple[int, ...], groups: int, depth: int, rank: int
) -> None:
    """Eckart & Young, group by group."""
    layout = MatrixLayout(shape, depth, rank, groups)
    weight = weight_of(layout, rank)
    expected = []
    for block in as_array(weight).reshape(groups, shape[0] // groups, -1):
        u, s, vt = np.linalg.svd(block, full_matrices=False)
        expected.append((u[:, :rank] * s[:rank]) @ vt[:rank])
    factors = layout.initial(weight, Start("balanced", truncate=True))
    assert [tuple(f.shape) for f in factors] == list(layout.factor_shapes)
    actual = reference(layout, [as_array(f) for f in factors]).reshape(np.stack(expected).shape)
    np.testing.assert_allclose(actual, np.stack(expected), rtol=0, atol=1e-12)
    for difference, size in imbalances(layout, factors):
        assert float(np.linalg.norm(difference)) <= ARITHMETIC * size


def test_a_width_below_the_rank_is_refused_without_truncation() -> None:
    with pytest.raises(ValueError, match="width is 2, below the rank 4"):
        MatrixLayout((4, 6), 2, 2).initial(torch.eye(4, 6), Start("balanced"))
    for init in ("balanced", "identity"):
        with pytest.raises(ValueError, match=r"width is 2.*width 4 on"):
            KernelLayout((4, 3, 2), 3, 2).initial(torch.ones(4, 3, 2), Start(init))


@pytest.mark.parametrize("depth", [2, 3])
def test_null_directions_are_counted_in_every_group(depth: int) -> None:
    layout = MatrixLayout((6, 3, 1), depth, None, 2)
    weight = torch.zeros(2, 3, 3)
    weight[0] = torch.diag(torch.tensor([1.0, 1e-3, 1e-5]))  # small is not zero
    weight[1] = torch.diag(torch.tensor([1.0, 0.0, 0.0]))
    factors = layout.initial(weight.reshape(6, 3, 1), Start("balanced"))
    assert layout.null_directions(factors) == 2


def test_no_direction_of_an_ordinary_weight_is_null() -> None:
    for dtype, shape in itertools.product(ROUNDOFF, [(96, 96), (96, 16, 3)]):
        layout = MatrixLayout(shape, 2)
        assert layout.null_directions(layout.initial(weight_of(layout, 5, dtype), Start("balanced"))) == 0
    kernel = KernelLayout((24, 16, 3, 3), 3)
    for dtype in (torch.float32, torch.bfloat16):
        assert kernel.null_directions(kernel.initial(weight_of(kernel, 6, dtype), Start("balanced"))) == 0


@pytest.mark.parametrize("depth", [3, 4])
@pytest.mark.parametrize("dead", ["in", "out"])
def test_a_dead_channel_of_a_kernel_is_a_null_direction(dead: str, depth: int) -> None:
    layout = KernelLayout((5, 4, 3), depth)
    weight = weight_of(layout, 7, torch.float32)
    weight[(slice(None), 1) if dead == "in" else (2,)] = 0
    assert layout.null_directions(layout.initial(weight, Start("balanced"))) == 1


# --- identity --------------------------------------------------------------------------------------------------------


@given(st.sampled_from(KEEPING), SEEDS, st.sampled_from(list(ROUNDOFF)))
def test_identity_keeps_the_weight_exactly_in_one_factor(
    layout: MatrixLayout | KernelLayout, seed: int, dtype: torch.dtype
) -> None:
    weight = weight_of(layout, seed, dtype)
    factors = layout.initial(weight, Start("identity"))
    assert [tuple(f.shape) for f in factors] == list(layout.factor_shapes)
    assert all(f.dtype == dtype and f.is_contiguous() for f in factors)
    np.testing.assert_array_equal(reference(layout, [as_array(f) for f in factors]), as_array(weight))
    identities = sum(bool((f == torch.eye(*f.shape[-2:], dtype=dtype)).all()) for f in factors if f.ndim < 4)
    assert identities >= layout.depth - 1


@pytest.mark.parametrize("init", ["balanced", "identity"])
def test_composed_kernels_keep_no_weight(init: str) -> None:
    with pytest.raises(ValueError, match=r"from scratch.*init='orthogonal'"):
        ComposedLayout((4, 3, 5), 2).initial(torch.ones(4, 3, 5), Start(init))  # type: ignore[arg-type]


# --- drawn factors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(ROUNDOFF))
@pytest.mark.parametrize("init", ["near_zero", "near_identity", "orthogonal"])
@pytest.mark.parametrize("layout", DRAWING)
def test_drawn_factors_repeat_with_the_generator(layout: Layout, init: str, dtype: torch.dtype) -> None:
    weight = weight_of(layout, 0, dtype)

    def draw(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return layout.initial(weight, Start(init, scale=0.5, generator=generator))  # type: ignore[arg-type]

    first, again, other = draw(1), draw(1), draw(2)
    assert [tuple(f.shape) for f in first] == list(layout.factor_shapes)
    assert all(f.dtype == dtype for f in first)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    if init != "orthogonal" or min(layout.factor_shapes[0]) > 1:  # an orthonormal 1 x 1 has but a sign
        assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    "layout", [MatrixLayout((60, 70), 2), KernelLayout((20, 24, 3, 3), 3), ComposedLayout((20, 24, 5, 5), 2)]
)
def test_near_zero_has_the_scale_as_standard_deviation(layout: Layout) -> None:
    generator = torch.Generator().manual_seed(0)
    start = Start("near_zero", scale=0.03, generator=generator)
    entries = torch.cat([f.flatten() for f in layout.initial(torch.zeros(layout.weight_shape), start)])
    assert abs(float(entries.std()) - 0.03) < 0.03 * 5 / (2 * len(entries)) ** 0.5  # five standard errors
    assert abs(float(entries.mean())) < 0.03 * 5 / len(entries) ** 0.5


@pytest.mark.parametrize(
    "layout",
    [
        KernelLayout((3, 4, 3), 3),
        KernelLayout((4, 2, 3, 5), 4, None, 2),
        ComposedLayout((3, 3, 3), 2),
        ComposedLayout((3, 4, 5), 2),
        ComposedLayout((4, 2, 3, 5), 2, None, 2),
        ComposedLayout((2, 2, 7), 4),
        ComposedLayout((2, 2, 3), 4),
    ],
)
def test_near_identity_lets_the_kernels_centre_through(layout: KernelLayout | ComposedLayout) -> None:
    """A convolution with odd kernels and 'same' padding that is near the identity does not shift its input."""
    weight = torch.zeros(layout.weight_shape, dtype=torch.float64)
    factors = layout.initial(weight, Start("near_identity", scale=1e-9))
    out, into = layout.weight_shape[0] // layout.groups, layout.weight_shape[1]
    expected = np.zeros(layout.weight_shape)
    centre = tuple(k // 2 for k in layout.weight_shape[2:])
    for g in range(layout.groups):
        for c in range(min(out, into)):
            expected[(g * out + c, c, *centre)] = 1
    np.testing.assert_allclose(reference(layout, [as_array(f) for f in factors]), expected, rtol=0, atol=1e-6)


def test_near_identity_of_matrices_is_the_identity_with_noise() -> None:
    for layout in (MatrixLayout((4, 6), 3), MatrixLayout((6, 4), 2, 5), MatrixLayout((4, 3, 1), 2, None, 2)):
        for factor in layout.initial(torch.zeros(layout.weight_shape), Start("near_identity", scale=1e-3)):
            noise = factor - torch.eye(*factor.shape[-2:])
            assert 0 < float(noise.abs().max()) < 1e-2


@pytest.mark.parametrize("layout", DRAWING)
def test_orthogonal_factors_have_one_singular_value(layout: MatrixLayout | KernelLayout | ComposedLayout) -> None:
    for factor in layout.initial(weight_of(layout, 0), Start("orthogonal", scale=0.7)):
        leading = layout.groups if not isinstance(layout, ComposedLayout) else 1
        blocks = ref.by_group(as_array(factor), leading)
        if isinstance(layout, ComposedLayout):
            blocks = list(np.split(blocks[0], layout.groups))
        for block in blocks:
            values = np.linalg.svd(block.reshape(block.shape[0], -1), compute_uv=False)
            np.testing.assert_allclose(values, 0.7, rtol=1e-12)


@pytest.mark.parametrize("init", ["near_zero", "near_identity", "orthogonal"])
@pytest.mark.parametrize("layout", DRAWING)
def test_match_gives_the_product_the_norm_of_the_weight(layout: Layout, init: str) -> None:
    weight = 3 * weight_of(layout, 8, torch.float32)
    factors = layout.initial(weight, Start(init, scale="match"))  # type: ignore[arg-type]
    product = reference(layout, [as_array(f) for f in factors])
    np.testing.assert_allclose(np.linalg.norm(product), float(weight.double().norm()), rtol=1e-5)


@pytest.mark.parametrize("layout", [MatrixLayout((3, 4), 2), KernelLayout((3, 4, 3), 3), ComposedLayout((3, 4, 3), 2)])
def test_the_norm_of_a_zero_weight_cannot_be_matched(layout: Layout) -> None:
    """Factors that are all zero have no gradient at all."""
    with pytest.raises(ValueError, match="norm"):
        layout.initial(torch.zeros(layout.weight_shape), Start("orthogonal", scale="match"))
