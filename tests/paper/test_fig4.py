"""Figure 4: what is planned, the catch-ups of curves that are known, and a small run."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from tests.paper.stored import through_netcdf

from overdepth.lab import Problem, load_problem
from overdepth.lab.curves import gaps, select
from overdepth.paper import fig3, fig4
from overdepth.paper.claim import Claim, Setting
from overdepth.paper.context import Context
from overdepth.paper.item import LEARNING_RATES
from overdepth.paper.reproduce import Reproduced, reproduce
from overdepth.paper.tuning import tuned

STEPS = np.array([0, 25_000, 50_000, 75_000, 100_000])
SETTING = Setting("data", "standard", (0,), 100_000)
STAYS = [8.0] * 5
ENDS_AT_2 = [8.0, 6.0, 4.0, 3.0, 2.0]
TWICE_AS_FAST = [8.0, 4.0, 2.0, 1.5, 1.0]  # at the level 2 at half of the horizon
DIVERGES = [8.0, 0.1, np.nan, np.nan, np.nan]
Key = tuple[str, int, bool]


@pytest.fixture(scope="module")
def problem() -> Problem:
    return load_problem("breast-cancer")


@pytest.fixture(scope="module")
def small() -> Reproduced:
    """Regression on a few columns, correlated like a spectrum's."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 6)) * 0.5 ** np.arange(6) @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    target = features @ rng.normal(size=6) + 0.1 * rng.normal(size=60)
    target = (target - target.mean()) / target.std()
    return reproduce([fig4.ITEM], Context(Problem(features, target[:, None]), (0, 1), 1500))[0]


def synthetic(problem: Problem, **curves: list[float]) -> xr.Dataset:
    """The planned runs with ``method_depth`` or ``method_depth_matched`` curves at lr 1e-3, the others staying."""
    runs = fig4.plans(problem, [0])[0].runs
    loss = []
    for run in runs:
        name = f"{run.method}_{run.depth}" + ("_matched" if run.norm else "")
        loss.append(curves.get(name, STAYS) if run.lr == 1e-3 else STAYS)
    columns = {name: ("run", [getattr(run, name) for run in runs]) for name in ("method", "lr", "seed")}
    return xr.Dataset(
        {"loss": (("run", "step"), np.array(loss)), "optimal_loss": ("run", np.zeros(len(runs)))},
        coords={
            **columns,
            "step": STEPS,
            "depth": ("run", [float(run.depth) for run in runs]),
            "norm": ("run", [np.nan if run.norm is None else run.norm for run in runs]),
            "objective": ("run", ["l4"] * len(runs)),
        },
    )


def judged(data: xr.Dataset, setting: Setting = SETTING) -> dict[tuple[str, str], Claim]:
    claims = {(claim.id, claim.comparison): claim for claim in fig4.claims(data, setting)}
    assert len(claims) == len(fig4.claims(data, setting))
    return claims


def test_the_gradient_descent_arms_are_runs_of_figure_3(problem: Problem) -> None:
    (plan,) = fig4.plans(problem, [0, 3])
    shared = [run for run in plan.runs if run.method == "gd"]
    figure3 = next(other for other in fig3.plans(problem, [0, 3]) if other.objective == plan.objective)
    assert set(shared) < set(figure3.runs)
    assert plan.record_every == figure3.record_every
    free = {(run.depth, run.lr, run.seed) for run in shared if run.norm is None}
    assert free == set(itertools.product((1, 3), LEARNING_RATES, (0, 3)))
    assert {(run.depth, run.lr, run.seed) for run in shared if run.norm} == {row for row in free if row[0] == 3}


