"""Layouts: how a weight tensor of any shape is a product of factors.

A layout knows shapes, costs and starts; it knows nothing of modules.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overdepth.initialization import Init

KEEPS_THE_WEIGHT: frozenset[Init] = frozenset({"balanced", "identity"})


@dataclass(frozen=True)
class Start:
    """How factors begin.

    Attributes:
        init: One of ``overdepth.initialization.INITIALIZATIONS``.
        scale: Standard deviation of drawn entries, or "match": the product has the norm of the weight it replaces.
        truncate: Where the hidden width is below the weight's rank, keep the nearest weight of that rank.
        generator: Source of the random numbers.
    """

    init: Init = "balanced"
    scale: float | str = 0.01
    truncate: bool = False
    generator: torch.Generator | None = None

    @property
    def keeps_the_weight(self) -> bool:
        """Whether the product is the old weight."""
        return self.init in KEEPS_THE_WEIGHT


class Layout(ABC):
    """How a weight of ``weight_shape`` is made of factors of ``factor_shapes``, W_1 first."""

    weight_shape: tuple[int, ...]

    @property
    @abstractmethod
    def factor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The factors' shapes in the order of the product, W_1 first."""

    @property
    @abstractmethod
    def width(self) -> int:
        """The hidden width (of each group)."""

    @property
    @abstractmethod
    def enough_width(self) -> int:
        """The hidden width from which on no expressiveness is lost."""

    @property
    @abstractmethod
    def product_cost(self) -> int:
        """Multiply-adds of one product."""

    @abstractmethod
    def chained_cost(self, inputs: int, outputs: int) -> int:
        """Multiply-adds of the layer run factor after factor, for so many rows (positions) in and out."""

    def plain_cost(self, inputs: int, outputs: int) -> int:
        """Multiply-adds of the layer with one weight."""
        del inputs
        return outputs * math.prod(self.weight_shape)

    @abstractmethod
    def product(self, factors: Sequence[Tensor]) -> Tensor:
        """The weight, of ``weight_shape``; differentiable."""

    def check(self, start: Start) -> None:
        """Checks that factors can begin like that.

        Raises:
            ValueError: If they cannot.
        """
        del start

    @abstractmethod
    def initial(self, weight: Tensor, start: Start) -> list[Tensor]:
        """New factors in the weight's dtype and on its device."""

    def null_directions(self, factors: Sequence[Tensor]) -> int:
        """How many directions of the weight a ``balanced`` start leaves without any gradient; 0 if unknown."""
        del factors
        return 0

    @property
    def depth(self) -> int:
        """The number of factors."""
        return len(self.factor_shapes)

    @property
    def weight_size(self) -> int:
        """The number of entries of the weight."""
        return math.prod(self.weight_shape)

    @property
    def size(self) -> int:
        """The number of entries of all factors."""
        return sum(map(math.prod, self.factor_shapes))

    def folded(self, factors: Sequence[Tensor]) -> Tensor:
        """The weight in the factors' dtype, accumulated in float64."""
        return self.product([f.double() for f in factors]).to(factors[0].dtype)


def lost(values: Tensor, dtype: torch.dtype) -> int:
    """How many singular values are 0 to rounding, as those are of a weight of low rank that was computed in ``dtype``.

    Weights below float32 are taken at their word: what is small beside their rounding still gets a gradient.
    """
    eps = min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)
    return int((values <= 4 * eps * values.amax(-1, keepdim=True)).sum())
