"""Form 1 against form 2: factors in the model against factors in the optimizer, batch loss by batch loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from overdepth.chain import product
from overdepth.lab.problem import Array
from overdepth.optim import Factored
from overdepth.paper.network.model import STD, make_network, new_matrices
from overdepth.paper.network.penalty import WEIGHT, Penalty, bias_penalty, half_squares, plain_penalty
from overdepth.paper.network.training import MOMENTUM, Run, Training, begin, train

STEPS = 50
PENALTIES: tuple[Penalty, ...] = ("product", "factors")
"""What form 2 can say: a penalty of the weights in the loss, or the base optimizer's decay of all factors."""


def begin_in_optimizer(run: Run, inputs: Tensor, labels: Tensor) -> Training:
    """The run that :func:`overdepth.paper.network.training.begin` makes through form 1, through form 2.

    Raises:
        ValueError: If its penalty falls on the old matrices alone, for which one weight decay cannot stand.
    """
    if run.arm not in PENALTIES:
        raise ValueError(f"arm is {run.arm!r}, expected one of {PENALTIES}: form 2 decays all factors alike.")
    model = make_network(run.seed, dtype=inputs.dtype)
    weights = [layer.weight for layer in model.dense]
    rest = [p for p in model.parameters() if all(p is not weight for weight in weights)]
    decay = WEIGHT if run.arm == "factors" else 0.0
    groups = [{"params": weights, "weight_decay": decay}, {"params": rest, "depth": 1}]
    optimizer = Factored(groups, torch.optim.SGD, init="identity", lr=run.lr, momentum=MOMENTUM)
    with torch.no_grad():
        for weight, new in zip(weights, new_matrices(run.seed, run.std), strict=True):
            factors = optimizer.factors(weight)
            factors[-1].copy_(new)
            weight.copy_(product(factors))

    def decayed_penalty() -> Tensor:
        """Only the biases' part has a gradient: the optimizer itself decays the factors."""
        held = [factor.detach() for weight in weights for factor in optimizer.factors(weight)]
        return half_squares(held) + bias_penalty(model)

    penalty: Callable[[], Tensor] = decayed_penalty if run.arm == "factors" else lambda: plain_penalty(model)
    return Training(model, optimizer, penalty, run.lr, inputs, labels)


def both_forms(
    penalty: Penalty, lr: float, seed: int, inputs: Tensor, labels: Tensor, steps: int, *, std: float = STD
) -> tuple[Array, Array]:
    """Total batch losses of the first steps, through form 1 and form 2; each of shape (steps,)."""
    run = Run(penalty, lr, std, seed)
    first, second = (train(make(run, inputs, labels), steps) for make in (begin, begin_in_optimizer))
    return first.total, second.total
