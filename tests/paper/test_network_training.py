"""The tutorial's network and training, held against an obvious one; runs that are cut off and continued."""

from __future__ import annotations

import logging
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

import overdepth as od
from overdepth.paper.network import forms, training
from overdepth.paper.network.model import DENSE, Dropout, make_network, new_matrices, stream, truncated_normal
from overdepth.paper.network.penalty import PENALTIES, bias_penalty, factored_penalty, plain_penalty
from overdepth.paper.network.store import RunStore
from overdepth.paper.network.training import (
    ARMS,
    HORIZON,
    Recorded,
    Run,
    batch_start,
    begin,
    finished,
    learning_rate,
    train,
)


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 10, (150,), generator=generator)
    inputs = 0.2 * torch.randn(150, 1, 28, 28, generator=generator) + labels[:, None, None, None] / 10 - 0.5
    return inputs, labels


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are cheap."""
    monkeypatch.setattr(training, "BATCH", 8)


def test_the_plain_network_is_the_tutorials() -> None:
    model = make_network(0)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "conv1.weight": (32, 1, 5, 5),
        "conv1.bias": (32,),
        "conv2.weight": (64, 32, 5, 5),
        "conv2.bias": (64,),
        "dense1.weight": (512, 3136),
        "dense1.bias": (512,),
        "dense2.weight": (10, 512),
        "dense2.bias": (10,),
    }
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert (p == (0.0 if name == "conv1.bias" else 0.1)).all()
        else:
            assert p.abs().max().item() <= 0.2
            if p.numel() > 1000:
                assert p.std().item() == pytest.approx(0.0880, rel=0.03)  # 0.1 times that of a normal cut off at 2


def test_two_matrices_a_layer_make_fifteen_percent_more_parameters() -> None:
    plain, deep = make_network(0), make_network(0, "overparameterized")
    count = [sum(p.numel() for p in model.parameters()) for model in (plain, deep)]
    assert count[1] - count[0] == 512 * 512 + 10 * 10
    assert count[1] / count[0] == pytest.approx(1.15, abs=0.01)
    factors = dict(od.nn.named_factors(deep))
    assert list(factors) == [f"{name}.weight" for name in DENSE]
    for (_, (old, new)), layer, drawn in zip(factors.items(), plain.dense, new_matrices(0, 0.1), strict=True):
        assert torch.equal(old, layer.weight)
        assert torch.equal(new, drawn)


def test_another_std_scales_the_new_matrices_alone() -> None:
    (_, one), (_, two) = (next(od.nn.named_factors(make_network(3, "overparameterized", s))) for s in (0.1, 0.01))
    assert torch.equal(one[0], two[0])
    torch.testing.assert_close(one[1], 10 * two[1])
    assert two[1].abs().max().item() <= 0.02


def test_the_matched_network_starts_at_the_products() -> None:
    deep, matched = make_network(2, "overparameterized"), make_network(2, "matched")
    x = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert not list(od.nn.named_factors(matched))
    torch.testing.assert_close(deep(x), matched(x), rtol=1e-4, atol=1e-3)


def test_seeds_decide_the_start_without_touching_torchs_generator() -> None:
    before = torch.get_rng_state()
    one, same, other = make_network(0), make_network(0), make_network(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.dense1.weight, same.dense1.weight)
    assert not torch.equal(one.dense1.weight, other.dense1.weight)


def test_dropout_drops_half_and_keeps_the_mean() -> None:
    kept = Dropout(0)(torch.ones(200, 200))
    assert set(kept.unique().tolist()) == {0.0, 2.0}
    assert float(kept.mean()) == pytest.approx(1.0, abs=0.02)


def test_truncated_normal_has_the_moments_of_a_truncated_normal() -> None:
    drawn = truncated_normal(torch.empty(100_000), 0.5, stream(0, 5))
    assert float(drawn.abs().max()) <= 1.0
    density = math.exp(-2) / math.sqrt(2 * math.pi)
    variance = 1 - 4 * density / math.erf(math.sqrt(2))
    assert float(drawn.var()) == pytest.approx(0.25 * variance, rel=0.02)


def test_penalties_are_the_sums_that_they_are_called() -> None:
    plain, deep = make_network(0), make_network(0, "overparameterized")

    def half(*tensors: Tensor) -> float:
        return sum(float(t.detach().double().square().sum()) for t in tensors) / 2

    biases = half(plain.dense1.bias, plain.dense2.bias)
    assert biases == pytest.approx(0.01 * 522 / 2)
    assert bias_penalty(deep).item() == pytest.approx(biases, rel=1e-5)
    old1, old2 = (layer.weight for layer in plain.dense)
    new1, new2 = new_matrices(0, 0.1)
    expected = {
        "product": half(new1 @ old1, new2 @ old2),
        "factors": half(old1, old2, new1, new2),
        "old": half(old1, old2),
    }
    assert plain_penalty(plain).item() == pytest.approx(biases + expected["old"], rel=1e-5)
    for where in PENALTIES:
        assert factored_penalty(deep, where).item() == pytest.approx(biases + expected[where], rel=1e-5), where


def test_the_schedule_is_the_tutorials() -> None:
    assert HORIZON == 8593
    assert learning_rate(0.01, 0) == learning_rate(0.01, 859) == 0.01
    assert learning_rate(0.01, 860) == pytest.approx(0.0095)
    assert learning_rate(0.01, HORIZON - 1) == pytest.approx(0.01 * 0.95**9)
    starts = [batch_start(t, 55_000) for t in range(HORIZON)]
    assert starts[:3] == [0, 64, 128]
    assert max(starts) + 64 <= 55_000


def test_training_is_momentum_on_the_total_loss(images: tuple[Tensor, Tensor]) -> None:
    """Against momentum written out, with the numbers of autograd."""
    inputs, labels = images
    found = train(begin(Run("plain", 0.05), inputs.double(), labels), 2)
    model = make_network(0, dtype=torch.float64)
    velocity = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for t in range(2):
        start = 64 * t % (150 - 64)
        cross_entropy = F.cross_entropy(model(inputs[start : start + 64].double()), labels[start : start + 64])
        squares = sum(p.square().sum() for name, p in model.named_parameters() if name.startswith("dense"))
        total = cross_entropy + 5e-4 * squares / 2
        assert found.cross_entropy[t] == pytest.approx(cross_entropy.item(), rel=1e-9)
        assert found.total[t] == pytest.approx(total.item(), rel=1e-9)
        grads = torch.autograd.grad(total, list(model.parameters()))
        with torch.no_grad():
            for (name, p), grad in zip(model.named_parameters(), grads, strict=True):
                velocity[name] = 0.9 * velocity[name] + grad
                p.sub_(0.05 * velocity[name])


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("penalty", forms.PENALTIES)
def test_form_1_and_form_2_are_one(penalty: str, images: tuple[Tensor, Tensor]) -> None:
    inputs, labels = images
    first, second = forms.both_forms(penalty, 0.01, 0, inputs.double(), labels, 4)  # type: ignore[arg-type]
    np.testing.assert_allclose(first, second, rtol=1e-12)
    assert len(set(first)) == 4
    single = forms.both_forms(penalty, 0.01, 0, inputs, labels, 2)  # type: ignore[arg-type]
    np.testing.assert_allclose(*single, rtol=1e-4)


def test_form_2_refuses_a_penalty_that_it_cannot_say(images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match="decays all factors alike"):
        forms.begin_in_optimizer(Run("old", 0.01), *images)


class CutOffError(Exception):
    """Stands for an interrupt."""


def kept(run: Run, images: tuple[Tensor, Tensor], store: RunStore, *, until: int | None = None) -> Recorded:
    """Seven steps of a run with a checkpoint every second one, cut off after the step ``until``."""

    def progress(done: int, _: int) -> None:
        if done == until:
            raise CutOffError

    settings = {"arm": run.arm}
    saved = store.load(settings)
    return finished(saved) or train(
        begin(run, *images), 7, saved=saved, save=lambda r: store.save(settings, r), every=2, progress=progress
    )


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("arm", ["plain", "factors"])
def test_a_continued_run_gives_the_numbers_of_an_undisturbed_one(
    arm: Any, images: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    run = Run(arm, 0.02)
    whole = kept(run, images, RunStore(None))
    store = RunStore(tmp_path)
    with pytest.raises(CutOffError):
        kept(run, images, store, until=5)
    saved = store.load({"arm": arm})
    assert saved is not None
    assert saved["state"]["done"] == 4
    again = kept(run, images, store)
    np.testing.assert_array_equal(again.cross_entropy, whole.cross_entropy)
    np.testing.assert_array_equal(again.total, whole.total)
    assert np.isfinite(whole.total).all()
    at_the_end = store.load({"arm": arm})
    assert at_the_end is not None
    assert "state" not in at_the_end  # which would be 13 MB a run
    read = kept(run, images, store, until=1)  # no step is made any more
    np.testing.assert_array_equal(read.total, whole.total)
    assert [path.suffix for path in tmp_path.iterdir()] == [".zip"]


@pytest.mark.usefixtures("small_batches")
def test_a_run_that_diverges_stops_there(images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    found = kept(Run("old", 1e18), images, RunStore(tmp_path))
    assert 1 < found.diverged_at < 7
    assert np.isfinite(found.total[: found.diverged_at - 1]).all()
    assert np.isnan(found.total[found.diverged_at - 1 :]).all()
    assert kept(Run("old", 1e18), images, RunStore(tmp_path), until=1).diverged_at == found.diverged_at


def damages(content: bytes) -> dict[str, bytes]:
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    return {"cut": content[: len(content) // 2], "flipped": bytes(flipped), "empty": b"", "other": b"PK\x05\x06 other"}


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "other"])
def test_what_is_damaged_counts_as_absent(how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RunStore(tmp_path)
    store.save({"a": 1}, {"losses": torch.randn(2, 500)})
    path = store.path({"a": 1})
    assert path is not None
    path.write_bytes(damages(path.read_bytes())[how])
    with caplog.at_level(logging.WARNING, logger="overdepth"):
        assert store.load({"a": 1}) is None
    assert "computed again" in caplog.text
    assert "\n" not in caplog.records[0].getMessage().strip()


def test_nothing_in_a_file_is_executed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = RunStore(tmp_path)
    path = store.path({})
    assert path is not None
    torch.save({"layer": nn.Linear(1, 1)}, tmp_path / "pickle")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "pickle", "run.pt")
    assert store.load({}) is None
    assert "computed again" in caplog.text


def test_a_disk_that_refuses_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    store = RunStore(tmp_path / "file")
    for _ in range(2):
        store.save({}, {"a": torch.zeros(1)})
    assert len(caplog.records) == 1
    assert "cannot be kept" in caplog.text


def test_settings_have_files_of_their_own(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.save({"lr": 0.1}, {"a": 1})
    assert store.load({"lr": 0.2}) is None
    assert store.load({"lr": 0.1}) == {"a": 1}
    assert RunStore(None).load({"lr": 0.1}) is None


@pytest.mark.usefixtures("small_batches")
def test_every_arm_begins(images: tuple[Tensor, Tensor]) -> None:
    losses = {arm: train(begin(Run(arm, 0.01), *images), 1) for arm in ARMS}
    starts = {arm: float(found.cross_entropy[0]) for arm, found in losses.items()}
    assert starts["product"] == starts["factors"] == starts["old"] != starts["plain"]
    assert starts["matched"] == pytest.approx(starts["old"], rel=1e-5)
