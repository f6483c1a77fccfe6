"""A small network, and EndToEndSGD with several choices of options for it."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn

import overdepth as od

OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "depth": 2.5},
    {"momentum": 0.5, "normalize": "rms", "method": "eigh_float32"},
]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


def optimizer_for(model: nn.Module, options: dict[str, Any], lr: Any = 0.05) -> od.optim.EndToEndSGD:
    options = dict(options)
    return od.optim.EndToEndSGD(od.optim.param_groups(model, depth=options.pop("depth", 2)), lr, **options)


def batch(step: int) -> Tensor:
    return torch.randn(5, 6, generator=torch.Generator().manual_seed(step)).to(torch.get_default_dtype())


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    dtype = next(model.parameters()).dtype
    for step in steps:
        optimizer.zero_grad()
        model(batch(step).to(dtype)).square().mean().backward()
        optimizer.step()


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def saved(state: Any) -> Any:
    """Through a file, read without pickles."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
