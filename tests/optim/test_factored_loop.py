"""``Factored`` in a training loop's hands: groups, schedulers, scalers, clipping, missing gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.optim import problems
from tests.optim.problems import (
    each_base,
    factored,
    gap,
    groups_like,
    identical,
    in_the_model,
    make,
    network,
    stored,
    train,
    weights,
)

import overdepth as od


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_a_group_added_later_trains_as_one_given_at_once(base: Any) -> None:
    model, x = make(problems.plain_relu_network)
    first, second = model.parameters()
    at_once, twin = copy.deepcopy(model), copy.deepcopy(model)
    groups: list[dict[str, Any]] = [
        {"params": [p], "depth": n} for n, p in zip((2, 3), at_once.parameters(), strict=True)
    ]
    expected = od.optim.Factored(groups, base, lr=0.01)
    optimizer = od.optim.Factored([first], base, lr=0.01)
    optimizer.add_param_group({"params": second, "depth": 3})
    train(model, x, optimizer, 3)
    train(at_once, x, expected, 3)
    assert identical(weights(model), weights(at_once))
    assert not identical(weights(model), weights(twin))


def test_a_group_that_is_refused_is_not_added() -> None:
    model, x = make(problems.relu_network)
    expected = copy.deepcopy(model)
    optimizer = od.optim.Factored([model.get_parameter("0.weight")], torch.optim.SGD, lr=0.05)
    with pytest.raises(ValueError, match="no matrix"):
        optimizer.add_param_group({"params": [model.get_parameter("2.weight"), model.get_parameter("0.bias")]})
    assert len(optimizer.param_groups) == 1
    train(model, x, optimizer, 2)
    train(expected, x, od.optim.Factored([expected.get_parameter("0.weight")], torch.optim.SGD, lr=0.05), 2)
    assert identical(weights(model), weights(expected))


def schedulers() -> dict[str, Any]:
    from torch.optim import lr_scheduler as lrs

    return {
        "step": lambda o: lrs.StepLR(o, 2, gamma=0.3),
        "lambda": lambda o: lrs.LambdaLR(o, lambda step: 1 / (1 + step)),
        "one cycle": lambda o: lrs.OneCycleLR(o, max_lr=0.05, total_steps=8, cycle_momentum=True),
        "warm-up": lambda o: lrs.SequentialLR(o, [lrs.LinearLR(o, 0.1, total_iters=2), lrs.ConstantLR(o, 0.5)], [2]),
    }


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", list(schedulers()))
def test_schedulers_reach_the_factors(base: Any, name: str) -> None:
    model, x = make(problems.relu_network)
    over = in_the_model(model, 2)
    options: dict[str, Any] = {"lr": 0.02} | ({"momentum": 0.9} if base is torch.optim.SGD else {})
    two = od.optim.Factored(groups_like(over, model, 2), base, **options)
    one = base(over.parameters(), **options)
    plans = [schedulers()[name](optimizer) for optimizer in (one, two)]
    for _ in range(6):
        train(over, x, one)
        train(model, x, two)
        for plan in plans:
            plan.step()
        assert one.param_groups[0]["lr"] == two.param_groups[0]["lr"]
        assert gap(weights(model), weights(over)) < 1e-11


def test_a_learning_rate_that_is_a_tensor_is_followed() -> None:
    model, x = make(problems.relu_network)
    expected = copy.deepcopy(model)
    groups = od.optim.param_groups(model)
    rate = torch.tensor(0.02, dtype=torch.float64)
    optimizer = od.optim.Factored(groups, torch.optim.SGD, lr=rate)
    other = od.optim.Factored(od.optim.param_groups(expected), torch.optim.SGD, lr=0.02)
    train(model, x, optimizer)
    train(expected, x, other)
    for group in optimizer.param_groups:
        group["lr"].fill_(0.01)
    for group in other.param_groups:
        group["lr"] = 0.01
    train(model, x, optimizer)
    train(expected, x, other)
    assert gap(weights(model), weights(expected)) < 1e-12


class Counting(torch.optim.SGD):
    """A base that counts in its groups and grows a key there, as several published optimizers do."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            for p in group["params"]:
                if p.grad is not None:
                    p.data.sub_(p.grad, alpha=group["lr"] / group["count"])


def test_a_base_that_keeps_numbers_in_its_groups_keeps_them() -> None:
    model, x = make(problems.relu_network)
    over = in_the_model(model, 2)
    two = od.optim.Factored(groups_like(over, model, 2), Counting, lr=0.05)
    one = Counting(over.parameters(), lr=0.05)
    train(over, x, one, 3)
    train(model, x, two, 3)
    assert gap(weights(model), weights(over)) < 1e-11
    assert [group["count"] for group in stored(two.state_dict())["param_groups"]] == [3] * len(two.param_groups)


def test_a_gradient_scaler_unscales_clips_and_skips() -> None:
    model, x = network()
    expected = copy.deepcopy(model)
    optimizer, other = factored(model), factored(expected)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(4):
        optimizer.zero_grad()
        scaler.scale(problems.loss(model, x)).backward()  # type: ignore[no-untyped-call]
        if step == 2:
            next(model.parameters()).grad.fill_(float("inf"))  # type: ignore[union-attr]
            before = weights(model)
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update()
        if step == 2:
            assert identical(weights(model), before)
            continue
        other.zero_grad()
        problems.loss(expected, x).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(expected.parameters(), 0.5)
        other.step()
    assert identical(weights(model), weights(expected))  # powers of two cost no bits


@pytest.mark.parametrize("to_none", [True, False])
def test_zero_grad_clears_what_the_model_holds(to_none: bool) -> None:
    model, x = network()
    optimizer = factored(model, torch.optim.SGD)
    train(model, x, optimizer)
    assert all(f.grad is None for p in optimizer.param_groups[-1]["params"] for f in optimizer.factors(p) if f is not p)
    before = weights(model)
    optimizer.zero_grad(set_to_none=to_none)
    for p in model.parameters():
        assert (p.grad is None) if to_none else (p.grad is not None and not p.grad.any())
    optimizer.step()
    assert identical(weights(model), before)


@each_base
def test_without_a_gradient_a_weight_keeps_its_bits(base: Any, options: dict[str, Any]) -> None:
    model, x = network()
    optimizer = factored(model, base, **options)
    for still in ("0.weight", "2.weight", "2.bias", "4.weight"):
        before = weights(model)
        optimizer.zero_grad()
        problems.loss(model, x).backward()  # type: ignore[no-untyped-call]
        model.get_parameter(still).grad = None
        optimizer.step()
        for name, value in weights(model).items():
            assert torch.equal(value, before[name]) == (name == still)
