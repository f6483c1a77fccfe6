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

from overdepth._checks import check_choice, check_positive, rounding, with_float64
from overdepth.initialization import INITIALIZATIONS, Init

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

    def check(self, of: str = "") -> None:
        """Checks init and scale.

        Args:
            of: Put behind their names in messages.

        Raises:
            ValueError: If one is out of its range.
        """
        check_choice(self.init, f"init{of}", INITIALIZATIONS)
        if not isinstance(self.scale, str):
            check_positive(self.scale, f"scale{of}")
        elif self.scale != "match":
            raise ValueError(f"scale{of} is {self.scale!r}, expected a number > 0 or 'match'.")

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

    def check_width(self, subject: str, *, allow_rank_loss: bool) -> None:
        """Checks that the hidden width loses no expressiveness, or may.

        Raises:
            ValueError: If it does and may not.
        """
        if self.width < self.enough_width and not allow_rank_loss:
            raise ValueError(
                f"width of {subject} is {self.width}, below {self.enough_width}, from which on no expressiveness is "
                f"lost for a weight of shape {self.weight_shape}; widen it, or say allow_rank_loss=True."
            )

    def started(self, weight: Tensor, start: Start, subject: str) -> list[Tensor]:
        """:meth:`initial` on any device, with the weight's name in its errors."""
        try:
            return [f.to(weight.device) for f in self.initial(with_float64(weight.detach()), start)]
        except (ValueError, RuntimeError) as error:
            raise type(error)(f"{subject}: {error}") from error

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
    """How many singular values are 0 to rounding, as those of a weight of low rank computed in ``dtype`` are."""
    return int((values <= 4 * rounding(dtype) * values.amax(-1, keepdim=True)).sum())


def null_remark(subject: str, weight: Tensor, count: int) -> str:
    """What to tell of a weight with so many lost singular values under a balanced start."""
    what = "rank-deficient" if bool(weight.any()) else "zero"
    return (
        f"{subject} is {what}: {count} of its singular values are 0 to rounding, and a balanced start leaves what is "
        f"null on both sides without any gradient; use init='identity' for it."
    )