def test_the_adaptive_arms_have_both_definitions_and_adam_its_default_rate(problem: Problem) -> None:
    (plan,) = fig4.plans(problem, [5])
    assert len(set(plan.runs)) == len(plan.runs)
    for method in ("adagrad_tf1", "adagrad", "adadelta_tf1", "adadelta"):
        rows = [(run.depth, run.lr) for run in plan.runs if run.method == method]
        assert sorted(rows) == [(1, rate) for rate in LEARNING_RATES]
    for method in ("adam_tf1", "adam"):
        rows = [(run.depth, run.lr) for run in plan.runs if run.method == method and run.norm is None]
        assert sorted(rows) == [(1, 1e-3), (2, 1e-3), (3, 1e-3)]
    assert sorted(run.depth for run in plan.runs if run.method == "adam_tf1" and run.norm) == [2, 3]


def test_the_papers_verdicts_come_from_curves_like_the_papers(problem: Problem) -> None:
    data = synthetic(
        problem,
        gd_1=ENDS_AT_2,
        gd_3=TWICE_AS_FAST,
        adagrad_tf1_1=[8.0, 7.0, 6.0, 5.0, 4.0],
        adadelta_tf1_1=ENDS_AT_2,
        adam_tf1_1=[8.0, 1.0, 0.5, 0.4, 0.2],
        adam_tf1_2=[8.0, 0.5, 0.2, 0.1, 0.1],
        adam_tf1_3=[8.0, 0.5, 0.3, 0.2, 0.1],
    )
    claims = {key: claim for key, claim in judged(data).items() if not claim.is_control}
    assert {key: (claim.value, claim.verdict) for key, claim in claims.items()} == {
        ("fig4.adagrad", "depth 3 against AdaGrad"): (4.0, "holds"),
        ("fig4.adadelta", "depth 3 against AdaDelta"): (2.0, "holds"),
        ("fig4.adagrad-slow", "AdaGrad"): (0.0, "holds"),
        ("fig4.adam", "Adam: depth 2 against depth 1"): (2.0, "holds"),
        ("fig4.adam", "Adam: depth 3 against depth 1"): (pytest.approx(100 / 75), "holds"),
        ("fig4.adam-wins", "Adam at depth 1 against depth 3"): (4.0, "holds"),
    }


def test_every_claim_can_fail_and_says_why_the_order_of_adagrad_may_differ(problem: Problem) -> None:
    data = synthetic(
        problem, gd_1=ENDS_AT_2, adagrad_tf1_1=TWICE_AS_FAST, adadelta_tf1_1=ENDS_AT_2, adam_tf1_1=ENDS_AT_2
    )
    data = data.assign(loss=data["loss"].where((data["method"] != "gd") | (data["depth"] != 3), 9.0))
    for claim in judged(data).values():
        if not claim.is_control and claim.id != "fig4.adam-wins":
            assert claim.verdict == "fails", claim
    assert "scaling" in judged(data)["fig4.adagrad-slow", "AdaGrad"].note
    assert judged(data)["fig4.adagrad-slow", "AdaGrad"].value == 2.0
    slow = synthetic(problem, gd_3=TWICE_AS_FAST, adam_tf1_1=ENDS_AT_2)
    assert judged(slow)["fig4.adam-wins", "Adam at depth 1 against depth 3"].verdict == "fails"


def test_controls_judge_their_own_arms_and_are_marked(problem: Problem) -> None:
    data = synthetic(
        problem, gd_3=ENDS_AT_2, gd_3_matched=TWICE_AS_FAST, adagrad_tf1_1=ENDS_AT_2, adagrad_1=TWICE_AS_FAST
    )
    claims = judged(data)
    assert claims["fig4.adagrad", "depth 3 against AdaGrad"].value == 1.0
    matched = claims["fig4.adagrad", "depth 3 against AdaGrad, norm matched"]
    assert (matched.value, matched.verdict, matched.is_control) == (2.0, "holds", True)
    torch = claims["fig4.adagrad", "depth 3 against AdaGrad, torch's definition"]
    assert (torch.value, torch.verdict, torch.is_control) == (0.0, "fails", True)
    assert "default lr is 1" in claims["fig4.adadelta", "depth 3 against AdaDelta, torch's definition"].note
    assert sum(not claim.is_control for claim in claims.values()) == 6


