"""Convolutions, transposed convolutions and the products of factored kernels, one multiplication after the other.

Everything is NumPy float64, with a batch axis in front and any number of spatial axes behind the channels. Weights have
torch's shapes: (out, in / groups, *kernel), transposed (in, out / groups, *kernel). Nothing is shared with the library.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from tests.reference.linear_algebra import Array

_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def paddings(padding: str | Sequence[int], kernel: Sequence[int], dilation: Sequence[int]) -> list[tuple[int, int]]:
    """(before, after) on every axis; "same" pads the odd element behind."""
    if padding == "valid":
        return [(0, 0) for _ in kernel]
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(int(p), int(p)) for p in padding]


def padded(x: Array, pads: Sequence[tuple[int, int]], mode: str) -> Array:
    """The spatial axes padded in one of torch's modes."""
    result: Array = np.pad(x, [(0, 0), (0, 0), *pads], mode=_PAD_MODES[mode])  # type: ignore[call-overload]
    return result


def convolution(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Sequence[int],
    padding: str | Sequence[int],
    padding_mode: str = "zeros",
    dilation: Sequence[int],
    groups: int = 1,
) -> Array:
    """out[n, o, p] = bias[o] + sum over channels c of o's group and taps t of weight[o, c, t] x[n, c, p s + t d]."""
    kernel = weight.shape[2:]
    x = padded(x, paddings(padding, kernel, dilation), padding_mode)
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, k, d, s in zip(x.shape[2:], kernel, dilation, stride, strict=True)]
    outs, channels = weight.shape[0] // groups, weight.shape[1]
    result = np.zeros((x.shape[0], weight.shape[0], *sizes))
    for n, o in np.ndindex(x.shape[0], weight.shape[0]):
        group = o // outs
        for place in np.ndindex(*sizes):
            total = 0.0 if bias is None else float(bias[o])
            for c, *tap in np.ndindex(channels, *kernel):
                at = [p * s + t * d for p, s, t, d in zip(place, stride, tap, dilation, strict=True)]
                total += float(weight[(o, c, *tap)]) * float(x[(n, group * channels + c, *at)])
            result[(n, o, *place)] = total
    return result


def transposed_convolution(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
) -> Array:
    """Every input entry adds weight[c, o, t] x[n, c, p] to out[n, o, p s + t d - padding]."""
    kernel = weight.shape[2:]
    sizes = [
        (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
        for n, s, p, d, k, extra in zip(x.shape[2:], stride, padding, dilation, kernel, output_padding, strict=True)
    ]
    ins, outs = weight.shape[0] // groups, weight.shape[1]
    result = np.zeros((x.shape[0], groups * outs, *sizes))
    if bias is not None:
        result += np.asarray(bias).reshape(1, -1, *[1] * len(kernel))
    for n, c, *place in np.ndindex(*x.shape):
        group = c // ins
        for o, *tap in np.ndindex(outs, *kernel):
            at = [p * s + t * d - q for p, s, t, d, q in zip(place, stride, tap, dilation, padding, strict=True)]
            if all(0 <= a < size for a, size in zip(at, sizes, strict=True)):
                result[(n, group * outs + o, *at)] += weight[(c, o, *tap)] * x[(n, c, *place)]
    return result


# --- products of factors ---------------------------------------------------------------------------------------------


def by_group(factor: Array, groups: int) -> list[Array]:
    """The factor of each group: a leading axis of groups where there are several."""
    return [factor] if groups == 1 else [factor[g] for g in range(groups)]


def chain(factors: Sequence[Array]) -> Array:
    """W_N ... W_1 of matrices, by explicit sums."""
    result = factors[0]
    for factor in factors[1:]:
        product = np.zeros((factor.shape[0], result.shape[1]))
        for i, j, h in np.ndindex(factor.shape[0], result.shape[1], factor.shape[1]):
            product[i, j] += factor[i, h] * result[h, j]
        result = product
    return result


def kernel_first(factors: Sequence[Array], weight_shape: Sequence[int], groups: int) -> Array:
    """The rows of the weight's first axis, group by group, as a product of matrices."""
    blocks = [chain([by_group(f, groups)[g] for f in factors]) for g in range(groups)]
    result: Array = np.concatenate(blocks).reshape(tuple(weight_shape))
    return result


def kernel_between(factors: Sequence[Array], weight_shape: Sequence[int], groups: int) -> Array:
    """Tap by tap: the 1 x 1s above, the kernel's slice, the 1 x 1s below."""
    position = len(factors) // 2
    outs = weight_shape[0] // groups
    result = np.zeros(tuple(weight_shape))
    for g in range(groups):
        parts = [by_group(f, groups)[g] for f in factors]
        for tap in np.ndindex(*weight_shape[2:]):
            at_tap = [part[(slice(None), slice(None), *tap)] if j == position else part for j, part in enumerate(parts)]
            result[(slice(g * outs, (g + 1) * outs), slice(None), *tap)] = chain(at_tap)
    return result


def composed(factors: Sequence[Array], groups: int) -> Array:
    """W[o, i, t] = sum over taps a + b = t and the channels between of upper[o, c, b] lower[c, i, a]."""
    result = factors[0]
    for upper in factors[1:]:
        size = [a + b - 1 for a, b in zip(result.shape[2:], upper.shape[2:], strict=True)]
        total = np.zeros((upper.shape[0], result.shape[1], *size))
        outs, between = upper.shape[0] // groups, upper.shape[1]
        for o, c, *b in np.ndindex(*upper.shape):
            lower = (o // outs) * between + c
            for i, *a in np.ndindex(*result.shape[1:]):
                tap = [p + q for p, q in zip(a, b, strict=True)]
                total[(o, i, *tap)] += upper[(o, c, *b)] * result[(lower, i, *a)]
        result = total
    return result


def kernel_imbalance(factors: Sequence[Array]) -> list[Array]:
    """D_j = W_{j+1}^T W_{j+1} - W_j W_j^T of factors (n_j, n_{j-1}) or (n_j, n_{j-1}, taps): sums run over taps too."""
    differences = []
    for lower, upper in itertools.pairwise(factors):
        below, above = lower.reshape(*lower.shape[:2], -1), upper.reshape(*upper.shape[:2], -1)
        n = below.shape[0]
        difference = np.zeros((n, n))
        for a, b in np.ndindex(n, n):
            difference[a, b] = float(np.sum(above[:, a] * above[:, b])) - float(np.sum(below[a] * below[b]))
        differences.append(difference)
    return differences
