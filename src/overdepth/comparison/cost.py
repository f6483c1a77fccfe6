"""What a step costs beside one of plain training: time, taken in turns, and memory, counted."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overdepth.comparison.arms import Arm
from overdepth.comparison.batches import batches
from overdepth.comparison.jobs import Job, Outcome
from overdepth.comparison.making import Made, make
from overdepth.comparison.task import Task
from overdepth.comparison.training import steps_of

ROUNDS = 15
BLOCK_S = 0.01
"""Seconds of a block of steps, about: long beside the clock, short beside what disturbs a machine."""
_WARM_UP = 3


def cost(task: Task, job: Job) -> Outcome:
    """Seconds of a step and bytes held, of plain training and of an arm.

    Both train in one process, a block of steps each in turn, so that a drifting clock or a noisy neighbour meets both
    alike. The time contains that of the user's data, as that of the user's loop does.
    """
    with torch.random.fork_rng():
        sides = [(Arm("plain"), job.beside), (job.arm, job.lr)]
        memory = tuple(held_bytes(task, make(task, arm, lr, job.replicate), job.replicate) for arm, lr in sides)
        timed = [_Side(task, Job("cost", arm, lr, job.replicate, job.steps)) for arm, lr in sides]
        once = [side.seconds(min(_WARM_UP, job.steps)) for side in timed]
        block = max(1, min(job.steps // ROUNDS, round(BLOCK_S / max(min(once), 1e-6))))  # no longer than a run in all
        times = np.empty((2, ROUNDS))
        for turn in range(ROUNDS):
            for side in (0, 1) if turn % 2 else (1, 0):
                times[side, turn] = timed[side].seconds(block)
    return Outcome(np.zeros(0), times=times, memory=(memory[0], memory[1]))


def held_bytes(task: Task, made: Made, seed: int) -> float:
    """Bytes that training holds when it holds most: weights, gradients, the optimizer's state, and what the forward
    pass keeps for the backward pass. What comes and goes within an operation is not counted; the batch is.
    """
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = next(iter(batches(task, seed)))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.loss_step(made.model, batch)
    model, optimizer = made.model, made.optimizer
    lasting = _storages((*model.parameters(), *model.buffers()))
    passing = sum(size for at, size in saved.items() if at not in lasting)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    lasting |= _storages((*gradients, *_tensors(optimizer.state)))
    return float(passing + sum(lasting.values()))


def _storages(tensors: Iterable[Tensor]) -> dict[int, int]:
    """Bytes by address; views of one storage count once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}


def _tensors(state: Any) -> Iterator[Tensor]:
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _tensors(value)


class _Side:
    """One of the two that are timed; training starts anew, off the clock, where a run would be over."""

    def __init__(self, task: Task, job: Job) -> None:
        self._task = task
        self._job = job
        self._begin()

    def _begin(self) -> None:
        made = make(self._task, self._job.arm, self._job.lr, self._job.seed)
        self._steps = steps_of(self._task, self._job, made)
        self._left = self._job.steps

    def seconds(self, steps: int) -> float:
        """Of a step, from a block of them."""
        if self._left < steps:
            self._begin()
        _synchronize()
        began = time.perf_counter()
        made = sum(1 for _ in zip(range(steps), self._steps, strict=False))
        _synchronize()
        elapsed = time.perf_counter() - began
        self._left = self._left - steps if made == steps else 0
        if not made:
            raise RuntimeError(f"{self._job.where}: not a single step could be made; give smaller learning rates.")
        return elapsed / made


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
