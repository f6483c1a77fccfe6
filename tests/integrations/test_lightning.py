"""The callback in the real Lightning: what the optimizer holds, what is logged, saved, restored and handed back."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od

pl: Any = pytest.importorskip("lightning.pytorch")
from overdepth.integrations.lightning import KEY, OverparameterizeCallback  # noqa: E402 - needs Lightning

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # of Lightning against torch's pytree
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


class Net(pl.LightningModule):  # type: ignore[misc]
    """A small regression; its last layer is made in ``configure_model``."""

    def __init__(self, late: bool = True, optimizer: str = "sgd") -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
        self.late = late
        if not late:
            self.head = nn.Linear(4, 2)
        self.early_optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        self.optimizer = optimizer

    def configure_model(self) -> None:
        if self.late and not hasattr(self, "head"):
            torch.manual_seed(1)
            self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))  # type: ignore[no-any-return]

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def test_step(self, batch: Any, index: int) -> None:
        self.log("loss", self.training_step(batch, index))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if self.optimizer == "early":
            return self.early_optimizer
        if self.optimizer == "adam":
            return torch.optim.Adam(self.parameters(), lr=0.01)
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class Kept(pl.loggers.logger.Logger):  # type: ignore[misc]
    """A logger that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[tuple[int, dict[str, float]]] = []

    name = version = "kept"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(key.startswith("overdepth/") for key in metrics):
            self.entries.append((int(step or 0), dict(metrics)))

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...


def batches(size: int = 8) -> Any:
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(32, 6, generator=generator), torch.randn(32, 2, generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=size)


def trainer(tmp_path: Path, *callbacks: Any, epochs: int = 3, **options: Any) -> Any:
    defaults: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    return pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        **(defaults | options),
    )


def by_hand(epochs: int = 3, depth: int = 2, optimizer: str = "sgd", size: int = 8) -> Any:
    """The same training as a plain loop."""
    module = Net(optimizer=optimizer)
    module.configure_model()
    od.overparameterize_(module, depth)
    used = module.configure_optimizers()
    for _ in range(epochs):
        for index, batch in enumerate(batches(size)):
            used.zero_grad()
            torch.autograd.backward(module.training_step(batch, index))
            used.step()
    od.collapse_(module)
    return module


