"""The papers: one file per figure or statement, with the runs, the picture and the checked claims."""

from __future__ import annotations

from overdepth.paper import fig2, fig3
from overdepth.paper.item import Item

ITEMS: dict[str, Item] = {item.name: item for item in (fig2.ITEM, fig3.ITEM)}
"""Everything ``overdepth reproduce`` can run, by name."""

__all__ = ["ITEMS", "Item"]
