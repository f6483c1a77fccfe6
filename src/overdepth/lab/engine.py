"""The sweep engine: many linear networks on one problem, two matrix products a step for all of them.

The end-to-end weights of all live runs are stacked into one matrix C; a step is P = C A^T (all predictions), phi'(P)
in place, G = phi'(P) A / m, then the chain rule and the update, batched by architecture (``groups``). For l2 the
data are replaced by their Gram matrix, and a step never touches them. Data that do not fit into memory are read at
every step, in blocks of rows (``examples``).

Everything that changes is in :class:`SweepState`; :meth:`Engine.advance` takes one to a later step. Where a sweep
is cut, into spans of steps or blocks of runs, is free: a cut by steps changes no bit of the result (runs leave the
products at steps fixed beforehand), a cut by runs only how the products round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overdepth.lab.devices import available_device, matmul_precision, to_numpy
from overdepth.lab.examples import Examples, RowBlock, examples_of
from overdepth.lab.grouping import make_groups
from overdepth.lab.groups import Group
from overdepth.lab.objectives import Objective
from overdepth.lab.problem import Array, Problem
from overdepth.lab.products import RECORD_BYTES, add_gradients
from overdepth.lab.rows import RowProblem
from overdepth.lab.run import Run
from overdepth.lab.settings import Settings

CHECK_EVERY = 64
"""Diverged runs leave the products at every step divisible by this (and early on at powers of two)."""

Progress = Callable[[int, int], None]


@dataclass
class SweepState:
    """All that a sweep needs to go on.

    Attributes:
        step: Steps done.
        groups: The live runs.
        loss: Recorded losses, shape (runs, records), float64, NaN where not recorded yet or diverged.
        diverged_at: Per run the first step after which its weight was not finite; -1 if there was none.
        run_steps: Steps computed so far, summed over the runs that were finite after them.
    """

    step: int
    groups: list[Group]
    loss: Array
    diverged_at: np.ndarray[tuple[int], np.dtype[np.int64]]
    run_steps: int = 0

    @property
    def live(self) -> int:
        """Number of runs that still take part."""
        return sum(len(group.index) for group in self.groups)


@dataclass
class Engine:
    """A sweep's problem, runs, objective and settings, and what is computed from them once.

    Raises:
        ValueError: If there are no runs, the problem's targets do not suit the objective, or the device is not there.
    """

    problem: Problem | RowProblem
    runs: Sequence[Run]
    objective: Objective
    settings: Settings
    _device: torch.device = field(init=False)
    _examples: Examples = field(init=False)
    _order: tuple[int, NDArray[np.int64]] = field(init=False)

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs is empty, expected at least one Run.")
        batch = self.settings.batch_size
        if batch is not None and batch > self.problem.m:
            raise ValueError(f"batch_size is {batch}, but the problem has only {self.problem.m} examples.")
        self._device = available_device(self.settings.device)
        self._examples = examples_of(self.problem, self.objective, self.settings, self._device)
        self._order = (-1, np.empty(0, dtype=np.int64))

    def start(self) -> SweepState:
        """The state before the first step, with the initial losses recorded."""
        records = len(self.settings.recorded_steps)
        groups = make_groups(self.runs, self.problem.k, self.problem.d, self.settings.dtype, self._device)
        state = SweepState(
            step=0,
            groups=groups,
            loss=np.full((len(self.runs), records), np.nan),
            diverged_at=np.full(len(self.runs), -1, dtype=np.int64),
        )
        self._record(state, self._stacked(state))
        return state

    def advance(self, state: SweepState, until: int | None = None, progress: Progress | None = None) -> SweepState:
        """Takes ``state`` to step ``until`` (default: the last), in place.

        Args:
            state: From :meth:`start` or an earlier call.
            until: Step to stop at, at most the settings' ``steps``.
            progress: Called now and then with the step reached and the number of live runs.

        Returns:
            The same object.
        """
        until = self.settings.steps if until is None else min(until, self.settings.steps)
        recorded = set(self.settings.recorded_steps)
        weights = self._stacked(state)
        while state.step < until:
            if not state.groups:
                state.step = until
                break
            first = state.step
            last = min(until, self._next_check(first))
            with matmul_precision(self._device, allow_tf32=self.settings.allow_tf32):
                trace = self._span(state, weights, last)
            self._notice_divergence(state, trace, first)
            if last == self._next_check(first) and self._drop_diverged(state):
                weights = self._stacked(state)
            if last in recorded:
                self._record(state, weights)
            if progress is not None:
                progress(state.step, state.live)
        return state

    def _next_check(self, step: int) -> int:
        """The next step at which diverged runs may leave or losses are recorded: the same whatever the cuts."""
        checks = [(step // CHECK_EVERY + 1) * CHECK_EVERY, self.settings.steps]
        checks.append((step // self.settings.record_every + 1) * self.settings.record_every)
        if step < CHECK_EVERY:
            checks.append(1 << step.bit_length())
        return min(checks)

    def _stacked(self, state: SweepState) -> Tensor:
        """C = [W_e, constants] of all live runs, shape (runs, k, d + e)."""
        k, d, constants = self.problem.k, self.problem.d, self._examples.constants
        weights = constants.new_empty(state.live, k, d + constants.shape[1])
        weights[:, :, d:] = constants
        for group, rows in _rows(state):
            group.write(weights[rows, :, :d])
        return weights

    def _span(self, state: SweepState, weights: Tensor, last: int) -> Tensor:
        """Steps up to ``last``; returns per step and run a number that is finite as long as the weight is."""
        d, live = self.problem.d, weights.shape[0]
        grad = weights.new_empty(live, self.problem.k, d)
        flat = weights.view(live, -1)
        mean = weights.new_full((flat.shape[1],), 1.0 / flat.shape[1])  # of finite numbers: finite
        trace = weights.new_empty(last - state.step, live)
        views = [(group, grad[rows], weights[rows, :, :d]) for group, rows in _rows(state)]
        for row in trace:
            if self._examples.gram is not None:
                torch.mm(weights.view(-1, weights.shape[2]), self._examples.gram, out=grad.view(-1, d))
            else:
                add_gradients(self.objective, weights, self._blocks(state.step), grad)
            for group, own_grad, own_weight in views:
                group.step(own_grad)
                group.write(own_weight)
            torch.mv(flat, mean, out=row)
            state.step += 1
        return trace

    def _blocks(self, step: int) -> Iterable[RowBlock]:
        """The rows of a step."""
        if self.settings.batch_size is None:
            return self._examples.blocks()
        return [self._examples.batch(self._batch(step))]

    def _batch(self, step: int) -> Tensor:
        """Rows of the step's minibatch: a function of the seed and the step alone."""
        size = self.settings.batch_size or self.problem.m
        per_epoch = self.problem.m // size  # what is left over of an epoch is skipped
        epoch, position = divmod(step, per_epoch)
        if self._order[0] != epoch:
            generator = np.random.default_rng([self.settings.batch_seed, epoch])
            self._order = (epoch, generator.permutation(self.problem.m))
        return torch.from_numpy(self._order[1][position * size : (position + 1) * size])

    def _notice_divergence(self, state: SweepState, trace: Tensor, first: int) -> None:
        index = torch.cat([group.index for group in state.groups]).numpy()
        bad = ~to_numpy(torch.isfinite(trace))
        diverged = bad.any(axis=0)
        finite_steps = np.where(diverged, bad.argmax(axis=0), len(bad))
        known = state.diverged_at[index] >= 0
        state.run_steps += int(finite_steps[~known].sum())
        fresh = diverged & ~known
        state.diverged_at[index[fresh]] = first + 1 + finite_steps[fresh]

    def _drop_diverged(self, state: SweepState) -> bool:
        dropped = False
        for group in state.groups:
            rows = torch.from_numpy(np.flatnonzero(state.diverged_at[group.index.numpy()] < 0))
            if len(rows) < len(group.index):
                group.keep(rows)
                dropped = True
        state.groups = [group for group in state.groups if len(group.index)]
        return dropped

    def _record(self, state: SweepState, weights: Tensor) -> None:
        """The live runs' losses at this step, in float64, over runs in blocks that bound the memory."""
        if not state.groups:
            return
        column = -(-state.step // self.settings.record_every)
        index = torch.cat([group.index for group in state.groups]).numpy()
        own, constants = weights[:, :, : self.problem.d], self._examples.exact_constants
        total = constants.new_zeros(len(own))
        for design, targets in self._examples.exact():
            size = max(1, RECORD_BYTES // (8 * len(design) * self.problem.k))
            for part, sums in zip(torch.split(own, size), torch.split(total, size), strict=True):
                exact = torch.cat([part.double(), constants.expand(len(part), -1, -1)], dim=2)
                predictions = (exact.view(-1, exact.shape[2]) @ design.t()).view(len(part), self.problem.k, -1)
                sums.add_(self.objective.total(predictions, targets))
        state.loss[index, column] = to_numpy(total / self.problem.m)


def _rows(state: SweepState) -> list[tuple[Group, slice]]:
    """The groups with the rows that each has in the stacked weights."""
    stops = np.cumsum([len(group.index) for group in state.groups]).tolist()
    return [(g, slice(stop - len(g.index), stop)) for g, stop in zip(state.groups, stops, strict=True)]
