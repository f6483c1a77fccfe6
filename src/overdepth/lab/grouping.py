"""Which runs step together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from overdepth.chain import product
from overdepth.lab.adaptive import AdaptiveMatrixChain, AdaptiveScalarChain
from overdepth.lab.groups import EndToEnd, Group, MatrixChain, ScalarChain
from overdepth.lab.run import Run

_CHAINS: dict[tuple[str, bool], Callable[[Tensor, Sequence[Run], Iterable[list[Tensor]], torch.dtype], Group]] = {
    ("scalar", True): ScalarChain,
    ("scalar", False): AdaptiveScalarChain,
    ("matrix", True): MatrixChain,
    ("matrix", False): AdaptiveMatrixChain,
}


def make_groups(runs: Sequence[Run], k: int, d: int, dtype: torch.dtype, device: torch.device) -> list[Group]:
    """Sorts runs into as few groups as their architectures allow, each with its initial factors.

    These are drawn on the CPU, so that runs start alike on every device.
    """
    members: dict[tuple[object, ...], list[int]] = {}
    for i, run in enumerate(runs):
        members.setdefault(architecture(run, k, d), []).append(i)
    groups: list[Group] = []
    for (kind, *_), rows in members.items():
        index = torch.tensor(rows)
        chosen = [runs[i] for i in rows]
        starts = (run.start(k, d) for run in chosen)  # one by one: those of all runs in float64 may be large
        if kind == "end_to_end":
            group: Group = EndToEnd(index, chosen, map(product, starts), dtype)
        else:
            group = _CHAINS[str(kind), chosen[0].method == "gd"](index, chosen, starts, dtype)
        group.to(device)
        groups.append(group)
    return groups


def architecture(run: Run, k: int, d: int) -> tuple[object, ...]:
    """What runs must share to step together."""
    if run.method == "end_to_end":
        return ("end_to_end", None if min(k, d) == 1 else run.depth)
    if k == 1 and (run.width == 1 or run.depth == 1):
        return ("scalar", run.method)
    return ("matrix", run.method, run.depth, run.width if run.depth > 1 else None)
