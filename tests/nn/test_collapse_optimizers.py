"""Optimizers on folding: the weights come back to their places, and the state is treated as asked."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import linear_algebra as ref
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import overdepth as od

X = torch.randn(7, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4, bias=False), nn.Linear(4, 3)).double()


def train(model: nn.Module, optimizer: Optimizer, steps: int = 2) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(X) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def held(optimizer: Optimizer) -> list[list[int]]:
    return [[id(p) for p in group["params"]] for group in optimizer.param_groups]


def options(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def test_groups_positions_options_and_names_come_back() -> None:
    model = network()
    named = dict(model.named_parameters())
    order = [["0.bias", "0.weight"], ["3.bias", "2.weight", "3.weight"]]
    groups = [{"params": [(n, named[n]) for n in names], "lr": 0.1 * (i + 1)} for i, names in enumerate(order)]
    optimizer = SGD(groups, lr=1.0, momentum=0.9)
    before = options(optimizer)
    od.overparameterize_(model, 3, optimizer=optimizer)
    assert optimizer.param_groups[0]["param_names"] == [
        "0.bias", *[f"0.parametrizations.weight.factor{j}" for j in range(3)],
    ]  # fmt: skip
    factored = dict(model.named_parameters())
    for group in optimizer.param_groups:
        assert [id(p) for p in group["params"]] == [id(factored[name]) for name in group["param_names"]]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    train(model, optimizer)
    od.collapse_(model, optimizer=optimizer)
    assert options(optimizer) == before
    assert [group["param_names"] for group in optimizer.param_groups] == order
    plain = dict(model.named_parameters())
    assert held(optimizer) == [[id(plain[n]) for n in names] for names in order]


def test_several_optimizers_and_a_scheduler_go_on() -> None:
    model = network()
    optimizers: list[Optimizer] = [SGD(model[0].parameters(), lr=0.1), Adam(model[2:].parameters(), lr=0.01)]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizers[0], 1, gamma=0.5)
    od.overparameterize_(model, optimizer=optimizers)
    for optimizer in optimizers:
        train(model, optimizer, 1)
    scheduler.step()
    od.collapse_(model, optimizer=optimizers)
    assert held(optimizers[0]) == [[id(p) for p in model[0].parameters()]]
    assert held(optimizers[1]) == [[id(p) for p in model[2:].parameters()]]
    assert optimizers[0].param_groups[0]["lr"] == 0.05
    before = [p.detach().clone() for p in model.parameters()]
    for optimizer in optimizers:
        train(model, optimizer, 1)
    scheduler.step()
    assert optimizers[0].param_groups[0]["lr"] == 0.025
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_an_optimizer_handed_over_trains_the_factors_and_then_the_weights() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.5)
    losses = train(model, optimizer)
    od.overparameterize_(model, optimizer=optimizer)
    losses += train(model, optimizer, 5)
    od.collapse_(model, optimizer=optimizer)
    losses += train(model, optimizer, 5)
    assert all(later < earlier for earlier, later in itertools.pairwise(losses))


def test_an_optimizer_that_remembers_its_parameters_elsewhere_trains_the_factors() -> None:
    """L-BFGS keeps a reference to the list of its only group."""
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
    od.overparameterize_(model, optimizer=optimizer)
    before = [p.detach().clone() for p in model.parameters()]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss: Tensor = (model(X) - 1).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


# --- state="reset" and "error" ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Adam, AdamW])
def test_reset_drops_the_state_of_factors_and_keeps_that_of_the_others(cls: type[Optimizer]) -> None:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    od.overparameterize_(model, optimizer=optimizer)
    train(model, optimizer)
    bias: Any = model[0].bias
    kept = {key: value.clone() for key, value in optimizer.state[bias].items()}
    od.collapse_(model, optimizer=optimizer)
    assert set(optimizer.state) == {model[0].bias, model[3].bias}
    assert all(torch.equal(optimizer.state[bias][key], value) for key, value in kept.items())
    train(model, optimizer, 1)
    assert optimizer.state[model[0].weight]["step"] == 1  # type: ignore[index]
    assert optimizer.state[bias]["step"] == 3


def test_factoring_drops_the_state_of_weights_and_keeps_that_of_the_others() -> None:
    model = network()
    optimizer = Adam(model.parameters(), lr=0.01)
    train(model, optimizer)
    od.overparameterize_(model, optimizer=optimizer)
    assert set(optimizer.state) == {model[0].bias, model[3].bias}


def test_error_refuses_to_lose_state_and_changes_nothing() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    od.overparameterize_(model, optimizer=optimizer)
    train(model, optimizer)
    before, keys, state = held(optimizer), list(model.state_dict()), set(optimizer.state)
    with pytest.raises(ValueError, match=r"'0\.weight'.*project"):
        od.collapse_(model, optimizer=optimizer, state="error")
    assert (held(optimizer), list(model.state_dict()), set(optimizer.state)) == (before, keys, state)
    optimizer.state.clear()
    od.collapse_(model, optimizer=optimizer, state="error")
    assert held(optimizer) == [[id(p) for p in model.parameters()]]


def test_an_unknown_word_and_factors_in_several_groups_are_refused() -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.1)
    od.overparameterize_(model, optimizer=optimizer)
    before = held(optimizer)
    with pytest.raises(ValueError, match="state is 'keep'"):
        od.collapse_(model, optimizer=optimizer, state="keep")  # type: ignore[arg-type]
    params = list(model.parameters())
    apart = SGD([{"params": params[::2]}, {"params": params[1::2]}], lr=0.1)
    with pytest.raises(ValueError, match=r"'0\.weight'.*groups"):
        od.collapse_(model, optimizer=apart)
    assert held(optimizer) == before
    assert any("parametrizations" in key for key in model.state_dict())


# --- state="project" -------------------------------------------------------------------------------------------------


def velocity(factors: list[ref.Array], buffers: list[ref.Array]) -> ref.Array:
    """sum_j W_N ... M_j ... W_1, term by term."""
    result = np.zeros((factors[-1].shape[0], factors[0].shape[1]))
    for j in range(1, len(factors) + 1):
        result += ref.above(factors, j) @ buffers[j - 1] @ ref.below(factors, j)
    return result


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_project_keeps_the_velocity_of_the_product(depth: int, nesterov: bool) -> None:
    model = network()
    optimizer = SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=nesterov)
    od.overparameterize_(model, depth, optimizer=optimizer)
    train(model, optimizer, 3)
    bias = optimizer.state[model[0].bias]["momentum_buffer"].clone()  # type: ignore[index]
    expected = {}
    for name, factors in od.nn.named_factors(model):
        buffers = [ref.as_array(optimizer.state[f]["momentum_buffer"]) for f in factors]
        expected[name] = velocity([ref.as_array(f) for f in factors], buffers)
    od.collapse_(model, optimizer=optimizer, state="project")
    for name, value in expected.items():
        found = optimizer.state[model.get_parameter(name)]["momentum_buffer"]
        np.testing.assert_allclose(ref.as_array(found), value, rtol=0, atol=1e-14 * np.abs(value).max())
    assert torch.equal(optimizer.state[model[0].bias]["momentum_buffer"], bias)  # type: ignore[index]
    assert set(optimizer.state) == set(model.parameters())


def test_project_of_a_grouped_convolution_in_float32() -> None:
    torch.manual_seed(4)
    layer = nn.Conv2d(4, 6, 3, groups=2)
    optimizer = SGD(layer.parameters(), lr=0.01, momentum=0.9)
    od.overparameterize_(layer, 3, optimizer=optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
        optimizer.step()
    ((_, factors),) = od.nn.named_factors(layer)
    buffers = [ref.as_array(optimizer.state[f]["momentum_buffer"]) for f in factors]
    expected = [velocity([ref.as_array(f[g]) for f in factors], [b[g] for b in buffers]) for g in range(2)]
    od.collapse_(layer, optimizer=optimizer, state="project")
    found = optimizer.state[layer.weight]["momentum_buffer"]
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(np.stack(expected).reshape(6, 2, 3, 3)).float())


def test_the_next_step_is_the_factors_step_to_first_order() -> None:
    """Without a gradient both move along the velocity; what differs is of second order in lr."""
    gaps = []
    for lr in (1e-3, 1e-4):
        layer = network()[0]
        od.overparameterize_(layer, 3)
        optimizer = SGD(layer.parameters(), lr=0.1, momentum=0.9)
        train(layer, optimizer, 3)
        optimizer.param_groups[0]["lr"] = lr
        folded, at_folded = copy.deepcopy((layer, optimizer))
        assert {id(p) for g in at_folded.param_groups for p in g["params"]} == {id(p) for p in folded.parameters()}
        od.collapse_(folded, optimizer=at_folded, state="project")
        for model, each in ((layer, optimizer), (folded, at_folded)):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            each.step()
        assert isinstance(layer, nn.Linear)
        assert isinstance(folded, nn.Linear)
        gaps.append(float((layer.weight - folded.weight).norm().detach()))
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.05)


def test_project_takes_a_missing_buffer_for_rest_and_none_for_none() -> None:
    layer = network()[0]
    optimizer = SGD(layer.parameters(), lr=0.1, momentum=0.9)
    od.overparameterize_(layer, 2, optimizer=optimizer)
    ((_, factors),) = od.nn.named_factors(layer)
    factors[0].requires_grad = False
    train(layer, optimizer)
    buffer = optimizer.state[factors[1]]["momentum_buffer"]
    expected = buffer @ factors[0]
    od.collapse_(layer, optimizer=optimizer, state="project")
    assert isinstance(layer, nn.Linear)
    torch.testing.assert_close(optimizer.state[layer.weight]["momentum_buffer"], expected, rtol=1e-13, atol=0)
    od.overparameterize_(layer, 2, optimizer=optimizer)
    od.collapse_(layer, optimizer=optimizer, state="project")
    assert layer.weight not in optimizer.state


@pytest.mark.parametrize("cls", [Adam, AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_project_is_refused_where_it_is_not_defined(cls: type[Optimizer]) -> None:
    model = network()
    optimizer = cls(model.parameters(), lr=0.01)  # type: ignore[call-arg]
    od.overparameterize_(model, optimizer=optimizer)
    train(model, optimizer)
    before, keys = held(optimizer), list(model.state_dict())
    with pytest.raises(ValueError, match=rf"project.*{cls.__name__}"):
        od.collapse_(model, optimizer=optimizer, state="project")
    assert (held(optimizer), list(model.state_dict())) == (before, keys)


def test_an_optimizer_that_holds_no_factors_is_refused() -> None:
    model = od.overparameterize_(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
    other = torch.optim.SGD(nn.Linear(3, 3).parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer holds no factors of '0.weight', '1.weight'"):
        od.collapse_(model, optimizer=other)
    assert len(list(od.nn.named_factors(model))) == 2
