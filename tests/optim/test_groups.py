"""Which parameter gets which depth, and the table that says so."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from tests.nn.architectures import MobileNet, ResNet, VisionTransformer
from tests.optim.tables import check_complete, deep, depths
from torch import Tensor, nn

import overdepth as od
from overdepth.optim import param_groups


class Mixed(nn.Module):
    """A module of every sort."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)
        self.conv = nn.Conv2d(2, 4, 3)
        self.grouped = nn.Conv1d(4, 6, 3, groups=2)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.up = nn.ConvTranspose2d(4, 6, 2, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.elementwise = nn.LayerNorm((3, 4))
        self.attention = nn.MultiheadAttention(4, 2)
        self.recurrent = nn.LSTM(4, 5, num_layers=2)
        self.own = nn.Parameter(torch.ones(4, 4))
        self.body = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


# --- by default -------------------------------------------------------------------------------------------------------


def test_matrices_and_convolutions_get_the_depth_and_nothing_else() -> None:
    model = Mixed()
    groups = param_groups(model, depth=3)
    check_complete(groups, model)
    assert deep(groups) == {
        "conv.weight", "grouped.weight", "depthwise.weight", "up.weight", "body.weight",
        "attention.in_proj_weight", "attention.out_proj.weight",
    }  # fmt: skip
    assert set(depths(groups).values()) == {1, 3}


def test_grouped_convolutions_get_their_groups() -> None:
    found = {name: group["groups"] for group in param_groups(Mixed()) for name, _ in group["params"]}
    assert {name: n for name, n in found.items() if n > 1} == {
        "grouped.weight": 2,
        "depthwise.weight": 4,
        "up.weight": 2,
    }
    table = repr(param_groups(Mixed()))
    assert "2, 4 groups" in table


def test_what_is_left_plain_has_a_reason_of_its_own() -> None:
    reasons = param_groups(Mixed(), exclude="conv.weight").reasons
    assert reasons["table.weight"].startswith("embedding")
    assert reasons["head.weight"].startswith("output head")
    assert reasons["conv.weight"] == "excluded"
    assert reasons["conv.bias"] == reasons["norm.weight"] == "no matrix"
    assert "elementwise" in reasons["elementwise.weight"]
    assert "LSTM" in reasons["recurrent.weight_ih_l0"]


@pytest.mark.parametrize("name", ["recurrent.weight_hh_l0", "recurrent.weight_ih_l1", "recurrent.weight_hh_l1", "own"])
def test_a_matrix_that_is_left_plain_is_not_called_no_matrix(name: str) -> None:
    model = Mixed()
    assert dict(model.named_parameters())[name].ndim == 2
    assert param_groups(model).reasons[name] != "no matrix"


def test_the_only_weight_is_no_output_head() -> None:
    assert deep(param_groups(nn.Linear(4, 2))) == {"weight"}
    assert deep(param_groups(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(3, 2)))) == {"0.weight"}


