"""Figure 5, left: times of curves that are known, what lies beyond the horizon, and a small run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import xarray as xr
from tests.paper.stored import through_netcdf

from overdepth.lab import Problem, load_problem
from overdepth.lab.curves import select
from overdepth.paper import fig3, fig5
from overdepth.paper.claim import Claim, Setting
from overdepth.paper.context import Context
from overdepth.paper.item import LEARNING_RATES, start_norm
from overdepth.paper.reproduce import Reproduced, reproduce

STEPS = np.arange(0, 100_001, 100)
Curves = dict[tuple[int, str, int], np.ndarray]
"""By depth, start and seed; at lr 1e-3, the other rates doing nothing."""

PLATEAU = "depth 4, near zero"


@pytest.fixture(scope="module")
def problem() -> Problem:
    return load_problem("breast-cancer")


@pytest.fixture(scope="module")
def small(problem: Problem) -> Reproduced:
    return reproduce([fig5.ITEM], Context(problem, (0, 1), 1000))[0]


def falls_at(step: float, *, start: float = 8.0, end: float = 1.0) -> np.ndarray:
    """A plateau with an edge."""
    return np.where(step > STEPS, start, end)


def decays(time: float) -> np.ndarray:
    return np.asarray(8.0 * np.exp(-STEPS / time))


def synthetic(problem: Problem, curves: Curves, seeds: Sequence[int] = (0,), optimum: float = 0.0) -> xr.Dataset:
    runs = fig5.plans(problem, seeds)[0].runs
    flat = np.full(len(STEPS), 8.0)
    loss = [curves.get((int(r.depth), r.init, r.seed), flat) if r.lr == 1e-3 else flat for r in runs]
    columns = {name: ("run", [getattr(run, name) for run in runs]) for name in ("depth", "init", "lr", "seed")}
    return xr.Dataset(
        {"loss": (("run", "step"), np.array(loss)), "optimal_loss": ("run", np.full(len(runs), optimum))},
        coords={**columns, "step": STEPS, "objective": ("run", ["l4"] * len(runs))},
    )


def judged(data: xr.Dataset, seeds: Sequence[int] = (0,), steps: int = 100_000) -> dict[str, Claim]:
    setting = Setting("data", "standard", tuple(seeds), steps, horizon=steps)
    return {claim.comparison: claim for claim in fig5.claims(data, setting)}


def test_both_starts_cover_the_grid_and_depth_1_is_shared_with_figure_3(problem: Problem) -> None:
    (plan,) = fig5.plans(problem, [0, 2])
    rows = {(run.depth, run.init, run.lr, run.seed) for run in plan.runs}
    assert rows == set(itertools.product((1, 4, 8), ("near_zero", "near_identity"), LEARNING_RATES, (0, 2)))
    assert len(plan.runs) == len(rows)
    figure3 = next(other for other in fig3.plans(problem, [0, 2]) if other.objective == plan.objective)
    assert {run for run in plan.runs if run.depth == 1 and run.init == "near_zero"} < set(figure3.runs)
    assert plan.record_every == figure3.record_every


def test_starts_near_the_identity_have_norms_alike(problem: Problem) -> None:
    runs = [run for run in fig5.plans(problem, range(3))[0].runs if run.init == "near_identity"]
    assert [start_norm(problem, run) for run in runs] == pytest.approx([1.0] * len(runs), abs=0.15)


@pytest.mark.parametrize(("edge", "verdict"), [(44_000, "fails"), (65_000, "holds"), (86_000, "fails")])
def test_the_plateau_is_timed(problem: Problem, edge: int, verdict: str) -> None:
    claim = judged(synthetic(problem, {(4, "near_zero", 0): falls_at(edge)}))[PLATEAU]
    assert claim.value == pytest.approx(edge, abs=100)
    assert claim.verdict == verdict
    assert "1 moved and stayed finite" in claim.note


def test_the_time_is_that_of_a_slow_search_on_a_smooth_curve(problem: Problem) -> None:
    data = synthetic(problem, {(4, "near_zero", 0): decays(1e6), (4, "near_identity", 0): decays(700.0)})
    claims = judged(data)
    exact = {PLATEAU: -1e6 * np.log(0.95), "depth 4, near the identity: loss halved": 700 * np.log(2)}
    for comparison, time in exact.items():
        assert claims[comparison].value == pytest.approx(time, rel=1e-9)
    assert claims["depth 4, near the identity: loss halved"].verdict == "holds"


def test_a_plateau_longer_than_the_horizon_fails_with_the_horizon_as_its_bound(problem: Problem) -> None:
    claim = judged(synthetic(problem, {}))[PLATEAU]
    assert (claim.value, claim.verdict) == (100_000, "fails")
    assert "1 of 1 seeds did not get there" in claim.note


def test_a_bound_gives_a_verdict_only_where_it_decides(problem: Problem) -> None:
    early, late = falls_at(50_000), falls_at(80_000)
    one = synthetic(problem, {(4, "near_zero", 0): early}, seeds=(0, 1))
    claim = judged(one, (0, 1))[PLATEAU]  # the median is at least 75,000: 85,000 is neither excluded nor certain
    assert claim.verdict == "inconclusive"
    two = synthetic(problem, {(4, "near_zero", 0): early, (4, "near_zero", 1): late}, seeds=(0, 1, 2))
    claim = judged(two, (0, 1, 2))[PLATEAU]  # whatever the third is, the median is the second
    assert claim.value == pytest.approx(80_000, abs=100)
    assert claim.verdict == "holds"
    short = synthetic(problem, {}).isel(step=slice(0, 101))
    claims = judged(short, steps=10_000)  # as a map of horizons asks
    assert {claims[what].verdict for what in (PLATEAU, "depth 8, near zero")} == {"inconclusive"}


def test_a_rate_that_moves_and_then_diverges_is_not_the_best_but_is_told(problem: Problem) -> None:
    curve = falls_at(60_000)
    curve[700:] = np.nan
    claims = judged(synthetic(problem, {(4, "near_zero", 0): curve, (8, "near_zero", 0): curve}))
    assert (claims[PLATEAU].value, claims[PLATEAU].verdict) == (100_000, "fails")
    assert (
        "0 moved and stayed finite, 1 diverged (by iteration 70,000; 1 of them had moved before), 9 stayed"
        in claims[PLATEAU].note
    )
    assert "too large for what comes after" in claims[PLATEAU].note
    assert (claims["depth 8, near zero"].value, claims["depth 8, near zero"].verdict) == (0, "holds")


def test_depth_8_is_not_stuck_if_a_single_rate_moves(problem: Problem) -> None:
    claim = judged(synthetic(problem, {(8, "near_zero", 0): falls_at(99_000)}))["depth 8, near zero"]
    assert (claim.value, claim.verdict) == (0.1, "fails")
    barely = judged(synthetic(problem, {(8, "near_zero", 0): falls_at(99_000, end=7.7)}))["depth 8, near zero"]
    assert (barely.value, barely.verdict) == (0, "holds")  # 96% of the start


def test_the_identity_is_compared_with_depth_1_from_the_same_start_and_as_a_control_from_near_zero(
    problem: Problem,
) -> None:
    curves = {
        (1, "near_identity", 0): decays(20_000),
        (1, "near_zero", 0): decays(5_000),
        (4, "near_identity", 0): decays(10_000),
        (8, "near_identity", 0): decays(30_000),
    }
    claims = judged(synthetic(problem, curves))
    found = {what: (c.value, c.verdict, c.is_control) for what, c in claims.items() if "against" in what}
    assert found == {
        "depth 4 near the identity against depth 1 near the identity": (pytest.approx(2.0), "holds", False),
        "depth 4 near the identity against depth 1 near zero": (0.0, "fails", True),
        "depth 8 near the identity against depth 1 near the identity": (0.0, "fails", False),
        "depth 8 near the identity against depth 1 near zero": (0.0, "fails", True),
    }
    assert claims["depth 8, near the identity: loss halved"].verdict == "fails"
    assert claims["depth 8, near the identity: loss halved"].value == pytest.approx(30_000 * np.log(2))
    assert {claim.id for claim in claims.values()} == {statement.id for statement in fig5.ITEM.statements}


def test_what_is_undefined_gives_no_verdict(problem: Problem) -> None:
    beyond_reach = judged(synthetic(problem, {}, optimum=5.0))["depth 4, near the identity: loss halved"]
    assert (beyond_reach.value, beyond_reach.verdict) == (None, "inconclusive")
    data = synthetic(problem, {})
    nothing = data.assign(loss=data["loss"].where((data["depth"] != 4) | (data["step"] == 0)))
    claims = judged(nothing)
    for comparison in (PLATEAU, "depth 4, near the identity: loss halved"):
        assert (claims[comparison].value, claims[comparison].verdict) == (None, "inconclusive")


def test_a_small_run_moves_from_the_identity_and_not_from_zero(small: Reproduced) -> None:
    claims = {claim.comparison: claim for claim in small.claims}
    for depth in (4, 8):
        value = claims[f"depth {depth}, near the identity: loss halved"].value
        assert value is not None
        assert value < 1000
        stuck = select(small.data, depth=depth, init="near_zero")["loss"]
        assert float((stuck.isel(step=-1) / stuck.isel(step=0)).min()) > 0.999
    assert claims["depth 8, near zero"].value == 0
    assert {claim.verdict for claim in small.claims} == {"inconclusive"}


def test_pictures_are_drawn_from_stored_data_and_are_small(small: Reproduced) -> None:
    data = through_netcdf(small.data)
    pictures = fig5.ITEM.pictures(data)
    assert len(pictures) == 3
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000
    assert fig5.ITEM.claims(data, small.setting) == small.claims
