"""Drawn factors that may be kernels, and their rescaling to the norm of a given weight."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overdepth.initialization import initial_factors
from overdepth.layouts.base import Layout, Start


def draw(
    matrix_shape: tuple[int, int], start: Start, groups: int, kernel: Sequence[int] = (), centre: Sequence[int] = ()
) -> Tensor:
    """A factor of shape (groups, rows, columns, kernel size) in float64 on the CPU; an identity sits at ``centre``."""
    rows, columns = matrix_shape
    taps = math.prod(kernel)
    scale = 1.0 if isinstance(start.scale, str) else start.scale
    init = "near_zero" if start.init == "near_identity" else start.init
    blocks = []
    for _ in range(groups):
        (block,) = initial_factors(
            rows, columns * taps, 1, init=init, scale=scale, generator=start.generator, dtype=torch.float64
        )
        block = block.reshape(rows, columns, taps)
        if start.init == "near_identity":
            tap = 0
            for size, index in zip(kernel, centre, strict=True):
                tap = tap * size + index
            block[:, :, tap] += torch.eye(rows, columns, dtype=torch.float64)
        blocks.append(block)
    return torch.stack(blocks)


def drawn(factors: Sequence[Tensor], layout: Layout, weight: Tensor, start: Start) -> list[Tensor]:
    """Factors in their final shapes, dtype and place; rescaled alike if the weight's norm is to be matched.

    Raises:
        ValueError: If that norm is zero.
    """
    shaped = [f.reshape(s) for f, s in zip(factors, layout.factor_shapes, strict=True)]
    if isinstance(start.scale, str):
        norm = float(weight.detach().double().norm())
        if norm == 0:
            raise ValueError("scale is 'match', but the norm of the weight is 0, and factors of 0 have no gradient.")
        ratio = norm / float(layout.product(shaped).norm())
        shaped = [f * ratio ** (1 / len(shaped)) for f in shaped]
    return [f.to(weight.device, weight.dtype) for f in shaped]
