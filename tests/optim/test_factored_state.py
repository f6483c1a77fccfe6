"""``Factored`` stored, loaded and copied: what continues, continues bit for bit."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from tests.optim.problems import each_base, factored, gap, identical, network, stored, train, weights
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import overdepth as od

checkpoints: Any = torch.distributed.checkpoint


def factors(optimizer: od.optim.Factored) -> list[Tensor]:
    return [f for group in optimizer.param_groups for p in group["params"] for f in optimizer.factors(p)]


# --- checkpoints -----------------------------------------------------------------------------------------------------


@each_base
@pytest.mark.parametrize("order", ["model first", "optimizer first"])
def test_a_stored_state_continues_bit_for_bit(base: Any, options: dict[str, Any], order: str) -> None:
    model, x = network()
    optimizer = factored(model, base, **options)
    train(model, x, optimizer, 3)
    checkpoint = stored({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    train(model, x, optimizer, 3)
    other, _ = network()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(0.1)  # another start: everything has to come from the checkpoint
    resumed = factored(other, base, **options)
    loads: list[Callable[[], object]] = [
        lambda: other.load_state_dict(checkpoint["model"]),
        lambda: resumed.load_state_dict(checkpoint["optimizer"]),
    ]
    for load in loads if order == "model first" else loads[::-1]:
        load()
    train(other, x, resumed, 3)
    assert identical(weights(other), weights(model))
    assert all(torch.equal(a, b) for a, b in zip(factors(resumed), factors(optimizer), strict=True))


def test_a_state_stored_before_the_first_step_continues_bit_for_bit() -> None:
    model, x = network()
    optimizer = factored(model)
    other = copy.deepcopy(model)
    resumed = factored(other)
    resumed.load_state_dict(stored(optimizer.state_dict()))
    train(model, x, optimizer, 3)
    train(other, x, resumed, 3)
    assert identical(weights(other), weights(model))


def test_a_state_loaded_into_a_running_optimizer_takes_it_back() -> None:
    model, x = network()
    optimizer = factored(model)
    train(model, x, optimizer, 2)
    checkpoint = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, x, optimizer, 3)
    expected = weights(model)
    model.load_state_dict(checkpoint[0])
    optimizer.load_state_dict(checkpoint[1])
    train(model, x, optimizer, 3)
    assert identical(weights(model), expected)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_state_of_float32_loads_into_a_model_that_moved_to_float64(steps: int) -> None:
    """The trajectory is that of the same factors, in float64 from there on."""
    model, x = network()
    optimizer = factored(model, torch.optim.SGD, lr=0.02, momentum=0.9)
    train(model, x, optimizer, steps)
    checkpoint = stored({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    other, _ = network(torch.float64)
    resumed = factored(other, torch.optim.SGD, lr=0.02, momentum=0.9)
    other.load_state_dict(checkpoint["model"])
    resumed.load_state_dict(checkpoint["optimizer"])
    held = factors(resumed)
    assert {f.dtype for f in held} == {torch.float64}
    assert all(torch.equal(a, b.double()) for a, b in zip(held, factors(optimizer), strict=True))
    train(model, x, optimizer, 2)
    train(other, x.double(), resumed, 2)
    single = {name: w.double() for name, w in weights(model).items()}
    assert 0 < gap(single, weights(other)) < 1e-5


def test_a_state_of_another_kind_of_optimizer_is_refused_and_changes_nothing() -> None:
    model, x = network()
    optimizer = factored(model, torch.optim.SGD)
    groups = [{"params": g["params"]} for g in optimizer.param_groups]
    plain = torch.optim.SGD(groups, lr=0.01, momentum=0.9)
    train(model, x, optimizer)
    expected = copy.deepcopy((model, optimizer))
    with pytest.raises(ValueError, match="factors"):
        optimizer.load_state_dict(plain.state_dict())
    train(model, x, optimizer)
    train(expected[0], x, expected[1])
    assert identical(weights(model), weights(expected[0]))


# --- copies ----------------------------------------------------------------------------------------------------------


@each_base
@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_copy_with_its_model_goes_the_same_way_alone(
    base: Any, options: dict[str, Any], how: str, steps: int
) -> None:
    model, x = network()
    optimizer = factored(model, base, **options)
    train(model, x, optimizer, steps)
    both = (model, optimizer)
    other, twin = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))  # noqa: S301
    before = weights(other)
    train(model, x, optimizer, 3)
    assert identical(weights(other), before)  # nothing is shared
    train(other, x, twin, 3)
    assert identical(weights(other), weights(model))
    assert twin.state_dict().keys() == optimizer.state_dict().keys()


# --- distributed checkpoints' own format, in one process -------------------------------------------------------------


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW])
def test_the_state_passes_through_torchs_distributed_state_dict(base: Any) -> None:
    options: dict[str, Any] = {"lr": 0.01} | ({"momentum": 0.9} if base is torch.optim.SGD else {})
    model, x = network()
    optimizer = factored(model, base, **options)
    train(model, x, optimizer, 2)
    state = stored(get_optimizer_state_dict(model, optimizer))
    assert set(state["state"]) == set(dict(model.named_parameters()))
    other = copy.deepcopy(model)
    resumed = factored(other, base, **options)
    set_optimizer_state_dict(other, resumed, state)
    train(model, x, optimizer, 2)
    train(other, x, resumed, 2)
    assert identical(weights(other), weights(model))


def test_a_flattened_distributed_state_is_passed_on_or_refused() -> None:
    """Torch's flat format has no place for nested states: what must not happen is a state that is lost in silence."""
    model, x = network()
    optimizer = factored(model, torch.optim.SGD, momentum=0.9)
    train(model, x, optimizer, 2)
    flat = StateDictOptions(flatten_optimizer_state_dict=True)
    try:
        state = get_optimizer_state_dict(model, optimizer, options=flat)
        other = copy.deepcopy(model)
        resumed = factored(other, torch.optim.SGD, momentum=0.9)
        set_optimizer_state_dict(other, resumed, state, options=flat)
    except (NotImplementedError, TypeError, ValueError):
        return
    train(model, x, optimizer, 2)
    train(other, x, resumed, 2)
    assert identical(weights(other), weights(model))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized:UserWarning")
