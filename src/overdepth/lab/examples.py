"""The rows of a problem as the engine's products want them: held in memory, or read in blocks at every step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from overdepth.lab.devices import on_device
from overdepth.lab.objectives import Objective, PowerLoss
from overdepth.lab.problem import Array, Problem
from overdepth.lab.read_ahead import read_ahead
from overdepth.lab.rows import RowProblem
from overdepth.lab.settings import Settings
from overdepth.lab.triangular import stacked_triangle


class RowBlock(NamedTuple):
    """Rows of the data, as the two products of a step want them."""

    design: Tensor  # (rows, d + e)
    features: Tensor  # (rows, d), divided by the number of rows of the whole step
    targets: Tensor  # (k, rows)


class Examples(ABC):
    """Rows of the design matrix A on the sweep's device.

    For l2, A is replaced: by its Gram matrix in the steps, by its triangular factor in the losses, which has the same
    sums of squares in few rows.

    Attributes:
        constants: The further columns of C, shape (k, e), in the training's dtype.
        exact_constants: The same in float64.
        gram: A^T A / m, shape (d + e, d), if that is all that a step needs.
    """

    def __init__(
        self, problem: Problem | RowProblem, objective: Objective, settings: Settings, device: torch.device
    ) -> None:
        self._design_rows, constants = objective.design_rows(problem)
        self._d, self._device = problem.d, device
        self._dtype: type[np.float32] | type[np.float64]
        self._dtype = np.float32 if settings.dtype == torch.float32 else np.float64
        self.exact_constants = on_device(constants, device)
        self.constants = self.exact_constants.to(settings.dtype)
        self.gram: Tensor | None = None

    @abstractmethod
    def blocks(self) -> Iterable[RowBlock]:
        """All rows, for a full-batch step."""

    @abstractmethod
    def batch(self, rows: Tensor) -> RowBlock:
        """The rows of these numbers, for a minibatch step."""

    @abstractmethod
    def exact(self) -> Iterable[tuple[Tensor, Tensor]]:
        """Blocks of A, shape (rows, d + e), and of Y^T, shape (k, rows), in float64: what losses are computed from."""

    def _block(self, design: Array, Y: Array, count: int) -> RowBlock:
        own: NDArray[Any] = design.astype(self._dtype, copy=False)
        features = own[:, : self._d] * self._dtype(1.0 / count)
        targets = np.ascontiguousarray(Y.T, dtype=self._dtype)
        return RowBlock(*(on_device(array, self._device) for array in (own, features, targets)))

    def _exact_block(self, design: Array, Y: Array) -> tuple[Tensor, Tensor]:
        return on_device(design, self._device), on_device(np.ascontiguousarray(Y.T), self._device)


class HeldExamples(Examples):
    """All rows in memory."""

    def __init__(self, problem: Problem, objective: Objective, settings: Settings, device: torch.device) -> None:
        super().__init__(problem, objective, settings, device)
        design, Y = self._design_rows(problem.X, problem.Y), problem.Y
        quadratic = _is_quadratic(objective)
        self._blocks: list[RowBlock] = []
        if quadratic and settings.batch_size is None:
            self.gram = on_device(design.T @ design[:, : problem.d] / problem.m, device).to(settings.dtype)
        else:
            self._blocks.append(self._block(design, Y, problem.m))
        if quadratic and design.shape[0] > design.shape[1]:
            design, Y = stacked_triangle(None, design), Y[:0]
        self._exact = [self._exact_block(design, Y)]

    @override
    def blocks(self) -> Iterable[RowBlock]:
        return self._blocks

    @override
    def batch(self, rows: Tensor) -> RowBlock:
        chosen, (everything,) = rows.to(self._device), self._blocks
        design = everything.design[chosen]
        features = design[:, : self._d] * (1.0 / len(rows))
        return RowBlock(design, features, everything.targets[:, chosen])

    @override
    def exact(self) -> Iterable[tuple[Tensor, Tensor]]:
        return self._exact


class StreamedExamples(Examples):
    """Rows that are read from the file whenever they are needed, the next block while one is worked on."""

    def __init__(self, problem: RowProblem, objective: Objective, settings: Settings, device: torch.device) -> None:
        super().__init__(problem, objective, settings, device)
        self._problem = problem
        self._triangle: tuple[Tensor, Tensor] | None = None
        if _is_quadratic(objective):
            triangle, gram = None, np.zeros((problem.d + problem.k, problem.d))
            for X, Y in problem.row_blocks():
                design = self._design_rows(X, Y)
                triangle = stacked_triangle(triangle, design)
                gram += design.T @ X
            if triangle is not None:
                self._triangle = self._exact_block(triangle, np.empty((0, problem.k)))
            if settings.batch_size is None:
                self.gram = on_device(gram / problem.m, device).to(settings.dtype)

    @override
    def blocks(self) -> Iterator[RowBlock]:
        m = self._problem.m
        return read_ahead(self._block(self._design_rows(X, Y), Y, m) for X, Y in self._problem.row_blocks())

    @override
    def batch(self, rows: Tensor) -> RowBlock:
        X, Y = self._problem.take(rows.numpy())
        return self._block(self._design_rows(X, Y), Y, len(rows))

    @override
    def exact(self) -> Iterable[tuple[Tensor, Tensor]]:
        if self._triangle is not None:
            return [self._triangle]
        return read_ahead(self._exact_block(self._design_rows(X, Y), Y) for X, Y in self._problem.row_blocks())


def examples_of(
    problem: Problem | RowProblem, objective: Objective, settings: Settings, device: torch.device
) -> Examples:
    """The examples of a problem of either kind."""
    if isinstance(problem, RowProblem):
        return StreamedExamples(problem, objective, settings, device)
    return HeldExamples(problem, objective, settings, device)


def _is_quadratic(objective: Objective) -> bool:
    return isinstance(objective, PowerLoss) and objective.p == 2
