"""Reproduction: run items and judge their claims."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from overdepth.paper.claim import Claim, Setting
from overdepth.paper.context import Context
from overdepth.paper.item import Item


@dataclass(frozen=True)
class Reproduced:
    """An item's results: under what, its data, the verdicts, and the seconds it took."""

    item: Item
    setting: Setting
    data: xr.Dataset
    claims: list[Claim]
    seconds: float


def reproduce(items: Sequence[Item], context: Context) -> list[Reproduced]:
    """Runs items.

    Args:
        items: From :data:`overdepth.paper.items.ITEMS`.
        context: On what, how long, with which seeds.

    Returns:
        One result an item.

    Raises:
        ValueError: If the problem has several targets.
    """
    problem = context.problem
    if problem.k != 1:
        raise ValueError(f"the figures are about a single target, {problem.name!r} has {problem.k}; name one.")
    results = []
    for item in items:
        began = time.perf_counter()
        setting = item.setting(context)
        data = item.work(context)
        results.append(Reproduced(item, setting, data, item.claims(data, setting), time.perf_counter() - began))
    return results