def test_a_distributed_checkpoint_loads_into_a_new_optimizer(tmp_path: Path) -> None:
    """What it holds is read into the state of an optimizer that has not stepped yet, key by key."""
    model, x = network()
    optimizer = factored(model, torch.optim.SGD, momentum=0.9)
    train(model, x, optimizer, 2)
    state: dict[str, Any] = {"model": model.state_dict(), "optimizer": get_optimizer_state_dict(model, optimizer)}
    checkpoints.save(state, checkpoint_id=tmp_path, no_dist=True)
    other, _ = network()
    resumed = factored(other, torch.optim.SGD, momentum=0.9)
    found: dict[str, Any] = {"model": other.state_dict(), "optimizer": get_optimizer_state_dict(other, resumed)}
    checkpoints.load(found, checkpoint_id=tmp_path, no_dist=True)
    other.load_state_dict(found["model"])
    set_optimizer_state_dict(other, resumed, found["optimizer"])
    train(model, x, optimizer, 2)
    train(other, x, resumed, 2)
    assert identical(weights(other), weights(model))


def test_asking_for_a_template_to_load_into_does_not_move_the_model() -> None:
    """For it torch makes a step without gradients and with a learning rate of 0."""
    model, x = network()
    untouched = copy.deepcopy(model)
    optimizer = factored(model, torch.optim.SGD, momentum=0.9)
    get_optimizer_state_dict(model, optimizer)
    assert identical(weights(model), weights(untouched))
    train(model, x, optimizer, 2)
    train(untouched, x, factored(untouched, torch.optim.SGD, momentum=0.9), 2)
    assert identical(weights(model), weights(untouched))
