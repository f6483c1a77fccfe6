"""EndToEndSGD in everything that users lean on in a torch optimizer."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from tests.optim.end_to_end_training import OPTIONS, assert_equal, batch, network, optimizer_for, saved, train
from torch import nn

import overdepth as od

# --- state ------------------------------------------------------------------------------------------------------------


def test_without_momentum_there_is_no_state() -> None:
    model = network()
    optimizer = optimizer_for(model, {"weight_decay": 0.1, "normalize": "spectral"})
    train(model, optimizer, range(2))
    assert sum(len(state) for state in optimizer.state.values()) == 0
    assert optimizer.state_dict()["state"] == {}


def test_with_momentum_the_state_is_one_buffer_a_parameter() -> None:
    model = network()
    optimizer = optimizer_for(model, {"momentum": 0.9})
    train(model, optimizer, range(2))
    for p in model.parameters():
        assert list(optimizer.state[p]) == ["momentum_buffer"]
        assert optimizer.state[p]["momentum_buffer"].shape == p.shape


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_state_dict_continues_bit_for_bit(options: dict[str, Any], dtype: torch.dtype) -> None:
    model = network()
    optimizer = optimizer_for(model, options)
    train(model, optimizer, range(3))
    other = network(1)
    other.load_state_dict(saved(model.state_dict()))
    resumed = optimizer_for(other, {}, lr=9.0)  # every option comes from the state
    resumed.load_state_dict(saved(optimizer.state_dict()))
    if dtype == torch.float64:
        model, other = model.double(), other.double()
        for each in (optimizer, resumed):
            each.load_state_dict(each.state_dict())  # moves the state to the dtype of the parameters
    train(model, optimizer, range(3, 7))
    train(other, resumed, range(3, 7))
    assert_equal(model, other)
    assert next(model.parameters()).dtype == dtype


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])  # noqa: S301
def test_copies_and_pickles_of_model_and_optimizer_continue_alone(how: Any) -> None:
    model = network()
    optimizer = optimizer_for(model, OPTIONS[2])
    train(model, optimizer, range(3))
    other, copied = how((model, optimizer))
    assert isinstance(copied, od.optim.EndToEndSGD)
    train(model, optimizer, range(3, 6))
    with pytest.raises(AssertionError):
        assert_equal(model, other)
    train(other, copied, range(3, 6))
    assert_equal(model, other)


@pytest.mark.parametrize("nesterov", [False, True])
def test_a_model_may_change_its_dtype_between_construction_and_the_first_step(nesterov: bool) -> None:
    """As with torch's own, whose state is made by the first step: nothing of it is in the old dtype, or device."""
    model, other = network(), network().double()
    optimizer = optimizer_for(model, {"momentum": 0.9, "nesterov": nesterov})
    model.double()
    train(model, optimizer, range(3))
    train(other, optimizer_for(other, {"momentum": 0.9, "nesterov": nesterov}), range(3))
    assert_equal(model, other)
    assert {state["momentum_buffer"].dtype for state in optimizer.state.values()} == {torch.float64}


def test_momentum_may_begin_later() -> None:
    model, other = network(), network()
    optimizer, plain = optimizer_for(model, {}), optimizer_for(other, {"momentum": 0.9})
    for group in optimizer.param_groups:
        group["momentum"] = 0.9
    train(model, optimizer, range(3))
    train(other, plain, range(3))
    assert_equal(model, other)


# --- groups -----------------------------------------------------------------------------------------------------------


def test_add_param_group() -> None:
    first, second = nn.Parameter(torch.eye(3)), nn.Parameter(2 * torch.eye(3))
    optimizer = od.optim.EndToEndSGD([first], 0.1)
    optimizer.add_param_group({"params": [second], "depth": 3, "lr": 0.2})
    for p in (first, second):
        p.grad = torch.eye(3)
    optimizer.step()
    torch.testing.assert_close(first.detach(), (1 - 0.1 * 2) * torch.eye(3))
    torch.testing.assert_close(second.detach(), (2 - 0.2 * 3 * 2 ** (4 / 3)) * torch.eye(3))


@pytest.mark.parametrize(
    "group",
    [
        {"params": [nn.Parameter(torch.ones(3))]},
        {"params": [nn.Parameter(torch.eye(3))], "depth": 0},
        {"params": [nn.Parameter(torch.eye(3))], "lr": -1.0},
        {"params": [nn.Parameter(torch.eye(3))], "method": "svd"},
        {"params": [nn.Parameter(torch.eye(3))], "groups": 2},
        {"params": [nn.Parameter(torch.zeros(3, 3))]},  # a warning, which is an error here
        {"params": [nn.Parameter(torch.full((3, 3), math.nan))]},
    ],
)
def test_a_group_that_fails_leaves_the_optimizer_as_it_was(group: dict[str, Any]) -> None:
    p = nn.Parameter(torch.eye(3))
    optimizer = od.optim.EndToEndSGD([p], 0.1, momentum=0.9)
    before = repr(optimizer), str(optimizer.state_dict())
    with pytest.raises((ValueError, UserWarning)):
        optimizer.add_param_group(group)
    assert (repr(optimizer), str(optimizer.state_dict())) == before
    p.grad = torch.eye(3)
    optimizer.step()
    torch.testing.assert_close(p.detach(), 0.8 * torch.eye(3))


# --- gradients --------------------------------------------------------------------------------------------------------


def test_parameters_without_a_gradient_stay_where_they_are() -> None:
    still, moved = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))
    optimizer = od.optim.EndToEndSGD([still, moved], 0.1, momentum=0.9, weight_decay=0.1)
    optimizer.step()  # nobody has one
    assert torch.equal(moved, torch.eye(3))
    moved.grad = torch.eye(3)
    optimizer.step()
    assert torch.equal(still, torch.eye(3))
    assert not torch.equal(moved, torch.eye(3))
    held = optimizer.state[still].get("momentum_buffer")
    assert held is None or not bool(held.any())


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_and_their_memory_are_left_alone(options: dict[str, Any]) -> None:
    model = network()
    optimizer = optimizer_for(model, options | {"maximize": True})
    for _ in range(2):
        optimizer.zero_grad()
        model(batch(0)).square().mean().backward()
        before = [(p.grad, p.grad.clone()) for p in model.parameters() if p.grad is not None]
        optimizer.step()
        for p, (grad, values) in zip(model.parameters(), before, strict=True):
            assert p.grad is grad
            assert torch.equal(grad, values)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())


def test_a_closure_is_evaluated_once_with_gradients_and_its_loss_returned() -> None:
    model, other = network(), network()
    optimizer, plain = optimizer_for(model, {}), optimizer_for(other, {})
    calls = []

    def closure() -> Any:
        assert torch.is_grad_enabled()
        calls.append(1)
        optimizer.zero_grad()
        loss: Any = model(batch(0)).square().mean()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    train(other, plain, range(1))
    assert calls == [1]
    assert float(loss.detach()) > 0
    assert_equal(model, other)
    assert optimizer.step() is None
