"""Layouts against explicit sums: products, shapes, counts, and finding a layout by its factors' shapes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import layers as ref
from tests.reference.linear_algebra import Array, as_array
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from overdepth.layouts import (
    FACTORIZATIONS,
    ComposedLayout,
    KernelLayout,
    Layout,
    MatrixLayout,
    find_layout,
    make_layout,
)

SEEDS = st.integers(0, 2**32 - 1)
ROUNDOFF = {torch.float64: 2**-53, torch.float32: 2**-24, torch.bfloat16: 2**-8}
DTYPES = st.sampled_from(list(ROUNDOFF))


@st.composite
def layouts(draw: st.DrawFn) -> MatrixLayout | KernelLayout | ComposedLayout:
    """Every factorization of matrices and of 1-d to 3-d kernels, grouped, depthwise, and wider than needed."""
    factorization = draw(st.sampled_from(FACTORIZATIONS))
    axes = draw(st.integers(0 if factorization == "kernel_first" else 1, 3))
    groups = draw(st.integers(1, 3)) if axes else 1
    kernel = [draw(st.integers(1, 4 if axes == 1 else 3 if axes == 2 else 2)) for _ in range(axes)]
    shape = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 4 if axes == 0 else 3)), *kernel)
    depth = draw(st.integers(3, 5) if factorization == "kernel_between" else st.integers(1, 4))
    width = draw(st.none() | st.integers(1, 5))
    layout = make_layout(shape, depth, width, groups=groups, factorization=factorization)
    assert isinstance(layout, MatrixLayout | KernelLayout | ComposedLayout)
    return layout


def drawn(layout: Layout, seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Standard normal factors."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in layout.factor_shapes]


def reference(layout: Layout, factors: list[Array]) -> Array:
    """The product by explicit sums."""
    if isinstance(layout, KernelLayout):
        return ref.kernel_between(factors, layout.weight_shape, layout.groups)
    if isinstance(layout, ComposedLayout):
        return ref.composed(factors, layout.groups)
    assert isinstance(layout, MatrixLayout)
    return ref.kernel_first(factors, layout.weight_shape, layout.groups)


# --- product ---------------------------------------------------------------------------------------------------------


@given(layouts(), SEEDS, st.sampled_from([torch.float64, torch.float32]))
def test_the_product_is_the_explicit_sum(layout: Layout, seed: int, dtype: torch.dtype) -> None:
    factors = drawn(layout, seed, dtype)
    actual = layout.product(factors)
    assert tuple(actual.shape) == layout.weight_shape
    assert actual.dtype == dtype
    arrays = [as_array(f) for f in factors]
    terms = sum(math.prod(s) for s in layout.factor_shapes)  # more than any sum has
    bound = terms * ROUNDOFF[dtype] * reference(layout, [np.abs(a) for a in arrays])
    assert np.all(np.abs(as_array(actual) - reference(layout, arrays)) <= bound)


@given(layouts(), SEEDS, DTYPES)
def test_folded_is_the_explicit_sum_rounded_once(layout: Layout, seed: int, dtype: torch.dtype) -> None:
    factors = drawn(layout, seed, dtype)
    actual = layout.folded(factors)
    assert tuple(actual.shape) == layout.weight_shape
    assert actual.dtype == dtype
    arrays = [as_array(f) for f in factors]
    exact, size = reference(layout, arrays), reference(layout, [np.abs(a) for a in arrays])
    assert np.all(np.abs(as_array(actual) - exact) <= ROUNDOFF[dtype] * np.abs(exact) * 1.001 + 1e-13 * size)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize(("shape", "groups"), [((9001, 3), 1), ((3, 9001), 1), ((2, 3000, 3), 1), ((8400, 1, 3), 2)])
def test_long_weights_are_folded_in_blocks_without_a_seam(shape: tuple[int, ...], groups: int, depth: int) -> None:
    layout = MatrixLayout(shape, depth, None, groups)
    factors = drawn(layout, 1, torch.float32)
    arrays = [np.stack(ref.by_group(as_array(f), groups)) for f in factors]
    exact, size = arrays[0], np.abs(arrays[0])
    for array in arrays[1:]:
        exact, size = array @ exact, np.abs(array) @ size
    actual = as_array(layout.folded(factors)).reshape(exact.shape)
    assert np.all(np.abs(actual - exact) <= 2**-24 * np.abs(exact) * 1.001 + 1e-13 * size)


def test_folding_sums_what_float32_would_lose() -> None:
    """1e8 + 1 - 1e8, in the first factor's sums."""
    factors = [torch.tensor([[1e8], [1.0], [-1e8]]), torch.ones(1, 3)]
    assert MatrixLayout((1, 1), 2, 3).folded(factors).item() == 1.0


