"""How each kind of layer runs factor after factor (chained), the same up to rounding as with the folded weight.

A chained forward takes the layer, the factors of its weight and the forward of its class, and decides from the input
that arrives, which it names ``input`` as torch does. Layers without one read their weight, which is then the product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from overdepth.layouts import ComposedLayout, KernelLayout
from overdepth.nn.factors import Factors

Forward = Callable[..., Any]
ChainedForward = Callable[..., Any]

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONVOLVE_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def linear(layer: nn.Linear, factors: Factors, plain: Forward, input: Tensor) -> Tensor:
    """Layer after layer, the bias with the last."""
    if input.is_nested:  # whose shape is no list of numbers
        return plain(layer, input)  # type: ignore[no-any-return]
    rows = math.prod(input.shape[:-1])
    if not factors.runs_chained(factors.extra_cost(rows, rows)):
        return plain(layer, input)  # type: ignore[no-any-return]
    x = input
    *inner, last = factors
    for factor in inner:
        x = F.linear(x, factor)
    return F.linear(x, last, layer.bias)


def embedding(layer: nn.Embedding, factors: Factors, plain: Forward, input: Tensor) -> Tensor:
    """The lookup in the last factor, then the others on what was found."""
    *others, rows = factors
    chained = factors.runs_chained(input.numel() * sum(f.numel() for f in others)) and not layer.scale_grad_by_freq
    with _without_autocast(input.device):  # a lookup is exact under autocast
        if not chained:
            return plain(layer, input)  # type: ignore[no-any-return]
        x = F.embedding(input, rows)
        for factor in reversed(others):
            x = x @ factor
    if layer.padding_idx is not None:  # no gradient at all from there, to no factor
        x = torch.where((input == layer.padding_idx)[..., None], x.detach(), x)
    return x


def convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, factors: Factors, plain: Forward, input: Tensor) -> Tensor:
    """Kernel and 1 x 1 convolutions in the factors' order."""
    layout = factors.layout
    axes = len(layer.kernel_size)
    batch = math.prod(input.shape[: -axes - 1])
    outputs = batch * math.prod(_output_sizes(layer, input.shape[-axes:]))
    if not factors.runs_chained(factors.extra_cost(batch * math.prod(input.shape[-axes:]), outputs)):
        return plain(layer, input)  # type: ignore[no-any-return]
    x, convolve = input, _CONVOLVE[axes]
    if isinstance(layout, ComposedLayout):
        *inner, last = factors
        x = _padded(layer, x)
        for factor in inner:
            x = convolve(x, factor, None, 1, 0, layer.dilation, layer.groups)
        return convolve(x, last, layer.bias, layer.stride, 0, layer.dilation, layer.groups)
    position = layout.position if isinstance(layout, KernelLayout) else 0
    for j, factor in enumerate(factors):
        bias = layer.bias if j == len(factors) - 1 else None
        if j == position:
            channels = x.shape[-axes - 1] // layer.groups
            x = layer._conv_forward(x, factor.reshape(-1, channels, *layer.kernel_size), bias)
        else:
            x = convolve(x, _one_by_one(factor, axes), bias, groups=layer.groups)
    return x


def transposed_convolution(
    layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d,
    factors: Factors,
    plain: Forward,
    input: Tensor,
    output_size: list[int] | None = None,
) -> Tensor:
    """The factors meet the input from the last to the first, which is the kernel."""
    axes = len(layer.kernel_size)
    inputs = math.prod(input.shape[: -axes - 1]) * math.prod(input.shape[-axes:])
    if not factors.runs_chained(factors.extra_cost(inputs, inputs)):
        return plain(layer, input, output_size)  # type: ignore[no-any-return]
    x = input
    kernel, *ones = factors
    for factor in reversed(ones):
        x = _CONVOLVE[axes](x, _one_by_one(factor.mT, axes), groups=layer.groups)
    padding = layer._output_padding(
        x, output_size, layer.stride, layer.padding, layer.kernel_size, axes, layer.dilation  # type: ignore[arg-type]
    )  # fmt: skip
    weight = kernel.reshape(-1, layer.out_channels // layer.groups, *layer.kernel_size)
    return _CONVOLVE_TRANSPOSED[axes](
        x, weight, layer.bias, layer.stride, layer.padding, padding, layer.groups, layer.dilation  # type: ignore[arg-type]
    )  # fmt: skip


def _without_autocast(device: torch.device) -> AbstractContextManager[object]:
    known = torch.amp.is_autocast_available(device.type)  # the meta device has none
    return torch.autocast(device.type, enabled=False) if known else nullcontext()


def _one_by_one(factor: Tensor, axes: int) -> Tensor:
    """A matrix (of each group) as the weight of a 1 x 1 convolution."""
    return factor.reshape(-1, factor.shape[-1], *[1] * axes)


def _output_sizes(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, sizes: torch.Size) -> list[int]:
    if layer.padding == "same":
        return list(sizes)
    padding = [0] * len(sizes) if isinstance(layer.padding, str) else layer.padding
    return [
        (n + 2 * int(p) - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(sizes, padding, layer.dilation, layer.kernel_size, layer.stride, strict=True)
    ]


def _padded(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
