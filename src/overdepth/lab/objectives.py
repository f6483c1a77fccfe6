"""Objectives: what a run minimises, in the one form that the engine's two matrix products serve.

Every objective is (1/m) sum_i phi(C^T a_i), with a_i row i of a design matrix A (the features, perhaps with further
columns) and C = [W_e, constants]: the features' weights are trained, the constants are not. The engine computes
``A @ C^T``, replaces it by phi's derivative in place, and multiplies back.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from overdepth.lab.problem import Array, Problem
from overdepth.lab.rows import RowProblem

DesignRows = Callable[[Array, Array], Array]
"""From rows of X and of Y to the same rows of A."""

MAX_VALUES = 1000
"""Different target values are counted up to here when they are too many anyway."""


class Objective(ABC):
    """A loss of linear predictions, averaged over examples and summed over outputs.

    Attributes:
        name: As given to :func:`objective`.
    """

    name: str

    @abstractmethod
    def design_rows(self, problem: Problem | RowProblem) -> tuple[DesignRows, Array]:
        """How rows of A, shape (rows, d + e), are made from rows of X and Y, and the constants, shape (k, e).

        The first d columns of A meet the trained weight. The targets are looked through once, to check them.

        Raises:
            ValueError: If the problem's targets do not suit the objective.
        """

    @abstractmethod
    def derivative_(self, predictions: Tensor, targets: Tensor) -> None:
        """Replaces C^T a by phi's derivative, in place.

        Args:
            predictions: Shape (runs, k, rows).
            targets: Y^T, shape (k, rows).
        """

    @abstractmethod
    def total(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Sum of phi over rows, shape (runs,); ``predictions`` may be overwritten."""


class PowerLoss(Objective):
    """l_p: (1/p) (prediction - y)^p for even p. The targets are a further column of A with weight -1."""

    def __init__(self, p: int) -> None:
        self.p = p
        self.name = f"l{p}"

    @override
    def design_rows(self, problem: Problem | RowProblem) -> tuple[DesignRows, Array]:
        return lambda X, Y: np.hstack([X, Y]), -np.eye(problem.k)

    @override
    def derivative_(self, predictions: Tensor, targets: Tensor) -> None:
        if self.p == 4:
            predictions.pow_(3)  # a special case of torch's, one pass over memory
        elif self.p > 2:
            predictions.mul_(_power(predictions, self.p - 2))

    @override
    def total(self, predictions: Tensor, targets: Tensor) -> Tensor:
        half = _power(predictions, self.p // 2).flatten(1)
        squares: Tensor = torch.linalg.vecdot(half, half)
        return squares.div_(self.p)


class Logistic(Objective):
    """log(1 + exp(-t prediction)) for one output; t = +1 for the larger of the two target values, -1 for the other."""

    name = "logistic"

    @override
    def design_rows(self, problem: Problem | RowProblem) -> tuple[DesignRows, Array]:
        values = np.empty(0)
        for _, Y in problem.row_blocks():
            values = np.union1d(values, Y)
            if len(values) > MAX_VALUES:
                break
        if problem.k != 1 or len(values) != 2:
            count = f"more than {MAX_VALUES}" if len(values) > MAX_VALUES else str(len(values))
            raise ValueError(
                f"objective 'logistic' needs one target with two values, the problem {problem.name!r} has "
                f"{problem.k} with {count} values; use 'cross_entropy' for several classes, one column each."
            )
        low = values[0]
        # Predictions are negated margins: no cancellation in the tail.
        return lambda X, Y: (1.0 - 2.0 * (Y > low)) * X, np.empty((1, 0))

    @override
    def derivative_(self, predictions: Tensor, targets: Tensor) -> None:
        predictions.sigmoid_()

    @override
    def total(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.softplus(predictions, threshold=40.0).sum(dim=(-2, -1))


class CrossEntropy(Objective):
    """Softmax cross-entropy for several outputs; every row of Y is 1 at its class and 0 elsewhere."""

    name = "cross_entropy"

    @override
    def design_rows(self, problem: Problem | RowProblem) -> tuple[DesignRows, Array]:
        one_hot = problem.k >= 2 and all(
            np.isin(Y, (0.0, 1.0)).all() and (Y.sum(axis=1) == 1).all() for _, Y in problem.row_blocks()
        )
        if not one_hot:
            raise ValueError(
                f"objective 'cross_entropy' needs at least two target columns with a single 1 in every row, the "
                f"problem {problem.name!r} has {problem.k} column{'s' * (problem.k > 1)} of another kind; "
                f"name one target column a class, with scaling 'none', or build Problem(X, np.eye(classes)[labels])."
            )
        return lambda X, Y: X, np.empty((problem.k, 0))

    @override
    def derivative_(self, predictions: Tensor, targets: Tensor) -> None:
        predictions.sub_(predictions.amax(dim=-2, keepdim=True)).exp_()
        predictions.div_(predictions.sum(dim=-2, keepdim=True)).sub_(targets)

    @override
    def total(self, predictions: Tensor, targets: Tensor) -> Tensor:
        of_class = (predictions * targets).sum(dim=(-2, -1))
        return torch.logsumexp(predictions, dim=-2).sum(dim=-1) - of_class


def objective(name: str) -> Objective:
    """The objective of that name: ``l2``, ``l4``, any even ``l<p>``, ``logistic`` or ``cross_entropy``.

    Raises:
        ValueError: If the name is unknown or p is odd.

    Example:
        >>> from overdepth.lab import objective
        >>> objective("l4").name
        'l4'
    """
    if name == "logistic":
        return Logistic()
    if name == "cross_entropy":
        return CrossEntropy()
    power = re.fullmatch(r"l(\d+)", name)
    if power and int(power[1]) >= 2 and int(power[1]) % 2 == 0:
        return PowerLoss(int(power[1]))
    raise ValueError(f"objective is {name!r}, expected l2, l4 or another even l<p>, logistic, or cross_entropy.")


def _power(base: Tensor, exponent: int) -> Tensor:
    """base^exponent by repeated squaring: torch's general power is a hundred times slower."""
    if exponent == 1:
        return base
    root = _power(base, exponent // 2)
    square = root * root
    return square.mul_(base) if exponent % 2 else square
