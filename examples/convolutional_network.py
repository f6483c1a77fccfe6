"""A small convolutional network on MNIST, or on scikit-learn's digits where MNIST is absent.

    overdepth compare examples/convolutional_network.py:task --out convolutional-network

MNIST is read from ``mnist.npz`` in the folder that OVERDEPTH_DATA names; nothing is downloaded.

How it came out (MNIST, five seeds, torch 2.13.0, two cores of an AMD EPYC; 58 s): no difference that five seeds can
show, 0.578 to 1.29 x as fast in steps, 0.460 to 1.09 x in time.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

from overdepth.paper.network.mnist import load_digits, load_mnist


def build() -> nn.Module:
    """Two convolutions and two dense layers, on 14 x 14 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 3 * 3, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(batch[0]), batch[1])


def task() -> dict[str, object]:
    """Images at half their resolution, standardized, batches of 64, SGD with momentum."""
    try:
        images = load_mnist(download=False)
    except ConnectionError:
        images = load_digits()
    pixels = F.avg_pool2d(images.inputs(), 2)
    return {
        "build": build,
        "loss_step": loss_step,
        "data": ((pixels - pixels.mean()) / pixels.std(), images.labels),
        "batch_size": 64,
        "base": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
        "arms": ["plain", "form1:2"],
        "lrs": [0.0125, 0.025, 0.05, 0.1],
        "steps": 250,
        "seeds": 5,
    }


if __name__ == "__main__":
    from overdepth.cli import main

    raise SystemExit(main(["compare", f"{__file__}:task", "--out", "convolutional-network"]))
