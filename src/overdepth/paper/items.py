"""All items of a report, by name."""

from __future__ import annotations

from overdepth.paper import (
    beyond,
    claim1,
    fig2,
    fig3,
    fig4,
    fig5,
    min2023,
    network,
    observation1,
    robustness,
    section7,
    theorem1,
    theorem2,
    width,
)
from overdepth.paper.item import Item

ITEMS: dict[str, Item] = {
    item.name: item
    for item in (
        fig2.ITEM,
        fig3.ITEM,
        fig4.ITEM,
        fig5.ITEM,
        width.ITEM,
        section7.ITEM,
        theorem1.ITEM,
        claim1.ITEM,
        theorem2.ITEM,
        observation1.ITEM,
        *min2023.ITEMS,
        *beyond.ITEMS,
        robustness.ITEM,
        network.ITEM,
    )
}
"""Everything ``overdepth reproduce`` can run, by name, in the order of the report."""