def same(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(k == m and torch.equal(v, w) for (k, v), (m, w) in pairs)


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_is_that_of_the_factors(late: bool, optimizer: str, tmp_path: Path) -> None:
    module = Net(late, optimizer)
    if not late:
        reference = by_hand(optimizer=optimizer)
        torch.manual_seed(1)
        module.head.load_state_dict(nn.Linear(4, 2).state_dict())
    else:
        reference = by_hand(optimizer=optimizer)
    trainer(tmp_path, OverparameterizeCallback(2)).fit(module, batches())
    assert same(module, reference)
    assert type(module.body[0]) is nn.Linear
    assert "configure_model" not in module.__dict__


def test_what_is_logged(tmp_path: Path) -> None:
    kept = Kept()
    trainer(tmp_path, OverparameterizeCallback(3, log_every=5), logger=kept).fit(Net(), batches())
    assert [step for step, _ in kept.entries] == [0, 5, 10, 12]
    _, metrics = kept.entries[0]
    module = Net()
    module.configure_model()
    assert metrics == od.integrations.product_metrics(od.overparameterize_(module, 3))
    assert metrics["overdepth/head.weight/norm"] != kept.entries[-1][1]["overdepth/head.weight/norm"]
    quiet = Kept()
    trainer(tmp_path, OverparameterizeCallback(log_every=None), logger=quiet, epochs=1).fit(Net(), batches())
    assert quiet.entries == []


def test_accumulated_gradients_are_logged_once_a_step(tmp_path: Path) -> None:
    kept = Kept()
    callback = OverparameterizeCallback(log_every=1)
    trainer(tmp_path, callback, logger=kept, epochs=1, accumulate_grad_batches=2).fit(Net(), batches())
    assert [step for step, _ in kept.entries] == [0, 1, 2]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_training_goes_on_to_the_bit(optimizer: str, tmp_path: Path) -> None:
    save = pl.callbacks.ModelCheckpoint(tmp_path, "epoch-{epoch}", save_top_k=-1)
    first = trainer(tmp_path, OverparameterizeCallback(), save, enable_checkpointing=True)
    module = Net(optimizer=optimizer)
    first.fit(module, batches())
    (path,) = tmp_path.glob("*epoch=0*.ckpt")
    resumed = Net(optimizer=optimizer)
    second = trainer(tmp_path, OverparameterizeCallback(), save, enable_checkpointing=True)
    second.fit(resumed, batches(), ckpt_path=path, weights_only=True)
    assert same(resumed, module)


@pytest.mark.parametrize("weights_only", [True, False])
def test_checkpoints_load_in_both_forms(weights_only: bool, tmp_path: Path) -> None:
    module = Net()
    save = pl.callbacks.ModelCheckpoint(tmp_path, "last", save_weights_only=weights_only)
    trainer(tmp_path, OverparameterizeCallback(), save, enable_checkpointing=True).fit(module, batches())
    plain = Net.load_from_checkpoint(tmp_path / "last.ckpt", weights_only=True)
    assert same(plain, module)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert (KEY in saved) == (not weights_only)
    factored = Net()
    factored.configure_model()
    od.overparameterize_(factored)
    with od.integrations.plain_state_dicts(factored):
        factored.load_state_dict(saved["state_dict"])
    od.collapse_(factored)
    for a, b in zip(factored.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_plain_model_is_tested_after_training(tmp_path: Path) -> None:
    module = Net()
    used = trainer(
        tmp_path, OverparameterizeCallback(), pl.callbacks.ModelCheckpoint(tmp_path), enable_checkpointing=True
    )
    used.fit(module, batches())
    (after,) = used.test(module, batches(), verbose=False)
    (best,) = used.test(module, batches(), ckpt_path="best", verbose=False, weights_only=True)
    assert after["loss"] == pytest.approx(best["loss"])


def test_a_plain_checkpoint_starts_a_factored_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without optimizer states of its own it cannot be resumed; its weights are split, and that is said."""
    module = Net()
    plain = trainer(tmp_path, epochs=1)
    plain.fit(module, batches())
    plain.save_checkpoint(tmp_path / "plain.ckpt")
    resumed = Net()
    with pytest.raises(ValueError, match="doesn't match the size of optimizer's group"):
        trainer(tmp_path, OverparameterizeCallback()).fit(
            resumed, batches(), ckpt_path=tmp_path / "plain.ckpt", weights_only=True
        )
    assert "the checkpoint holds the plain model alone" in caplog.text
    od.collapse_(resumed)
    for a, b in zip(resumed.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_another_depth_is_refused_on_resuming(tmp_path: Path) -> None:
    save = pl.callbacks.ModelCheckpoint(tmp_path, "last")
    trainer(tmp_path, OverparameterizeCallback(2), save, enable_checkpointing=True, epochs=1).fit(Net(), batches())
    with pytest.raises(ValueError, match="factors of different weights"):
        trainer(tmp_path, OverparameterizeCallback(3), save, enable_checkpointing=True).fit(
            Net(), batches(), ckpt_path=tmp_path / "last.ckpt", weights_only=True
        )


def test_options_part_and_no_folding(tmp_path: Path) -> None:
    module = Net()
    callback = OverparameterizeCallback(3, part="body", fold=False, select=lambda m, name: name == "2")
    trainer(tmp_path, callback, epochs=1).fit(module, batches())
    assert [(name, len(f)) for name, f in od.nn.named_factors(module)] == [("body.2.weight", 3)]
    assert "body.2.parametrizations.weight.factor0" in module.state_dict()  # the hooks are gone
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    trainer(tmp_path, OverparameterizeCallback(3), epochs=1).fit(module, batches())  # goes on with these factors
    assert type(module.body[2]) is nn.Linear
    assert set(before) > set(dict(module.named_parameters())) - {"body.2.weight"}


def test_an_optimizer_from_before_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"configure_optimizers of Net holds no factors of 'body\.0\.weight'"):
        trainer(tmp_path, OverparameterizeCallback()).fit(Net(optimizer="early"), batches())


def test_a_fit_that_fails_leaves_no_hooks(tmp_path: Path) -> None:
    module = Net()
    with pytest.raises(ValueError, match="width"):
        trainer(tmp_path, OverparameterizeCallback(2, width=1)).fit(module, batches())
    module.configure_model()
    assert same(module, copy.deepcopy(module))
    with pytest.raises(ValueError, match="log_every is 0"):
        OverparameterizeCallback(log_every=0)


def test_a_copy_in_the_middle_of_training_exports(tmp_path: Path) -> None:
    class Export(pl.Callback):  # type: ignore[misc]
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            plain, _ = od.collapse(pl_module)
            x = torch.ones(3, 6)
            exported = torch.export.export(plain.get_submodule("body"), (x,))
            expected = pl_module.body(x)
            torch.testing.assert_close(exported.module()(x), expected)
            seen.append(list(plain.state_dict()))

    seen: list[list[str]] = []
    module = Net()
    trainer(tmp_path, OverparameterizeCallback(), Export(), epochs=1).fit(module, batches())
    assert seen == [list(module.state_dict())]


@pytest.mark.slow
def test_two_processes_train_as_one_with_their_batches_together(tmp_path: Path) -> None:
    file = tmp_path / "state.pt"
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-W", "ignore", str(Path(__file__).parent / "fit_on_two.py"), str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    expected = by_hand(size=16).state_dict()
    found = torch.load(file, weights_only=True)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