@pytest.mark.parametrize("make", [ResNet, MobileNet, VisionTransformer])
def test_networks(make: Any) -> None:
    model = make()
    groups = param_groups(model)
    check_complete(groups, model)
    head = {"fc.weight", "classifier.1.weight", "head.weight"}
    kinds = (nn.Conv2d, nn.Linear)
    expected = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, kinds)}
    expected |= {f"{name}.in_proj_weight" for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    assert deep(groups) == expected - head
    torch.manual_seed(0)
    before = copy.deepcopy(model.state_dict())
    optimizer = od.optim.EndToEndSGD(groups, lr=0.1)
    model(torch.randn(4, 3, 16, 16)).square().mean().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert bool(torch.isfinite(p).all())
        negligible = p.grad is None or float(p.grad.norm()) < 1e-3
        assert negligible or not torch.equal(p, before[name]), name


def test_tied_weights_stay_plain_if_one_of_their_uses_is_an_embedding() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.decoder = nn.Linear(4, 9, bias=False)
            self.last = nn.Linear(4, 4)
            self.table = nn.Embedding(9, 4)
            self.table.weight = self.decoder.weight

    model = Tied()
    groups = param_groups(model)
    check_complete(groups, model)
    assert deep(groups) == {"body.weight"}
    assert deep(param_groups(model, include="decoder.weight")) == {"body.weight", "decoder.weight"}


def test_frozen_weights_do_not_hinder_the_optimizer() -> None:
    model = mlp()
    frozen: Any = model[0]
    frozen.requires_grad_(False)
    groups = param_groups(model)
    check_complete(groups, model)
    before = frozen.weight.clone()
    optimizer = od.optim.EndToEndSGD(groups, lr=0.1)
    model(torch.ones(3, 4)).sum().backward()
    optimizer.step()
    assert torch.equal(frozen.weight, before)


# --- choices ----------------------------------------------------------------------------------------------------------


def test_exclude_and_include_take_names_and_patterns() -> None:
    model = mlp()
    assert deep(param_groups(model, exclude="0.*")) == {"2.weight"}
    assert deep(param_groups(model, exclude=["0.weight", "2.weight"])) == set()
    assert deep(param_groups(model, include="4.weight")) == {"0.weight", "2.weight", "4.weight"}
    assert deep(param_groups(model, include=("*.weight",), exclude="2.*")) == {"0.weight", "4.weight"}
    assert deep(param_groups(Mixed(), include=["table.weight"])) >= {"table.weight"}
    assert deep(param_groups(mlp(), exclude=(n for n in ["0.weight"]))) == {"2.weight"}


def test_exclude_has_the_last_word() -> None:
    assert deep(param_groups(mlp(), include="*.weight", exclude="*.weight")) == set()


@pytest.mark.parametrize("option", ["include", "exclude"])
@pytest.mark.parametrize("pattern", ["3.weight", "*.kernel", "weight", ["0.weight", "nothing"]])
def test_patterns_that_match_nothing(option: str, pattern: Any) -> None:
    options: Any = {option: pattern}
    with pytest.raises(ValueError, match=r"no parameter matches .* the model has 0\.weight"):
        param_groups(mlp(), **options)


@pytest.mark.parametrize("name", ["conv.bias", "norm.weight", "body.bias"])
def test_what_cannot_be_a_matrix_cannot_be_included(name: str) -> None:
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        param_groups(Mixed(), include=name)


def test_depth_as_a_function_of_name_and_parameter() -> None:
    seen: dict[str, Tensor] = {}

    def depth(name: str, parameter: Tensor) -> float | None:
        seen[name] = parameter
        return {"conv.weight": 2.5, "body.weight": math.inf, "grouped.weight": None, "up.weight": 1}.get(name, 4)

    model = Mixed()
    groups = param_groups(model, depth=depth)
    check_complete(groups, model)
    found = depths(groups)
    assert found["conv.weight"] == 2.5
    assert found["body.weight"] == math.inf
    assert found["grouped.weight"] == found["up.weight"] == 1
    assert found["depthwise.weight"] == 4
    assert "head.weight" not in seen  # asked about those that get a depth only
    assert seen["conv.weight"] is model.conv.weight
    assert "2.5" in repr(groups)
    assert "inf" in repr(groups)


@pytest.mark.parametrize("depth", [0, 0.5, -1, math.nan, "2", True])
@pytest.mark.parametrize("as_function", [False, True])
def test_depths_out_of_range_are_refused_by_name(depth: Any, as_function: bool) -> None:
    with pytest.raises(ValueError, match=r"0\.weight"):
        param_groups(mlp(), depth=(lambda *_: depth) if as_function else depth)


def test_whole_depths_are_integers_and_real_ones_stay() -> None:
    assert {type(d) for d in depths(param_groups(mlp(), depth=3.0)).values()} == {int}
    assert depths(param_groups(mlp(), depth=3.5))["0.weight"] == 3.5


def test_options_are_in_every_group() -> None:
    groups = param_groups(Mixed(), lr=0.3, momentum=0.5)
    assert len(groups) > 2
    assert all(group["lr"] == 0.3 and group["momentum"] == 0.5 for group in groups)
    optimizer = od.optim.EndToEndSGD(groups, lr=9.0)
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}
    assert all("param_names" in group for group in optimizer.param_groups)


# --- as an object -----------------------------------------------------------------------------------------------------


def test_groups_serve_more_than_one_optimizer() -> None:
    model = mlp()
    groups = param_groups(model)
    before = repr(groups)
    first = od.optim.EndToEndSGD(groups, lr=0.1)
    second = od.optim.end_to_end(groups, torch.optim.Adam, lr=0.2)
    third = od.optim.Factored(groups, torch.optim.SGD, lr=0.3)
    extra = nn.Parameter(torch.eye(2))
    fourth = od.optim.EndToEndSGD([*groups, {"params": [("extra", extra)]}], lr=0.4)
    for optimizer, lr in ((first, 0.1), (second, 0.2), (third, 0.3), (fourth, 0.4)):
        assert {group["lr"] for group in optimizer.param_groups} == {lr}
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 6 + (optimizer is fourth)
    assert repr(groups) == before


def test_groups_with_more_added_keep_their_own() -> None:
    groups = param_groups(mlp())
    before = repr(groups)
    od.optim.EndToEndSGD(groups + [{"params": [("extra", nn.Parameter(torch.eye(2)))]}], lr=0.4)  # noqa: RUF005
    assert repr(groups) == before
    assert {group["lr"] for group in od.optim.EndToEndSGD(groups, lr=0.1).param_groups} == {0.1}


def test_groups_are_a_list_that_can_be_read_changed_copied_and_pickled() -> None:
    groups = param_groups(mlp())
    assert isinstance(groups, list)
    groups[0]["lr"] = 0.7
    assert next(iter(groups))["lr"] == 0.7
    for other in (copy.deepcopy(groups), pickle.loads(pickle.dumps(groups))):  # noqa: S301
        assert repr(other) == repr(groups)
        assert len(other) == len(groups)


def test_a_plain_optimizer_of_torch_takes_them() -> None:
    torch.optim.SGD(param_groups(mlp()), lr=0.1)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        param_groups([nn.Parameter(torch.eye(2))])  # type: ignore[arg-type]


def test_an_over_parameterized_model_gets_no_second_depth() -> None:
    model = od.overparameterize_(mlp())
    try:
        groups = param_groups(model)
    except ValueError:
        return
    assert deep(groups) == set()
    check_complete(groups, model)
