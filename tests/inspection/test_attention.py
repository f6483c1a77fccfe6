"""Pairs of attention modules of every make: the right blocks of the right weights, head by head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import linear_algebra as reference
from torch import Tensor, nn

import overdepth as od
from overdepth.inspection import Inspection, Product

WIDTH, HEADS = 12, 3
HEAD = WIDTH // HEADS


def rows(found: Inspection, kind: str) -> list[Product]:
    return [product for product in found if product.kind == kind]


def assert_pair(product: Product, lower: Tensor, upper: Tensor) -> None:
    """The row is that of the chain lower, upper."""
    factors = [reference.as_array(lower), reference.as_array(upper)]
    (imbalance,) = reference.imbalance(factors)
    eigenvalues = np.linalg.eigvalsh(reference.transfer_matrix(factors))
    assert product.factor_shapes == (tuple(lower.shape), tuple(upper.shape))
    assert product.norm == pytest.approx(np.linalg.norm(reference.product(factors)))
    assert list(product.imbalance) == [pytest.approx(np.linalg.norm(imbalance))]
    assert product.multipliers.largest == pytest.approx(eigenvalues[-1])
    assert product.multipliers.mean == pytest.approx(eigenvalues.mean())


def evaluated(label: str, model: nn.Module) -> Tensor:
    """What the expression of a factor's name gives."""
    parameters = dict(model.named_parameters())
    name = next(name for name in sorted(parameters, key=len, reverse=True) if label.startswith(name))
    found: Tensor = eval(f"p{label.removeprefix(name)}", {"p": parameters[name].detach()})  # noqa: S307 - our own text
    return found


def head(weight: Tensor, index: int, width: int = HEAD) -> Tensor:
    return weight[index * width : (index + 1) * width]


@pytest.mark.parametrize("bias", [True, False])
def test_packed(bias: bool) -> None:
    module = nn.MultiheadAttention(WIDTH, HEADS, bias=bias)
    found = od.inspect(module)
    query, key, value = module.in_proj_weight.detach().chunk(3)
    out = module.out_proj.weight.detach()
    assert [p.part for p in found] == [*(f"head {h}" for h in range(HEADS))] * 2
    for h, product in enumerate(rows(found, "query-key")):
        assert_pair(product, head(key, h), head(query, h).mT)
        assert product.factors == (
            f"in_proj_weight[{WIDTH + h * HEAD}:{WIDTH + (h + 1) * HEAD}]",
            f"in_proj_weight[{h * HEAD}:{(h + 1) * HEAD}].T",
        )
        assert bool(product.notes) == bias
    for h, product in enumerate(rows(found, "value-output")):
        assert_pair(product, head(value, h), out[:, h * HEAD : (h + 1) * HEAD])


