"""Cheap problems to compare arms on; functions of a module, so that worker processes can be sent them."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from overdepth.comparison import Task


def squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    found: Tensor = (model(batch[0]) - batch[1]).square().mean()
    return found


def nan_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return squares(model, batch) * float("nan")


def linear() -> nn.Module:
    return nn.Linear(3, 1, bias=False)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 1))


def regression(rows: int = 64, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + noise * torch.randn(rows, 1, generator=generator)
    return x, y


def task(**changes: Any) -> Task:
    given: dict[str, Any] = {
        "build": linear,
        "loss_step": squares,
        "data": regression(),
        "base": partial(torch.optim.SGD, lr=0.05),
        "batch_size": 8,
    }
    return Task(**{**given, **changes})


def settings() -> dict[str, object]:
    """As a file given to the command line has it."""
    return {
        "build": network,
        "loss_step": squares,
        "data": regression(),
        "base": partial(torch.optim.SGD, lr=0.05),
        "batch_size": 8,
        "lrs": [0.05, 0.1],
        "steps": 30,
    }


def wrong() -> list[int]:
    return [1]
