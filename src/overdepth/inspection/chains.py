"""What a search hands over: a chain of named factors, before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

from overdepth.inspection.matrices import Matrix

Kind = Literal["query-key", "value-output", "stacked", "LoRA", "over-parameterized"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Chain:
    """A product that the model holds.

    Attributes:
        name: Of the module, or modules, that hold it.
        kind: What it is.
        factors: The one that acts on the input first in front.
        part: Which part of the module, such as ``head 3``; empty if it is the whole.
        scale: A constant in front of the product, such as LoRA's alpha / r.
        notes: What a reader should know of it.
    """

    name: str
    kind: Kind
    factors: tuple[Matrix, ...]
    part: str = ""
    scale: float = 1.0
    notes: tuple[str, ...] = ()


@dataclass
class Findings:
    """What a search found, and what it did not take.

    Attributes:
        chains: The products.
        left_out: Why something that looks like a product is none here, by its name.
        remarks: Sentences on the model as a whole.
    """

    chains: list[Chain] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