@pytest.mark.parametrize(
    "layout",
    [
        MatrixLayout((4, 2, 2), 3, 3, 2),
        KernelLayout((4, 2, 2), 3, 5, 2),
        KernelLayout((2, 3, 2), 4),
        ComposedLayout((4, 2, 4), 2, 3, 2),
        ComposedLayout((2, 2, 3, 2), 2),
    ],
)
def test_products_differentiate(layout: Layout) -> None:
    factors = [f.requires_grad_() for f in drawn(layout, 2)]
    assert torch.autograd.gradcheck(lambda *fs: layout.product(fs), factors)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_convolving_factor_after_factor_is_convolving_with_the_product(
    factorization: str, groups: int, stride: int, dilation: int
) -> None:
    """The stride where the documentation puts it: with the kernel, or with the last of composed kernels."""
    shape = (2 * groups, 3, 4)
    layout = make_layout(shape, 3, 4, groups=groups, factorization=factorization)  # type: ignore[arg-type]
    factors = [as_array(f) for f in drawn(layout, 3)]
    x = np.random.default_rng(4).standard_normal((2, 3 * groups, 11))
    expected = ref.convolution(
        x, reference(layout, factors), stride=[stride], padding="valid", dilation=[dilation], groups=groups
    )
    kernel_at = {"kernel_first": 0, "kernel_between": 1, "composed": 2}[factorization]
    for j, factor in enumerate(factors):
        composed = factorization == "composed"
        taps = factor.shape[2:] if composed else (4,) if j == kernel_at else (1,)
        weight = factor.reshape(-1, x.shape[1] // groups, *taps)
        x = ref.convolution(
            x,
            weight,
            stride=[stride if j == kernel_at else 1],
            padding="valid",
            dilation=[dilation if composed or j == kernel_at else 1],
            groups=groups,
        )
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


# --- shapes and counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layout", "shapes"),
    [
        (MatrixLayout((4, 6), 1), [(4, 6)]),
        (MatrixLayout((4, 6), 3), [(4, 6), (4, 4), (4, 4)]),
        (MatrixLayout((6, 4), 2), [(4, 4), (6, 4)]),
        (MatrixLayout((4, 6), 2, 9), [(9, 6), (4, 9)]),
        (MatrixLayout((8, 4, 3, 3), 2), [(8, 36), (8, 8)]),
        (MatrixLayout((8, 2, 3, 3), 2, None, 2), [(2, 4, 18), (2, 4, 4)]),
        (MatrixLayout((6, 1, 5), 3, None, 6), [(6, 1, 5), (6, 1, 1), (6, 1, 1)]),
        (KernelLayout((8, 4, 3, 2), 3), [(4, 4), (8, 4, 3, 2), (8, 8)]),
        (KernelLayout((8, 4, 3), 4), [(4, 4), (4, 4), (8, 4, 3), (8, 8)]),
        (KernelLayout((8, 4, 3), 3, 9), [(9, 4), (9, 9, 3), (8, 9)]),
        (KernelLayout((8, 4, 3), 3, None, 2), [(2, 4, 4), (2, 4, 4, 3), (2, 4, 4)]),
        (ComposedLayout((8, 4, 5, 5), 2), [(8, 4, 3, 3), (8, 8, 3, 3)]),
        (ComposedLayout((8, 4, 7), 3), [(8, 4, 3), (8, 8, 3), (8, 8, 3)]),
        (ComposedLayout((8, 4, 4), 2, 5, 2), [(10, 4, 3), (8, 5, 2)]),
    ],
)
def test_shapes(layout: Layout, shapes: list[tuple[int, ...]]) -> None:
    assert list(layout.factor_shapes) == shapes
    assert layout.depth == len(shapes)
    assert layout.size == sum(torch.empty(s).numel() for s in shapes)
    assert layout.weight_size == torch.empty(layout.weight_shape).numel()


