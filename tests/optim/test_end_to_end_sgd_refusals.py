"""What EndToEndSGD refuses, and what it warns of: by the parameter's name, and at construction."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od


def wrapped_adam(params: Any, lr: float = 0.1, **options: Any) -> Any:
    return od.optim.end_to_end(params, torch.optim.Adam, lr=lr, **options)


BOTH: list[Callable[..., Any]] = [od.optim.EndToEndSGD, wrapped_adam]


def named(tensor: Tensor, name: str = "block.weight") -> list[tuple[str, Tensor]]:
    return [("first.weight", nn.Parameter(torch.eye(2))), (name, tensor)]


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.0}, {"lr": -0.1}, {"lr": math.nan}, {"lr": math.inf}, {"lr": "fast"}, {"lr": None},
        {"lr": torch.tensor(-0.1)}, {"lr": torch.tensor(math.nan)}, {"lr": torch.ones(2)},
        {"momentum": -0.1}, {"momentum": math.nan}, {"momentum": math.inf},
        {"weight_decay": -1e-3}, {"weight_decay": math.nan}, {"weight_decay_mode": "layers"},
        {"normalize": "frobenius"}, {"method": "svd"}, {"groups": 0}, {"groups": 1.5},
        {"depth": 0.5}, {"depth": math.nan}, {"depth": True}, {"depth": "2"}, {"depth": -math.inf},
    ],
)  # fmt: skip
@pytest.mark.parametrize("in_group", [False, True])
def test_options_out_of_range(options: dict[str, Any], in_group: bool) -> None:
    (name,) = options
    params: Any = [nn.Parameter(torch.eye(2))]
    if in_group:
        params, options = [{"params": params, **options}], {}
    with pytest.raises(ValueError, match=name):
        od.optim.EndToEndSGD(params, **{"lr": 0.1, **options})


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        od.optim.EndToEndSGD([nn.Parameter(torch.eye(2))], 0.1, nesterov=True)


def test_the_learning_rate_has_no_default() -> None:
    with pytest.raises(TypeError, match="lr"):
        od.optim.EndToEndSGD([nn.Parameter(torch.eye(2))])  # type: ignore[call-arg]


def test_the_single_output_method_is_for_single_outputs() -> None:
    with pytest.raises(ValueError, match=r"'block.weight' is a matrix of 2 x 3"):
        od.optim.EndToEndSGD([("block.weight", nn.Parameter(torch.eye(2, 3)))], 0.1, method="single_output")
    od.optim.EndToEndSGD([nn.Parameter(torch.ones(4, 1, 3))], 0.1, method="single_output", groups=4)


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize(
    ("tensor", "error", "message"),
    [
        (nn.Parameter(torch.ones(3)), ValueError, "depth 1"),
        (nn.Parameter(torch.tensor(1.0)), ValueError, "depth 1"),
        (nn.Parameter(torch.ones(0, 3)), ValueError, "no matrix"),
        (nn.Parameter(torch.tensor([[1.0, math.nan]])), ValueError, "non-finite"),
        (nn.Parameter(torch.tensor([[1.0, -math.inf]])), ValueError, "non-finite"),
        (torch.ones(2, 2, dtype=torch.int64), ValueError, "int64"),
        (nn.Parameter(torch.ones(2, 2, dtype=torch.complex64)), ValueError, "complex64"),
        (torch.eye(2).to_sparse().requires_grad_(), TypeError, "sparse"),
    ],
)
def test_parameters_that_cannot_be_preconditioned(
    make: Callable[..., Any], tensor: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=rf"'block\.weight'.*{message}"):
        make(named(tensor), 0.1)
    with pytest.raises(error, match=rf"parameter 1 .*{message}"):
        make([nn.Parameter(torch.eye(2)), tensor], 0.1)


@pytest.mark.parametrize("make", BOTH)
def test_rows_that_do_not_divide_into_groups(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"'block\.weight' has 4 rows.*groups=3"):
        make([("block.weight", nn.Parameter(torch.ones(4, 2)))], 0.1, groups=3)


@pytest.mark.parametrize("make", BOTH)
def test_vectors_are_welcome_at_depth_1(make: Callable[..., Any]) -> None:
    p = nn.Parameter(torch.ones(3))
    optimizer = make([p], 0.1, depth=1)
    p.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 0.9))


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", BOTH)
def test_sparse_gradients(make: Callable[..., Any]) -> None:
    table = nn.Embedding(5, 3, sparse=True)
    optimizer = make(table.named_parameters(), 0.1)
    table(torch.tensor([1])).sum().backward()
    before = table.weight.detach().clone()
    with pytest.raises(RuntimeError, match=r"gradient of 'weight' is sparse"):
        optimizer.step()
    assert torch.equal(table.weight, before)


@pytest.mark.parametrize("make", BOTH)
def test_complex_gradients(make: Callable[..., Any]) -> None:
    p = nn.Parameter(torch.eye(2))
    optimizer = make([("weight", p)], 0.1)
    p.data = p.data.to(torch.complex64)
    p.grad = torch.ones_like(p)
    with pytest.raises(RuntimeError, match=r"gradient of 'weight' is complex"):
        optimizer.step()


@pytest.mark.parametrize("make", BOTH)
def test_a_weight_that_diverged_is_named(make: Callable[..., Any]) -> None:
    """The decomposition fails then; DESIGN.md: raised with the parameter's name."""
    first, p = nn.Parameter(torch.eye(2)), nn.Parameter(torch.eye(3))
    optimizer = make([("first", first), ("block.weight", p)], 0.1)
    with torch.no_grad():
        p[0, 0] = math.nan
    first.grad, p.grad = torch.ones(2, 2), torch.ones(3, 3)
    with pytest.raises((RuntimeError, ValueError), match=r"block\.weight"):
        optimizer.step()


