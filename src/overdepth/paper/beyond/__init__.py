"""Beyond the papers: questions of ours about depth, each with its control and a threshold fixed beforehand."""

from __future__ import annotations

from overdepth.paper.beyond import depths, equal_cost, escape, imbalance, methods, minibatch, powers, scale, widths
from overdepth.paper.item import Item

ITEMS: tuple[Item, ...] = (
    scale.ITEM,
    depths.ITEM,
    widths.ITEM,
    powers.ITEM,
    imbalance.ITEM,
    minibatch.ITEM,
    methods.ITEM,
    escape.ITEM,
    equal_cost.ITEM,
)
"""In the order of the report."""

__all__ = ["ITEMS"]