def test_a_heads_scores_are_its_product() -> None:
    """x^T (W_q^T W_k) y over the root of the head width is what the module's softmax gets."""
    torch.manual_seed(0)
    module = nn.MultiheadAttention(WIDTH, 1, bias=False, batch_first=True).double()
    (product,) = rows(od.inspect(module), "query-key")
    key, query = (evaluated(label, module) for label in product.factors)
    x = torch.randn(1, 5, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        weights = module(x, x, x)[1][0]
        scores = x[0] @ query @ key @ x[0].mT / WIDTH**0.5
    torch.testing.assert_close(weights, scores.softmax(-1))


def test_unpacked() -> None:
    module = nn.MultiheadAttention(WIDTH, HEADS, kdim=5, vdim=7)
    found = od.inspect(module)
    for h, product in enumerate(rows(found, "query-key")):
        assert product.shape == (WIDTH, 5)
        assert_pair(product, head(module.k_proj_weight, h), head(module.q_proj_weight, h).mT)
    for h, product in enumerate(rows(found, "value-output")):
        assert product.shape == (WIDTH, 7)
        assert_pair(product, head(module.v_proj_weight, h), module.out_proj.weight[:, h * HEAD : (h + 1) * HEAD])


class Attention(nn.Module):
    """As in Hugging Face's models: a linear layer each, and fewer heads for keys and values."""

    def __init__(self, heads: int = 4, key_value_heads: int = 2, width: int = 3, size: int = 10) -> None:
        super().__init__()
        self.q_proj = nn.Linear(size, heads * width, bias=False)
        self.k_proj = nn.Linear(size, key_value_heads * width, bias=False)
        self.v_proj = nn.Linear(size, key_value_heads * width, bias=False)
        self.o_proj = nn.Linear(heads * width, size, bias=False)
        self.head_dim = width

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def test_grouped_query_heads() -> None:
    module = nn.ModuleDict({"attn": Attention()})
    attention: Any = module["attn"]
    found = od.inspect(module)
    assert [p.part for p in found] == ["heads 0 to 1", "heads 2 to 3"] * 2
    for g, product in enumerate(rows(found, "query-key")):
        queries = torch.cat([head(attention.q_proj.weight, h, 3).mT for h in (2 * g, 2 * g + 1)])
        assert_pair(product, head(attention.k_proj.weight, g, 3), queries)
        assert product.shape == (20, 10)
        assert product.factors[1] == f"attn.q_proj.weight[{6 * g}:{6 * g + 6}].T of 2 heads, stacked"
    for g, product in enumerate(rows(found, "value-output")):
        outputs = torch.cat([attention.o_proj.weight[:, 3 * h : 3 * h + 3] for h in (2 * g, 2 * g + 1)])
        assert_pair(product, head(attention.v_proj.weight, g, 3), outputs)


def descended(lr: float, steps: int) -> tuple[Tensor, ...]:
    """Query and key weights of two query heads over one key head, before and after descent towards drawn scores."""
    generator = torch.Generator().manual_seed(0)
    query, key, target = (
        0.5 * torch.randn(s, dtype=torch.float64, generator=generator) for s in ((4, 6), (2, 6), (2, 6, 6))
    )
    start = query, key
    for _ in range(steps):
        errors = [head(query, h, 2).mT @ key - target[h] for h in range(2)]
        to_query = torch.cat([key @ e.mT for e in errors])
        to_key = head(query, 0, 2) @ errors[0] + head(query, 1, 2) @ errors[1]
        query, key = query - lr * to_query, key - lr * to_key
    return (*start, query, key)


def of_heads(query: Tensor, key: Tensor, *heads: int) -> Tensor:
    """W_q W_q^T, summed over heads, less W_k W_k^T."""
    blocks = [head(query, h, 2) for h in heads]
    return sum((b @ b.mT for b in blocks), -key @ key.mT)


def test_the_imbalance_of_a_group_is_what_descent_keeps() -> None:
    """Its drift vanishes with the step size, that of a single head does not."""
    drifts = []
    for lr, steps in ((1e-4, 1000), (0.5e-4, 2000)):
        before, after = (pair for pair in zip(*[iter(descended(lr, steps))] * 2, strict=True))
        group, single = (float((of_heads(*after, *h) - of_heads(*before, *h)).norm()) for h in ((0, 1), (0,)))
        drifts.append((group, single))
    assert drifts[0][0] == pytest.approx(2 * drifts[1][0], rel=0.05)
    assert drifts[0][1] == pytest.approx(drifts[1][1], rel=0.05)
    assert drifts[0][0] < 0.01 * drifts[0][1]
    module = Attention(2, 1, 2, 6).double()
    module.load_state_dict({"q_proj.weight": after[0], "k_proj.weight": after[1]}, strict=False)
    (product,) = rows(od.inspect(module), "query-key")
    assert product.imbalance[0] == pytest.approx(float(of_heads(*after, 0, 1).norm()))


def test_names_of_factors_are_expressions() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=WIDTH, n_layer=1, n_head=HEADS, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    found = od.inspect(model)
    assert len(found) == 2 * HEADS
    assert {p.name for p in found} == {"transformer.h.0.attn"}
    attention = model.transformer.h[0].attn
    query, key, value = attention.c_attn.weight.detach().mT.chunk(3)
    for h, product in enumerate(rows(found, "query-key")):
        assert_pair(product, head(key, h), head(query, h).mT)
        for label, expected in zip(product.factors, (head(key, h), head(query, h).mT), strict=True):
            assert torch.equal(evaluated(label, model), expected)
    for h, product in enumerate(rows(found, "value-output")):
        output = attention.c_proj.weight.detach().mT[:, h * HEAD : (h + 1) * HEAD]
        assert_pair(product, head(value, h), output)
        for label, expected in zip(product.factors, (head(value, h), output), strict=True):
            assert torch.equal(evaluated(label, model), expected)
    assert found.remarks[-1].startswith("'transformer.wte.weight' and 'lm_head.weight' are one parameter")


def test_gpt2_with_cross_attention() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=WIDTH, n_layer=1, n_head=HEADS, add_cross_attention=True,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    cross = model.transformer.h[0].crossattention
    pairs = [p for p in od.inspect(model) if p.name.endswith("crossattention") and p.kind == "query-key"]
    for h, product in enumerate(pairs):
        key = cross.c_attn.weight.mT[:WIDTH][h * HEAD : (h + 1) * HEAD]
        assert_pair(product, key, head(cross.q_attn.weight.mT, h).mT)
    assert len(pairs) == HEADS


CONFIGS: Mapping[str, tuple[str, str, dict[str, Any], int]] = {
    "llama": (
        "LlamaConfig", "LlamaForCausalLM",
        {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 4, "num_key_value_heads": 2}, 4,
    ),
    "bert": (
        "BertConfig", "BertForMaskedLM",
        {"hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 8, "max_position_embeddings": 8}, 6,
    ),
    "t5": ("T5Config", "T5EncoderModel", {"d_model": 12, "d_kv": 5, "d_ff": 8, "num_layers": 1, "num_heads": 2}, 4),
    "vit": (
        "ViTConfig", "ViTModel",
        {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 8, "image_size": 8, "patch_size": 4}, 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_hugging_faces_models(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config, model, options, expected = CONFIGS[name]
    layers = {} if name == "t5" else {"num_hidden_layers": 1}
    size = {} if name == "vit" else {"vocab_size": 20}
    found = od.inspect(getattr(transformers, model)(getattr(transformers, config)(**options, **layers, **size)))
    assert len(rows(found, "query-key")) == len(rows(found, "value-output")) == expected // 2
    assert found.left_out == {}
    rotary = any(note.startswith("rotary") for p in rows(found, "query-key") for note in p.notes)
    assert rotary == (name == "llama")
    assert not any(note.startswith("rotary") for p in rows(found, "value-output") for note in p.notes)


def test_norms_between_queries_and_keys_are_said() -> None:
    module = Attention()
    module.q_norm, module.k_norm = nn.LayerNorm(3), nn.LayerNorm(3)
    found = od.inspect(module)
    assert {p.kind for p in found} == {"value-output"}
    assert found.left_out == {
        "Attention, query-key": "'q_norm' and 'k_norm' normalise between the two, which is no product"
    }


def changed(change: str) -> Any:
    module: Any = Attention()
    if change == "heads":
        del module.head_dim
    if change == "fit":
        module.head_dim = 5
    if change == "fused":
        module = nn.Module()
        module.qkv, module.proj = nn.Linear(4, 12), nn.Linear(4, 4)
    if change == "output":
        del module.o_proj
    if change == "inputs":
        module.o_proj = nn.Linear(5, 10)
    if change == "quantized":
        module.k_proj.weight = nn.Parameter(torch.ones(6, 10, dtype=torch.int8), requires_grad=False)
    if change == "weight norm":
        nn.utils.parametrizations.weight_norm(module.v_proj)
    if change == "factors":
        od.overparameterize_(module, select=lambda m, n: n == "q_proj")
    if change == "torch":
        module = od.overparameterize_(nn.MultiheadAttention(4, 2))
    if change == "unequal":
        module = nn.Module()
        module.c_attn, module.c_proj, module.num_heads = nn.Linear(12, 18), nn.Linear(12, 12), 3
    return module


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("heads", "the number of heads is not known"),
        ("fit", "heads of width 5 do not fit query, key and value of 12, 6 and 6 outputs"),
        ("fused", "fused in 'qkv'"),
        ("output", "no output projection was found"),
        ("inputs", "'o_proj.weight' takes 5 inputs, and 4 heads of width 3 give 12"),
        ("quantized", "'k_proj.weight' is torch.int8"),
        ("weight norm", "carries a parametrization"),
        ("factors", "'q_proj' is over-parameterized itself.*overdepth.collapse"),
        ("torch", "over-parameterized themselves.*overdepth.collapse"),
        ("unequal", "the 18 outputs of 'c_attn.weight' are not equal parts"),
    ],
)
def test_what_cannot_be_read_is_said(change: str, reason: str) -> None:
    found = od.inspect(changed(change))
    assert any(re.search(reason, said) for said in found.left_out.values()), found.left_out
    assert re.search(reason, repr(found))
