"""LoRA pairs, by structure and from the real package."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import overdepth as od


class Adapted(nn.Module):
    """A frozen layer with adapters beside it, as peft holds them."""

    def __init__(self, *, scaling: object = None) -> None:
        super().__init__()
        self.base_layer = nn.Linear(8, 6).requires_grad_(requires_grad=False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False), "other": nn.Linear(8, 3, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 6, bias=False), "other": nn.Linear(3, 6, bias=False)})
        self.scaling = {"default": 4.0, "other": 0.5} if scaling is None else scaling


def test_every_adapter_is_a_product() -> None:
    model: Any = nn.ModuleDict({"q": Adapted()})
    first, second = od.inspect(model)
    assert (first.kind, first.name, first.scale) == ("LoRA", "q, adapter default", 4.0)
    assert first.factors == ("q.lora_A.default.weight", "q.lora_B.default.weight")
    assert (second.shape, second.largest_rank, second.scale) == ((6, 8), 3, 0.5)
    a, b = model["q"].lora_A["default"].weight.detach(), model["q"].lora_B["default"].weight.detach()
    assert first.norm == pytest.approx(4 * float((b @ a).norm()), rel=1e-5)
    mean = float(16 * (b.square().sum() / 6 + a.square().sum() / 8))
    assert first.multipliers.mean == pytest.approx(mean, rel=1e-5)


def test_a_fresh_adapter_is_all_imbalance() -> None:
    model: Any = Adapted()
    nn.init.zeros_(model.lora_B["default"].weight)
    first = od.inspect(model)[0]
    assert (first.norm, first.rank) == (0.0, 0)
    assert first.relative_imbalance == pytest.approx(1.0)
    assert first.multipliers.largest > 0
    assert first.balanced_multipliers.largest == 0.0
    assert first.multipliers.frozen == pytest.approx(1 - 2 / 8)  # only the two inputs that A sees move


@pytest.mark.parametrize(("scaling", "scale"), [(2.0, 2.0), ({"default": 3}, 3.0), ("unknown", 1.0), ({}, 1.0)])
def test_scales(scaling: object, scale: float) -> None:
    first = od.inspect(Adapted(scaling=scaling))[0]
    assert first.scale == scale
    assert bool(first.notes) == (scale == 1.0)


def test_alpha_over_rank_and_bare_parameters() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lora_A, self.lora_B = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(6, 2))
            self.alpha, self.rank = 16, 2

    (product,) = od.inspect(Bare())
    assert (product.factors, product.scale) == (("lora_A", "lora_B"), 8.0)


def test_kernels() -> None:
    class Kernel(nn.Module):
        def __init__(self, size: int) -> None:
            super().__init__()
            self.lora_A, self.lora_B = nn.Conv2d(4, 2, 3, bias=False), nn.Conv2d(2, 6, size, bias=False)
            self.scaling = 1.0

    (product,) = od.inspect(Kernel(1))
    assert product.factor_shapes == ((2, 36), (6, 2))
    found = od.inspect(Kernel(3))
    assert len(found) == 0
    assert "does not fit" in found.left_out["Kernel"]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # between the two packages
def test_peft() -> None:
    """The real package's model: the pairs, once each, with its scale, and the difference that they make."""
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=8, num_hidden_layers=2, num_attention_heads=4
    )
    lora = peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model: Any = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)
    found = [p for p in od.inspect(model) if p.kind == "LoRA"]
    assert len(found) == 4
    assert {p.scale for p in found} == {3.0}
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    first = next(p for p in found if "layers.0.self_attn.q_proj" in p.name)
    assert first.norm == pytest.approx(float(layer.get_delta_weight("default").detach().norm()), rel=1e-5)
    assert [p for p in od.inspect(model) if p.kind == "stacked"] == []
    assert any("no linear layer" in reason for reason in od.inspect(model).left_out.values())
