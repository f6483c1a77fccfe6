"""torch.compile: one graph, the numbers of eager mode, nothing recompiled from the second step on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od

# torch's own: what the compiler still uses of TorchScript and of pytrees.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
]
EXECUTIONS = ["auto", "chained", "folded"]


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


class Network(nn.Module):
    """A layer of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.up = nn.ConvTranspose1d(4, 4, 3, padding=1)
        self.table = nn.Embedding(10, 8, padding_idx=0)
        self.linear = nn.Linear(16, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        h = self.up(self.depthwise(torch.tanh(self.conv(x))).flatten(2))
        h = self.linear(h) + self.table(indices)
        result: Tensor = self.attention(h, h, h, need_weights=False)[0]
        return result


def network(execution: Any, depth: int = 2, *, others_folded: bool = False) -> nn.Module:
    torch.manual_seed(0)

    def select(module: nn.Module, name: str) -> dict[str, Any]:
        if name.startswith("attention") or (others_folded and name in ("conv", "linear")):
            return {"execution": "folded"}  # attention cannot be chained
        return {"execution": execution}

    return od.overparameterize_(Network(), depth, select=select)


def inputs(rows: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(rows, 2, 4, 4, generator=generator), torch.randint(10, (rows, 4), generator=generator)


def train_beside_eager(model: nn.Module, backend: str, *, atol: float) -> None:
    """Three steps of both; a recompilation after the first is an error."""
    eager = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    for step in range(3):
        results = []
        for run, owner in ((compiled, model), (eager, eager)):
            optimizer = torch.optim.SGD(owner.parameters(), lr=0.1)
            with torch._dynamo.config.patch(error_on_recompile=step > 0):
                loss = run(*inputs()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            results.append([loss.detach(), *[p.grad for p in owner.parameters()]])
            optimizer.step()
        torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=atol)
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters() if p.ndim > 1)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("execution", EXECUTIONS)
def test_one_graph_with_the_numbers_of_eager_mode_and_no_recompilation(execution: str, depth: int) -> None:
    train_beside_eager(network(execution, depth), "aot_eager", atol=1e-6)


@pytest.mark.slow
def test_the_default_backend_gives_the_numbers_of_eager_mode() -> None:
    """Some layers chained, some folded, in one (slow) compilation."""
    train_beside_eager(network("chained", 3, others_folded=True), "inductor", atol=1e-5)


@pytest.mark.parametrize("factorization", ["kernel_between", "composed"])
@pytest.mark.parametrize("execution", ["chained", "folded"])
def test_the_other_factorizations_compile(factorization: Any, execution: Any) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 5, groups=2, padding=2, padding_mode="circular")
    od.overparameterize_(layer, 3, init="orthogonal", scale=0.9, factorization=factorization, execution=execution)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=1e-5)


def test_other_batch_sizes_compile_and_stay_right_on_both_sides_of_the_switch() -> None:
    """``auto`` decides from the shapes that arrive: few rows are chained, many folded."""
    torch.manual_seed(0)
    model = od.overparameterize_(nn.Linear(8, 8))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (2, 3, 5, 200, 300, 4):
        x = torch.randn(rows, 8)
        torch.testing.assert_close(compiled(x), model(x), rtol=0, atol=1e-6)


def test_compiled_code_notices_that_the_model_was_factored_and_folded() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(6, 4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    before = compiled(x)
    for _ in range(2):
        od.overparameterize_(model)
        torch.testing.assert_close(compiled(x), before, rtol=0, atol=1e-6)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        before = model(x)
        torch.testing.assert_close(compiled(x), before, rtol=0, atol=1e-6)
        od.collapse_(model)
        torch.testing.assert_close(compiled(x), before, rtol=0, atol=1e-6)
        compiled(x).sum().backward()
        assert all(p.grad is not None for p in model.parameters())
        model.zero_grad()


def test_a_compiled_module_folds_and_its_checkpoint_converts() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    x = torch.randn(6, 4)
    before = model(x)
    compiled: Any = torch.compile(model, backend="aot_eager")
    od.overparameterize_(compiled)
    assert all(key.startswith("_orig_mod.") for key in od.nn.plain_state_dict(compiled.state_dict(), compiled))
    assert [w.name for w in od.collapse_(compiled).weights] == ["_orig_mod.0.weight", "_orig_mod.1.weight"]
    torch.testing.assert_close(compiled(x), before, rtol=0, atol=1e-6)
