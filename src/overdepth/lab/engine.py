"""The sweep engine: many linear networks on one problem, two matrix products a step for all of them.

The end-to-end weights of all live runs are stacked into one matrix C; a step is P = C A^T (all predictions), phi'(P)
in place, G = phi'(P) A / m, then the chain rule and the update, batched by architecture (``groups``). For l2 the
data are replaced by their Gram matrix, and a step never touches them.

Everything that changes is in :class:`SweepState`; :meth:`Engine.advance` takes one to a later step. Where a sweep
is cut, into spans of steps or blocks of runs, is free: a cut by steps changes no bit of the result (runs leave the
products at steps fixed beforehand), a cut by runs only how the products round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from overdepth.gemm import matmul_transposed
from overdepth.lab.grouping import make_groups
from overdepth.lab.groups import Group
from overdepth.lab.objectives import Objective, PowerLoss
from overdepth.lab.problem import Array, Problem
from overdepth.lab.run import Run
from overdepth.lab.settings import Settings

CHECK_EVERY = 64
"""Diverged runs leave the products at every step divisible by this (and early on at powers of two)."""

BLOCK_BYTES = 16 * 2**20
"""Predictions are computed in blocks of rows of about this size, so that they stay in the cache."""

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


class _Block(NamedTuple):
    """Rows of the data, as the two products of a step want them."""

    design: Tensor  # (rows, d + e)
    features: Tensor  # (d, rows)
    targets: Tensor  # (k, rows)


@dataclass
class Engine:
    """A sweep's problem, runs, objective and settings, and what is computed from them once.

    Raises:
        ValueError: If there are no runs, or the problem's targets do not suit the objective.
    """

    problem: Problem
    runs: Sequence[Run]
    objective: Objective
    settings: Settings
    _constants: Tensor = field(init=False)
    _design: Tensor = field(init=False)
    _features: Tensor = field(init=False)
    _targets: Tensor = field(init=False)
    _gram: Tensor | None = field(init=False)
    _exact: tuple[Tensor, Tensor, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("runs is empty, expected at least one Run.")
        batch = self.settings.batch_size
        if batch is not None and batch > self.problem.m:
            raise ValueError(f"batch_size is {batch}, but the problem has only {self.problem.m} examples.")
        design, constants = self.objective.design(self.problem)
        quadratic = isinstance(self.objective, PowerLoss) and self.objective.p == 2
        exact = design
        if quadratic and design.shape[0] > design.shape[1]:
            # The triangular factor has the same Gram matrix, so the same sum of squares, in few rows.
            exact = np.asarray(np.linalg.qr(design, mode="r"))
        dtype = self.settings.dtype
        targets = torch.from_numpy(np.ascontiguousarray(self.problem.Y.T))
        self._exact = (torch.from_numpy(exact), torch.from_numpy(constants), targets)
        self._constants = torch.from_numpy(constants).to(dtype)
        self._design = torch.from_numpy(design).to(dtype)
        self._features = self._design[:, : self.problem.d].t().contiguous()
        self._targets = targets.to(dtype)
        self._gram = None
        if quadratic and batch is None:
            gram = design.T @ design[:, : self.problem.d] / self.problem.m
            self._gram = torch.from_numpy(gram).to(dtype)

    def start(self) -> SweepState:
        """The state before the first step, with the initial losses recorded."""
        records = len(self.settings.recorded_steps)
        groups = make_groups(self.runs, self.problem.k, self.problem.d, self.settings.dtype)
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
        k, d = self.problem.k, self.problem.d
        weights = torch.empty(state.live, k, d + self._constants.shape[1], dtype=self.settings.dtype)
        weights[:, :, d:] = self._constants
        for group, rows in _rows(state):
            group.write(weights[rows, :, :d])
        return weights

    def _span(self, state: SweepState, weights: Tensor, last: int) -> Tensor:
        """Steps up to ``last``; returns per step and run a number that is finite as long as the weight is."""
        d, live = self.problem.d, weights.shape[0]
        grad = torch.empty(live, self.problem.k, d, dtype=weights.dtype)
        flat = weights.view(live, -1)
        mean = torch.full((flat.shape[1],), 1.0 / flat.shape[1], dtype=weights.dtype)  # of finite numbers: finite
        trace = torch.empty(last - state.step, live, dtype=weights.dtype)
        views = [(group, grad[rows], weights[rows, :, :d]) for group, rows in _rows(state)]
        flat_weights, flat_grad = weights.view(-1, weights.shape[2]), grad.view(-1, d)
        blocks = self._blocks(weights, self._design, self._features, self._targets)
        for row in trace:
            if self._gram is not None:
                torch.mm(flat_weights, self._gram, out=flat_grad)
            else:
                if self.settings.batch_size is not None:
                    rows = self._batch(state.step)
                    blocks = self._blocks(weights, self._design[rows], self._features[:, rows], self._targets[:, rows])
                self._gradient(flat_weights, flat_grad, blocks)
            for group, own_grad, own_weight in views:
                group.step(own_grad)
                group.write(own_weight)
            torch.mv(flat, mean, out=row)
            state.step += 1
        return trace

    @staticmethod
    def _blocks(weights: Tensor, design: Tensor, features: Tensor, targets: Tensor) -> list[_Block]:
        """The rows of the data in blocks whose predictions are small enough to stay in the cache."""
        live, k, _ = weights.shape
        size = max(256, BLOCK_BYTES // (live * k * weights.element_size()))
        parts = (torch.split(design, size), torch.split(features, size, dim=1), torch.split(targets, size, dim=1))
        return [_Block(*part) for part in zip(*parts, strict=True)]

    def _gradient(self, weights: Tensor, grad: Tensor, blocks: Sequence[_Block]) -> None:
        """The gradients at ``weights``, shape (runs k, d + e), into ``grad``, shape (runs k, d)."""
        scale = 1.0 / sum(len(block.design) for block in blocks)
        for i, block in enumerate(blocks):
            predictions = matmul_transposed(weights, block.design)
            by_run = predictions.view(-1, self.problem.k, len(block.design))
            self.objective.derivative_(by_run, block.targets)
            part = matmul_transposed(predictions, block.features)
            if i == 0:
                torch.mul(part, scale, out=grad)
            else:
                grad.add_(part, alpha=scale)

    def _batch(self, step: int) -> Tensor:
        """Rows of the step's minibatch: a function of the seed and the step alone."""
        size = self.settings.batch_size or self.problem.m
        per_epoch = self.problem.m // size  # what is left over of an epoch is skipped
        epoch, position = divmod(step, per_epoch)
        order = np.random.default_rng([self.settings.batch_seed, epoch]).permutation(self.problem.m)
        return torch.from_numpy(order[position * size : (position + 1) * size])

    def _notice_divergence(self, state: SweepState, trace: Tensor, first: int) -> None:
        index = torch.cat([group.index for group in state.groups]).numpy()
        bad = ~torch.isfinite(trace).numpy()
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
        design, constants, targets = self._exact
        column = -(-state.step // self.settings.record_every)
        index = torch.cat([group.index for group in state.groups]).numpy()
        block = max(1, BLOCK_BYTES // (8 * design.shape[0] * self.problem.k))
        losses = []
        for part in torch.split(weights[:, :, : self.problem.d], block):
            exact = torch.cat([part.double(), constants.expand(len(part), -1, -1)], dim=2)
            predictions = (exact.view(-1, exact.shape[2]) @ design.t()).view(len(part), self.problem.k, -1)
            losses.append(self.objective.total(predictions, targets) / self.problem.m)
        state.loss[index, column] = torch.cat(losses).numpy()


def _rows(state: SweepState) -> list[tuple[Group, slice]]:
    """The groups with the rows that each has in the stacked weights."""
    stops = np.cumsum([len(group.index) for group in state.groups]).tolist()
    return [(g, slice(stop - len(g.index), stop)) for g, stop in zip(state.groups, stops, strict=True)]
