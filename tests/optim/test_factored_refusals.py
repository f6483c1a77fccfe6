"""What ``Factored`` refuses: by the parameter's name, at construction where that is possible, with nothing changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.optim import problems
from tests.optim.problems import identical, make, train, weights
from torch import nn

import overdepth as od

SGD = torch.optim.SGD


def parameter(*shape: int, **options: Any) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape, **options).tril() if len(shape) > 1 else torch.ones(shape, **options))


REFUSED: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no base class": ((3, 3), {"base": "adam"}, TypeError, "base is 'adam', expected an optimizer class"),
    "an optimizer": ((3, 3), {"base": SGD([torch.zeros(1)], lr=1.0)}, TypeError, "expected an optimizer class"),
    "another class": ((3, 3), {"base": nn.Linear}, TypeError, "expected an optimizer class"),
    "L-BFGS": ((3, 3), {"base": torch.optim.LBFGS}, ValueError, "LBFGS"),
    "SparseAdam": ((3, 3), {"base": torch.optim.SparseAdam}, ValueError, "SparseAdam"),
    "unknown option": ((3, 3), {"momentun": 0.9}, TypeError, "momentun"),
    "bad option": ((3, 3), {"lr": -1.0}, ValueError, "learning rate"),
    "vector": ((3,), {}, ValueError, r"'w' is no matrix.*depth 1"),
    "scalar": ((), {}, ValueError, r"'w' is no matrix"),
    "empty": ((0, 3), {}, ValueError, r"'w' is no matrix"),
    "real depth": ((3, 3), {"depth": 2.5}, ValueError, r"depth is 2\.5, expected an integer"),
    "infinite depth": ((3, 3), {"depth": float("inf")}, ValueError, "depth is inf, expected an integer"),
    "depth 0": ((3, 3), {"depth": 0}, ValueError, "depth is 0"),
    "narrow": ((3, 4), {"width": 2}, ValueError, r"width of 'w' is 2, below 3.*allow_rank_loss"),
    "narrow identity": ((3, 4), {"width": 2, "init": "identity", "allow_rank_loss": True}, ValueError, "'w'.*width"),
    "width 0": ((3, 3), {"width": 0}, ValueError, "width is 0"),
    "unknown init": ((3, 3), {"init": "xavier"}, ValueError, "init is 'xavier', expected one of near_zero"),
    "unknown on_change": ((3, 3), {"on_change": "warn"}, ValueError, "on_change is 'warn', expected one of error"),
    "bad scale": ((3, 3), {"init": "near_zero", "scale": -1.0}, ValueError, "scale is -1"),
    "unknown scale": ((3, 3), {"init": "near_zero", "scale": "macth"}, ValueError, "scale is 'macth'"),
    "groups": ((3, 3), {"groups": 2}, ValueError, r"'w' has 3 rows.*groups=2"),
    "groups 0": ((3, 3), {"groups": 0}, ValueError, "groups is 0"),
}


@pytest.mark.parametrize("case", list(REFUSED))
def test_bad_input_is_refused_at_construction(case: str) -> None:
    shape, options, error, message = REFUSED[case]
    weight = parameter(*shape)
    before = weight.detach().clone()
    given: dict[str, Any] = {"base": SGD, "lr": 0.1} | options
    with pytest.raises(error, match=message):
        od.optim.Factored([("w", weight)], **given)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(value: float) -> None:
    weight = nn.Parameter(torch.ones(3, 3))
    weight.data[1, 1] = value
    with pytest.raises(ValueError, match=r"'w' has non-finite entries"):
        od.optim.Factored([("w", weight)], SGD, lr=0.1)
    od.optim.Factored([("w", weight)], SGD, depth=1, lr=0.1)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_a_complex_weight_is_refused_by_name(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"'w' has dtype torch\.complex"):
        od.optim.Factored([("w", parameter(3, 3, dtype=dtype))], SGD, lr=0.1)


def test_a_sparse_weight_is_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"'w' is sparse"):
        od.optim.Factored([("w", nn.Parameter(torch.eye(3).to_sparse()))], SGD, lr=0.1)


def test_without_names_the_shape_and_the_place_are_said() -> None:
    with pytest.raises(ValueError, match=r"parameter 1 of shape \(3,\) is no matrix"):
        od.optim.Factored([parameter(2, 2), parameter(3)], SGD, lr=0.1)


@pytest.mark.filterwarnings("ignore:init 'near_zero' draws:UserWarning")
@pytest.mark.parametrize(
    "second",
    [{"depth": 2.5}, {"width": 1}, {"init": "xavier"}, {"params": [parameter(3)]}],
    ids=["depth", "width", "init", "vector"],
)
def test_a_refused_group_leaves_the_groups_before_it_as_they_were(second: dict[str, Any]) -> None:
    """Also those whose weights new factors would have overwritten."""
    first, other = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))
    groups = [{"params": [first]}, {"params": [other]} | second]
    with pytest.raises(ValueError, match=r"depth|width|init|matrix"):
        od.optim.Factored(groups, SGD, init="near_zero", lr=0.1)
    assert torch.equal(first, torch.eye(3))
    assert torch.equal(other, torch.eye(3))


def test_a_warning_that_is_an_error_comes_before_anything_is_written() -> None:
    layer = nn.Linear(3, 3, bias=False)
    before = layer.weight.detach().clone()
    with pytest.raises(UserWarning, match="draws new factors"):
        od.optim.Factored(layer.parameters(), SGD, init="near_zero", lr=0.1)
    assert torch.equal(layer.weight, before)


def test_a_base_that_takes_matrices_alone_refuses_vectors_at_construction() -> None:
    """Muon checks what it is given when it is made, not in a step."""
    model, _ = make(problems.relu_network)
    with pytest.raises(ValueError, match=r"2D|matri"):
        od.optim.Factored(od.optim.param_groups(model), torch.optim.Muon, lr=0.1)


def test_a_closure_is_refused() -> None:
    model, x = make(problems.deep_linear_regression)
    optimizer: Any = od.optim.Factored(model.parameters(), SGD, lr=0.1)
    before = weights(model)
    with pytest.raises(TypeError, match="closure"):
        optimizer.step(lambda: problems.loss(model, x))
    assert identical(weights(model), before)


def test_a_sparse_gradient_is_refused_by_name_before_anything_moves() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Embedding(4, 3, sparse=True))
    optimizer = od.optim.Factored(model.named_parameters(), SGD, lr=0.1)
    (model[0](model[1](torch.tensor([1, 2]))).sum()).backward()
    before = weights(model)
    with pytest.raises(RuntimeError, match=r"gradient of '1\.weight' is sparse"):
        optimizer.step()
    assert identical(weights(model), before)


def test_after_a_refused_step_training_goes_on() -> None:
    """No factor keeps a gradient, no weight a half step."""
    model, x = make(problems.relu_network)
    optimizer = od.optim.Factored(od.optim.param_groups(model, include="2.weight"), SGD, lr=0.05, momentum=0.9)
    train(model, x, optimizer, 2)
    twin, at_twin = copy.deepcopy((model, optimizer))
    weight = model.get_parameter("2.weight")
    weight.grad = torch.eye(3, 8, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    train(model, x, optimizer, 2)
    train(twin, x, at_twin, 2)
    assert identical(weights(model), weights(twin))
