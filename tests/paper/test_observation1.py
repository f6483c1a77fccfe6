"""Observation 1: the recorded run against the reference, its replay, and claims that can fail."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from tests.paper.stored import through_netcdf
from tests.reference import statements

from overdepth.lab import Problem, Run, load_problem, sweep
from overdepth.paper import observation1
from overdepth.paper.claim import Claim
from overdepth.paper.context import Context
from overdepth.theory import momentum_kernel


@pytest.fixture(scope="module")
def problem() -> Problem:
    return load_problem("breast-cancer")


@pytest.fixture(scope="module")
def data(problem: Problem) -> xr.Dataset:
    return through_netcdf(observation1.ITEM.work(Context(problem, (0, 1), 100_000, quick=True)))


def claims(data: xr.Dataset, problem: Problem) -> list[Claim]:
    return observation1.ITEM.claims(data, observation1.ITEM.setting(Context(problem, (0, 1), 50)))


def test_the_run_is_the_references_and_the_engines(problem: Problem) -> None:
    record = observation1.record_run(problem, 4, 2, 0.05, 30)
    w1, w2 = (factor.numpy().ravel() for factor in Run(depth=2, seed=2).start(1, problem.d))

    def gradient(weight: np.ndarray) -> np.ndarray:
        errors = problem.X @ weight - problem.Y[:, 0]
        return np.asarray(problem.X.T @ errors**3 / problem.m)

    firsts, seconds, grads = statements.descent_on_two_factors(gradient, w1, float(w2[0]), 0.05, 30)
    np.testing.assert_allclose(record.first, firsts, atol=1e-13)
    np.testing.assert_allclose(record.second, seconds, atol=1e-13)
    np.testing.assert_allclose(record.grads, grads, atol=1e-13)
    engine = sweep(problem, [Run(depth=2, seed=2, lr=0.05)], objective="l4", steps=30, record_every=1)
    np.testing.assert_allclose(record.losses, engine["loss"].values[0], rtol=1e-5)


def test_the_error_of_a_replay(problem: Problem) -> None:
    record = observation1.record_run(problem, 2, 0, 0.05, 20)
    kernel = momentum_kernel(record.first, record.second, record.grads, 0.05)
    assert record.error(kernel.replay(record.grads)) < 1e-13
    shifted = record.weights.clone()
    shifted[7] *= 2.0
    expected = float(record.weights[7].norm() / record.weights.norm(dim=1).max())
    assert record.error(shifted) == pytest.approx(expected)


def test_the_claims_are_about_their_own_steps_whatever_the_context_runs(data: xr.Dataset, problem: Problem) -> None:
    found = claims(data, problem)
    assert [claim.id for claim in found] == 2 * [
        "observation1.kernel",
        "observation1.first-order",
        "observation1.start",
    ]
    assert {claim.verdict for claim in found if claim.id == "observation1.kernel"} == {"holds"}
    assert {claim.verdict for claim in found if claim.id == "observation1.first-order"} == {"inconclusive"}
    assert all(claim.data == problem.name and claim.seeds == (0, 1) for claim in found)


def test_the_claims_can_fail(data: xr.Dataset, problem: Problem) -> None:
    factors = np.array(observation1.FINER)
    errors = np.broadcast_to(1.0 / factors**2, (2, 2, len(factors)))
    worse = data.drop_dims("finer").assign(first_order_error=(("objective", "seed", "finer"), errors))
    worse = worse.assign_coords(finer=factors)
    worse["exact_error"][0, 1] = 1e-6  # one seed is enough: nothing was dropped
    worse["start_error"][:] = 0.5
    found = claims(worse, problem)
    assert [claim.verdict for claim in found] == ["fails"] * 3 + ["holds", "fails", "fails"]
    assert found[1].value == pytest.approx(2.0)


def test_an_undefined_error_of_one_seed_does_not_hold_and_growth_is_of_magnitudes(
    data: xr.Dataset, problem: Problem
) -> None:
    broken = data.copy(deep=True)
    broken["exact_error"][:, 1] = np.nan
    broken["rate"][:] = -1.0
    broken["rate"][:, :, -1] = -3.0
    found = [claim for claim in claims(broken, problem) if claim.id == "observation1.kernel"]
    assert {claim.verdict for claim in found} == {"inconclusive"}
    assert all("grows to 3 times (median)" in claim.note for claim in found)


def test_the_heat_map_holds_the_coefficients_below_the_diagonal(data: xr.Dataset, problem: Problem) -> None:
    part = data.sel(objective="l4", seed=0)
    record = observation1.record_run(problem, 4, 0, float(part["lr"]), 40)
    w2 = record.second.numpy()
    shown = part["shown_step"].values
    assert np.triu(part["coefficient"].values).max() == 0
    for row, column in ((3, 1), (7, 2), (9, 8)):
        t, tau = shown[row], shown[column]
        expected = w2[tau] * (w2[t + 1] - w2[t])
        assert float(part["coefficient"][row, column]) == pytest.approx(expected, rel=1e-9)


def test_pictures(data: xr.Dataset) -> None:
    pictures = observation1.ITEM.pictures(data)
    assert len(pictures) == 3
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000


def test_where_every_rate_of_the_grid_diverges_a_smaller_one_is_run(problem: Problem) -> None:
    steep = Problem(1e3 * problem.X[:50], 1e4 * problem.Y[:50])
    row = observation1._of_run(Context(steep, (0,), 1, quick=True), "l2", 0)
    assert float(row["lr"]) < 1e-5
    assert np.isfinite(row["loss"].values).all()
    assert float(row["exact_error"]) < 1e-10
