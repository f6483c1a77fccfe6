"""The convolutional network of the TensorFlow 1 MNIST tutorial, and what over-parameterization makes of it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn

from overdepth.nn import collapse_, named_factors, overparameterize_

STD = 0.1
DENSE = ("dense1", "dense2")
_START, _NEW, _DROPOUT = range(3)  # what is drawn has a stream of its own

Variant = Literal["plain", "matched", "overparameterized"]


class Dropout(nn.Module):
    """Dropout whose masks come from a generator of its own, so that they are the same for every model."""

    def __init__(self, seed: int, rate: float = 0.5) -> None:
        super().__init__()
        self.generator = stream(seed, _DROPOUT)
        self.kept = 1 - rate

    def forward(self, x: Tensor) -> Tensor:
        """Entries are kept and scaled up, or zero."""
        return x * torch.empty_like(x).bernoulli_(self.kept, generator=self.generator) / self.kept


class Network(nn.Sequential):
    """Two convolutions and two dense layers, to be trained: dropout is always on."""

    dense1: nn.Linear
    dense2: nn.Linear
    dropout: Dropout

    @property
    def dense(self) -> tuple[nn.Linear, nn.Linear]:
        """The dense layers."""
        return self.dense1, self.dense2


def make_network(
    seed: int, variant: Variant = "plain", std: float = STD, *, dtype: torch.dtype = torch.float32
) -> Network:
    """The network at its start.

    Args:
        seed: Decides everything drawn; the convolutions and the old matrices are the same in all variants.
        variant: ``plain``; ``overparameterized``: each dense matrix W is a product V W with a new matrix V drawn like
            it; ``matched``: plain, but started at the products that ``overparameterized`` starts at.
        std: Standard deviation of the new matrices before truncation.
        dtype: Of the parameters; numbers are drawn in single precision.
    """
    model = _plain(seed)
    if variant != "plain":
        overparameterize_(model, init="identity", select=lambda _, name: name in DENSE)  # the old matrices are W_1
        for (_, factors), new in zip(named_factors(model), new_matrices(seed, std), strict=True):
            with torch.no_grad():
                factors[-1].copy_(new)
    if variant == "matched":
        collapse_(model)
    model.to(dtype)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def new_matrices(seed: int, std: float) -> list[Tensor]:
    """The new matrices of the two dense layers, 512 x 512 and 10 x 10; another ``std`` scales the same numbers."""
    generator = stream(seed, _NEW)
    return [truncated_normal(torch.empty(n, n), std, generator) for n in (512, 10)]


def truncated_normal(tensor: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Fills with a normal that is drawn anew beyond two standard deviations, as TensorFlow's ``truncated_normal``."""
    return nn.init.trunc_normal_(tensor, std=std, a=-2 * std, b=2 * std, generator=generator)


def stream(seed: int, which: int) -> torch.Generator:
    """A source of random numbers."""
    return torch.Generator().manual_seed(8 * seed + which)


def _plain(seed: int) -> Network:
    with torch.device("meta"):  # torch's own start is not drawn
        model = Network(
            OrderedDict[str, nn.Module](
                conv1=nn.Conv2d(1, 32, 5, padding=2),
                relu1=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv2=nn.Conv2d(32, 64, 5, padding=2),
                relu2=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
                flat=nn.Flatten(),
                dense1=nn.Linear(7 * 7 * 64, 512),
                relu3=nn.ReLU(),
                dropout=Dropout(seed),
                dense2=nn.Linear(512, 10),
            )
        )
    model.to_empty(device="cpu")
    generator = stream(seed, _START)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("weight"):
                truncated_normal(p, STD, generator)
            else:
                p.fill_(0.0 if name == "conv1.bias" else 0.1)
    return model
