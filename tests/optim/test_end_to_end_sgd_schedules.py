"""EndToEndSGD under schedulers, GradScaler, hooks and torch.compile."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.optim.end_to_end_training import OPTIONS, assert_equal, batch, network, optimizer_for, train
from torch import nn

import overdepth as od


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_tensor_lr_is_a_number(options: dict[str, Any], dtype: torch.dtype) -> None:
    model, other = network(), network()
    optimizer, plain = optimizer_for(model, options, torch.tensor(0.05, dtype=dtype)), optimizer_for(other, options)
    train(model, optimizer, range(2))
    train(other, plain, range(2))
    for group in optimizer.param_groups:
        group["lr"].fill_(0.01)
    for group in plain.param_groups:
        group["lr"] = 0.01
    train(model, optimizer, range(2, 4))
    train(other, plain, range(2, 4))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)])
def test_schedulers_rule_the_learning_rate_down_to_zero(lr: Any) -> None:
    p = nn.Parameter(torch.eye(2))
    optimizer = od.optim.EndToEndSGD([p], lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda step: (0.0, 1.0, 0.5)[step]])
    seen = []
    for _ in range(2):
        before = p.detach().clone()
        p.grad = torch.linalg.inv(before) / 2  # the rule makes it the identity
        optimizer.step()
        scheduler.step()
        seen.append(float((before - p.detach())[0, 0]))
    assert seen == pytest.approx([0.0, 0.1], abs=1e-6)


def test_the_grad_scaler_unscales_skips_and_steps() -> None:
    model, other = network(), network()
    optimizer, plain = optimizer_for(model, {"momentum": 0.9}), optimizer_for(other, {"momentum": 0.9})
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(model(batch(step)).square().mean()).backward()
        if step == 1:
            next(model.parameters()).grad.fill_(math.inf)  # type: ignore[union-attr]
        before = copy.deepcopy(model)
        scaler.step(optimizer)
        scaler.update()
        if step == 1:
            assert_equal(model, before)
        else:
            train(other, plain, range(step, step + 1))
    assert_equal(model, other)


def test_hooks_run_once() -> None:
    model = network()
    optimizer, calls = optimizer_for(model, {}), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    train(model, optimizer, range(1))
    assert calls == ["before", "after"]


@pytest.fixture
def compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("options", OPTIONS)
def test_compiled_steps_have_the_numbers_of_eager_ones_and_are_not_compiled_again(
    options: dict[str, Any], wrapped: bool, compiler: None
) -> None:
    model, other = network(), network()
    optimizer, plain = optimizer_for(model, options), optimizer_for(other, options)

    def function() -> None:
        optimizer.step()

    compiled = torch.compile(function if wrapped else optimizer.step, backend="aot_eager", fullgraph=True)
    for step in range(4):
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            compiled()
        train(other, plain, range(step, step + 1))
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
