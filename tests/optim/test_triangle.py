"""The three forms of one effect, held against each other.

Forms 1 (factors in the model) and 2 (factors in the optimizer) agree step by step to rounding, for any base. Form 3
(the rule, no factors) differs from them by O(lr^2) a step from balanced factors, hence by O(lr) over a fixed time.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from tests.optim import problems
from tests.optim.problems import Problem, gap, groups_like, in_the_model, make, train, weights
from torch.optim import Optimizer

import overdepth as od

ROUNDING = 1e-11  # float64 over STEPS steps, through divisions by square roots of gradients
STEPS = 6
MAIN: list[Problem] = [problems.deep_linear_regression, problems.relu_network, problems.convolutional_network]
OTHERS: list[Problem] = [problems.grouped, problems.depthwise, problems.transposed, problems.embedding]
BASES: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (torch.optim.SGD, {"lr": 0.05}),
    (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "dampening": 0.1}),
    (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (torch.optim.SGD, {"lr": 0.01, "maximize": True}),
    (torch.optim.Adam, {"lr": 0.01}),
    (torch.optim.Adam, {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1, "foreach": False}),
    (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.5}),
    (torch.optim.AdamW, {"lr": 0.01, "fused": True}),
    (torch.optim.Adagrad, {"lr": 0.02}),
    (torch.optim.Adadelta, {"lr": 1.0}),
    (torch.optim.RMSprop, {"lr": 0.005, "momentum": 0.5, "centered": True}),
    (torch.optim.NAdam, {"lr": 0.01}),
    (torch.optim.RAdam, {"lr": 0.02}),
    (torch.optim.Adamax, {"lr": 0.01}),
    (torch.optim.ASGD, {"lr": 0.05}),
    (torch.optim.Rprop, {"lr": 0.01}),
    (torch.optim.Adafactor, {"lr": 0.05}),
]


def named(value: Any) -> str | None:
    if isinstance(value, dict):
        return "-".join(f"{k}={v}" for k, v in value.items() if k != "lr") or "plain"
    return getattr(value, "__name__", None)


def check_forms_1_and_2(problem: Problem, base: Any, options: dict[str, Any], depth: int, **split: Any) -> None:
    """Both from the same weights and, since the splits are the same function, from the same factors."""
    model, x = make(problem)
    start = weights(model)
    over = in_the_model(model, depth, **split)
    two = od.optim.Factored(groups_like(over, model, depth), base, **split, **options)
    one = base(over.parameters(), **options)
    for step in range(STEPS):
        train(over, x, one)
        train(model, x, two)
        assert gap(weights(model), weights(over)) < ROUNDING, f"step {step}"
    assert gap(weights(model), start) > 1e-3  # something was trained


@pytest.mark.parametrize(("base", "options"), BASES, ids=named)
@pytest.mark.parametrize(("depth", "init"), [(2, "balanced"), (3, "identity")])
@pytest.mark.parametrize("problem", MAIN, ids=named)
def test_forms_1_and_2_agree_for_any_base(
    problem: Problem, base: Any, options: dict[str, Any], depth: int, init: str
) -> None:
    check_forms_1_and_2(problem, base, options, depth, init=init)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("init", ["balanced", "identity"])
@pytest.mark.parametrize("problem", [problems.deep_linear_regression, problems.plain_relu_network], ids=named)
def test_forms_1_and_2_agree_for_muon(problem: Problem, init: str, depth: int) -> None:
    """It takes matrices alone, and multiplies in bfloat16: equal to rounding as long as it rounds equal numbers."""
    check_forms_1_and_2(problem, torch.optim.Muon, {"lr": 0.02, "weight_decay": 0.1}, depth, init=init)


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("init", ["balanced", "identity"])
@pytest.mark.parametrize("problem", [*MAIN, *OTHERS], ids=named)
def test_forms_1_and_2_agree_for_any_layer(problem: Problem, init: str, depth: int) -> None:
    check_forms_1_and_2(problem, torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}, depth, init=init)
    check_forms_1_and_2(problem, torch.optim.AdamW, {"lr": 0.01}, depth, init=init)


@pytest.mark.parametrize("problem", [problems.relu_network, problems.grouped, problems.embedding], ids=named)
@pytest.mark.parametrize("width", [8, 11])
def test_forms_1_and_2_agree_for_wide_hidden_layers(problem: Problem, width: int) -> None:
    check_forms_1_and_2(problem, torch.optim.Adam, {"lr": 0.01}, 3, width=width)


@pytest.mark.parametrize("init", ["near_zero", "near_identity", "orthogonal"])
@pytest.mark.parametrize("problem", [problems.relu_network, problems.convolutional_network], ids=named)
def test_forms_1_and_2_agree_from_drawn_factors(problem: Problem, init: str) -> None:
    """Equal seeds draw equal factors in both forms."""
    model, x = make(problem)
    split: dict[str, Any] = {"init": init, "scale": 0.2}
    over = in_the_model(model, 3, generator=torch.Generator().manual_seed(5), **split)
    options: dict[str, Any] = {"lr": 0.01, "generator": torch.Generator().manual_seed(5)}
    with pytest.warns(UserWarning, match="draws new factors"):
        two = od.optim.Factored(groups_like(over, model, 3), torch.optim.SGD, **split, **options)
    one = torch.optim.SGD(over.parameters(), lr=0.01)
    assert gap(weights(model), weights(over)) < ROUNDING
    train(over, x, one, STEPS)
    train(model, x, two, STEPS)
    assert gap(weights(model), weights(over)) < ROUNDING


def test_an_embedding_is_factored_by_explicit_choice_in_both_forms() -> None:
    model, x = make(problems.embedding)
    over = in_the_model(model, 2, select=lambda layer, name: name == "0")
    one = torch.optim.SGD(over.parameters(), lr=0.05)
    groups = od.optim.param_groups(model, depth=2, include="0.weight", exclude="2.weight")
    two = od.optim.Factored(groups, torch.optim.SGD, lr=0.05)
    assert len(two.factors(model.get_parameter("0.weight"))) == 2
    assert len(two.factors(model.get_parameter("2.weight"))) == 1
    train(over, x, one, STEPS)
    train(model, x, two, STEPS)
    assert gap(weights(model), weights(over)) < ROUNDING


def test_clipping_the_gradients_norm_is_where_the_forms_part() -> None:
    """Clipped are the factors' gradients there, those of the weights here."""
    model, x = make(problems.relu_network)
    over = in_the_model(model, 2)
    two = od.optim.Factored(groups_like(over, model, 2), torch.optim.SGD, lr=0.05)
    one = torch.optim.SGD(over.parameters(), lr=0.05)
    for each, optimizer in ((over, one), (model, two)):
        problems.loss(each, x).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(each.parameters(), 0.1)
        optimizer.step()
    assert gap(weights(model), weights(over)) > 1e-6


