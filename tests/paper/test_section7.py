"""Section 7: the certified number of steps, the cases, and claims that can fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from tests.paper.stored import through_netcdf

from overdepth.lab import Problem
from overdepth.paper import section7, section7_runs
from overdepth.paper.claim import Claim
from overdepth.paper.context import Context
from overdepth.reporter import Reporter
from overdepth.theory import run_two_point
from overdepth.transfer import transfer_operator

PROBLEM = Problem(np.eye(3)[:, :2], np.arange(3.0)[:, None])


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return through_netcdf(section7.ITEM.work(Context(PROBLEM, (0,), 1, quick=True)))


def claims(data: xr.Dataset) -> dict[tuple[str, str], Claim]:
    found = section7.ITEM.claims(data, section7.ITEM.setting(Context(PROBLEM, (0, 1), 1)))
    return {(claim.id, claim.comparison): claim for claim in found}


@pytest.mark.parametrize("power", [4, 6])
@pytest.mark.parametrize("lr", [0.1, 1e-2, 1e-3])
def test_fewer_steps_do_not_suffice_and_hardly_more_are_needed(power: int, lr: float) -> None:
    error, steps = 0.9, 0
    while error > 0.2:
        error -= lr * error ** (power - 1)
        steps += 1
    bound = section7_runs.fewest_steps(0.9, lr, power, tolerance=0.2)
    assert bound <= steps <= bound * (1 + 3 * lr) + 1
    assert section7_runs.fewest_steps(0.1, lr, power, tolerance=0.2) == 0


def test_a_step_beyond_the_label_is_refused() -> None:
    with pytest.raises(ValueError, match="does not reach beyond"):
        section7_runs.fewest_steps(1.0, 1.0, 4)


def test_the_bound_meets_the_stepped_plain_descent() -> None:
    case = next(case for case in section7_runs.cases(quick=True) if case.power == 4)
    plan = case.plan()
    run = run_two_point(plan.targets, plan.start, 0.999 * plan.lr_gd)
    bound = section7_runs.fewest_steps(1.0 - plan.start[1], 0.999 * plan.lr_gd, 4)
    assert run.second_steps is not None
    assert bound <= run.second_steps <= bound * 1.04


def test_all_cases_meet_the_assumptions() -> None:
    full = section7_runs.cases(quick=False)
    assert {(case.power, case.depth) for case in full} == {(p, n) for p in (4, 6) for n in (2, 3, 4)}
    assert {case.y1 for case in full} == {10.0, 30.0, 100.0}
    assert all(case.eps1 <= 0.1 and case.plan().converges for case in full)
    assert set(section7_runs.cases(quick=True)) < set(full)


def test_the_rates_are_entries_of_the_transfer_operator() -> None:
    weight = torch.tensor([[1.5, 0.7]], dtype=torch.float64)
    norm = float(weight.norm())
    factors = [weight / norm ** (2 / 3), *[torch.tensor([[norm ** (1 / 3)]], dtype=torch.float64)] * 2]
    dense = transfer_operator(factors).to_dense().numpy()
    rates = section7_runs._rates([(1.5, 0.7)], 0.1, 3)[0]
    np.testing.assert_allclose(rates, 0.1 * dense[[0, 0, 1], [0, 1, 1]], rtol=1e-12)


def test_a_corner_of_the_grid_gives_numbers_but_no_verdict(data: xr.Dataset) -> None:
    found = claims(data)
    assert len(found) == 3 * 6 + 1
    paper = found["section7.acceleration", "p = 4, N = 2"]
    assert paper.verdict == "inconclusive"
    assert paper.value is not None
    assert paper.value >= 1
    assert not paper.is_control
    assert paper.seeds == ()
    assert found["section7.acceleration", "p = 6, N = 2"].is_control


def test_the_claims_decide_on_the_whole_grid_and_can_fail(data: xr.Dataset) -> None:
    whole = data.assign_attrs(quick=0)
    assert {claim.verdict for claim in claims(whole).values()} == {"holds"}
    worse = whole.assign(
        deep_steps=whole["deep_steps"] * 3,
        first_w1=whole["first_w1"] * 1.05,
        effective_rate=whole["effective_rate"] * 0.9,
        beside_converged=1 - whole["beside_converged"],
        beside_diverged=1 - whole["beside_diverged"],
    )
    assert {claim.verdict for claim in claims(worse).values() if claim.comparison.startswith("p = 4, N = 2")} == {
        "fails"
    }
    assert claims(worse)[next(key for key in claims(worse) if key[0] == "section7.threshold")].value == 0
    unfinished = whole.assign(deep_steps=whole["deep_steps"] * np.nan)
    assert claims(unfinished)["section7.acceleration", "p = 4, N = 2"].verdict == "inconclusive"


def test_rule_that_does_not_converge_accelerates_nothing(monkeypatch: pytest.MonkeyPatch, data: xr.Dataset) -> None:
    def stuck(*arguments: object, **settings: object) -> object:
        run = run_two_point(*arguments, **settings)  # type: ignore[arg-type]
        return run._replace(steps=None) if settings.get("depth", 1) != 1 else run

    monkeypatch.setattr(section7_runs, "run_two_point", stuck)
    row = section7_runs._compared(section7_runs.cases(quick=True)[0])
    assert row["deep_steps"] == np.inf
    whole = data.assign_attrs(quick=0)
    key = "section7.acceleration", "p = 4, N = 2"
    assert "the others converge nevertheless" in claims(whole)[key].note
    never = claims(whole.assign(deep_steps=whole["deep_steps"] * np.inf))[key]
    assert (never.value, never.verdict) == (0.0, "fails")
    assert "do not converge" in never.note
    assert "nevertheless" not in never.note


def test_the_trajectories_start_together_and_end_at_the_labels(data: xr.Dataset) -> None:
    assert data["arm_depth"].values.tolist() == [1, 2, 3, 4]
    for arm in range(4):
        path = data["path"].values[arm]
        known = np.isfinite(path).all(axis=1)
        np.testing.assert_allclose(path[0], [0.05, 0.05 / 10])
        np.testing.assert_allclose(path[known][-1], [10.0, 1.0], atol=0.05)
        assert known[: known.sum()].all()
    plain = data["rate"].values[0]
    np.testing.assert_allclose(plain[~np.isnan(plain).any(axis=1)], [[0.999 * 0.02, 0.0, 0.999 * 0.02]] * int(
        np.isfinite(plain).all(axis=1).sum()))  # fmt: skip


def test_pictures_and_progress(data: xr.Dataset) -> None:
    pictures = section7.ITEM.pictures(data)
    assert len(pictures) == 4
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000
    told: list[tuple[int, int]] = []
    reporter = Reporter(begin=lambda *_: None, advance=lambda *step: told.append(step))
    section7.ITEM.work(Context(PROBLEM, (0,), 1, quick=True, reporter=reporter))
    assert [step for step, _ in told] == list(range(1, len(section7_runs.cases(quick=True)) + 3))
