"""A small network, and its training by a wrapped optimizer or by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import overdepth as od


def network(seed: int = 0, *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7, bias=bias), nn.Tanh(), nn.Linear(7, 2, bias=bias)).double()


def groups_of(model: nn.Module, **options: Any) -> od.optim.ParamGroups:
    return od.optim.param_groups(model, include="2.weight", **options)


def backward(model: nn.Module, step: int) -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    model.zero_grad()
    model(x).square().mean().backward()


def train(model: nn.Module, optimizer: Any, steps: range) -> None:
    for step in steps:
        backward(model, step)
        optimizer.step()


def train_by_hand(model: nn.Module, optimizer: Any, steps: range, depth: float) -> None:
    """The base, fed with preconditioned gradients of the matrices."""
    for step in steps:
        backward(model, step)
        for p in model.parameters():
            if p.ndim > 1:
                assert p.grad is not None
                p.grad = od.end_to_end_update(p.detach(), p.grad, depth, allow_frozen_directions=True)
        optimizer.step()


def assert_equal(a: nn.Module, b: nn.Module) -> None:
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)
