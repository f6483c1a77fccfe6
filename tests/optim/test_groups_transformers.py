"""Groups of the models of transformers: their blocks get the depth, embeddings and heads do not."""

from __future__ import annotations

import pytest
import torch
from tests.optim.tables import check_complete, deep

import overdepth as od
from overdepth.optim import param_groups


@pytest.mark.parametrize("tied", [True, False])
def test_gpt2(tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0,
        tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    groups = param_groups(model, depth=2.5)
    check_complete(groups, model)
    blocks = [f"transformer.h.{i}.{name}.weight" for i in range(2) for name in ("attn.c_attn", "attn.c_proj")]
    blocks += [f"transformer.h.{i}.{name}.weight" for i in range(2) for name in ("mlp.c_fc", "mlp.c_proj")]
    assert deep(groups) == set(blocks)
    head = "transformer.wte.weight" if tied else "lm_head.weight"
    assert groups.reasons[head].startswith("output head")
    assert deep(param_groups(model, include=head)) == {*blocks, head}
    optimizer = od.optim.EndToEndSGD(groups, lr=0.01)
    losses = []
    tokens = torch.arange(8).reshape(1, 8)
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_bert() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=8,
    )  # fmt: skip
    model = transformers.BertForMaskedLM(config)
    groups = param_groups(model)
    check_complete(groups, model)
    layer = "bert.encoder.layer.0"
    assert deep(groups) == {
        *(f"{layer}.attention.self.{name}.weight" for name in ("query", "key", "value")),
        f"{layer}.attention.output.dense.weight", f"{layer}.intermediate.dense.weight", f"{layer}.output.dense.weight",
        "cls.predictions.transform.dense.weight",
    }  # fmt: skip
    assert groups.reasons["bert.embeddings.position_embeddings.weight"].startswith("embedding")
    classifier = transformers.BertForSequenceClassification(config)
    assert "classifier.weight" not in deep(param_groups(classifier))
