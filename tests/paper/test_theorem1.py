"""Theorem 1: the instances, the deviation against Euler steps, and claims that can fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from tests.paper.stored import through_netcdf
from tests.reference import dynamics
from tests.reference import linear_algebra as ref

from overdepth.chain import balanced_factors, imbalance, product
from overdepth.lab import Problem
from overdepth.paper import theorem1
from overdepth.paper.claim import Claim
from overdepth.paper.context import Context
from overdepth.paper.theorem1 import Instance

PROBLEM = Problem(np.eye(3)[:, :2], np.arange(3.0)[:, None])


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return through_netcdf(theorem1.ITEM.work(Context(PROBLEM, (3,), 1, quick=True)))


def claims(data: xr.Dataset) -> list[Claim]:
    return theorem1.ITEM.claims(data, theorem1.ITEM.setting(Context(PROBLEM, (3,), 1)))


def test_the_instances_cover_depths_shapes_decay_and_low_rank() -> None:
    full = theorem1.instances(quick=False)
    assert sum(not instance.is_low_rank for instance in full) == 24
    for instance in full:
        weight, loss = instance.draw(1)
        rank = int(torch.linalg.matrix_rank(weight))
        assert rank == min(instance.shape) - instance.is_low_rank
        assert float(weight.norm()) == pytest.approx(1.0)
        assert loss.shape == instance.shape
        again, _ = instance.draw(1)
        other, _ = instance.draw(2)
        assert torch.equal(weight, again)
        assert not torch.equal(weight, other)
        factors = balanced_factors(weight, instance.depth, width=min(instance.shape) + instance.depth % 2)
        assert max(float(d.abs().max()) for d in imbalance(factors)) < 1e-12
    assert len(theorem1.instances(quick=True)) == 3


def test_the_layers_path_is_that_of_small_steps() -> None:
    weight, loss = Instance(3, (2, 4), 0.1).draw(0)
    factors = balanced_factors(weight, 3)
    path = theorem1._path(factors, loss, "layers", 0.1)
    gradient = dynamics.least_squares(loss.X.numpy(), loss.Y.numpy())
    expected = dynamics.layer_flow([f.numpy() for f in factors], gradient, 0.25, 200, 0.1)
    np.testing.assert_allclose(path[0], ref.product(expected), atol=1e-7)
    assert theorem1._apart(path, path) == 0
    assert theorem1._apart(path, 1.5 * path) == pytest.approx(0.5)
    assert float(product(factors).norm()) == pytest.approx(1.0)


def test_few_instances_give_no_verdict_on_the_theorem(data: xr.Dataset) -> None:
    found = {claim.id: claim for claim in claims(data)}
    assert found["theorem1.flow"].verdict == "inconclusive"
    assert "at least 20" in found["theorem1.flow"].note
    assert found["theorem1.flow"].value is not None
    assert found["theorem1.flow"].value < 1e-8
    assert found["theorem1.transfer"].verdict == "holds"
    assert found["theorem1.imbalance"].verdict == "holds"
    assert {claim.verdict for claim in claims(data) if claim.id == "theorem1.descent"} == {"holds"}


def test_the_dial_at_zero_deviates_by_rounding_and_by_more_beyond(data: xr.Dataset) -> None:
    deviation = data["dial_deviation"].isel(seed=0).values
    assert (deviation[:, 0] < 1e-9).all()
    assert (np.diff(deviation, axis=1) > 0).all()


def test_many_instances_decide_and_one_of_them_is_enough_to_fail(data: xr.Dataset) -> None:
    keep = [name for name in data.data_vars if "instance" not in data[name].dims]
    many = xr.merge([data[keep], data[["deviation"]].isel(instance=np.arange(24) % 3)])
    found = {claim.id: claim for claim in claims(many)}
    assert found["theorem1.flow"].verdict == "holds"
    many["deviation"][0, 5] = 1e-6
    many["dial_deviation"][:] = 1e-5
    many["operator_deviation"][0, 0, 0] = 1e-3
    many["slope"][:] = 0.5
    assert {claim.verdict for claim in claims(many)} == {"fails"}


def test_what_is_undefined_in_one_instance_holds_for_none(data: xr.Dataset) -> None:
    broken = data.copy(deep=True)
    broken["dial_deviation"][0, 0, -1] = np.nan
    broken["operator_deviation"][0, 0, 0] = np.nan
    found = {claim.id: claim.verdict for claim in claims(broken)}
    assert found["theorem1.transfer"] == found["theorem1.imbalance"] == "inconclusive"


def test_pictures(data: xr.Dataset) -> None:
    pictures = theorem1.ITEM.pictures(data)
    assert len(pictures) == 3
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000
