"""optimizer=: an optimizer that was built before trains the factors in the weights' places."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.nn.agreement import assert_close
from torch import Tensor, nn

import overdepth as od

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "SGD": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "Adam": (torch.optim.Adam, {"lr": 0.05, "amsgrad": True}),
    "AdamW": (torch.optim.AdamW, {"lr": 0.05}),
    "NAdam": (torch.optim.NAdam, {"lr": 0.05}),
    "RAdam": (torch.optim.RAdam, {"lr": 0.05}),
    "Adamax": (torch.optim.Adamax, {"lr": 0.05}),
    "Adadelta": (torch.optim.Adadelta, {"lr": 0.5}),
    "Adagrad": (torch.optim.Adagrad, {"lr": 0.05, "initial_accumulator_value": 0.1}),
    "RMSprop": (torch.optim.RMSprop, {"lr": 0.005, "centered": True}),
    "Rprop": (torch.optim.Rprop, {"lr": 0.05}),
    "ASGD": (torch.optim.ASGD, {"lr": 0.05}),
    "Adafactor": (torch.optim.Adafactor, {"lr": 0.05}),
    "LBFGS": (torch.optim.LBFGS, {"lr": 0.05}),
}


def model_and_data() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return model, torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, steps: int = 3) -> list[float]:
    losses: list[float] = []

    def closure() -> float:
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        losses.append(loss.item())
        return losses[-1]

    for _ in range(steps):
        optimizer.step(closure)
    return losses


@pytest.mark.parametrize("steps_before", [0, 2])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_the_factors(name: str, steps_before: int) -> None:
    """As one that is built afterwards does, if nothing is remembered."""
    model, x, y = model_and_data()
    cls, options = OPTIMIZERS[name]
    optimizer = cls(model.parameters(), **options)
    train(model, optimizer, x, y, steps_before)
    other = od.overparameterize_(copy.deepcopy(model))
    od.overparameterize_(model, optimizer=optimizer)
    starts = [p.detach().clone() for p in model.parameters()]
    found = train(model, optimizer, x, y)
    assert not any(torch.equal(p, start) for p, start in zip(model.parameters(), starts, strict=True))
    assert found[-1] < found[0]
    if steps_before == 0:
        wanted = train(other, cls(other.parameters(), **options), x, y)
        assert found == pytest.approx(wanted, rel=1e-6)


def test_an_optimizer_that_is_not_handed_over_trains_no_factor() -> None:
    model, x, y = model_and_data()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    od.overparameterize_(model)
    starts = [p.detach().clone() for _, fs in od.nn.named_factors(model) for p in fs]
    train(model, optimizer, x, y)
    factors = [p for _, fs in od.nn.named_factors(model) for p in fs]
    assert all(torch.equal(p, start) for p, start in zip(factors, starts, strict=True))


def test_factors_take_the_weights_places() -> None:
    model, _, _ = model_and_data()
    first, last = model[0], model[2]
    optimizer = torch.optim.SGD(
        [
            {"params": [first.bias, first.weight], "lr": 0.1},
            {"params": [last.weight, last.bias], "lr": 0.2, "weight_decay": 0.3, "name": "head"},
        ],
        lr=1.0,
    )
    groups = optimizer.param_groups
    od.overparameterize_(model, 3, optimizer=optimizer)
    factors = {name: list(fs) for name, fs in od.nn.named_factors(model)}
    assert optimizer.param_groups is groups
    for group, expected in zip(
        groups, [[first.bias, *factors["0.weight"]], [*factors["2.weight"], last.bias]], strict=True
    ):
        assert [id(p) for p in group["params"]] == [id(p) for p in expected]
    assert [(g["lr"], g["weight_decay"]) for g in groups] == [(0.1, 0), (0.2, 0.3)]
    assert groups[1]["name"] == "head"


def test_names_of_parameters_are_kept() -> None:
    model, x, y = model_and_data()
    optimizer = torch.optim.AdamW(model.named_parameters(), 0.01)
    od.overparameterize_(model, optimizer=optimizer, select=lambda _, name: name == "2")
    (group,) = optimizer.param_groups
    assert group["param_names"] == [
        "0.weight",
        "0.bias",
        "2.parametrizations.weight.factor0",
        "2.parametrizations.weight.factor1",
        "2.bias",
    ]
    named = dict(model.named_parameters())
    assert all(named[name] is p for name, p in zip(group["param_names"], group["params"], strict=True))
    train(model, optimizer, x, y)
    other = torch.optim.AdamW(model.named_parameters(), 0.01)
    assert len(optimizer.state_dict()["state"]) == len(named)
    other.load_state_dict(optimizer.state_dict())
    layer = nn.Linear(3, 3)
    alone = torch.optim.SGD(layer.named_parameters(), 0.1)
    od.overparameterize_(layer, optimizer=alone)
    assert alone.param_groups[0]["param_names"][:2] == [f"parametrizations.weight.factor{j}" for j in range(2)]


def test_what_is_remembered_of_other_parameters_stays() -> None:
    model: Any
    model, x, y = model_and_data()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, x, y)
    kept = {p: optimizer.state[p]["momentum_buffer"] for p in (model[0].bias, model[2].weight, model[2].bias)}
    od.overparameterize_(model, optimizer=optimizer, select=lambda _, name: name == "0")
    assert set(optimizer.state) == set(kept)
    assert all(optimizer.state[p]["momentum_buffer"] is buffer for p, buffer in kept.items())


def test_several_optimizers() -> None:
    model, x, y = model_and_data()
    optimizers = (torch.optim.SGD(model[0].parameters(), 0.1), torch.optim.Adam(model[2].parameters(), 0.01))
    od.overparameterize_(model, optimizer=optimizers)
    for optimizer, layer in zip(optimizers, (model[0], model[2]), strict=True):
        assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in layer.parameters()}
    starts = [p.detach().clone() for p in model.parameters()]
    (model(x) - y).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert not any(torch.equal(p, start) for p, start in zip(model.parameters(), starts, strict=True))


def test_weights_that_no_optimizer_holds_are_refused() -> None:
    model: Any = model_and_data()[0]
    optimizer = torch.optim.SGD([model[0].weight, model[2].bias], 0.1)
    before = [id(p) for p in optimizer.param_groups[0]["params"]]
    with pytest.raises(ValueError, match=r"optimizer holds no '2\.weight'.*select="):
        od.overparameterize_(model, optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == before
    assert [type(m) for m in model] == [nn.Linear, nn.Tanh, nn.Linear]
    od.overparameterize_(model, optimizer=optimizer, select=lambda _, name: name == "0")
    assert len(optimizer.param_groups[0]["params"]) == 3


@pytest.mark.parametrize("optimizer", ["SGD", torch.optim.SGD, [nn.Linear(2, 2)], 0.1])
def test_only_optimizers_are_taken(optimizer: Any) -> None:
    model, _, _ = model_and_data()
    with pytest.raises(TypeError, match=r"optimizer is .*expected a torch\.optim\.Optimizer"):
        od.overparameterize_(model, optimizer=optimizer)
    assert type(model[0]) is nn.Linear


def test_tied_weights_are_handed_over_once() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    od.overparameterize_(model, 3, optimizer=optimizer)
    assert len(optimizer.param_groups[0]["params"]) == 3 + 2
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == {id(p) for p in model.parameters()}


def test_learning_rate_schedules_go_on() -> None:
    model, x, y = model_and_data()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    train(model, optimizer, x, y, 1)
    schedule.step()
    od.overparameterize_(model, optimizer=optimizer)
    starts = [p.detach().clone() for p in model.parameters()]
    train(model, optimizer, x, y, 1)
    for p, start in zip(model.parameters(), starts, strict=True):
        assert p.grad is not None
        assert_close(p.detach(), start - 0.05 * p.grad)
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)


def test_an_optimizer_that_remembers_all_parameters_as_one_vector_forgets_it() -> None:
    """LBFGS keeps its history with the first parameter, which stays here, in the length of all parameters before."""
    model, x, y = model_and_data()
    optimizer = torch.optim.LBFGS(list(model.parameters())[::-1], 0.05)
    train(model, optimizer, x, y, 2)
    od.overparameterize_(model, optimizer=optimizer)
    starts = [p.detach().clone() for p in model.parameters()]
    losses = train(model, optimizer, x, y)
    assert losses[-1] < losses[0]
    assert not any(torch.equal(p, start) for p, start in zip(model.parameters(), starts, strict=True))
