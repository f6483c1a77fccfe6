"""A ReLU network trained in many ways from one start: what the arms of an experiment on depth have in common."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

import overdepth as od
from images import Data

RECORDS = 10
EVALUATED = 10_000

Make = Callable[[nn.Module], torch.optim.Optimizer]


class Setting(NamedTuple):
    """How large the experiment is. Seeds below ``tuning_seeds`` tune, the following ``seeds`` are reported."""

    hidden: int = 64
    batch: int = 128
    steps: int = 469
    tuning_seeds: int = 3
    seeds: int = 5
    searched: int = 12  # learning rates at most
    plateau_steps: int = 10_000


QUICK = Setting(hidden=16, batch=64, steps=40, tuning_seeds=1, seeds=2, searched=3, plateau_steps=500)


class Method(NamedTuple):
    """An optimizer of torch and the learning rate at which its searches begin."""

    cls: type[torch.optim.Optimizer]
    options: dict[str, Any]
    lr: float


METHODS = {
    "SGD": Method(torch.optim.SGD, {}, 0.1),
    "momentum": Method(torch.optim.SGD, {"momentum": 0.9}, 0.02),
    "Adam": Method(torch.optim.Adam, {}, 0.001),
}


class Trained(NamedTuple):
    """The lowest recorded loss of a run, infinite if it diverged, and the model at its end."""

    loss: float
    model: nn.Module


class Experiment:
    """One network on one data set, trained in many ways."""

    def __init__(self, data: Data, setting: Setting) -> None:
        self.data = data
        self.setting = setting

    def network(self, seed: int) -> nn.Module:
        """Three layers of weights, He's initialization, biases zero."""
        generator = torch.Generator().manual_seed(seed)
        hidden = self.setting.hidden
        model = nn.Sequential(
            nn.Linear(self.data.images.shape[1], hidden), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.ReLU(),
            nn.Linear(hidden, 10),
        )  # fmt: skip
        for name, p in model.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(p, nonlinearity="relu", generator=generator)
            else:
                nn.init.zeros_(p)
        return model

    def train(self, seed: int, make: Make) -> Trained:
        """A run; its start and its batches depend on the seed alone."""
        model = self.network(seed)
        optimizer = make(model)
        generator = torch.Generator().manual_seed(seed)
        every = max(self.setting.steps // RECORDS, 1)
        best, order = math.inf, torch.empty(0, dtype=torch.int64)
        for step in range(1, self.setting.steps + 1):
            if len(order) < self.setting.batch:
                order = torch.randperm(len(self.data.images), generator=generator)
            batch, order = order[: self.setting.batch], order[self.setting.batch :]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(self.data.images[batch]), self.data.labels[batch])
            if not math.isfinite(loss.item()):
                return Trained(math.inf, model)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if step % every == 0:
                with torch.no_grad():
                    recorded = self.loss(model).item()
                if not math.isfinite(recorded):
                    return Trained(math.inf, model)
                best = min(best, recorded)
        return Trained(best, model)

    def loss(self, model: nn.Module) -> Tensor:
        """The mean loss over the first images of the training set."""
        return F.cross_entropy(model(self.data.images[:EVALUATED]), self.data.labels[:EVALUATED])

    def losses(self, make: Make, *, tuning: bool = False) -> list[float]:
        """Those of the seeds that tune, or of those that are reported."""
        split = self.setting.tuning_seeds
        seeds = range(split) if tuning else range(split, split + self.setting.seeds)
        return [self.train(seed, make).loss for seed in seeds]

    def step(self, make: Make) -> Callable[[], None]:
        """A training step on one batch, to be timed."""
        model = self.network(0)
        optimizer = make(model)
        x, labels = self.data.images[: self.setting.batch], self.data.labels[: self.setting.batch]

        def step() -> None:
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step


def rate(name: str, k: int) -> float:
    """The method's first learning rate times 2^(k / 2), three digits of it."""
    return float(f"{METHODS[name].lr * 2 ** (k / 2):.3g}")


def _groups(model: nn.Module, depth: int) -> od.optim.ParamGroups:
    return od.optim.param_groups(model, depth=depth, include="*.weight")  # the head too


def factored(name: str, depth: int, lr: float) -> Make:
    """The method on the balanced factors of every weight; depth 1 is the method itself."""
    if depth == 1:
        return plain(name, lr)
    method = METHODS[name]
    return lambda model: od.optim.Factored(_groups(model, depth), method.cls, lr=lr, **method.options)


def plain(name: str, lr: float) -> Make:
    """The method as it is."""
    method = METHODS[name]
    return lambda model: method.cls(model.parameters(), lr=lr, **method.options)  # type: ignore[call-arg]


def by_the_rule(depth: int, lr: float) -> Make:
    """``EndToEndSGD`` on every weight."""
    return lambda model: od.optim.EndToEndSGD(_groups(model, depth), lr)


def rescaled(depth: int, lr: float) -> Make:
    """Plain SGD, the learning rate of each weight times the mean multiplier that ``depth`` has at the start."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        groups = []
        for p in model.parameters():
            mean = od.end_to_end_spectrum(p.detach(), depth).mean().item() if p.ndim > 1 else 1.0
            groups.append({"params": [p], "lr": lr * mean})
        return torch.optim.SGD(groups)

    return make
