"""What the flow descends: the distance to a target, or least squares on data, with words for the reader."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from overdepth.lab.problem import Problem
from overdepth.theory.losses import Loss, least_squares, matrix_distance, whiten


@dataclass(frozen=True)
class Objective:
    """A loss with its constants.

    Attributes:
        loss: Of the end-to-end weight.
        strong_convexity: mu > 0.
        name: The loss in a few words.
        target: Where its minimizer comes from.
    """

    loss: Loss
    strong_convexity: float
    name: str
    target: str


def towards(target: Tensor, origin: str) -> Objective:
    """f(W) = ||W - target||_F^2 / 2, with ``origin`` saying where the target comes from."""
    return Objective(matrix_distance(target), 1.0, "f(W) = ‖W − W*‖² / 2 (regression on whitened data)", origin)


def from_problem(problem: Problem, *, whitened: bool) -> Objective:
    """Least squares ||Y - X W^T||_F^2 / (2m) on the data of a problem.

    Raises:
        ValueError: If X has no full column rank: no rate is proved then.
    """
    features, targets = torch.from_numpy(problem.X), torch.from_numpy(problem.Y)
    data = whiten(features).data if whitened else features
    loss = least_squares(data, targets)
    return Objective(
        loss,
        loss.strong_convexity,
        f"f(W) = ‖Y − X Wᵀ‖² / 2m, {'X whitened' if whitened else 'X as scaled, not whitened'}",
        f"the least squares solution on {problem.name}, {problem.m} examples x {problem.d} features, scaling "
        f"{problem.scaling}; {problem.source}",
    )
