"""Small models with data, trained by forms 1 and 2: what the tests of ``Factored`` have in common."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import overdepth as od


def deep_linear_regression() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(6, 4, bias=False)), torch.randn(12, 6)


def relu_network() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(12, 6)


def plain_relu_network() -> tuple[nn.Module, Tensor]:
    """Matrices alone, for bases that take nothing else."""
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 3, bias=False)), torch.randn(12, 6)


def convolutional_network() -> tuple[nn.Module, Tensor]:
    layers = [nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(45, 3)]
    return nn.Sequential(*layers), torch.randn(4, 2, 5, 5)


def grouped() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh(), nn.Conv2d(6, 4, 2)), torch.randn(3, 4, 5, 5)


def depthwise() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Conv1d(4, 8, 3, groups=4), nn.Tanh(), nn.Conv1d(8, 3, 1)), torch.randn(3, 4, 7)


def transposed() -> tuple[nn.Module, Tensor]:
    layers = [nn.ConvTranspose2d(4, 6, 3, stride=2), nn.Tanh(), nn.ConvTranspose2d(6, 4, 2, groups=2)]
    return nn.Sequential(*layers), torch.randn(2, 4, 3, 3)


def embedding() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Embedding(7, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randint(7, (9,))


Problem = Callable[[], tuple[nn.Module, Tensor]]


def make(problem: Problem, seed: int = 0) -> tuple[nn.Module, Tensor]:
    """The model and its data in float64."""
    torch.manual_seed(seed)
    model, x = problem()
    return model.double(), x.double() if x.is_floating_point() else x


def train(model: nn.Module, x: Tensor, optimizer: Optimizer, steps: int = 1) -> None:
    """Steps on a loss that no weight is a minimum of."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, x).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def loss(model: nn.Module, x: Tensor) -> Tensor:
    out = model(x)
    target = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    result: Tensor = 3 * (out - target).square().mean()
    return result


def in_the_model(model: nn.Module, depth: int, **options: Any) -> nn.Module:
    """Form 1 of a copy, every layer's weight, factors multiplied first."""
    settings: dict[str, Any] = {"execution": "folded", "select": lambda layer, name: True} | options
    return od.overparameterize_(copy.deepcopy(model), depth, **settings)


def groups_like(over: nn.Module, model: nn.Module, depth: int) -> list[dict[str, Any]]:
    """Groups for form 2 that treat ``model`` as form 1 treated ``over``."""
    held = {name: factors.layout for name, factors in od.nn.named_factors(over)}
    result = []
    for name, p in model.named_parameters():
        conv_groups = getattr(held.get(name), "groups", 1)
        result.append({"params": [(name, p)], "depth": depth if name in held else 1, "groups": conv_groups})
    return result


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters by their plain names, products of factors in their places."""
    found = {name: p.detach().clone() for name, p in model.named_parameters() if "parametrizations" not in name}
    for name, factors in od.nn.named_factors(model):
        found[name] = factors.layout.product(list(factors)).detach().clone()
    return found


def gap(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of an entry beside the largest entry of its tensor."""
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).abs().max() / b[n].abs().max()) for n in a)


def identical(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[n], b[n]) for n in a)


# --- Factored with any base -------------------------------------------------------------------------------------------

BASES: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}),
    (torch.optim.AdamW, {"lr": 0.01, "amsgrad": True}),
    (torch.optim.Adagrad, {"lr": 0.02}),
    (torch.optim.ASGD, {"lr": 0.02}),
    (torch.optim.Rprop, {"lr": 0.01}),
    (torch.optim.NAdam, {"lr": 0.01}),
    (torch.optim.Adafactor, {"lr": 0.05}),
]
each_base = pytest.mark.parametrize(("base", "options"), BASES, ids=lambda v: getattr(v, "__name__", ""))


def network(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """Two convolutions, one in groups, and a linear layer; biases too."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 3)]
    return nn.Sequential(*layers).to(dtype), torch.randn(4, 2, 5, 5, dtype=dtype)


def factored(model: nn.Module, base: Any = torch.optim.AdamW, depth: int = 3, **options: Any) -> od.optim.Factored:
    groups = od.optim.param_groups(model, depth=depth, include="*.weight")
    return od.optim.Factored(groups, base, **({"lr": 0.01} | options))


def stored(value: Any) -> Any:
    """Through a file, without pickles."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
