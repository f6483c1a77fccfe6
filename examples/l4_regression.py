"""Linear regression with the l4 loss, full batch: where depth helps.

    overdepth compare examples/l4_regression.py:task --out l4-regression

How it came out (five seeds, torch 2.13.0, two cores of an AMD EPYC; 45 s): depth helps in steps, not in time. Depth 2
is faster by 1.53 to 4.49 x in steps, depth 3 by 1.33 to 4.29 x. A step on so small a layer takes 1.6 and 1.8 times as
long, so that in time there is no difference that five seeds can show. Plain training with steps as long as theirs is
as fast as they are: what depth did here is to choose the lengths of steps. At a learning rate of 0.01 for all arms
depth is slower by 2 to 6 x: without tuning the answer would have been the opposite.

The layer starts at 0.3 of torch's start. From torch's own the largest learning rate that works differs much between
seeds, and five seeds decide less: for depth 2 nothing.
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
