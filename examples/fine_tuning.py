"""Fine-tuning through form 1: a network that knows the digits 0 to 4 learns 5 to 9.

    overdepth compare examples/fine_tuning.py:task --out fine-tuning

How it came out (five seeds, torch 2.13.0, two cores of an AMD EPYC; 31 s): depth does not help. There is no
difference in steps that five seeds can show, and in time depth 2 is slower by 1.20 to 3.08 x, depth 3 by 1.73 to 4.01
x.
"""

from __future__ import annotations

import functools
from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from sklearn.datasets import load_digits
from torch import Tensor, nn


def network() -> nn.Sequential:
    """Two hidden layers of 64 and a head for five classes."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))


def digits(first: int) -> tuple[Tensor, Tensor]:
    """Standardized images of five digits, and their classes from 0 on."""
    pixels, labels = (torch.tensor(values) for values in load_digits(return_X_y=True))
    chosen = (labels >= first) & (labels < first + 5)
    pixels = pixels.float()
    return ((pixels - pixels.mean()) / pixels.std())[chosen], labels[chosen] - first


@functools.cache
def pretrained() -> dict[str, Tensor]:
    """Weights after 500 steps on 0 to 4, all of them at every step."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        x, y = digits(0)
        for _ in range(500):
            optimizer.zero_grad()
            loss: Tensor = F.cross_entropy(model(x), y)
            torch.autograd.backward(loss)
            optimizer.step()
    return model.state_dict()


def build() -> nn.Module:
    """The pretrained body under a new head, which alone depends on the seed."""
    model = network()
    model.load_state_dict(pretrained())
    model[-1] = nn.Linear(64, 5)
    return model


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def task() -> dict[str, object]:
    """Batches of 32 of the digits 5 to 9, SGD with momentum."""
    return {
        "build": build,
        "loss_step": loss_step,
        "data": digits(5),
        "batch_size": 32,
        "base": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
        "arms": ["plain", "form1:2", "form1:3"],
        "steps": 200,
        "seeds": 5,
    }


if __name__ == "__main__":
    from overdepth.cli import main

    raise SystemExit(main(["compare", f"{__file__}:task", "--out", "fine-tuning"]))