@given(layouts())
def test_the_cost_of_a_product_is_what_a_counter_counts(layout: Layout) -> None:
    with FlopCounterMode(display=False) as counter:
        layout.product([torch.zeros(s) for s in layout.factor_shapes])
    assert counter.get_total_flops() == 2 * layout.product_cost


@pytest.mark.parametrize(
    ("layout", "plain", "chained"),
    [
        # Rows in 5, rows out 3: 4 * 6 entries; factors of 24 + 16 entries, both on the rows that come out.
        (MatrixLayout((4, 6), 2), 3 * 24, 3 * (24 + 16)),
        (MatrixLayout((4, 3, 2), 2, None, 2), 3 * 24, 3 * (2 * 2 * 6 + 2 * 2 * 2)),
        # The 1 x 1 in front sees the input, the kernel and the 1 x 1 behind the output.
        (KernelLayout((4, 3, 2), 3), 3 * 24, 5 * 9 + 3 * (24 + 16)),
        (KernelLayout((4, 3, 2), 4, 6), 3 * 24, 5 * (18 + 36) + 3 * (72 + 24)),
        # The last of composed kernels has the stride.
        (ComposedLayout((4, 3, 3), 2), 3 * 36, 5 * (4 * 3 * 2) + 3 * (4 * 4 * 2)),
    ],
)
def test_multiply_adds_of_the_layer(layout: Layout, plain: int, chained: int) -> None:
    assert layout.plain_cost(5, 3) == plain
    assert layout.chained_cost(5, 3) == chained


@given(layouts(), st.integers(0, 9), st.integers(0, 9))
def test_the_cost_of_a_chain_is_linear_in_the_positions(layout: Layout, inputs: int, outputs: int) -> None:
    expected = inputs * layout.chained_cost(1, 0) + outputs * layout.chained_cost(0, 1)
    assert layout.chained_cost(inputs, outputs) == expected


@given(layouts())
def test_kernels_compose_to_the_kernel(layout: Layout) -> None:
    if isinstance(layout, ComposedLayout):
        sizes = [1 + sum(k - 1 for k in axis) for axis in zip(*layout.kernels, strict=True)]
        assert tuple(sizes) == layout.weight_shape[2:]
        assert all(max(axis) - min(axis) <= 1 for axis in zip(*layout.kernels, strict=True))


@pytest.mark.parametrize("depth", [1, 2])
def test_a_kernel_between_needs_three_factors(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth is {depth}.*depth >= 3"):
        KernelLayout((4, 4, 3), depth)


# --- finding a layout ------------------------------------------------------------------------------------------------


@given(layouts(), SEEDS)
def test_a_layout_is_found_by_the_shapes_of_its_factors(layout: Layout, seed: int) -> None:
    groups = layout.groups  # type: ignore[attr-defined]
    found = find_layout(layout.weight_shape, layout.factor_shapes, groups)
    assert found.factor_shapes == layout.factor_shapes
    factors = drawn(layout, seed)
    torch.testing.assert_close(found.product(factors), layout.product(factors), rtol=0, atol=1e-12)


@pytest.mark.parametrize("width", [None, 2, 7])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [(5,), (3, 5), (3, 2, 2)])
@pytest.mark.parametrize("factorization", FACTORIZATIONS)
def test_a_grouped_layout_of_any_width_is_found(
    factorization: str, kernel: tuple[int, ...], groups: int, width: int | None
) -> None:
    layout = make_layout((4, 3, *kernel), 3, width, groups=groups, factorization=factorization)  # type: ignore[arg-type]
    found = find_layout(layout.weight_shape, layout.factor_shapes, groups)
    assert type(found) is type(layout)
    assert found.factor_shapes == layout.factor_shapes


@pytest.mark.parametrize(
    ("weight", "factors", "groups"),
    [
        ((4, 6), [(4, 6), (4, 5)], 1),
        ((4, 6), [(3, 6), (4, 3), (4, 4)], 1),
        ((4, 6), [(4, 6, 1), (4, 4, 1)], 1),
        ((4, 2, 3), [(4, 6), (4, 4)], 2),
        ((4, 4, 3), [(2, 2, 6), (2, 2, 2)], 1),
    ],
)
def test_shapes_of_no_layout_are_refused(weight: tuple[int, ...], factors: list[tuple[int, ...]], groups: int) -> None:
    with pytest.raises(ValueError, match="no factorization"):
        find_layout(weight, factors, groups)
