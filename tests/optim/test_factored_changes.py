"""Weights that somebody else writes to between two steps: noticed, refused or split anew; and nothing else is."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.optim import problems
from tests.optim.problems import gap, identical, make, train, weights
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import overdepth as od


def started(on_change: str, steps: int = 2) -> tuple[nn.Module, Tensor, od.optim.Factored]:
    model, x = make(problems.relu_network)
    groups = od.optim.param_groups(model, depth=2, include="2.weight")
    optimizer = od.optim.Factored(groups, torch.optim.SGD, lr=0.05, momentum=0.9, on_change=on_change)  # type: ignore[arg-type]
    train(model, x, optimizer, steps)
    return model, x, optimizer


def load_another(model: nn.Module) -> None:
    torch.manual_seed(7)
    other = problems.relu_network()[0].double()
    model.load_state_dict(other.state_dict())


def write_data(model: nn.Module) -> None:
    model.get_parameter("0.weight").data.copy_(torch.full((8, 6), 0.25).tril())


def replace_data(model: nn.Module) -> None:
    p = model.get_parameter("0.weight")
    p.data = p.data * 1.5


def swap_average(model: nn.Module) -> None:
    average = AveragedModel(model, multi_avg_fn=None)
    for p in average.module.parameters():
        p.data.mul_(0.9)
    for p, q in zip(model.parameters(), average.module.parameters(), strict=True):
        p.data, q.data = q.data, p.data


def initialize(model: nn.Module) -> None:
    torch.nn.init.xavier_uniform_(model.get_parameter("0.weight"))


def one_entry(model: nn.Module) -> None:
    with torch.no_grad():
        model.get_parameter("0.weight")[3, 2] += 0.01


def exchange(model: nn.Module) -> None:
    """Two neurons change places: the function stays, the factors are those of another weight."""
    with torch.no_grad():
        for p, axis in ((model.get_parameter("0.weight"), 0), (model.get_parameter("2.weight"), 1)):
            p.copy_(p.flip(axis))


CHANGES = [load_another, write_data, replace_data, swap_average, initialize, one_entry, exchange]
each_change = pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
Change = Callable[[nn.Module], None]


@each_change
@pytest.mark.parametrize("steps", [0, 2])
def test_a_changed_weight_is_refused_by_name_and_left_alone(change: Change, steps: int) -> None:
    model, x, optimizer = started("error", steps)
    change(model)
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"'0\.weight'.*on_change='split'"):
        train(model, x, optimizer)
    assert identical(weights(model), before)


@each_change
@pytest.mark.parametrize("steps", [0, 2])
def test_a_changed_weight_is_split_anew(change: Change, steps: int) -> None:
    """From then on it goes as a new optimizer would, for what was changed."""
    model, x, optimizer = started("split", steps)
    change(model)
    fresh = copy.deepcopy(model)
    expected = od.optim.Factored([fresh.get_parameter("0.weight")], torch.optim.SGD, lr=0.05, momentum=0.9)
    for p in expected.param_groups[0]["params"]:
        assert len(expected.factors(p)) == 2
    train(model, x, optimizer)
    train(fresh, x, expected)
    found, wanted = weights(model)["0.weight"], weights(fresh)["0.weight"]
    assert gap({"w": found}, {"w": wanted}) < 1e-12


def test_a_change_that_keeps_every_sum_of_entries_is_noticed() -> None:
    """Rows of integers change places: no sum of all or some entries sees it if it does not know where they are."""
    layer = nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])) + 1)
        optimizer = od.optim.Factored(layer.parameters(), torch.optim.SGD, lr=0.1)
        layer.weight.copy_(layer.weight.flip(0))
    with pytest.raises(RuntimeError, match="no longer the product"):
        train(layer, torch.eye(4), optimizer)


def test_a_weight_of_depth_1_may_be_changed() -> None:
    model, x, optimizer = started("error")
    model.get_parameter("0.bias").data.add_(1.0)
    train(model, x, optimizer)


def test_after_a_restore_training_goes_on() -> None:
    model, x, optimizer = started("error")
    kept, expected = copy.deepcopy(model.state_dict()), copy.deepcopy((model, optimizer))
    load_another(model)
    with pytest.raises(RuntimeError, match="no longer the product"):
        train(model, x, optimizer)
    model.load_state_dict(kept)
    train(model, x, optimizer, 2)
    train(expected[0], x, expected[1], 2)
    assert identical(weights(model), weights(expected[0]))


# --- false alarms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("copied", [False, True])
def test_a_diverged_weight_is_no_change_by_others(value: float, copied: bool) -> None:
    model, x, optimizer = started("error")
    optimizer.factors(model.get_parameter("0.weight"))[0].detach().fill_(value)
    for _ in range(2):
        train(model, x, optimizer)
    assert not model.get_parameter("0.weight").isfinite().any()
    if copied:
        model, optimizer = copy.deepcopy((model, optimizer))
        train(model, x, optimizer)


def test_a_weight_that_diverges_under_split_is_left_to_diverge() -> None:
    model, x, optimizer = started("split")
    optimizer.factors(model.get_parameter("0.weight"))[0].detach().fill_(math.nan)
    train(model, x, optimizer, 2)
    model, optimizer = copy.deepcopy((model, optimizer))
    train(model, x, optimizer)
    assert model.get_parameter("0.weight").isnan().all()


def swap_twice(model: nn.Module) -> None:
    average = [p.detach() * 0.5 for p in model.parameters()]
    kept = [p.detach().clone() for p in model.parameters()]
    for values in (average, kept):
        for p, value in zip(model.parameters(), values, strict=True):
            p.data.copy_(value)


def swap_storages(model: nn.Module) -> None:
    """Averages that give back a copy in another place."""
    for p in model.parameters():
        p.data = p.data.clone()


def reload(model: nn.Module) -> None:
    model.load_state_dict(copy.deepcopy(model.state_dict()))


@pytest.mark.parametrize("harmless", [swap_twice, swap_storages, reload], ids=lambda f: f.__name__)
@pytest.mark.parametrize("on_change", ["error", "split"])
@pytest.mark.parametrize("steps", [0, 2])
def test_the_same_numbers_written_again_are_no_change(harmless: Change, on_change: str, steps: int) -> None:
    """Neither refused nor split anew, which would drop the momentum."""
    model, x, optimizer = started(on_change, steps)
    expected = copy.deepcopy((model, optimizer))
    harmless(model)
    train(model, x, optimizer, 2)
    train(expected[0], x, expected[1], 2)
    assert identical(weights(model), weights(expected[0]))


def test_another_memory_format_is_no_change() -> None:
    model, x = make(problems.convolutional_network)
    groups = od.optim.param_groups(model, depth=2)
    optimizer = od.optim.Factored(groups, torch.optim.SGD, lr=0.02)
    train(model, x, optimizer, 2)
    expected = copy.deepcopy((model, optimizer))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    train(model, x, optimizer, 2)
    train(expected[0], x, expected[1], 2)
    assert gap(weights(model), weights(expected[0])) < 1e-12


def test_another_number_of_threads_is_no_change() -> None:
    """Sums of many entries round otherwise then."""
    torch.manual_seed(0)
    model = nn.Linear(700, 500, bias=False)
    x = torch.randn(4, 700)
    optimizer = od.optim.Factored(model.parameters(), torch.optim.SGD, lr=0.01)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3, 1):
            torch.set_num_threads(number)
            train(model, x, optimizer)
    finally:
        torch.set_num_threads(threads)


def test_a_frozen_weight_is_not_looked_at_until_it_has_a_gradient() -> None:
    model, x, optimizer = started("error")
    weight = model.get_parameter("0.weight").requires_grad_(False)
    optimizer.zero_grad()
    write_data(model)
    train(model, x, optimizer, 2)
    weight.requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"'0\.weight'"):
        train(model, x, optimizer)


@pytest.mark.parametrize("on_change", ["error", "split"])
def test_a_model_moved_to_another_dtype_takes_its_factors_along(on_change: str) -> None:
    """float32 to float64 keeps every number: nothing was changed by others."""
    torch.manual_seed(0)
    model, x = problems.relu_network()
    groups = od.optim.param_groups(model, depth=2)
    optimizer: Any = od.optim.Factored(groups, torch.optim.SGD, lr=0.05, on_change=on_change)  # type: ignore[arg-type]
    train(model, x, optimizer, 2)
    model.double()
    train(model, x.double(), optimizer, 2)
    assert {f.dtype for f in optimizer.factors(model.get_parameter("0.weight"))} == {torch.float64}
