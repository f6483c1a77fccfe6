"""A network on a table, its loss of heavy tails: the l4 loss on the diabetes data of scikit-learn.

    overdepth compare examples/tabular_heavy_tails.py:task --out tabular-heavy-tails

How it came out (five seeds, torch 2.13.0, two cores of an AMD EPYC; 59 s): depth does not help. With tuned learning
rates there is no difference in steps that five seeds can show, and depth 3 is slower by 1.39 to 3.86 x in time. The
trap is seen here: at a learning rate of 0.01 for all arms depth 3 looks faster by 1.14 to 1.79 x in steps and ends at
a loss 1.06 to 1.12 x lower.
"""

from __future__ import annotations

from functools import partial

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn


def build() -> nn.Module:
    """Two hidden layers of 64."""
    return nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The l4 loss: a few patients who are far off decide it."""
    x, y = batch
    found: Tensor = (model(x) - y).pow(4).mean() / 4
    return found


def task() -> dict[str, object]:
    """442 patients, ten features, everything standardized, batches of 64."""
    x, y = (torch.tensor(values, dtype=torch.float32) for values in load_diabetes(return_X_y=True))
    x, y = ((values - values.mean(0)) / values.std(0) for values in (x, y[:, None]))
    return {
        "build": build,
        "loss_step": loss_step,
        "data": (x, y),
        "batch_size": 64,
        "base": partial(torch.optim.SGD, lr=0.01),
        "arms": ["plain", "form1:2", "form1:3"],
        "steps": 600,
        "seeds": 5,
    }


if __name__ == "__main__":
    from overdepth.cli import main

    raise SystemExit(main(["compare", f"{__file__}:task", "--out", "tabular-heavy-tails"]))
