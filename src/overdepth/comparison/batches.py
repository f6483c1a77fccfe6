"""The batches of a run: the same ones in the same order for every arm with this seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from overdepth.comparison.task import Task


def batches(task: Task, seed: int) -> Iterator[Any]:
    """The batches of a seed, epoch after epoch; ends only where the data cannot be read again.

    Tensors are drawn without replacement within an epoch, the incomplete last batch left out. What a loader draws from
    torch's global random numbers is drawn from a stream of its own, whatever the model draws meanwhile.

    Raises:
        ValueError: If an epoch has no batch.
    """
    tensors = task.tensors
    if tensors is not None:
        return _of_tensors(task, tensors, seed)
    source = task.data(seed) if callable(task.data) else task.data
    generator = getattr(source, "generator", None)
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    return _of_loader(source, seed)


def _of_tensors(task: Task, tensors: tuple[Tensor, ...], seed: int) -> Iterator[Any]:
    is_single = isinstance(task.data, Tensor)
    rows = len(tensors[0])
    if task.is_full_batch:
        whole = task.data if is_single else tensors
        while True:
            yield whole
    size = task.batch_size or rows
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(rows, generator=generator).to(tensors[0].device)
        for begin in range(0, rows - size + 1, size):
            chosen = order[begin : begin + size]
            yield tensors[0][chosen] if is_single else tuple(t[chosen] for t in tensors)


def _of_loader(source: Iterable[Any], seed: int) -> Iterator[Any]:
    own = torch.Generator().manual_seed(seed).get_state()
    again = not hasattr(source, "__next__")
    while True:
        found = False
        own, iterator = _drawn_apart(own, lambda: iter(source))
        while True:
            own, batch = _drawn_apart(own, lambda: next(iterator, _END))  # noqa: B023 - called at once
            if batch is _END:
                break
            found = True
            yield batch
        if not found:
            raise ValueError("data has no batch at all; give a loader that is not empty.")
        if not again:
            return


_END = object()


def _drawn_apart(own: Tensor, function: Any) -> tuple[Tensor, Any]:
    """What a function returns that draws from the stream ``own``, and where that stream is then."""
    outer = torch.get_rng_state()
    torch.set_rng_state(own)
    try:
        found = function()
        return torch.get_rng_state(), found
    finally:
        torch.set_rng_state(outer)
