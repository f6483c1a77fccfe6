"""Training as in the tutorial: momentum, a learning rate that decays every epoch, batches in order."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from overdepth.lab.problem import Array
from overdepth.paper.network.model import STD, Network, make_network
from overdepth.paper.network.penalty import WEIGHT, Penalty, factored_penalty, plain_penalty

BATCH = 64
EPOCH = 55_000
EPOCHS = 10
HORIZON = EPOCHS * EPOCH // BATCH
MOMENTUM = 0.9
DECAY = 0.95
CHECKPOINT_EVERY = 500

Arm = Literal["plain", "matched", "product", "factors", "old"]
ARMS: tuple[Arm, ...] = get_args(Arm)


@dataclass(frozen=True)
class Run:
    """What is trained.

    Attributes:
        arm: ``plain``, ``matched`` (plain from the over-parameterized network's start), or where the penalty falls.
        lr: The learning rate of the first epoch.
        std: Of the new matrices.
        seed: Of all that is random.
    """

    arm: Arm
    lr: float
    std: float = STD
    seed: int = 0


class Training:
    """A network in training.

    Args:
        model: The network.
        optimizer: Of its parameters.
        penalty: Of the network as it is, times :data:`WEIGHT` a part of the total loss.
        lr: The learning rate of the first epoch.
        inputs: Shape (m, 1, 28, 28).
        labels: Shape (m,).
    """

    def __init__(
        self,
        model: Network,
        optimizer: torch.optim.Optimizer,
        penalty: Callable[[], Tensor],
        lr: float,
        inputs: Tensor,
        labels: Tensor,
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        self.penalty = penalty
        self.lr = lr
        self.inputs = inputs
        self.labels = labels
        self.done = 0

    def step(self) -> tuple[float, float]:
        """One step; the cross-entropy and the total loss of its batch before it."""
        begin = batch_start(self.done, len(self.labels))
        x = self.inputs[begin : begin + BATCH].contiguous(memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.lr, self.done)
        self.optimizer.zero_grad()
        cross_entropy = F.cross_entropy(self.model(x), self.labels[begin : begin + BATCH])
        total = cross_entropy + WEIGHT * self.penalty()
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.done += 1
        return cross_entropy.item(), total.item()

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on."""
        return {
            "done": self.done,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "dropout": self.model.dropout.generator.get_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.model.dropout.generator.set_state(state["dropout"])
        self.done = int(state["done"])


def begin(run: Run, inputs: Tensor, labels: Tensor) -> Training:
    """A run before its first step, through form 1 where it is over-parameterized."""
    penalty: Callable[[], Tensor]
    if run.arm == "plain" or run.arm == "matched":
        model = make_network(run.seed, run.arm, run.std, dtype=inputs.dtype)
        penalty = lambda: plain_penalty(model)  # noqa: E731 - one of two
    else:
        where: Penalty = run.arm
        model = make_network(run.seed, "overparameterized", run.std, dtype=inputs.dtype)
        penalty = lambda: factored_penalty(model, where)  # noqa: E731
    optimizer = torch.optim.SGD(model.parameters(), lr=run.lr, momentum=MOMENTUM)
    return Training(model, optimizer, penalty, run.lr, inputs, labels)


@dataclass(frozen=True)
class Recorded:
    """The batch losses of a run, NaN from the step on at which they were no longer finite.

    Attributes:
        cross_entropy: Shape (steps,).
        total: With the penalty, shape (steps,).
        diverged_at: That step, counted from 1; -1 if there is none.
    """

    cross_entropy: Array
    total: Array
    diverged_at: int


def train(
    training: Training,
    steps: int,
    *,
    saved: dict[str, Any] | None = None,
    save: Callable[[dict[str, Any]], None] = lambda _: None,
    every: int = CHECKPOINT_EVERY,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Recorded:
    """Trains to a number of steps, or until the loss is no longer finite.

    Args:
        training: Before its first step.
        steps: When to stop.
        saved: What ``save`` was given before the end, to go on from there.
        save: Given the losses and the state every so often, and the losses alone at the end.
        every: How often, in steps.
        progress: Called with the steps done and the number of runs in training, 1.
    """
    losses = torch.full((2, steps), math.nan, dtype=torch.float64)
    if saved is not None:
        losses[:] = saved["losses"]
        training.load_state(saved["state"])
    diverged_at = -1
    while training.done < steps and diverged_at < 0:
        pair = torch.tensor(training.step(), dtype=torch.float64)
        if bool(pair.isfinite().all()):
            losses[:, training.done - 1] = pair
        else:
            diverged_at = training.done
        progress(training.done, 1)
        if training.done % every == 0:
            save({"losses": losses, "state": training.state()})
    save({"losses": losses, "diverged_at": diverged_at})
    return _recorded(losses, diverged_at)


def finished(saved: dict[str, Any] | None) -> Recorded | None:
    """A run that :func:`train` has brought to its end, from what it saved; None if there is still something to do."""
    if saved is None or "state" in saved:
        return None
    return _recorded(saved["losses"], int(saved["diverged_at"]))


def _recorded(losses: Tensor, diverged_at: int) -> Recorded:
    cross_entropy, total = losses.numpy()
    return Recorded(np.asarray(cross_entropy), np.asarray(total), diverged_at)


def learning_rate(base: float, done: int) -> float:
    """After so many steps: decayed by 0.95 each time that 55,000 images were seen."""
    return base * DECAY ** (done * BATCH // EPOCH)


def batch_start(done: int, count: int) -> int:
    """Where the next batch begins: images are taken in order, as the tutorial's offset has it."""
    return done * BATCH % (count - BATCH)
