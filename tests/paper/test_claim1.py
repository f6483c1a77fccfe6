"""Claim 1: the compared spectra against dense matrices written out, and claims that can fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from tests.paper.stored import through_netcdf
from tests.reference import linear_algebra as ref

from overdepth.chain import imbalance, product
from overdepth.lab import Problem
from overdepth.paper import claim1
from overdepth.paper.claim import Claim
from overdepth.paper.context import Context
from overdepth.theory import flow

PROBLEM = Problem(np.eye(3)[:, :2], np.arange(3.0)[:, None])


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return through_netcdf(claim1.ITEM.work(Context(PROBLEM, (3,), 1, quick=True)))


def claims(data: xr.Dataset) -> list[Claim]:
    return claim1.ITEM.claims(data, claim1.ITEM.setting(Context(PROBLEM, (3,), 1)))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_the_spectra_are_those_of_the_operators_written_out(depth: int) -> None:
    factors, _ = claim1.draw(5, depth)
    actual, claimed, residual = claim1.spectra(factors)
    arrays = [factor.numpy() for factor in factors]
    np.testing.assert_allclose(actual, np.linalg.eigvalsh(ref.transfer_matrix(arrays)), atol=1e-12)
    np.testing.assert_allclose(claimed, ref.spectrum(ref.product(arrays), depth, 1e-12), atol=1e-12)
    assert residual < 1e-12
    assert claim1.error(actual, claimed) < 1e-12


def test_unbalanced_factors_have_another_spectrum() -> None:
    factors, _ = claim1.draw(5, 3)
    actual, claimed, residual = claim1.spectra([3 * factors[0], factors[1] / 3, factors[2]])
    assert claim1.error(actual, claimed) > 0.1
    assert residual > 0.1


def test_the_start_is_balanced_and_descent_tends_to_the_flow() -> None:
    factors, loss = claim1.draw(0, 3)
    assert max(float(d.abs().max()) for d in imbalance(factors)) < 1e-14
    assert float(product(factors).norm()) == pytest.approx(0.5)
    descended = product(claim1.descend(factors, loss, 1e-4, 1000)).numpy()
    np.testing.assert_allclose(descended, flow(factors, loss, [0.1])["weight"].values[0], atol=1e-3)
    one = claim1.descend(factors, loss, 0.1, 1)
    grads = ref.layer_gradients([f.numpy() for f in factors], loss.gradient(product(factors)).numpy())
    for moved, factor, grad in zip(one, factors, grads, strict=True):
        np.testing.assert_allclose(moved, factor - 0.1 * torch.from_numpy(grad), atol=1e-14)


def test_the_claims_hold_and_can_fail(data: xr.Dataset) -> None:
    found = claims(data)
    assert len(found) == 9
    assert {claim.verdict for claim in found if claim.id != "claim1.descent"} == {"holds"}
    assert {claim.verdict for claim in found if claim.id == "claim1.descent"} == {"inconclusive"}  # two rates only
    assert all(claim.is_control == (claim.id == "claim1.descent") for claim in found)
    data = data.copy(deep=True)
    data["eigenvalue"][0, :, 7, 3] += 1e-4
    data["residual"][0, :, 4] = 1e-4
    assert {claim.verdict for claim in claims(data) if claim.id != "claim1.descent"} == {"fails"}


def test_what_is_undefined_at_one_time_does_not_hold(data: xr.Dataset) -> None:
    broken = data.copy(deep=True)
    broken["eigenvalue"][0, :, 7, 3] = np.nan
    broken["residual"][0, :, 4] = np.nan
    assert {claim.verdict for claim in claims(broken)} == {"inconclusive"}


def test_descent_with_an_undefined_spectrum_has_an_undefined_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim1, "POINTS", 3)
    calls = iter([0.1, np.nan] * 3)
    monkeypatch.setattr(claim1, "error", lambda *_: next(calls))
    monkeypatch.setattr(claim1, "descend", lambda factors, *_: factors)
    row = claim1._of_seed(0, (4e-3,), lambda: None)
    assert np.isnan(row["descent_error"].values).all()


def test_the_slope_of_descent_decides_once_all_rates_were_run(data: xr.Dataset) -> None:
    rates = np.array(claim1.LEARNING_RATES)
    for order, verdict in ((1.0, "holds"), (2.0, "fails")):
        errors = np.broadcast_to(rates**order, (1, 3, len(rates)))
        full = data.drop_vars(["descent_error", "lr"]).assign(descent_error=(("seed", "depth", "lr"), errors))
        found = [claim for claim in claims(full.assign_coords(lr=rates)) if claim.id == "claim1.descent"]
        assert {claim.verdict for claim in found} == {verdict}
        assert found[0].value == pytest.approx(order)


def test_pictures(data: xr.Dataset) -> None:
    pictures = claim1.ITEM.pictures(data)
    assert len(pictures) == 3
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000
    assert [trace.type for trace in pictures[1].figure.data] == ["heatmap"] * 4
