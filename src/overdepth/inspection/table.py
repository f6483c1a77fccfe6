"""The table of products: a line for each, or for all heads of a layer together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from overdepth._table import text_table
from overdepth.inspection.products import Product

HEADER = (
    "product", "kind", "shape", "depth", "norm", "rank", "condition", "imbalance", "lr x mean", "lr x, all directions",
    "if balanced",
)  # fmt: skip


def grouped(products: Iterable[Product]) -> list[list[Product]]:
    """Heads of one layer, or groups of one convolution, together."""
    groups: dict[tuple[str, str, tuple[int, ...]], list[Product]] = {}
    for product in products:
        groups.setdefault((product.name, product.kind, product.shape), []).append(product)
    return list(groups.values())


def table(groups: Sequence[Sequence[Product]]) -> list[str]:
    """Lines of the table."""
    return text_table(HEADER, [line(group) for group in groups])


def line(group: Sequence[Product]) -> list[str]:
    """One line: of several products the range of each number."""
    first = group[0]
    parts = f", {len(group)} {_plural(first.part)}" if len(group) > 1 else f", {first.part}" if first.part else ""
    ends = [(p.multipliers.smallest, p.multipliers.largest) for p in group]
    balanced = [(p.balanced_multipliers.smallest, p.balanced_multipliers.largest) for p in group]
    sign = "" if all(p.multipliers.is_exact for p in group) else " (bounds)"
    return [
        first.name + parts,
        first.kind,
        f"{first.shape[0]} x {first.shape[1]}",
        str(first.depth),
        _range(group, lambda p: p.norm),
        _range(group, lambda p: p.rank, lambda rank: f"{rank:g}") + f" of {first.largest_rank}",
        _range(group, lambda p: p.condition),
        _range(group, lambda p: p.relative_imbalance, lambda value: f"{value:.2g}"),
        _range(group, lambda p: p.multipliers.mean),
        _span(min(low for low, _ in ends), max(high for _, high in ends)) + sign,
        _span(min(low for low, _ in balanced), max(high for _, high in balanced)),
    ]


def number(value: float) -> str:
    """Three digits; a dash for what is undefined."""
    if math.isnan(value):
        return "-"
    return "inf" if math.isinf(value) else f"{value:.3g}"


def _range(group: Sequence[Product], of: Callable[[Product], float], write: Callable[[float], str] = number) -> str:
    defined = [value for value in map(of, group) if not math.isnan(value)]
    return _span(min(defined), max(defined), write) if defined else "-"


def _span(low: float, high: float, write: Callable[[float], str] = number) -> str:
    a, b = write(low), write(high)
    return a if a == b else f"{a} to {b}"


def _plural(part: str) -> str:
    word = part.split(" ", 1)[0]
    return {"head": "heads", "heads": "groups of heads", "group": "groups"}.get(word, "parts")
