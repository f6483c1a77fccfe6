"""The one loop that trains every arm: as the user's own, with probes of loss and time that it does not feel."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from overdepth.comparison.batches import batches
from overdepth.comparison.jobs import Job, Outcome, Status, looks, smoothed, smoothing_window
from overdepth.comparison.lengths import LengthMatcher, LengthRecorder
from overdepth.comparison.making import Made, make, named
from overdepth.comparison.task import Task

_MOST_UNREAD = 100
"""Steps between two looks at the losses, at most: a loss that is not finite is noticed then."""


class Stopped(Exception):  # noqa: N818 - no error
    """A run was told to stop."""


def train(
    task: Task,
    job: Job,
    *,
    advance: Callable[[int], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
    should_prune: Callable[[int, float], bool] | None = None,
) -> Outcome:
    """Trains an arm.

    Args:
        task: What.
        job: How.
        advance: Told of the steps that were made since it was last told.
        should_stop: Asked now and then.
        should_prune: Asked with a step and a smoothed loss whether the run is hopeless.

    Raises:
        Stopped: If ``should_stop`` said so.
        ValueError: If the model, the loss or the data are not what they should be, with the arm's name.
        RuntimeError: If the user's functions fail, with the arm's name.
    """
    with torch.random.fork_rng():  # the user's random numbers are left as they were
        made = make(task, job.arm, job.lr, job.seed)
        return _Run(task, job, made).finish(advance, should_stop, should_prune)


class _Run:
    def __init__(self, task: Task, job: Job, made: Made) -> None:
        self.task = task
        self.job = job
        self.made = made
        self.losses: list[float] = []
        self.recorder = LengthRecorder(made) if job.keeps_lengths else None
        self.probe = self.recorder if job.lengths is None else LengthMatcher(made, job.lengths)

    def finish(
        self,
        advance: Callable[[int], None],
        should_stop: Callable[[], bool],
        should_prune: Callable[[int, float], bool] | None,
    ) -> Outcome:
        steps, window = self.job.steps, smoothing_window(self.job.steps, is_full_batch=self.task.is_full_batch)
        due = set(looks(steps))
        status: Status = "done"
        began = time.perf_counter()
        stepper = steps_of(self.task, self.job, self.made, self.probe)
        while len(self.losses) < steps:
            size = min(_MOST_UNREAD, next((d for d in sorted(due) if d > len(self.losses)), steps) - len(self.losses))
            values = _read(stepper, size)
            finite = next((i for i, value in enumerate(values) if not math.isfinite(value)), len(values))
            self.losses += values[:finite]
            advance(len(values))
            if finite < len(values) or (len(values) < size and not self._is_finite()):
                status = "diverged"
                break
            if len(values) < size:
                raise ValueError(
                    f"{self.job.where}: data ran dry after {len(self.losses)} of {steps} steps; give a loader that can "
                    f"be iterated again, or at most {len(self.losses)} steps."
                )
            if should_stop():
                raise Stopped
            at = len(self.losses)
            if should_prune is not None and at in due and at < steps:
                recent = smoothed(np.asarray(self.losses[-window:]), window)
                if len(recent) and should_prune(at, float(recent[-1])):
                    status = "pruned"
                    break
        if status == "done" and not self._is_finite():
            status = "diverged"
        seconds = time.perf_counter() - began
        lengths = None if self.recorder is None else self.recorder.table()
        return Outcome(np.asarray(self.losses, dtype=np.float64), status, seconds, lengths)

    def _is_finite(self) -> bool:
        return parameters_are_finite(self.made)


def _read(stepper: Iterator[float | Tensor], steps: int) -> list[float]:
    """The losses of so many steps, or of fewer if they end."""
    taken = list(itertools.islice(stepper, steps))
    if taken and isinstance(taken[0], Tensor):  # all of a run are of one kind
        return torch.stack(cast(list[Tensor], taken)).double().tolist()
    return cast(list[float], taken)


def steps_of(
    task: Task,
    job: Job,
    made: Made,
    probe: LengthRecorder | LengthMatcher | None = None,
) -> Iterator[float | Tensor]:
    """One step of training each time it is asked, and its loss; ends where the data end or the weights overflow.

    On the processor the loss is read at once: tensors that are kept lie between those that come and go at every step,
    and make the allocator slow. On an accelerator that would wait for every step.

    Raises:
        ValueError: If the loss is no scalar tensor that depends on the model.
        RuntimeError: If the user's functions fail.
    """
    model, optimizer = made.model, made.optimizer
    schedule = None if task.schedule is None else task.schedule(optimizer)
    loss_step = task.loss_step
    done, is_at_hand = 0, True
    try:
        for batch in batches(task, job.seed):
            optimizer.zero_grad()
            loss: Any = loss_step(model, batch)
            if done == 0:
                _check_loss(loss, job)
                is_at_hand = loss.device.type == "cpu"
            loss.backward()
            if probe is not None:
                probe.before()
            optimizer.step()
            if probe is not None:
                probe.after(done)
            if schedule is not None:
                schedule.step()
            done += 1
            read: float | Tensor = loss.item() if is_at_hand else loss.detach()
            del loss, batch  # as a loop by hand, which is no slower for want of memory that is at hand
            yield read
    except (Exception, SystemExit) as error:
        if done and not parameters_are_finite(made):  # decompositions refuse what has overflowed
            return
        with named(job.arm, f"step {done + 1} failed: ", "; mend what it names, and run it again"):
            raise error


def parameters_are_finite(made: Made) -> bool:
    """Whether every parameter and gradient is finite."""
    with torch.no_grad():
        held = [t for p in made.model.parameters() for t in (p, p.grad) if t is not None and not t.is_sparse]
        return all(bool(torch.isfinite(t).all()) for t in held)


def _check_loss(loss: Any, job: Job) -> None:
    of = f"arm {job.arm.name!r}: loss_step returned"
    if not isinstance(loss, Tensor):
        raise ValueError(f"{of} a {type(loss).__name__}, expected a scalar tensor; return the loss itself.")
    if loss.numel() != 1:
        raise ValueError(f"{of} a tensor of shape {tuple(loss.shape)}, expected a scalar; return its mean or sum.")
    if not loss.requires_grad:
        raise ValueError(f"{of} a loss without a gradient; compute it from the model that it is given, undetached.")
