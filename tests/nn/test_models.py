"""Whole architectures with random weights: factored, trained for some steps, folded, and plain again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from tests.nn.architectures import MobileNet, ResNet, VisionTransformer
from torch import Tensor, nn

import overdepth as od

transformers = pytest.importorskip("transformers")

# A float32 network of a dozen layers: each rounds its inputs to 6e-8 and the split of its weight to a little more.
ROUNDING = 2e-5


def images() -> dict[str, Any]:
    return {"x": torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))}


def tokens() -> dict[str, Any]:
    indices = torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": indices}


def classified(logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, torch.arange(len(logits)) % logits.shape[-1])


def next_token(logits: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()["input_ids"][:, 1:].flatten())


def gpt2(dropout: float = 0.1) -> Any:
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=24, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        attn_pdrop=dropout, embd_pdrop=dropout, resid_pdrop=dropout,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def vit() -> Any:
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, image_size=16, patch_size=4,
        num_labels=3,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


@dataclass
class Case:
    """A model, an input, a loss, and how many weights are factored without a ``select``."""

    build: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    loss: Callable[[Tensor], Tensor]
    weights: int
    names: list[str] = field(default_factory=list)


CASES = {
    "gpt2": Case(
        gpt2, tokens, next_token, 8, ["transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_proj.weight"]
    ),
    "bert": Case(bert, tokens, classified, 2 * 6 + 2, ["bert.encoder.layer.0.attention.self.query.weight"]),
    "vit": Case(vit, lambda: {"pixel_values": images()["x"]}, classified, 1 + 2 * 6 + 1, ["classifier.weight"]),
    "resnet": Case(ResNet, images, classified, 1 + 8 + 1 + 1, ["layer2.0.downsample.0.weight", "fc.weight"]),
    "mobilenet": Case(MobileNet, images, classified, 1 + 9 + 1 + 1, ["features.4.conv.3.weight"]),
    "torch vit": Case(
        VisionTransformer, images, classified, 1 + 2 * 4 + 1, ["encoder.layers.1.self_attn.in_proj_weight"]
    ),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=3e-3),
}


def logits(model: nn.Module, case: Case) -> Tensor:
    out = model(**case.inputs())
    result: Tensor = out if isinstance(out, Tensor) else out.logits
    return result


def evaluated(model: nn.Module, case: Case) -> Tensor:
    """Outputs in eval mode without gradients, where torch's transformer takes its fast path."""
    training = model.training
    with torch.no_grad():
        result = logits(model.eval(), case)
    model.train(training)
    return result


def train(model: nn.Module, case: Case, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    torch.manual_seed(2)  # of dropout
    for _ in range(steps):
        optimizer.zero_grad()
        loss = case.loss(logits(model, case))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING * float(expected.abs().max()))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("name", CASES)
def test_factored_trained_folded_and_trained_on(name: str, depth: int, optimizer: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = case.build().train()
    if name in ("resnet", "mobilenet"):
        logits(model, case)  # statistics that are no identity
    keys, types = list(model.state_dict()), [type(m) for m in model.modules()]
    names = [n for n, _ in model.named_parameters()]
    before = evaluated(model, case)

    used = OPTIMIZERS[optimizer](model.parameters())
    od.overparameterize_(model, depth, optimizer=used)
    factors = dict(od.nn.named_factors(model))
    assert len(factors) == case.weights
    assert set(case.names) <= set(factors)
    assert_same(evaluated(model, case), before)

    start = {n: [f.detach().clone() for f in each] for n, each in factors.items()}
    losses = train(model, case, used, 4)
    assert losses[-1] < losses[0]
    for weight, each in factors.items():
        for old, new in zip(start[weight], each, strict=True):
            assert not torch.equal(old, new), weight

    report = od.verify_collapse(model, **case.inputs())
    assert len(report.weights) == case.weights
    after = evaluated(model, case)
    assert float((after - before).abs().max()) > 100 * ROUNDING * float(before.abs().max())
    od.collapse_(model, optimizer=used)
    assert_same(evaluated(model, case), after)
    assert list(model.state_dict()) == keys
    assert [type(m) for m in model.modules()] == types
    assert [n for n, _ in model.named_parameters()] == names
    fresh = case.build()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(evaluated(fresh, case), evaluated(model, case))

    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    train(model, case, used, 1)
    assert [n for n, p in model.named_parameters() if torch.equal(p, weights[n])] == []


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_convolutional_networks_fold_their_batch_norms_too(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = od.overparameterize_(case.build(), 2)
    train(model, case, torch.optim.SGD(model.parameters(), lr=0.01), 3)
    before = evaluated(model, case)
    norms = [n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]
    report = od.collapse_(model.eval(), fold_batchnorm=True)
    assert [norm for _, norm in report.batchnorms] == norms
    assert not any("running" in key for key in model.state_dict())
    assert_same(evaluated(model, case), before)


# --- language models -------------------------------------------------------------------------------------------------


def everything(module: nn.Module, name: str) -> bool:
    return True


def test_gpt2s_tied_head_and_embedding_are_left_plain_unless_chosen() -> None:
    torch.manual_seed(0)
    model, case = gpt2(), CASES["gpt2"]
    before = evaluated(model, case)
    left = od.nn.plan(model).left_plain
    assert {"transformer.wte.weight", "transformer.wpe.weight", "lm_head.weight"} <= set(left)
    od.overparameterize_(model, 2, select=everything)
    assert len(list(od.nn.named_factors(model))) == 8 + 2  # two embeddings, one of which is the head
    assert model.lm_head.parametrizations.weight is model.transformer.wte.parametrizations.weight
    assert_same(evaluated(model, case), before)
    losses = train(model, case, torch.optim.AdamW(model.parameters(), lr=3e-3), 4)
    assert losses[-1] < losses[0]
    after = evaluated(model, case)
    od.collapse_(model)
    assert model.lm_head.weight is model.transformer.wte.weight
    assert_same(evaluated(model, case), after)


def test_gpt2_generates_the_same_text_folded() -> None:
    torch.manual_seed(0)
    model = od.overparameterize_(gpt2(), 3).eval()
    start = tokens()["input_ids"][:2, :4]
    keywords = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(start), "pad_token_id": 0}
    expected = model.generate(start, **keywords)  # type: ignore[operator]
    od.collapse_(model)
    assert torch.equal(model.generate(start, **keywords), expected)  # type: ignore[operator]
    assert expected.shape[1] > 4


def test_transformers_own_gradient_checkpointing_and_saving_work(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, case = gpt2(dropout=0.0), CASES["gpt2"]
    od.overparameterize_(model, 2)
    model.train()
    expected = case.loss(logits(model, case))
    expected.backward()  # type: ignore[no-untyped-call]
    grads = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable()
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    case.loss(logits(model, case)).backward()  # type: ignore[no-untyped-call]
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, grads[n], rtol=1e-4, atol=1e-6)
    od.collapse_(model)
    model.save_pretrained(tmp_path)
    again = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(evaluated(again, case), evaluated(model, case))
