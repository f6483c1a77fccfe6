"""A convolution as 1 x 1 convolutions, a spatial kernel, and 1 x 1 convolutions again."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overdepth.chain import multiply, split
from overdepth.layouts.base import Layout, Start, lost
from overdepth.layouts.drawing import draw, drawn

_SWEEPS = 200  # each divides the imbalance by about (1 + 1 / factors on a side)^2, which is 4 at depth 3


@dataclass(frozen=True)
class KernelLayout(Layout):
    """1 x 1 factors, the kernel in the middle (``factors[depth // 2]``), 1 x 1 factors.

    The hidden widths are the channels on either side, so that the kernel itself is as large as the weight.

    Attributes:
        weight_shape: (out, in / groups, *kernel).
        depth_: The number of factors, 3 or more.
        width_: The channels of each group between all factors, or None for the kernel's own.
        groups: Groups of channels that have factors of their own.
    """

    weight_shape: tuple[int, ...]
    depth_: int
    width_: int | None = None
    groups: int = 1

    def __post_init__(self) -> None:
        if self.depth_ < 3:
            raise ValueError(f"depth is {self.depth_}; 'kernel_between' has a factor on either side: depth >= 3.")

    @property
    def position(self) -> int:
        """The index of the kernel among the factors."""
        return self.depth_ // 2

    @property
    def _channels(self) -> tuple[int, int]:
        """(out, in) of each group."""
        return self.weight_shape[0] // self.groups, self.weight_shape[1]

    @property
    def width(self) -> int:
        """The hidden width."""
        return self.enough_width if self.width_ is None else self.width_

    @property
    def enough_width(self) -> int:
        """The larger number of channels of a group."""
        return max(self._channels)

    @property
    def _widths(self) -> tuple[int, int]:
        """Channels before and after the kernel."""
        out, into = self._channels
        return (into, out) if self.width_ is None else (self.width_, self.width_)

    @property
    def _matrix_shapes(self) -> list[tuple[int, int]]:
        """(rows, columns) of every factor, the kernel's without its spatial axes."""
        out, into = self._channels
        before, after = self._widths
        dims = [into, *[before] * self.position, *[after] * (self.depth_ - 1 - self.position), out]
        return [(rows, columns) for columns, rows in itertools.pairwise(dims)]

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """(n_j, n_{j-1}), the kernel's with the spatial axes behind; the groups in front if there are several."""
        leading = (self.groups,) if self.groups > 1 else ()
        return tuple(
            (*leading, *matrix, *(self.weight_shape[2:] if j == self.position else ()))
            for j, matrix in enumerate(self._matrix_shapes)
        )

    @property
    def product_cost(self) -> int:
        """The 1 x 1s among themselves, then both sides onto the kernel."""
        out, into = self._channels
        before, after = self._widths
        kernel = math.prod(self.weight_shape[2:])
        ones = sum(into * r * c for r, c in self._matrix_shapes[1 : self.position])
        ones += sum(out * r * c for r, c in self._matrix_shapes[self.position + 1 : -1])
        return self.groups * (ones + kernel * after * before * into + kernel * out * after * into)

    def chained_cost(self, inputs: int, outputs: int) -> int:
        """1 x 1s before the kernel see the input's positions, the others the output's."""
        sizes = [math.prod(s) for s in self.factor_shapes]
        return inputs * sum(sizes[: self.position]) + outputs * sum(sizes[self.position :])

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        """The kernel between the products of either side."""
        p = self.position
        g, (out, into), (before, after) = self.groups, self._channels, self._widths
        below, above = multiply(factors[:p]), multiply(factors[p + 1 :])
        kernel = factors[p].reshape(g, after, before, -1).movedim(2, 3).reshape(g, -1, before)
        kernel = (kernel @ below).reshape(g, after, -1)
        return (above @ kernel).reshape(g * out, -1, into).movedim(1, 2).reshape(self.weight_shape)

    def check(self, start: Start) -> None:
        """Checks that there is room for the kernel if the start is to keep it.

        Raises:
            ValueError: If there is not.
        """
        out, into = self._channels
        if start.keeps_the_weight and min(self._widths[0] - into, self._widths[1] - out) < 0:
            raise ValueError(
                f"width is {self.width_}; 'kernel_between' keeps a weight of shape {self.weight_shape} from width "
                f"{self.enough_width} on."
            )

    def initial(self, weight: Tensor, start: Start) -> list[Tensor]:
        """``identity``: the kernel holds the weight; ``balanced``: the flattenings at each inner side agree."""
        self.check(start)
        if not start.keeps_the_weight:
            return self._drawn(weight, start)
        factors = self._around(weight)
        if start.init == "balanced":
            factors = self._balance(factors, torch.finfo(weight.dtype).eps)
        return [f.to(weight.dtype).reshape(s).contiguous() for f, s in zip(factors, self.factor_shapes, strict=True)]

    def _around(self, weight: Tensor) -> list[Tensor]:
        """Identities around the weight, each factor (groups, rows, columns, kernel size) in float64."""
        out, into = self._channels
        factors = [
            torch.eye(*s, dtype=torch.float64, device=weight.device).expand(self.groups, *s)[..., None]
            for s in self._matrix_shapes
        ]
        rows, columns = self._matrix_shapes[self.position]
        kernel = weight.detach().double().reshape(self.groups, out, into, -1)
        factors[self.position] = torch.nn.functional.pad(kernel, (0, 0, 0, columns - into, 0, rows - out))
        return factors

    def _balance(self, factors: list[Tensor], tolerance: float) -> list[Tensor]:
        """Balances the kernel with all factors above it, with all below it, and so on until nothing changes.

        Either step leaves W_{j+1}^T W_{j+1} = W_j W_j^T on its own side, and brings the other side closer to it.
        """
        below = [f[..., 0] for f in factors[: self.position]]
        above = [f[..., 0] for f in factors[self.position + 1 :]]
        kernel = factors[self.position]  # (g, after, before, taps)
        (before, after), taps, last = self._widths, kernel.shape[-1], math.inf
        for _ in range(_SWEEPS):
            rows = kernel.flatten(2)
            worst = _imbalance(above[0].mT @ above[0], rows @ rows.mT)
            rows, *above = split(multiply([rows, *above]), len(above) + 1, after, truncate=True)
            columns = rows.reshape(-1, after, before, taps).movedim(2, 3).flatten(1, 2)
            worst = max(worst, _imbalance(columns.mT @ columns, below[-1] @ below[-1].mT))
            *below, columns = split(multiply([*below, columns]), len(below) + 1, before, truncate=True)
            kernel = columns.reshape(-1, after, taps, before).movedim(3, 2)
            if worst <= tolerance or (worst < 1e-12 and worst > 0.9 * last):  # as far as float64 goes
                break
            last = worst
        return [*below, kernel, *above]

    def null_directions(self, factors: Sequence[Tensor]) -> int:
        """Channels on either side of a balanced kernel that are lost beside the largest."""
        out, into = self._channels
        taps = math.prod(self.weight_shape[2:])
        count = 0
        for norms, full in (
            (factors[0].detach().double().norm(dim=-1), min(into, out * taps)),
            (factors[-1].detach().double().norm(dim=-2), min(out, into * taps)),
        ):
            count += lost(norms.topk(min(full, norms.shape[-1])).values ** self.depth_, factors[0].dtype)
        return count

    def _drawn(self, weight: Tensor, start: Start) -> list[Tensor]:
        """Every factor by itself, as :func:`overdepth.initial_factors` draws one; a kernel's identity is its centre."""
        kernels = [self.weight_shape[2:] if j == self.position else () for j in range(self.depth)]
        factors = [
            draw(shape, start, self.groups, kernel, [k // 2 for k in kernel])
            for shape, kernel in zip(self._matrix_shapes, kernels, strict=True)
        ]
        return drawn(factors, self, weight, start)


def _imbalance(a: Tensor, b: Tensor) -> float:
    """The difference of two Gram matrices that should agree, relative to their size."""
    size = float(a.norm() + b.norm())
    return float((a - b).norm()) / size if size > 0 else 0.0
