"""The usual layout: the weight's first axis against all others is a product of matrices.

With groups there is one such matrix for each group. So a linear weight is itself, a convolution's kernel is
(out, in * kernel size), and its first factor is a spatial kernel that is followed by 1 x 1 convolutions. Embeddings and
transposed convolutions store the input axis first: there the last factor meets the input first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overdepth.chain import multiply, split
from overdepth.initialization import initial_factors
from overdepth.layouts.base import Layout, Start, lost
from overdepth.layouts.drawing import draw, drawn

_BLOCK = 1024  # rows or columns that are in float64 at a time


@dataclass(frozen=True)
class MatrixLayout(Layout):
    """The weight's first axis against all others is W_N ... W_1, for each group.

    Attributes:
        weight_shape: Of the weight, two axes or more.
        depth_: The number of factors.
        width_: The hidden width of each group, or None for the smaller side.
        groups: Blocks of the first axis that have factors of their own.
    """

    weight_shape: tuple[int, ...]
    depth_: int
    width_: int | None = None
    groups: int = 1

    @property
    def matrix(self) -> tuple[int, int]:
        """(k, d) of each group."""
        return self.weight_shape[0] // self.groups, math.prod(self.weight_shape[1:])

    @property
    def width(self) -> int:
        """The hidden width."""
        return self.enough_width if self.width_ is None else self.width_

    @property
    def enough_width(self) -> int:
        """The smaller side."""
        return min(self.matrix)

    @property
    def _dims(self) -> list[int]:
        k, d = self.matrix
        return [d, *[self.width] * (self.depth_ - 1), k]

    @property
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """(n_j, n_{j-1}), with the groups in front if there are several."""
        leading = (self.groups,) if self.groups > 1 else ()
        return tuple((*leading, rows, columns) for columns, rows in itertools.pairwise(self._dims))

    @property
    def product_cost(self) -> int:
        """Grown from the cheaper side, as :func:`overdepth.product` does."""
        dims = self._dims if self._dims[0] <= self._dims[-1] else self._dims[::-1]
        return self.groups * sum(dims[0] * a * b for a, b in itertools.pairwise(dims[1:]))

    def chained_cost(self, inputs: int, outputs: int) -> int:
        """All factors act on rows of the output's number."""
        del inputs
        return outputs * self.size

    def product(self, factors: Sequence[Tensor]) -> Tensor:
        """W_N ... W_1, reshaped."""
        return multiply(factors).reshape(self.weight_shape)

    def initial(self, weight: Tensor, start: Start) -> list[Tensor]:
        """See :func:`overdepth.initial_factors`."""
        if start.init == "near_identity" and len(self.weight_shape) > 2:
            return self._near_identity_kernels(weight, start)
        k, d = self.matrix
        matrix = weight.detach().reshape(self.groups, k, d)
        if start.init == "balanced":
            factors = split(matrix, self.depth_, self.width, dtype=weight.dtype, truncate=start.truncate)
        else:
            chains = [self._drawn(m, start) for m in matrix]
            factors = [torch.stack(same) for same in zip(*chains, strict=True)]
        return [f.reshape(s).contiguous() for f, s in zip(factors, self.factor_shapes, strict=True)]

    def _drawn(self, matrix: Tensor, start: Start) -> list[Tensor]:
        match_norm = start.scale == "match"
        return initial_factors(
            *self.matrix,
            self.depth_,
            width=self.width,
            init=start.init,
            scale=1.0 if isinstance(start.scale, str) else start.scale,
            weight=matrix if start.keeps_the_weight else None,
            norm=float(matrix.double().norm()) if match_norm and not start.keeps_the_weight else None,
            generator=start.generator,
            dtype=matrix.dtype,
            device=matrix.device,
        )

    def _near_identity_kernels(self, weight: Tensor, start: Start) -> list[Tensor]:
        """The identity among kernels is the centre's: the first factor's ones are at channel i and the middle tap."""
        kernel = self.weight_shape[2:]
        first = draw((self.width, self.weight_shape[1]), start, self.groups, kernel, [k // 2 for k in kernel])
        shapes = [(rows, columns) for columns, rows in itertools.pairwise(self._dims[1:])]
        return drawn([first, *(draw(shape, start, self.groups) for shape in shapes)], self, weight, start)

    def null_directions(self, factors: Sequence[Tensor]) -> int:
        """Singular values of the balanced split that are lost beside the largest: both sides have no gradient."""
        if self.depth_ == 1:
            return 0
        first, last = factors[0].detach(), factors[-1].detach()
        # Rows of W_1 and columns of W_N have the norms sigma^{1/N}; the smaller of the two is in float64 for a moment.
        norms = first.double().norm(dim=-1) if first.numel() <= last.numel() else last.double().norm(dim=-2)
        return lost(norms[..., : self.enough_width] ** self.depth_, first.dtype)

    def folded(self, factors: Sequence[Tensor]) -> Tensor:
        """In blocks, so that a large weight is never in float64 as a whole."""
        long = 0 if self.matrix[1] > self.matrix[0] else -1
        rest = [f.double() for j, f in enumerate(factors) if j != long % len(factors)]
        axis = -1 if long == 0 else -2
        leading = factors[0].shape[:-2]
        weight = factors[0].new_empty(*leading, *self.matrix)
        blocks = zip(torch.split(factors[long], _BLOCK, axis), torch.split(weight, _BLOCK, axis), strict=True)
        for block, part in blocks:
            chain = [block.double(), *rest] if long == 0 else [*rest, block.double()]
            part.copy_(multiply(chain))
        return weight.reshape(self.weight_shape)
