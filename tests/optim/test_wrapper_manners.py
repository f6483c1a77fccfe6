"""A wrapped optimizer in everything that users lean on in a torch optimizer, and what it refuses."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from tests.optim.wrapped import assert_equal, groups_of, network, train, train_by_hand
from torch import nn

import overdepth as od


@pytest.mark.parametrize("how", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])  # noqa: S301
@pytest.mark.parametrize("base", [torch.optim.Adam, torch.optim.SGD])
def test_copies_and_pickles_go_on_preconditioning(how: Any, base: Any) -> None:
    model = network()
    optimizer = od.optim.end_to_end(groups_of(model, depth=3), base, lr=0.01)
    train(model, optimizer, range(2))
    other, copied = how((model, optimizer))
    assert type(copied) is type(optimizer)
    train(model, optimizer, range(2, 5))
    train(other, copied, range(2, 5))
    assert_equal(model, other)
    copied.add_param_group({"params": [("another", nn.Parameter(torch.eye(2)))]})
    assert copied.param_groups[-1]["depth"] == 2  # the default of the constructor


def test_a_state_dict_continues_bit_for_bit() -> None:
    model, other = network(), network(1)
    optimizer = od.optim.end_to_end(groups_of(model, depth=3), torch.optim.AdamW, lr=0.01)
    train(model, optimizer, range(3))
    buffer = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), buffer)
    buffer.seek(0)
    weights, state = torch.load(buffer, weights_only=True)
    other.load_state_dict(weights)
    resumed = od.optim.end_to_end(groups_of(other), torch.optim.AdamW, lr=9.0)
    resumed.load_state_dict(state)
    train(model, optimizer, range(3, 6))
    train(other, resumed, range(3, 6))
    assert_equal(model, other)


def test_state_goes_to_the_plain_base_and_back() -> None:
    """Its state and state_dict are the base's: a run may begin with the one and go on with the other."""
    model = network(bias=False)
    wrapped = od.optim.end_to_end(model.parameters(), torch.optim.Adam, depth=3, lr=0.01)
    train(model, wrapped, range(2))
    plain = torch.optim.Adam(model.parameters(), lr=0.5)
    plain.load_state_dict(wrapped.state_dict())
    assert plain.param_groups[0]["lr"] == 0.01
    train(model, plain, range(2, 4))

    started = network(bias=False)
    adam = torch.optim.Adam(started.parameters(), lr=0.01)
    train(started, adam, range(2))
    other, state = copy.deepcopy(started), copy.deepcopy(adam.state_dict())  # loading a state shares its tensors
    taken = od.optim.end_to_end(started.parameters(), torch.optim.Adam, depth=3, lr=0.5)
    taken.load_state_dict(adam.state_dict())
    train(started, taken, range(2, 4))
    by_hand = torch.optim.Adam(other.parameters(), lr=0.01)
    by_hand.load_state_dict(state)
    train_by_hand(other, by_hand, range(2, 4), 3)
    for p, q in zip(started.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_schedulers_and_hooks() -> None:
    model, other = network(), network()
    torch.optim.Adam(other.parameters())  # torch wraps a class's step when the first of its kind is made
    optimizer = od.optim.end_to_end(groups_of(model), torch.optim.Adam, lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    reference = od.optim.end_to_end(groups_of(other), torch.optim.Adam, lr=0.01)
    rates = set()
    for step in range(5):
        for group in reference.param_groups:
            group.update({name: optimizer.param_groups[0][name] for name in ("lr", "betas")})
        train(model, optimizer, range(step, step + 1))
        train(other, reference, range(step, step + 1))
        scheduler.step()
        rates.add(optimizer.param_groups[0]["lr"])
    assert_equal(model, other)
    assert len(rates) == 5
    assert calls == 5 * ["before", "after"]


def test_add_param_group_and_one_that_fails() -> None:
    optimizer = od.optim.end_to_end([nn.Parameter(torch.eye(3))], torch.optim.SGD, lr=0.1)
    second = nn.Parameter(2 * torch.eye(2))
    optimizer.add_param_group({"params": [second], "depth": 3})
    before = repr(optimizer)
    for bad in (torch.ones(3), torch.zeros(2, 2)):
        with pytest.raises((ValueError, UserWarning)):
            optimizer.add_param_group({"params": [nn.Parameter(bad)]})
        assert repr(optimizer) == before
    second.grad = torch.eye(2)
    optimizer.step()
    torch.testing.assert_close(second.detach(), (2 - 0.1 * 3 * 2 ** (4 / 3)) * torch.eye(2))


class FineLBFGS(torch.optim.LBFGS):
    """A subclass, which evaluates gradients itself, too."""


@pytest.mark.parametrize("base", [torch.optim.LBFGS, FineLBFGS])
def test_lbfgs_is_refused(base: Any) -> None:
    with pytest.raises(ValueError, match="LBFGS"):
        od.optim.end_to_end([nn.Parameter(torch.eye(2))], base, lr=0.1)


@pytest.mark.parametrize("base", ["Adam", None, nn.Linear, torch.optim.lr_scheduler.StepLR])
def test_what_is_no_optimizer_class_is_refused(base: Any) -> None:
    with pytest.raises(TypeError, match="expected an optimizer class"):
        od.optim.end_to_end([nn.Parameter(torch.eye(2))], base, lr=0.1)
    with pytest.raises(TypeError, match="expected an optimizer class"):
        od.optim.end_to_end([nn.Parameter(torch.eye(2))], torch.optim.SGD([nn.Parameter(torch.eye(2))], lr=0.1))


def test_bad_options_are_refused() -> None:
    params = [nn.Parameter(torch.eye(2))]
    with pytest.raises(TypeError, match="dept"):
        od.optim.end_to_end(params, torch.optim.Adam, dept=3)
    bad: list[dict[str, Any]] = [{"depth": 0}, {"method": "svd"}, {"groups": -1}, {"lr": -1.0}]
    for options in bad:
        with pytest.raises(ValueError, match=r"depth|method|groups|learning rate"):
            od.optim.end_to_end(params, torch.optim.Adam, **options)