# --- form 3 ----------------------------------------------------------------------------------------------------------


def gap_of_forms_2_and_3(problem: Problem, depth: int, lr: float, steps: int, decay: float = 0.0) -> float:
    """From balanced factors, over some steps."""
    model, x = make(problem)
    rule = copy.deepcopy(model)
    over = in_the_model(model, depth)
    two = od.optim.Factored(groups_like(over, model, depth), torch.optim.SGD, lr=lr, weight_decay=decay)
    three = od.optim.EndToEndSGD(groups_like(over, rule, depth), lr=lr, weight_decay=decay)
    train(model, x, two, steps)
    train(rule, x, three, steps)
    return gap(weights(rule), weights(model))


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("problem", [*MAIN, *OTHERS], ids=named)
def test_the_gap_of_one_step_to_form_3_shrinks_as_lr_squared(problem: Problem, depth: int) -> None:
    gaps = [gap_of_forms_2_and_3(problem, depth, lr, steps=1) for lr in (4e-4, 2e-4, 1e-4)]
    assert gaps[-1] > 1e-13
    for larger, smaller in itertools.pairwise(gaps):
        assert larger / smaller == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("depth", [2, 3])
def test_so_does_it_with_weight_decay(depth: int) -> None:
    gaps = [gap_of_forms_2_and_3(problems.relu_network, depth, lr, 1, decay=1.0) for lr in (4e-4, 2e-4, 1e-4)]
    for larger, smaller in itertools.pairwise(gaps):
        assert larger / smaller == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("problem", MAIN, ids=named)
def test_the_gap_over_a_fixed_time_shrinks_as_lr(problem: Problem, depth: int) -> None:
    gaps = [gap_of_forms_2_and_3(problem, depth, 8e-3 / steps, steps) for steps in (8, 16, 32)]
    assert gaps[-1] > 1e-9
    for larger, smaller in itertools.pairwise(gaps):
        assert larger / smaller == pytest.approx(2, rel=0.1)


def test_from_factors_that_are_not_balanced_form_3_is_another_rule() -> None:
    """The gap is of first order: the test above could not pass for any two optimizers."""
    gaps = []
    for lr in (2e-4, 1e-4):
        model, x = make(problems.relu_network)
        rule, over = copy.deepcopy(model), in_the_model(model, 3)
        groups = groups_like(over, model, 3)
        train(model, x, od.optim.Factored(groups, torch.optim.SGD, lr=lr, init="identity"))
        train(rule, x, od.optim.EndToEndSGD(groups_like(over, rule, 3), lr=lr))
        gaps.append(gap(weights(rule), weights(model)))
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.02)