def test_the_best_finite_rate_is_taken_and_none_gives_no_verdict(problem: Problem) -> None:
    data = synthetic(problem, gd_3=DIVERGES, adagrad_tf1_1=ENDS_AT_2)
    claim = judged(data)["fig4.adagrad", "depth 3 against AdaGrad"]
    assert (claim.value, claim.verdict) == (0.0, "fails")  # at the other rates depth 3 stays where it started
    nothing = data["loss"].where((data["method"] != "adagrad_tf1") | (data["step"] == 0))
    claim = judged(data.assign(loss=nothing))["fig4.adagrad", "depth 3 against AdaGrad"]
    assert (claim.value, claim.verdict) == (None, "inconclusive")


def test_rounding_is_not_compared(problem: Problem) -> None:
    """Once Adam at depth 1 has converged, any spike of the other decides: no verdict."""
    converged = [8.0, 1e-3, 1e-6, 1e-9, 1e-9]
    data = synthetic(problem, adam_tf1_1=converged, adam_tf1_2=[8.0, 1e-6, 1e-9, 1e-9, 1e-8])
    claims = judged(data)
    claim = claims["fig4.adam", "Adam: depth 2 against depth 1"]
    assert claim.verdict == "inconclusive"
    assert "rounding" in claim.note
    claim = claims["fig4.adam", "Adam: depth 3 against depth 1"]
    assert (claim.value, claim.verdict) == (0.0, "fails")  # far from converged: it never caught up
    assert claims["fig4.adam-wins", "Adam at depth 1 against depth 3"].verdict == "holds"


def test_data_cut_at_an_earlier_horizon_are_judged_there(problem: Problem) -> None:
    late = [8.0, 8.0, 8.0, 1.0, 1.0]  # depth 3 is behind at half of the horizon
    data = synthetic(problem, gd_3=late, adagrad_tf1_1=ENDS_AT_2).isel(step=slice(0, 3))
    claim = judged(data, Setting("data", "standard", (0,), 50_000, horizon=50_000))[
        "fig4.adagrad", "depth 3 against AdaGrad"
    ]
    assert (claim.value, claim.verdict) == (0.0, "fails")
    assert (
        judged(synthetic(problem, gd_3=late, adagrad_tf1_1=ENDS_AT_2))[
            "fig4.adagrad", "depth 3 against AdaGrad"
        ].verdict
        == "holds"
    )


def test_tuned_agrees_with_a_search_by_hand(small: Reproduced) -> None:
    arm = select(small.data, method="adadelta_tf1")
    best = tuned(arm, 1)
    final = {rate: float(gaps(select(arm, seed=1, lr=rate))[0, -1]) for rate in LEARNING_RATES}
    assert best.lr == min(final, key=lambda rate: final[rate] if np.isfinite(final[rate]) else np.inf)
    np.testing.assert_array_equal(best.gap, gaps(select(arm, seed=1, lr=best.lr))[0])


def test_a_small_run_shows_the_left_half_and_gives_no_verdict(small: Reproduced) -> None:
    values = {(claim.id, claim.comparison): claim.value or 0.0 for claim in small.claims}
    assert values["fig4.adagrad", "depth 3 against AdaGrad"] > 1.5
    assert values["fig4.adadelta", "depth 3 against AdaDelta"] > 1.5
    assert values["fig4.adagrad-slow", "AdaGrad"] < 1
    assert {claim.verdict for claim in small.claims} == {"inconclusive"}
    assert {claim.id for claim in small.claims} == {statement.id for statement in fig4.ITEM.statements}


def test_pictures_are_drawn_from_stored_data_and_are_small(small: Reproduced) -> None:
    pictures = fig4.ITEM.pictures(through_netcdf(small.data))
    assert len(pictures) == 3
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000
    names = {trace.name for picture in pictures for trace in picture.figure.data if trace.name}
    assert any("AdaDelta, torch's definition" in name for name in names)
    assert any("Adam, depth 3" in name for name in names)
    stored = fig4.ITEM.claims(through_netcdf(small.data), small.setting)
    assert stored == small.claims
