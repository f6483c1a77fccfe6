"""Statements of Min, Vidal & Mallada (ICML 2023): certified rates, the factorial, the frozen prediction."""

from __future__ import annotations

from overdepth.paper.item import Item
from overdepth.paper.min2023 import factorial, rates, width

ITEMS: tuple[Item, ...] = (rates.ITEM, factorial.ITEM, width.ITEM)

__all__ = ["ITEMS"]
