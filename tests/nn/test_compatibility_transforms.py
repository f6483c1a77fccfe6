"""Hooks, and the functional transforms of ``torch.func``, over models with factors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od


class Network(nn.Module):
    """A convolution, attention (which reads its weights itself) and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm1d(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)).mT
        result: Tensor = self.linear(h + self.attention(h, h, h, need_weights=False)[0])
        return result


def network(*, execution: Any = "auto", depth: int = 3) -> Any:
    torch.manual_seed(0)

    def select(module: nn.Module, name: str) -> dict[str, Any]:
        return {} if name.startswith("attention") else {"execution": execution}

    return Network() if depth == 1 else od.overparameterize_(Network(), depth, select=select)


def data(rows: int = 5) -> Tensor:
    return torch.randn(rows, 3, 6, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_hooks_fire_once_a_pass_and_survive() -> None:
    plain, x = network(depth=1), data()
    fired: list[str] = []
    for name, module in plain.named_modules():
        if name in ("conv", "attention", "linear"):
            module.register_forward_pre_hook(lambda m, args, name=name: fired.append(f"before {name}"))
            module.register_forward_hook(lambda m, args, out, name=name: fired.append(f"after {name}"))
            module.register_full_backward_pre_hook(lambda m, out, name=name: fired.append(f"down {name}"))
            module.register_full_backward_hook(lambda m, into, out, name=name: fired.append(f"up {name}"))
    plain(x.requires_grad_()).sum().backward()
    expected = list(fired)
    assert len(expected) == 12
    for change in (lambda: od.overparameterize_(plain, 3), lambda: od.collapse_(plain)):
        change()
        fired.clear()
        plain(x).sum().backward()
        assert fired == expected


def test_hooks_can_change_what_goes_in_and_out() -> None:
    layer = od.overparameterize_(nn.Linear(4, 3))
    x = torch.randn(2, 4)
    expected = 3 * layer(2 * x)
    layer.register_forward_pre_hook(lambda m, args: (2 * args[0],))
    layer.register_forward_hook(lambda m, args, out: 3 * out)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)


def test_functional_call_takes_other_factors() -> None:
    model, other, x = network(depth=3).eval(), network(depth=3).eval(), data()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.7)
    state = {**dict(other.named_parameters()), **dict(other.named_buffers())}
    before = model(x)
    torch.testing.assert_close(torch.func.functional_call(model, state, (x,)), other(x), rtol=0, atol=1e-6)
    assert torch.equal(model(x), before)


# torch's own: attention has no batched kernel on the CPU.
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented:UserWarning")
@pytest.mark.parametrize("execution", ["chained", "folded"])
def test_vmap_gives_gradients_sample_by_sample(execution: str) -> None:
    model, x = network(execution=execution, depth=3).eval(), data()
    state = {name: p.detach() for name, p in model.named_parameters()}

    def loss(state: dict[str, Tensor], sample: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(model, state, (sample[None],)).square().mean()
        return result

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(state, x)
    for i, sample in enumerate(x):
        expected = gradients(model, sample[None])
        for (name, _), value in zip(model.named_parameters(), expected, strict=True):
            torch.testing.assert_close(found[name][i], value, rtol=1e-4, atol=1e-6)


# torch's own: attention has no batched kernel on the CPU.
@pytest.mark.filterwarnings("ignore:There is a performance drop because we have not yet implemented:UserWarning")
def test_an_ensemble_of_models_runs_at_once() -> None:
    models = [network(depth=3).eval() for _ in range(3)]
    for i, model in enumerate(models):
        for p in model.parameters():
            p.data.mul_(1 + 0.1 * i)
    params, buffers = torch.func.stack_module_state(models)
    x = data()
    found = torch.func.vmap(lambda p, b: torch.func.functional_call(models[0], (p, b), (x,)))(params, buffers)
    torch.testing.assert_close(found, torch.stack([model(x) for model in models]), rtol=0, atol=1e-5)
