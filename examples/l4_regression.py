"""Linear regression with the l4 loss, full batch: where depth helps.

overdepth compare examples/l4_regression.py:task --out l4-regression
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

import overdepth as od

FEATURES = 30


def build() -> nn.Module:
    """A linear layer without a bias, started at a third of torch's start."""
    layer = nn.Linear(FEATURES, 1, bias=False)
    with torch.no_grad():
        layer.weight.mul_(0.3)
    return layer


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The l4 loss."""
    x, y = batch
    found: Tensor = (model(x) - y).pow(4).mean() / 4
    return found


def task() -> dict[str, object]:
    """Breast-cancer features, standardized, on one linear layer without a bias."""
    problem = od.lab.load_problem("breast-cancer")
    return {
        "build": build,
        "loss_step": loss_step,
        "data": (torch.tensor(problem.X).float(), torch.tensor(problem.Y).float()),
        "base": partial(torch.optim.SGD, lr=0.01),
        "arms": ["plain", "form1:2", "form1:3"],
        "steps": 1500,
        "seeds": 5,
    }


if __name__ == "__main__":
    from overdepth.cli import main

    raise SystemExit(main(["compare", f"{__file__}:task", "--out", "l4-regression"]))
