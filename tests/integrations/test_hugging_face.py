"""The callback in the real Trainer: what the optimizer holds, what is logged, saved, resumed and handed back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od

transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from safetensors.torch import load_file  # noqa: E402 - comes with transformers

from overdepth.integrations.hugging_face import FILE, OverparameterizeCallback  # noqa: E402 - needs transformers

WEIGHTS = [f"transformer.h.0.{name}.weight" for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")]


def gpt2() -> Any:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=8, n_embd=12, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def texts() -> list[dict[str, Tensor]]:
    tokens = torch.randint(0, 30, (24, 8), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row} for row in tokens]


def arguments(folder: Path, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "max_steps": 6, "save_steps": 3, "logging_steps": 2, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
    }  # fmt: skip
    return transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        **(defaults | options),
    )


def trainer(folder: Path, callback: Any, model: Any = None, **options: Any) -> Any:
    given: dict[str, Any] = {
        key: options.pop(key) for key in ("optimizers", "eval_dataset", "model_init") if key in options
    }
    if "model_init" not in given:
        given["model"] = gpt2() if model is None else model
    return transformers.Trainer(args=arguments(folder, **options), train_dataset=texts(), callbacks=[callback], **given)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


def test_training_is_that_of_the_factors(tmp_path: Path) -> None:
    model = gpt2()
    od.overparameterize_(model, 3)
    reference = transformers.Trainer(model=model, args=arguments(tmp_path / "a"), train_dataset=texts())
    reference.train()
    od.collapse_(model)
    found = trainer(tmp_path / "b", OverparameterizeCallback(3))
    assert [name for name, _ in od.nn.named_factors(found.model)] == WEIGHTS
    found.train()
    assert_same(weights(found.model), weights(model))
    assert next(od.nn.named_factors(found.model), None) is None


def test_a_given_optimizer_gets_the_factors(tmp_path: Path) -> None:
    model = gpt2()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = weights(model)
    used = trainer(tmp_path, OverparameterizeCallback(), model, optimizers=(optimizer, None))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert all(id(f) in held for _, factors in od.nn.named_factors(model) for f in factors)
    used.train()
    assert all(not torch.equal(before[key], value) for key, value in weights(model).items() if key in WEIGHTS)


def test_what_is_saved_is_plain(tmp_path: Path) -> None:
    used = trainer(tmp_path, OverparameterizeCallback())
    used.save_model(str(tmp_path / "before"))
    used.train()
    used.save_model(str(tmp_path / "final"))
    keys = sorted(load_file(tmp_path / "final" / "model.safetensors"))
    assert set(WEIGHTS) < set(keys)
    for name in ("before", "checkpoint-3", "checkpoint-6"):
        assert sorted(load_file(tmp_path / name / "model.safetensors")) == keys
        assert (tmp_path / name / FILE).is_file() == name.startswith("checkpoint")
    assert not (tmp_path / "final" / FILE).exists()
    for name in ("final", "checkpoint-6"):
        assert_same(weights(transformers.GPT2LMHeadModel.from_pretrained(tmp_path / name)), weights(used.model))
    start = weights(transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "before"))
    for key, value in weights(gpt2()).items():
        torch.testing.assert_close(start[key], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"optim": "sgd", "gradient_accumulation_steps": 2}])
def test_training_resumes_to_the_bit(options: dict[str, Any], tmp_path: Path) -> None:
    whole = trainer(tmp_path, OverparameterizeCallback(), **options)
    whole.train()
    resumed = trainer(tmp_path, OverparameterizeCallback(), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert_same(weights(resumed.model), weights(whole.model))


def test_resuming_from_a_folder_elsewhere(tmp_path: Path) -> None:
    whole = trainer(tmp_path / "old", OverparameterizeCallback())
    whole.train()
    (tmp_path / "old" / "checkpoint-3").rename(tmp_path / "moved")
    moved = str(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"holds no overdepth_factors.safetensors; name .*resume_from="):
        trainer(tmp_path / "new", OverparameterizeCallback()).train(resume_from_checkpoint=moved)
    resumed = trainer(tmp_path / "new", OverparameterizeCallback(resume_from=moved))
    resumed.train(resume_from_checkpoint=moved)
    assert_same(weights(resumed.model), weights(whole.model))


def test_factors_of_another_checkpoint_are_refused(tmp_path: Path) -> None:
    trainer(tmp_path, OverparameterizeCallback()).train()
    (tmp_path / "checkpoint-6" / FILE).replace(tmp_path / "checkpoint-3" / FILE)
    with pytest.raises(ValueError, match="belong to another checkpoint"):
        trainer(tmp_path, OverparameterizeCallback()).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


def test_what_is_logged(tmp_path: Path) -> None:
    callback = OverparameterizeCallback(log_every=4)
    used = trainer(tmp_path, callback)
    used.train()
    entries = [e for e in used.state.log_history if any(key.startswith("overdepth/") for key in e)]
    assert [e["step"] for e in entries] == [0, 4, 6]
    model = od.overparameterize_(gpt2())
    assert {**od.integrations.product_metrics(model), "step": 0} == entries[0]
    assert [e["step"] for e in used.state.log_history if "loss" in e] == [2, 4, 6]


def test_the_trainers_own_log_as_a_sink(tmp_path: Path) -> None:
    """Whatever reports gets the entries, and still gets the loss."""
    seen: list[dict[str, float]] = []

    class Reporter(transformers.TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            seen.append(dict(logs))

    callback = OverparameterizeCallback(log_every=2)
    used = trainer(tmp_path, callback)
    used.add_callback(Reporter())
    callback.sink = used.log
    used.train()
    assert sum(f"overdepth/{WEIGHTS[0]}/norm" in entry for entry in seen) == 4
    assert [e["step"] for e in used.state.log_history if "loss" in e] == [2, 4, 6]


def test_the_best_model_comes_back_plain(tmp_path: Path) -> None:
    used = trainer(
        tmp_path, OverparameterizeCallback(), eval_dataset=texts(), eval_strategy="steps", eval_steps=3,
        load_best_model_at_end=True, learning_rate=0.5,
    )  # fmt: skip
    used.train()
    best = transformers.GPT2LMHeadModel.from_pretrained(used.state.best_model_checkpoint)
    assert used.state.best_model_checkpoint.endswith("checkpoint-3")  # the step size is far too large
    for key, value in weights(best).items():
        torch.testing.assert_close(weights(used.model)[key], value, rtol=1e-4, atol=1e-5)


def test_a_model_that_is_none_of_transformers(tmp_path: Path) -> None:
    class Regression(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": nn.functional.mse_loss(self.layers(x), labels)}

    generator = torch.Generator().manual_seed(1)
    data = [
        {"x": torch.randn(4, generator=generator), "labels": torch.randn(2, generator=generator)} for _ in range(24)
    ]

    def run(resume: str | None) -> Any:
        torch.manual_seed(0)
        used = transformers.Trainer(
            model=Regression(), args=arguments(tmp_path), train_dataset=data, callbacks=[OverparameterizeCallback()]
        )
        used.train(resume_from_checkpoint=resume)
        return used.model

    whole = run(None)
    assert sorted(load_file(tmp_path / "checkpoint-3" / "model.safetensors")) == sorted(whole.state_dict())
    assert_same(weights(run(str(tmp_path / "checkpoint-3"))), weights(whole))


def test_no_folding(tmp_path: Path) -> None:
    used = trainer(tmp_path, OverparameterizeCallback(fold=False), save_strategy="no")
    used.train()
    assert len(list(od.nn.named_factors(used.model))) == 4
    assert WEIGHTS[0] in used.model.state_dict()


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="log_every is 0"):
        OverparameterizeCallback(log_every=0)
    used = trainer(tmp_path, OverparameterizeCallback())
    used.train()
    with pytest.raises(ValueError, match="folded at the end of an earlier train"):
        used.train()
    with pytest.raises(ValueError, match="comes from model_init"):
        trainer(tmp_path, OverparameterizeCallback(), model_init=gpt2).train()
