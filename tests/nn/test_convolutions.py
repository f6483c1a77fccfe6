"""Convolutions with every option, in every factorization: chained, folded and plain are the same function."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.nn.agreement import check_agreement, twins
from tests.reference import layers as ref
from tests.reference.linear_algebra import as_array
from torch import Tensor, nn

import overdepth as od
from overdepth.layouts import FACTORIZATIONS

CONVOLUTIONS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TRANSPOSED: list[Any] = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
BATCHES = st.sampled_from([(2,), (1,), (), (0,)])

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def convolutions(draw: st.DrawFn, max_axes: int = 3) -> tuple[Any, dict[str, Any], Tensor]:
    """A layer, how to factor it, and an input."""
    axes = draw(st.integers(1, max_axes))
    groups = draw(st.integers(1, 3))
    sides = st.integers(1, 3 if axes == 1 else 2)
    channels, out = groups * draw(sides), groups * draw(sides)
    kernel = [draw(st.integers(1, 4 if axes == 1 else 3)) for _ in range(axes)]
    dilation = [draw(st.integers(1, 2)) for _ in range(axes)]
    padding: Any = draw(st.sampled_from(["same", "valid"]) | st.integers(0, 2) | st.tuples(*[st.integers(0, 2)] * axes))
    stride = [1] * axes if padding == "same" else [draw(st.integers(1, 2)) for _ in range(axes)]
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = CONVOLUTIONS[axes - 1](
            channels, out, kernel, stride=stride, padding=padding, padding_mode=mode, dilation=dilation, groups=groups,
            bias=draw(st.booleans()),
        ).double()  # fmt: skip
    factorization = draw(st.sampled_from(FACTORIZATIONS))
    how = {"depth": draw(st.integers(3 if factorization == "kernel_between" else 2, 4)), "factorization": factorization}
    if draw(st.booleans()):
        how["width"] = max(channels, out) // groups + draw(st.integers(0, 2)) + (out if factorization[-1] == "t" else 0)
    sizes = [max(d * (k - 1) + 1, 3) + draw(st.integers(0, 2)) for d, k in zip(dilation, kernel, strict=True)]
    return layer, how, random(*draw(BATCHES), channels, *sizes, seed=draw(st.integers(0, 99)))


@settings(max_examples=120)
@given(convolutions())
def test_convolution(drawn: tuple[Any, dict[str, Any], Tensor]) -> None:
    layer, how, x = drawn
    try:
        layer(x)
    except (RuntimeError, ValueError, NotImplementedError):
        assume(False)  # what torch itself refuses, such as reflections of an empty batch
    over, plain = twins(layer, **how)
    check_agreement(over, plain, x)


@settings(max_examples=40)
@given(convolutions(max_axes=2))
def test_convolution_against_explicit_sums(drawn: tuple[Any, dict[str, Any], Tensor]) -> None:
    layer, how, x = drawn
    assume(x.ndim == len(layer.kernel_size) + 2 and x.shape[0] > 0)
    over, _ = twins(layer, **how)
    ((_, factors),) = od.nn.named_factors(over)
    arrays = [as_array(f) for f in factors]
    if how["factorization"] == "composed":
        weight = ref.composed(arrays, layer.groups)
    elif how["factorization"] == "kernel_between":
        weight = ref.kernel_between(arrays, layer.weight.shape, layer.groups)
    else:
        weight = ref.kernel_first(arrays, layer.weight.shape, layer.groups)
    bias = None if layer.bias is None else as_array(layer.bias)
    expected = ref.convolution(
        as_array(x), weight, bias, stride=layer.stride, padding=layer.padding, padding_mode=layer.padding_mode,
        dilation=layer.dilation, groups=layer.groups,
    )  # fmt: skip
    for route in ("chained", "folded"):
        factors.execution = route
        np.testing.assert_allclose(as_array(over(x)), expected, rtol=0, atol=1e-12 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", ["same", "valid", 1, (2, 0)])
def test_every_padding_in_every_mode(padding: Any, mode: Any, factorization: Any) -> None:
    """Even and odd kernels with dilation, where 'same' is not the same on both sides."""
    layer = nn.Conv2d(2, 4, (4, 3), padding=padding, padding_mode=mode, dilation=(1, 2), groups=2)
    over, plain = twins(layer, 3, factorization=factorization)
    check_agreement(over, plain, random(2, 2, 6, 7))


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise(multiplier: int, axes: int, factorization: Any) -> None:
    layer = CONVOLUTIONS[axes - 1](4, 4 * multiplier, 3, padding=1, stride=2, groups=4)
    over, plain = twins(layer, 3, factorization=factorization)
    check_agreement(over, plain, random(2, 4, *[5] * axes))


@pytest.mark.parametrize("depth", [2, 3])
def test_memory_formats_and_views_come_through(depth: int) -> None:
    over, plain = twins(nn.Conv2d(3, 4, 3, padding=1), depth)
    check_agreement(over, plain, random(2, 3, 5, 6).to(memory_format=torch.channels_last))
    check_agreement(over, plain, random(2, 5, 6, 3).permute(0, 3, 1, 2))


@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.integers(1, 2), st.integers(0, 1),
    st.integers(2, 4), BATCHES, st.data(),
)  # fmt: skip
def test_transposed_convolution(
    axes: int,
    groups: int,
    into: int,
    out: int,
    stride: int,
    padding: int,
    depth: int,
    batch: tuple[int, ...],
    data: Any,
) -> None:
    kernel = [data.draw(st.integers(1, 3)) for _ in range(axes)]
    dilation = data.draw(st.integers(1, 2))
    extra = data.draw(st.integers(0, max(stride, dilation) - 1))
    sizes = [data.draw(st.integers(2, 4)) for _ in range(axes)]
    options = {"stride": stride, "padding": padding, "output_padding": extra, "dilation": dilation, "groups": groups}
    layer = TRANSPOSED[axes - 1](groups * into, groups * out, kernel, bias=data.draw(st.booleans()), **options).double()
    x = random(*batch, groups * into, *sizes)
    try:
        layer(x)
    except (RuntimeError, ValueError):
        assume(False)  # too small an output
    width = data.draw(st.none() | st.integers(3, 5))
    over, plain = twins(layer, depth, width=None if width is None else width * out)
    check_agreement(over, plain, x)
    if axes <= 2 and batch == (2,):
        ((_, factors),) = od.nn.named_factors(over)
        weight = ref.kernel_first([as_array(f) for f in factors], layer.weight.shape, groups)
        bias = None if layer.bias is None else as_array(layer.bias)
        each = {name: [options[name]] * axes for name in ("stride", "padding", "output_padding", "dilation")}
        expected = ref.transposed_convolution(as_array(x), weight, bias, groups=groups, **each)
        np.testing.assert_allclose(as_array(over(x)), expected, rtol=0, atol=1e-12 * (1 + np.abs(expected).max()))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("size", [7, 8])
def test_transposed_convolutions_take_an_output_size(size: int, axes: int, groups: int) -> None:
    layer = TRANSPOSED[axes - 1](4, 6, 3, stride=2, padding=1, groups=groups)
    over, plain = twins(layer, 3)
    x = random(2, 4, *[4] * axes)
    check_agreement(over, plain, x, output_size=[size] * axes)
    check_agreement(over, plain, x, [size] * axes)
    assert over(x, output_size=[size] * axes).shape[2:] == (size,) * axes
    for route in ("chained", "folded"):
        for _, factors in od.nn.named_factors(over):
            factors.execution = route
        with pytest.raises(ValueError, match="requested an output size"):
            over(x, output_size=[size + 5] * axes)


@pytest.mark.parametrize("factorization", ["kernel_between", "composed"])
def test_transposed_convolutions_have_one_factorization(factorization: Any) -> None:
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 3))
    with pytest.raises(ValueError, match=rf"'0.weight'.*{factorization}.*kernel_first"):
        od.overparameterize_(model, 3, factorization=factorization, init="orthogonal")


def test_kernel_factorizations_leave_linear_layers_as_they_are() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Flatten(), nn.Linear(4, 2))
    od.overparameterize_(model, 3, factorization="composed", init="orthogonal")
    shapes = [[tuple(f.shape) for f in factors] for _, factors in od.nn.named_factors(model)]
    assert shapes == [[(4, 3, 3, 3), (4, 4, 2, 2), (4, 4, 2, 2)], [(2, 4), (2, 2), (2, 2)]]
