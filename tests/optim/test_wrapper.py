"""The end-to-end rule in front of any optimizer."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.optim.wrapped import assert_equal, backward, groups_of, network, train, train_by_hand
from torch import nn

import overdepth as od

BASES: list[tuple[Any, dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    (torch.optim.Adam, {"lr": 0.01, "foreach": True, "maximize": True}),
    (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
    (torch.optim.Adagrad, {"lr": 0.1}),
]
IDS = ["sgd", "adam", "adamw", "foreach", "rmsprop", "adagrad"]


# --- what it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 2.5, math.inf])
@pytest.mark.parametrize(("base", "options"), BASES, ids=IDS)
def test_it_is_the_base_on_preconditioned_gradients(base: Any, options: dict[str, Any], depth: float) -> None:
    model, other = network(), network()
    optimizer = od.optim.end_to_end(groups_of(model, depth=depth), base, allow_frozen_directions=True, **options)
    assert isinstance(optimizer, base)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert base.__name__ in type(optimizer).__name__
    train(model, optimizer, range(5))
    train_by_hand(other, base(other.parameters(), **options), range(5), depth)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("depth", [2, 3.5])
def test_muon(depth: float) -> None:
    model, other = network(bias=False), network(bias=False)
    optimizer = od.optim.end_to_end(model.parameters(), torch.optim.Muon, depth=depth, lr=0.02)
    assert isinstance(optimizer, torch.optim.Muon)
    train(model, optimizer, range(4))
    train_by_hand(other, torch.optim.Muon(other.parameters(), lr=0.02), range(4), depth)
    assert_equal(model, other)


def test_a_base_of_ones_own_keeps_its_isinstance_and_its_class_untouched() -> None:
    class Mine(torch.optim.SGD):
        pass

    step = Mine.step
    model = network()
    optimizer = od.optim.end_to_end(groups_of(model), Mine, lr=0.1)
    train(model, optimizer, range(1))
    assert isinstance(optimizer, Mine)
    assert Mine.step is step
    plain, unpreconditioned = network(), network()
    train(plain, Mine(plain.parameters(), lr=0.1), range(1))
    train(unpreconditioned, torch.optim.SGD(unpreconditioned.parameters(), lr=0.1), range(1))
    assert_equal(plain, unpreconditioned)


@pytest.mark.parametrize(("base", "options"), BASES, ids=IDS)
def test_depth_1_is_the_base_bit_for_bit(base: Any, options: dict[str, Any]) -> None:
    model, other = network(), network()
    train(model, od.optim.end_to_end(model.parameters(), base, depth=1, **options), range(4))
    train(other, base(other.parameters(), **options), range(4))
    assert_equal(model, other)


def test_groups_of_depth_1_are_plain_beside_others() -> None:
    model, other = network(), network()
    optimizer = od.optim.end_to_end(groups_of(model), torch.optim.Adam, lr=0.01)
    train(model, optimizer, range(1))
    train(other, torch.optim.Adam(other.parameters(), lr=0.01), range(1))
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q) == name.endswith("bias"), name


def test_grouped_kernels() -> None:
    kernel = nn.Parameter(torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    before, grad = kernel.detach().clone(), torch.ones_like(kernel)
    optimizer = od.optim.end_to_end([kernel], torch.optim.SGD, lr=0.1, depth=3, groups=3)
    kernel.grad = grad
    optimizer.step()
    rule = od.end_to_end_update(before.reshape(3, 2, 6), grad.reshape(3, 2, 6), 3)
    torch.testing.assert_close(kernel.detach(), before - 0.1 * rule.reshape(6, 2, 3), rtol=1e-12, atol=1e-12)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_the_gradients_are_back_after_a_step() -> None:
    model = network()
    optimizer = od.optim.end_to_end(groups_of(model), torch.optim.Adam, lr=0.01)
    backward(model, 0)
    before = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
    optimizer.step()
    for p, (grad, values) in zip(model.parameters(), before, strict=True):
        assert p.grad is grad
        assert torch.equal(grad, values)


class Failing(torch.optim.SGD):
    """An optimizer that fails in its step."""

    def step(self, closure: Any = None) -> Any:
        raise OSError("disk full")


def test_the_gradients_are_back_after_a_base_that_fails() -> None:
    model = network()
    optimizer = od.optim.end_to_end(groups_of(model), Failing, lr=0.1)
    backward(model, 0)
    before = [p.grad for p in model.parameters()]
    with pytest.raises(OSError, match="disk full"):
        optimizer.step()
    assert all(p.grad is grad for p, grad in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("fault", ["sparse", "diverged"])
def test_the_gradients_are_back_after_a_rule_that_fails_in_a_later_group(fault: str) -> None:
    first, second = (nn.Parameter(torch.eye(3) + 0.1) for _ in range(2))
    optimizer = od.optim.end_to_end([{"params": [first]}, {"params": [second]}], torch.optim.SGD, lr=0.1)
    first.grad = torch.ones(3, 3)
    second.grad = torch.ones(3, 3).to_sparse() if fault == "sparse" else torch.ones(3, 3)
    if fault == "diverged":
        second.data[0, 0] = math.nan
    before = first.grad, second.grad, first.detach().clone()
    with pytest.raises((RuntimeError, ValueError)):
        optimizer.step()
    assert torch.equal(first, before[2])
    assert second.grad is before[1]
    assert first.grad is before[0]


def test_missing_gradients() -> None:
    model = network()
    optimizer = od.optim.end_to_end(groups_of(model), torch.optim.Adam, lr=0.01)
    optimizer.step()
    backward(model, 0)
    first: Any = model[0]
    first.weight.grad = None
    before = first.weight.detach().clone()
    optimizer.step()
    assert torch.equal(first.weight, before)
    assert first.weight.grad is None
    assert first.weight not in optimizer.state


def test_a_closure_is_evaluated_once_and_its_loss_returned() -> None:
    model, other = network(), network()
    optimizer = od.optim.end_to_end(groups_of(model), torch.optim.Adam, lr=0.01)
    calls = []

    def closure() -> Any:
        assert torch.is_grad_enabled()
        calls.append(1)
        backward(model, 0)
        return torch.tensor(7.0)

    with torch.no_grad():
        assert optimizer.step(closure) == 7
    assert calls == [1]
    train(other, od.optim.end_to_end(groups_of(other), torch.optim.Adam, lr=0.01), range(1))
    assert_equal(model, other)
