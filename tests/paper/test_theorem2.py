"""Theorem 2: integrals against a polygon, the curl against a derivative by hand, and claims that can fail."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from tests.paper.stored import through_netcdf
from tests.reference import statements

from overdepth.lab import Problem
from overdepth.paper import theorem2, theorem2_runs
from overdepth.paper.claim import Claim
from overdepth.paper.context import Context

PROBLEM = Problem(np.eye(3)[:, :2], np.arange(3.0)[:, None])


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return through_netcdf(theorem2.ITEM.work(Context(PROBLEM, (3,), 1, quick=True)))


def claims(data: xr.Dataset) -> dict[str, Claim]:
    found = theorem2.ITEM.claims(data, theorem2.ITEM.setting(Context(PROBLEM, (3,), 1)))
    return {claim.id: claim for claim in found}


def test_the_stored_integrals_are_those_of_a_polygon(data: xr.Dataset) -> None:
    e, n = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    corners = statements.polygon(e, n, 0.5, 1.0, 400)
    for depth in (1.5, 2.0, 3.0, 5.0):
        expected = statements.line_integral(lambda w: e, corners, depth)
        part = data.isel(seed=0, radii=0, dimension=0).sel(depth=depth)
        q = 3 - 2 / depth
        found = float(part["integral"] / part["scale"]) * (1.0 - 0.5**q)
        assert found == pytest.approx(expected, abs=1e-4)
    assert (float(data["inner"][0]), float(data["outer"][0])) == (0.5, 1.0)


def test_the_curl_is_the_fields(data: xr.Dataset) -> None:
    """F = |w|^a (e + (N-1) <e, u> u), a = 2 - 2/N, has the curl (N - 1 - a) w_2 |w|^{a-2}; here N = 3."""
    place = data["place"].values
    x, y = np.meshgrid(place, place)
    norm = np.hypot(x, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.where(norm > 0, (2.0 - 4.0 / 3.0) * y * norm ** (-2.0 / 3.0), 0.0)
    np.testing.assert_allclose(data["field_curl"].values, expected, atol=1e-7)


def test_the_claims_hold_except_where_too_few_losses_were_drawn(data: xr.Dataset) -> None:
    found = claims(data)
    assert found["theorem2.integral"].verdict == found["theorem2.nonzero"].verdict == "holds"
    for name in ("certificate", "potential", "curl"):
        claim = found[f"theorem2.{name}"]
        assert claim.verdict == "inconclusive"
        assert "30 are asked for" in claim.note
    assert found["theorem2.certificate"].value == 1.0
    assert found["theorem2.potential"].is_control
    assert found["theorem2.nonzero"].value == pytest.approx(4.2 / (3 - 2 / 2.1) - 2)  # at depth 2.1


def test_the_claims_can_fail(data: xr.Dataset) -> None:
    many = data.isel(loss=np.arange(30) % 3)
    assert {claim.verdict for claim in claims(many).values()} == {"holds"}
    many = many.copy(deep=True)
    many["integral"][0, 6] = 0.0
    many["certificate"][0, 4, 1] = 0
    many["potential_error"][0, 2] = 1e-3
    many["curl"][0, 9] = 0.0
    found = claims(many)
    assert {claim.verdict for claim in found.values()} == {"fails"}
    assert found["theorem2.certificate"].value == pytest.approx(149 / 150)


def test_what_is_undefined_once_does_not_hold_and_zero_is_said_of_zero_only(data: xr.Dataset) -> None:
    many = data.isel(loss=np.arange(30) % 3).copy(deep=True)
    assert "zero, rounded" in claims(many)["theorem2.nonzero"].note
    many["integral"][0, 6] = np.nan
    many["integral"].loc[{"depth": 2.0}] = 1.0
    many["potential_error"][0, 2] = np.nan
    many["curl"][0, 9] = np.nan
    found = claims(many)
    assert "zero, rounded" not in found["theorem2.nonzero"].note
    for name in ("integral", "nonzero", "potential", "curl"):
        assert found[f"theorem2.{name}"].verdict == "inconclusive"


def test_random_losses_are_convex_and_drawn_anew_for_every_seed() -> None:
    rng = np.random.default_rng(0)
    hessian, target = theorem2_runs._quadratic(rng, 4)
    assert float(np.linalg.eigvalsh(hessian.numpy())[0]) > 0
    assert tuple(target.shape) == (1, 4)
    one, two = (theorem2_runs.of_seed(seed, quick=True) for seed in (0, 1))
    assert not np.allclose(one["integral"], two["integral"])


def test_arrows_are_broken_lines_along_the_field() -> None:
    place = np.array([0.0, 1.0])
    field = np.zeros((2, 2, 2))
    field[0, 1] = [0.0, 2.0]  # at (1, 0), upwards, the longest: as long as most of the spacing
    x, y = (values.reshape(4, 6) for values in theorem2._arrows(place, field))
    np.testing.assert_allclose([x[1, :2], y[1, :2]], [[1.0, 1.0], [0.0, 0.95]])
    assert np.isnan(x[:, 5]).all()
    assert (y[1, 2:5:2] < 0.95).all()


def test_pictures(data: xr.Dataset) -> None:
    pictures = theorem2.ITEM.pictures(data)
    assert len(pictures) == 2
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000