# --- directions that cannot move --------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (1, 4), (4, 1)])
def test_a_zero_weight_is_warned_of_by_name(make: Callable[..., Any], shape: tuple[int, int]) -> None:
    with pytest.warns(UserWarning, match=r"'block\.weight' is zero.*init='identity'") as record:
        make(named(nn.Parameter(torch.zeros(shape))), 0.1)
    assert len(record) == 1


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 3)])
def test_a_rank_deficient_weight_is_warned_of_by_name_and_count(
    make: Callable[..., Any], shape: tuple[int, int]
) -> None:
    weight = torch.outer(torch.arange(1.0, 1 + shape[0]), torch.arange(1.0, 1 + shape[1]))
    null = (shape[0] - 1) * (shape[1] - 1)
    with pytest.warns(UserWarning, match=rf"'block\.weight' is rank-deficient: {null} of its directions"):
        make(named(nn.Parameter(weight)), 0.1)


def test_groups_are_looked_at_one_by_one() -> None:
    weight = torch.ones(4, 1, 3)
    od.optim.EndToEndSGD([nn.Parameter(weight)], 0.1, groups=4)  # one row each: no null direction on both sides
    weight[2] = 0
    with pytest.warns(UserWarning, match=r"rank-deficient: 3 of its directions"):
        od.optim.EndToEndSGD([nn.Parameter(weight)], 0.1, groups=4)


def test_weights_of_full_rank_and_depth_1_are_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        od.optim.EndToEndSGD([nn.Parameter(torch.zeros(3, 3))], 0.1, depth=1)
        od.optim.EndToEndSGD([nn.Parameter(torch.diag(torch.tensor([1.0, 1e-6])))], 0.1, depth=3)
        od.optim.EndToEndSGD([nn.Parameter(torch.eye(2, dtype=torch.float64) * 1e-30)], 0.1, depth=3)


def test_the_warning_points_at_the_line_that_made_the_optimizer() -> None:
    with pytest.warns(UserWarning, match="zero") as record:
        od.optim.EndToEndSGD([nn.Parameter(torch.zeros(3, 3))], 0.1)
    assert record[0].filename == __file__


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (1, 3), (3, 1)])
def test_infinite_depth_is_refused_where_directions_freeze(make: Callable[..., Any], shape: tuple[int, int]) -> None:
    weight = torch.eye(*shape) + 0.1
    message = re.escape("allow_frozen_directions=True")
    with pytest.raises(ValueError, match=rf"infinite and 'block\.weight'.*{message}"):
        make(named(nn.Parameter(weight)), 0.1, depth=math.inf)
    p = nn.Parameter(weight.clone())
    optimizer = make([p], 0.1, depth=math.inf, allow_frozen_directions=True)
    p.grad = weight.clone()
    optimizer.step()
    assert not torch.equal(p, weight)


@pytest.mark.parametrize("make", BOTH)
def test_infinite_depth_is_refused_for_square_weights_without_full_rank(make: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"infinite and 'block\.weight'"):
        make(named(nn.Parameter(torch.ones(3, 3))), 0.1, depth=math.inf)
    make([nn.Parameter(torch.eye(3)), nn.Parameter(torch.tensor([[2.0]]))], 0.1, depth=math.inf)


def test_infinite_depth_takes_float64_weights_that_the_rule_itself_takes() -> None:
    """Full rank in float64, although not in float32; the rule's own rank tolerance decides."""
    weight = torch.diag(torch.tensor([1.0, 1e-9], dtype=torch.float64))
    od.end_to_end_update(weight, weight, math.inf)
    od.optim.EndToEndSGD([nn.Parameter(weight)], 0.1, depth=math.inf)
