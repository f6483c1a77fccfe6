"""A large kernel as a chain of smaller ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overdepth.layouts.base import Layout, Start
from overdepth.layouts.drawing import draw, drawn


@dataclass(frozen=True)
class ComposedLayout(Layout):
    """Smaller kernels one after the other: sizes k_1, ..., k_N on an axis make one of size 1 + sum_j (k_j - 1).

    For training from scratch: a given kernel is in general no such composition. Padding belongs before the first
    factor, the stride to the last, and all share the dilation.

    Attributes:
        weight_shape: (out, in / groups, *kernel).
        depth_: The number of factors.
        width_: The channels of each group between the factors, or None for the larger side.
        groups: Groups of channels that have factors of their own.
    """

    weight_shape: tuple[int, ...]
    depth_: int
    width_: int | None = None
    groups: int = 1

    @property
    def _channels(self) -> tuple[int, int]:
        return self.weight_shape[0] // self.groups, self.weight_shape[1]

    @property
    def width(self) -> int:
        """The hidden width."""
        return max(self._channels) if self.width_ is None else self.width_

    @property
    def enough_width(self) -> int:
        """The smaller number of channels of a group: below it even 1 x 1 kernels would lose rank."""
        return min(self._channels)

    @property
    def kernels(self) -> list[tuple[int, ...]]:
        """The kernel sizes of the factors, as equal as they can be, larger ones first."""
        axes = []
        for size in self.weight_shape[2:]:
            each, more = divmod(size - 1, self.depth_)
            axes.append([1 + each + (j < more) for j in range(self.depth_)])
        return list(zip(*axes, strict=True))

    @property
    def _centres(self) -> list[tuple[int, ...]]:
        """A tap of every factor, which together lead to the centre of the composed kernel."""
        axes = []
        for sizes, size in zip(zip(*self.kernels, strict=True), self.weight_shape[2:], strict=True):
            taps = [(k - 1) // 2 for k in sizes]
            missing = size // 2 - sum(taps)
            for j, k in enumerate(sizes):
                if k % 2 == 0 and missing > 0:  # of an even kernel either middle tap will do
                    taps[j] += 1
                    missing -= 1
            axes.append(taps)
        return list(zip(*axes, strict=True))

    @property
    def _matrix_shapes(self) -> list[tuple[int, int]]:
        out, into = self._channels
        dims = [into, *[self.width] * (self.depth_ - 1), out]
        return [(rows, columns) for columns, rows in itertools.pairwise(dims)]

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Weights of convolutions with the same groups: (groups * n_j, n_{j-1}, *kernel)."""
        shapes = zip(self._matrix_shapes, self.kernels, strict=True)
        return tuple((self.groups * rows, columns, *kernel) for (rows, columns), kernel in shapes)

    @property
    def product_cost(self) -> int:
        """Of the convolutions of kernels with kernels, padding included."""
        total, size = 0, self.kernels[0]
        for kernel, factor in zip(self.kernels[1:], self.factor_shapes[1:], strict=True):
            size = tuple(a + b - 1 for a, b in zip(size, kernel, strict=True))
            total += self.weight_shape[1] * math.prod(size) * math.prod(factor)
        return total

    def chained_cost(self, inputs: int, outputs: int) -> int:
        """All factors but the last see about as many positions as the input has."""
        sizes = [math.prod(s) for s in self.factor_shapes]
        return inputs * sum(sizes[:-1]) + outputs * sizes[-1]

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        """The composed kernel: each input channel's kernels are convolved with the next factor's."""
        convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[len(self.weight_shape) - 3]
        total = factors[0].movedim(1, 0)  # (in, groups * n_1, *kernel): input channels as a batch
        for factor, kernel in zip(factors[1:], self.kernels[1:], strict=True):
            flipped = factor.flip(tuple(range(2, factor.ndim)))
            total = convolve(total, flipped, padding=[k - 1 for k in kernel], groups=self.groups)
        return total.movedim(0, 1)

    def check(self, start: Start) -> None:
        """Checks that the start does not want to keep a weight.

        Raises:
            ValueError: If it does.
        """
        if start.keeps_the_weight:
            raise ValueError(
                f"init is {start.init!r}, but a given kernel is in general no composition of smaller ones; 'composed' "
                f"is for training from scratch: use init='orthogonal', 'near_identity' or 'near_zero'."
            )

    def initial(self, weight: Tensor, start: Start) -> list[Tensor]:
        """Drawn factors.

        Raises:
            ValueError: If the start should keep the weight.
        """
        self.check(start)
        factors = [
            draw(shape, start, self.groups, kernel, centre)
            for shape, kernel, centre in zip(self._matrix_shapes, self.kernels, self._centres, strict=True)
        ]
        return drawn(factors, self, weight, start)
