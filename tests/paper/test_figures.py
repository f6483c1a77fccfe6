"""Figures 2 and 3 on small runs: the runs they plan, the claims they judge, and what is known to come out."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from overdepth.chain import imbalance, product
from overdepth.lab import Problem, RunCache, load_problem
from overdepth.paper import fig2, fig3
from overdepth.paper.claim import Setting
from overdepth.paper.context import Context, joined
from overdepth.paper.item import LEARNING_RATES
from overdepth.paper.items import ITEMS
from overdepth.paper.reproduce import Reproduced, reproduce


@pytest.fixture(scope="module")
def problem() -> Problem:
    return load_problem("breast-cancer")


@pytest.fixture(scope="module")
def results(problem: Problem) -> dict[str, Reproduced]:
    found = reproduce([fig2.ITEM, fig3.ITEM], Context(problem, (0, 1), 6000))
    return {result.item.name: result for result in found}


def test_the_grid_is_the_papers() -> None:
    expected = [1e-5, 5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1]
    assert list(LEARNING_RATES) == expected


def test_the_arms_of_figure_2_start_where_they_should(problem: Problem) -> None:
    runs = fig2.plans(problem, [3])[0].runs
    starts = {(r.depth, r.width, r.method, r.init, r.norm is not None): r.start(1, problem.d) for r in runs}
    for depth in (2, 3):
        for width in (1, 100):
            network = product(starts[depth, width, "gd", "near_zero", False])
            rule = product(starts[depth, width, "end_to_end", "near_zero", False])
            np.testing.assert_array_equal(network, rule)
        narrow = product(starts[depth, 1, "gd", "near_zero", False])
        balanced = starts[depth, 1, "gd", "balanced", False]
        np.testing.assert_allclose(product(balanced), narrow, rtol=1e-12)
        assert max(float(d.abs().max()) for d in imbalance(balanced)) < 1e-15
        matched = product(starts[depth, 100, "gd", "near_zero", True])
        assert float(matched.norm()) == pytest.approx(float(narrow.norm()), rel=1e-12)
    control = product(starts[3, 1, "gd", "near_zero", True])
    assert float(control.norm()) == pytest.approx(float(product(starts[2, 1, "gd", "near_zero", False]).norm()))


def test_the_arms_of_figure_3_cover_the_grid_with_and_without_matching(problem: Problem) -> None:
    for plan in fig3.plans(problem, [0, 1]):
        free = {(run.depth, run.lr, run.seed) for run in plan.runs if run.norm is None}
        matched = {(run.depth, run.lr, run.seed) for run in plan.runs if run.norm is not None}
        assert free == {(n, lr, seed) for n in (1, 2, 3) for lr in LEARNING_RATES for seed in (0, 1)}
        assert matched == {(n, lr, seed) for n, lr, seed in free if n > 1}
        assert len(plan.runs) == len(free) + len(matched)


def test_the_rule_emulates_balanced_networks_of_both_depths(results: dict[str, Reproduced]) -> None:
    """At width 100's norm depth 3 leaves its plateau within these few steps: the mechanism of fig2.rule-balanced."""
    data = results["fig2"].data
    arms = fig2._Arms(data, "l4")
    ratios = [ratio.value for ratio in arms.emulation(0, 2, 1, init="balanced")]
    np.testing.assert_allclose(ratios, 1.0, atol=0.02)


def test_short_runs_give_no_verdict(results: dict[str, Reproduced]) -> None:
    for result in results.values():
        assert {claim.verdict for claim in result.claims} == {"inconclusive"}


def test_every_claim_of_the_figures_is_there(results: dict[str, Reproduced]) -> None:
    ids = [claim.id for result in results.values() for claim in result.claims]
    assert {i: ids.count(i) for i in ids} == {
        "fig2.rule": 8,
        "fig2.rule-balanced": 4,
        "fig2.width": 8,
        "fig2.depth": 4,
        "fig3.l2": 4,
        "fig3.l4": 4,
    }


def synthetic(rows: dict[tuple[int, float], list[float]], objective: str) -> xr.Dataset:
    """A Figure 3 data set with one seed: gap curves by depth and learning rate, matched arms alike."""
    runs = [(depth, lr, norm) for norm in (np.nan, 1.0) for depth, lr in rows if norm != 1.0 or depth > 1]
    loss = np.array([rows[depth, lr] for depth, lr, _ in runs])
    columns = np.array(runs)
    return xr.Dataset(
        {"loss": (("run", "step"), loss), "optimal_loss": ("run", np.zeros(len(runs)))},
        coords={
            "step": [0, 25_000, 50_000, 75_000, 100_000],
            "depth": ("run", columns[:, 0]),
            "lr": ("run", columns[:, 1]),
            "norm": ("run", columns[:, 2]),
            "seed": ("run", np.zeros(len(runs), dtype=int)),
            "objective": ("run", [objective] * len(runs)),
        },
    )


def test_figure_3_takes_the_best_finite_rate_and_computes_the_catch_up() -> None:
    rows = {
        (1, 0.1): [8.0, 4.0, 3.0, 2.5, 2.0],
        (1, 0.5): [8.0, 0.1, np.nan, np.nan, np.nan],  # diverged
        (2, 0.1): [8.0, 7.0, 2.0, 1.5, 1.0],  # catches up at half the horizon
        (2, 0.5): [8.0, 1.0, 1.5, 1.5, 1.5],  # earlier, but higher at the horizon: not chosen
        (3, 0.1): [8.0, 8.0, 8.0, 8.0, 8.0],
    }
    data = joined([synthetic(rows, "l2"), synthetic(rows, "l4")])
    claims = {c.comparison: c for c in fig3.claims(data, Setting("data", "standard", (0,), 100_000))}
    faster = claims["l4: depth 2 against depth 1"]
    assert (faster.value, faster.verdict) == (2.0, "holds")
    assert claims["l2: depth 2 against depth 1"].verdict == "fails"
    assert (claims["l4: depth 3 against depth 1"].value, claims["l4: depth 3 against depth 1"].verdict) == (0, "fails")
    assert claims["l2: depth 3 against depth 1"].verdict == "holds"


def test_a_problem_with_several_targets_is_refused(problem: Problem) -> None:
    several = Problem(problem.X[:, 2:], problem.X[:, :2])
    with pytest.raises(ValueError, match="single target"):
        reproduce([fig3.ITEM], Context(several, (0,), 1))


def test_finished_runs_are_reused(problem: Problem, tmp_path: object) -> None:
    cache = RunCache(folder=tmp_path)  # type: ignore[arg-type]
    first, second = (reproduce([fig3.ITEM], Context(problem, (0,), 50, cache=cache))[0] for _ in range(2))
    np.testing.assert_array_equal(first.data["loss"], second.data["loss"])
    more = reproduce([fig3.ITEM], Context(problem, (0, 1), 50, cache=cache))[0]
    assert more.data.sizes["run"] == 2 * first.data.sizes["run"]


def test_items_are_listed_under_their_own_names() -> None:
    assert all(name == item.name for name, item in ITEMS.items())
