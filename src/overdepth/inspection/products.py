"""One product of a model as a row: what it is made of, and its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from overdepth._checks import check_factors
from overdepth.inspection.chains import Chain, Kind
from overdepth.inspection.measures import Multipliers, measure


@dataclass(frozen=True)
class Product:
    """A product of matrices that a model holds.

    Attributes:
        name: Of the module, or modules, that hold it.
        kind: ``query-key``, ``value-output``, ``stacked``, ``LoRA`` or ``over-parameterized``.
        part: Which part of the module, such as ``head 3``; empty if it is the whole.
        factors: Expressions that give W_1, ..., W_N, W_1 acting first on the input.
        factor_shapes: Their shapes, (out, in) each.
        shape: (k, d) of the product.
        depth: N.
        scale: The constant s in front of it (LoRA: alpha / r); norm and multipliers have it.
        imbalance: The Frobenius norm of each D_j = W_{j+1}^T W_{j+1} - W_j W_j^T.
        relative_imbalance: The largest ||D_j|| / sqrt(||W_{j+1}^T W_{j+1}||^2 + ||W_j W_j^T||^2): 0 is balanced, 1 is
            one factor zero, or two that share no direction.
        norm: The Frobenius norm of the product.
        rank: Its numerical rank, under the tolerance of the parameters' type (:mod:`overdepth.rule`).
        largest_rank: What the shapes of the factors allow.
        condition: The largest over the smallest of those ``largest_rank`` singular values; infinite below that rank,
            NaN for a product that is zero.
        multipliers: The eigenvalues of the factors' transfer operator: by how much a gradient step on all factors
            multiplies the learning rate, direction by direction, at first order.
        balanced_multipliers: Claim 1's: those of balanced factors with the same product.
        notes: What a reader should know of it.
    """

    name: str
    kind: Kind
    part: str
    factors: tuple[str, ...]
    factor_shapes: tuple[tuple[int, int], ...]
    shape: tuple[int, int]
    depth: int
    scale: float
    imbalance: tuple[float, ...]
    relative_imbalance: float
    norm: float
    rank: int
    largest_rank: int
    condition: float
    multipliers: Multipliers
    balanced_multipliers: Multipliers
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name and part."""
        return f"{self.name}, {self.part}" if self.part else self.name

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined or infinite is None."""
        return {
            "name": self.name,
            "kind": self.kind,
            "part": self.part,
            "factors": list(self.factors),
            "factor_shapes": [list(s) for s in self.factor_shapes],
            "shape": list(self.shape),
            "depth": self.depth,
            "scale": self.scale,
            "imbalance": list(self.imbalance),
            "relative_imbalance": self.relative_imbalance,
            "norm": self.norm,
            "rank": self.rank,
            "largest_rank": self.largest_rank,
            "condition": self.condition if math.isfinite(self.condition) else None,
            "multipliers": _as_dict(self.multipliers),
            "balanced_multipliers": _as_dict(self.balanced_multipliers),
            "notes": list(self.notes),
        }


def measured(chain: Chain) -> Product:
    """The row of a chain.

    Raises:
        ValueError: If the factors do not chain, or their numbers overflow float64; with the product's name.
    """
    values = [factor.value for factor in chain.factors]
    try:
        check_factors(values)
        found = measure(values, chain.scale)
    except ValueError as error:
        raise ValueError(f"{chain.name}, {chain.part or chain.kind}: {error}") from error
    frozen = [f.label for f in chain.factors if not f.trainable]
    notes = list(chain.notes)
    if len(frozen) == len(values):
        notes.append("frozen: the multipliers are those it would have in training")
    elif frozen:
        notes.append(f"{', '.join(frozen)} frozen: the multipliers are those of training all factors")
    return Product(
        name=chain.name,
        kind=chain.kind,
        part=chain.part,
        factors=tuple(f.label for f in chain.factors),
        factor_shapes=tuple(f.shape for f in chain.factors),
        shape=(chain.factors[-1].shape[0], chain.factors[0].shape[1]),
        depth=len(values),
        scale=chain.scale,
        imbalance=found.imbalance,
        relative_imbalance=found.relative_imbalance,
        norm=found.norm,
        rank=found.rank,
        largest_rank=found.largest_rank,
        condition=found.condition,
        multipliers=found.multipliers,
        balanced_multipliers=found.balanced_multipliers,
        notes=tuple(notes),
    )


def _as_dict(multipliers: Multipliers) -> dict[str, Any]:
    return {
        "smallest": multipliers.smallest,
        "mean": multipliers.mean,
        "largest": multipliers.largest,
        "frozen": multipliers.frozen,
        "is_exact": multipliers.is_exact,
    }
