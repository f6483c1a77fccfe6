"""The network's study and verdicts: curves that are known, a tiny study that is cut off, pictures of stored data."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from tests.paper.stored import through_netcdf

from overdepth.lab import load_problem
from overdepth.paper.claim import Claim, Setting
from overdepth.paper.context import Context
from overdepth.paper.item import LEARNING_RATES
from overdepth.paper.kept import KeptData
from overdepth.paper.network import ITEM, curves, study, training
from overdepth.paper.network.item import SCALING, claims
from overdepth.paper.network.mnist import DIGITS, Images
from overdepth.paper.network.pictures import pictures
from overdepth.paper.network.store import RunStore
from overdepth.paper.network.training import ARMS, HORIZON, Recorded, Run
from overdepth.paper.reproduce import reproduce
from overdepth.reporter import Reporter

SETTING = Setting("MNIST", SCALING, (0,), HORIZON, HORIZON)
TIME = np.arange(1, HORIZON + 1)


def falling(speed: float, *, total: float = 0.5) -> Recorded:
    """Losses that reach the level of speed 1 at the horizon ``speed`` times as early, apart from the smoothing."""
    losses = 1 - 0.9 * np.minimum(speed * TIME / HORIZON, 1.5)
    return Recorded(losses, losses + total, -1)


DIVERGED = Recorded(np.full(HORIZON, np.nan), np.full(HORIZON, np.nan), 1)


def synthetic(
    speeds: dict[str, float],
    *,
    stds: dict[float, float] | None = None,
    difference: float = 1e-12,
    images: str = "MNIST",
    forms_steps: int = 50,
) -> xr.Dataset:
    """Every arm with the given speed at lr 0.01, a tenth of it at 0.001, diverged at 0.1; other stds on demand."""
    runs, records = [], []
    for arm in ARMS:
        for lr, record in ((0.001, falling(speeds[arm] / 10)), (0.01, falling(speeds[arm])), (0.1, DIVERGED)):
            runs.append(Run(arm, lr))
            records.append(record)
        if arm not in ("plain", "matched"):
            for std, speed in (stds or {}).items():
                runs.append(Run(arm, 0.01, std))
                records.append(falling(speed))
    data = study.dataset(runs, records)
    losses = np.ones((2, 1, 2, forms_steps))
    losses[:, 0, 1, -1] += difference
    data["forms_loss"] = (("forms_penalty", "forms_seed", "form", "forms_step"), losses)
    data = data.assign_coords(forms_penalty=["product", "factors"], forms_seed=[0], form=[1, 2])
    data.attrs = {"images": images, "smoothing": "mean", "seeds": np.array([0])}
    return through_netcdf(data)


def by_comparison(found: list[Claim], name: str) -> dict[str, Claim]:
    return {claim.comparison: claim for claim in found if claim.id == name}


SPEEDS = {"plain": 1.0, "matched": 1.4, "product": 2.0, "factors": 1.2, "old": 0.5}


def test_smoothing_is_the_mean_of_the_last_batches() -> None:
    losses = np.random.default_rng(0).normal(size=(2, 30))
    expected = [[row[max(0, t - 6) : t + 1].mean() for t in range(30)] for row in losses]
    np.testing.assert_allclose(curves.smoothed(losses, 7), expected)
    np.testing.assert_allclose(curves.smoothed(losses, 50)[:, -1], losses.mean(axis=1))
    losses[1, 20:] = np.nan
    smooth = curves.smoothed(losses, 7)
    assert np.isnan(smooth[1, 20:]).all()
    assert np.isfinite(smooth[1, :20]).all()


def test_catch_ups_of_tuned_runs_decide() -> None:
    found = by_comparison(claims(synthetic(SPEEDS), SETTING), "fig5.cnn")
    assert len(found) == 12
    for measure in ("cross-entropy", "total loss"):
        for penalty, ratio, verdict in (
            ("penalty on the products", 2.0, "holds"),
            ("penalty on all factors", 1.2, "fails"),
            ("penalty on the old matrices alone", 0.0, "fails"),
        ):
            claim = found[f"{measure}, {penalty}: two matrices against plain"]
            assert claim.value == pytest.approx(ratio, rel=0.02)
            assert claim.verdict == verdict
            assert "(0.01, 0.01)" in claim.note
            assert not claim.is_control
            control = found[f"{measure}, {penalty}: two matrices against plain from the same initial products"]
            assert control.is_control
            assert control.value == pytest.approx(ratio / 1.4 if ratio > 1.4 else 0.0, rel=0.02)


def test_the_insensitivity_holds_and_fails_as_it_should() -> None:
    alike = claims(synthetic(SPEEDS, stds={1e-3: 1.8, 0.5: 2.1}), SETTING)
    products = by_comparison(alike, "fig5.cnn-std")
    assert len(products) == 6
    claim = products["cross-entropy, penalty on the products: standard deviations against each other"]
    assert claim.value == pytest.approx(2.1 / 1.8, rel=0.02)
    assert claim.verdict == "holds"
    apart = by_comparison(claims(synthetic(SPEEDS, stds={1e-3: 1.4, 0.5: 2.1}), SETTING), "fig5.cnn-std")
    claim = apart["cross-entropy, penalty on the products: standard deviations against each other"]
    assert claim.value == pytest.approx(1.5, rel=0.02)
    assert claim.verdict == "fails"


def test_a_std_that_never_gets_there_is_a_bound_that_fails() -> None:
    found = by_comparison(claims(synthetic(SPEEDS, stds={1e-3: 0.5}), SETTING), "fig5.cnn-std")
    claim = found["total loss, penalty on the products: standard deviations against each other"]
    assert claim.value == pytest.approx(2.0, rel=0.02)
    assert claim.verdict == "fails"
    assert "0.001: never" in claim.note
    assert "bound" in claim.note
    data = synthetic(SPEEDS, stds={1e-3: 0.5})
    data["diverged_at"][(data["std"] == 1e-3).values] = 7
    notes = [claim.note for claim in claims(data, SETTING) if claim.id == "fig5.cnn-std"]
    assert all("0.001: diverged" in note for note in notes)
    nowhere = found["total loss, penalty on the old matrices alone: standard deviations against each other"]
    assert (nowhere.value, nowhere.verdict) == (None, "inconclusive")


def test_the_forms_must_agree_to_rounding() -> None:
    for difference, verdict in ((1e-12, "holds"), (1e-6, "fails")):
        found = by_comparison(claims(synthetic(SPEEDS, difference=difference), SETTING), "fig5.cnn-forms")
        assert len(found) == 2
        for claim in found.values():
            assert claim.verdict == verdict
            assert claim.value == pytest.approx(difference, rel=1e-3)
            assert claim.is_control
    few = by_comparison(claims(synthetic(SPEEDS, forms_steps=5), SETTING), "fig5.cnn-forms")
    assert {claim.verdict for claim in few.values()} == {"inconclusive"}


def test_digits_are_labelled_in_every_claim() -> None:
    found = claims(synthetic(SPEEDS, images=DIGITS), SETTING)
    assert {claim.data for claim in found} == {DIGITS}
    assert all("another experiment" in claim.note for claim in found if claim.id != "fig5.cnn-forms")
    assert {claim.data for claim in claims(synthetic(SPEEDS), SETTING)} == {"MNIST"}


def test_where_every_rate_diverges_nothing_is_decided() -> None:
    data = synthetic(SPEEDS)
    for measure in curves.MEASURES:
        data[measure][(data["arm"] == "plain").values] = np.nan
    found = by_comparison(claims(data, SETTING), "fig5.cnn")
    assert found["cross-entropy, penalty on the products: two matrices against plain"].verdict == "inconclusive"
    assert math.isnan(curves.tuned(data, "total_loss", "plain", 0))
    pictures(data)


def test_shorter_runs_decide_nothing() -> None:
    data = synthetic(SPEEDS).isel(step=slice(0, 400))
    found = claims(data, SETTING)
    assert {c.verdict for c in found if c.id != "fig5.cnn-forms"} == {"inconclusive"}
    assert all("8,593" in c.note for c in found if c.id == "fig5.cnn")


def test_pictures_of_the_whole_are_small() -> None:
    """With a curve an arm, as at full length."""
    shown = pictures(synthetic(SPEEDS, stds={1e-3: 0.5, 0.5: 2.0}))
    assert len(shown) == 4
    assert sum(len(picture.figure.to_json()) for picture in shown) < 100_000
    assert len(shown[0].figure.data) == len(ARMS)
    for picture in shown:
        assert picture.caption.endswith((".", "there."))


def test_the_whole_is_the_papers() -> None:
    assert study.FULL.steps == 8593
    assert study.FULL.rates == LEARNING_RATES
    assert study.FULL.stds == (1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)


def test_what_is_run_follows_the_context() -> None:
    context = Context(load_problem("breast-cancer"), (3, 4), 100_000)
    assert (ITEM.setting(context).steps, ITEM.setting(context).seeds) == (study.SHORT.steps, (3,))
    full = ITEM.setting(replace(context, full=True))
    assert (full.steps, full.seeds, full.horizon, full.data) == (HORIZON, (3, 4), HORIZON, "MNIST")
    assert ITEM.setting(replace(context, full=True, quick=True)).steps == study.QUICK.steps


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Images:
    """Few images and the least that is still a study."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (140, 28, 28), dtype=torch.uint8, generator=generator)
    images = Images("MNIST", pixels, torch.randint(0, 10, (140,), generator=generator), "made up")
    monkeypatch.setattr(study, "load", lambda: images)
    monkeypatch.setattr(training, "BATCH", 8)
    monkeypatch.setattr(study, "QUICK", study.Extent(2, (1e-2,), (1e-2, 0.1), forms_steps=1))
    return images


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_study_runs_is_kept_and_drawn(tmp_path: Path) -> None:
    begun: list[str] = []
    reporter = Reporter(begin=lambda what, *_: begun.append(what))
    context = Context(load_problem("breast-cancer"), (0, 1), 10, quick=True, kept=KeptData(tmp_path), reporter=reporter)
    result = reproduce([ITEM], context)[0]
    assert result.setting.seeds == (0,)
    assert {c.id for c in result.claims} == {"fig5.cnn", "fig5.cnn-std", "fig5.cnn-forms"}
    assert {c.verdict for c in result.claims} == {"inconclusive"}
    assert {c.seeds for c in result.claims} == {(0,)}
    assert len(begun) == 5 + 3 + 1  # an arm each, another std for each penalty, the forms
    assert sorted(set(result.data["std"].values)) == [0.01, 0.1]
    assert len(pictures(through_netcdf(result.data))) == 4
    again = reproduce([ITEM], context)[0]
    assert len(begun) == 9
    assert again.claims == result.claims
    for path in tmp_path.glob("*.zip"):
        path.unlink()
    reproduce([ITEM], context)  # from the runs
    assert len(list((tmp_path / "network").glob("*.zip"))) == 8


@pytest.mark.slow
def test_an_interrupted_study_goes_on_where_it_was(
    tiny: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "ARMS", ("plain", "matched", "product"))
    extent = study.Extent(4, (1e-2,), (0.1,), forms_steps=1)
    whole = study.study(tiny, extent, (0,), RunStore(None), Reporter())

    def interrupt(what: str, _runs: int, _steps: int) -> None:
        if "3 of 3" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.study(tiny, extent, (0,), RunStore(tmp_path), Reporter(begin=interrupt), every=2)
    assert len(list(tmp_path.iterdir())) == 2
    again = study.study(tiny, extent, (0,), RunStore(tmp_path), Reporter())
    xr.testing.assert_identical(again, whole)
