"""torch.export, torch.fx and ONNX: a folded model gives the graph of the never-factored one."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import overdepth as od

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Network(nn.Module):
    """A layer of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False)
        self.up = nn.ConvTranspose1d(4, 4, 3, padding=1)
        self.table = nn.Embedding(10, 8)
        self.linear = nn.Linear(16, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        h = self.up(self.depthwise(torch.tanh(self.norm(self.conv(x)))).flatten(2))
        h = self.linear(h) + self.table(indices)
        result: Tensor = self.attention(h, h, h, need_weights=False)[0]
        return result


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 2, 4, 4, generator=generator), torch.randint(10, (3, 4), generator=generator)


def models() -> tuple[nn.Module, nn.Module]:
    """A model that was over-parameterized and folded, and one that never was."""
    torch.manual_seed(0)
    never = Network().eval()
    folded = copy.deepcopy(never)
    od.overparameterize_(folded, 3, select=lambda module, name: True)
    assert len(od.collapse_(folded).weights) == 7
    return folded, never


def graph(program: torch.export.ExportedProgram) -> list[tuple[str, str, str, str]]:
    """Every node with its arguments, names included."""
    return [(node.op, node.name, str(node.target), str(node.args)) for node in program.graph.nodes]


@pytest.mark.parametrize("strict", [False, True])
def test_the_exported_program_is_that_of_the_model_that_never_had_factors(strict: bool) -> None:
    folded, never = models()
    a, b = (torch.export.export(model, inputs(), strict=strict) for model in (folded, never))
    assert graph(a) == graph(b)
    assert list(a.state_dict) == list(b.state_dict)
    assert set(a.state_dict) == set(never.state_dict())
    assert str(a.graph_signature) == str(b.graph_signature)
    torch.testing.assert_close(a.module()(*inputs()), never(*inputs()), rtol=0, atol=1e-5)
    buffer = io.BytesIO()
    torch.export.save(a, buffer)
    buffer.seek(0)
    loaded = torch.export.load(buffer).module()
    assert torch.equal(loaded(*inputs()), a.module()(*inputs()))


def test_a_model_with_factors_exports_too_with_more_nodes() -> None:
    torch.manual_seed(0)
    model = od.overparameterize_(Network().eval(), 3)
    program = torch.export.export(model, inputs())
    assert len(graph(program)) > len(graph(torch.export.export(models()[1], inputs())))
    assert "conv.parametrizations.weight.factor2" in program.state_dict
    torch.testing.assert_close(program.module()(*inputs()), model(*inputs()), rtol=0, atol=1e-6)


def test_the_symbolic_trace_is_the_same() -> None:
    folded, never = models()
    code = [torch.fx.symbolic_trace(nn.Sequential(m.conv, m.norm, m.depthwise)).code for m in (folded, never)]  # type: ignore[arg-type]
    assert code[0] == code[1]


def nodes(program: Any) -> list[tuple[str, list[str]]]:
    return [(node.op_type, list(node.output)) for node in program.model_proto.graph.node]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning")  # torch's own
def test_onnx_has_the_same_nodes_and_runs_with_the_same_outputs(tmp_path: Path) -> None:
    folded, never = models()
    a, b = (torch.onnx.export(model, inputs(), dynamo=True, verbose=False) for model in (folded, never))
    assert a is not None
    assert nodes(a) == nodes(b)
    assert any(kind == "Conv" for kind, _ in nodes(a))
    path = tmp_path / "model.onnx"
    a.save(str(path))
    onnx.checker.check_model(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = dict(zip((i.name for i in session.get_inputs()), (x.numpy() for x in inputs()), strict=True))
    (found,) = session.run(None, feeds)
    np.testing.assert_allclose(found, folded(*inputs()).detach().numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found, never(*inputs()).detach().numpy(), rtol=0, atol=1e-5)
