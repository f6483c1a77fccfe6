"""Tracking where numbers overflow, where a weight changes shape, and what its state holds."""

from __future__ import annotations

import pytest
import torch

import overdepth as od


def step(p: torch.nn.Parameter, optimizer: od.optim.EndToEndSGD) -> None:
    p.grad = torch.ones_like(p)
    optimizer.step()


def test_a_weight_that_overflows_is_no_weight_that_stands_still() -> None:
    p = torch.nn.Parameter(torch.eye(3))
    optimizer = od.optim.EndToEndSGD([p], lr=0.1, depth=2, method="tracked")
    step(p, optimizer)
    with torch.no_grad():
        p.mul_(1e20)  # finite; its Gram matrix is not
    with pytest.raises(RuntimeError, match="the rule failed on parameter 0"):
        step(p, optimizer)


def test_a_weight_of_another_shape_is_decomposed_anew() -> None:
    p = torch.nn.Parameter(torch.eye(4))
    optimizer = od.optim.EndToEndSGD([p], lr=0.1, depth=2, method="tracked")
    step(p, optimizer)
    p.data = torch.eye(3)
    step(p, optimizer)
    assert optimizer.state[p]["basis"].shape[-2:] == (3, 3)


def test_a_basis_holds_its_own_memory() -> None:
    params = [torch.nn.Parameter(torch.randn(8, 8)) for _ in range(5)]
    optimizer = od.optim.EndToEndSGD(params, lr=0.1, depth=2, method="tracked")
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    for p in params:
        assert optimizer.state[p]["basis"].untyped_storage().nbytes() == 4 * 64
