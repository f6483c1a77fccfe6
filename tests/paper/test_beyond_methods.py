"""Imbalance, minibatches, methods, escape and equal cost: the arms, the statistics against known truths, the claims."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from overdepth.chain import imbalance as imbalance_of
from overdepth.chain import product
from overdepth.lab import Problem, RunCache, load_problem
from overdepth.lab.curves import gaps, select
from overdepth.lab.run import Run
from overdepth.lab.sweeps import sweep
from overdepth.paper.beyond import equal_cost, escape, imbalance, methods, minibatch
from overdepth.paper.claim import Setting
from overdepth.paper.context import Context
from overdepth.paper.item import Item
from overdepth.paper.kept import KeptData
from overdepth.theory import factors_with_imbalance, matrix_distance

SMALL = (1e-3, 1e-2)
MODULES = {"imbalance": imbalance, "minibatch": minibatch, "methods": methods, "escape": escape, "equal": equal_cost}


@pytest.fixture(scope="module")
def problem() -> Problem:
    found = load_problem("breast-cancer")
    return Problem(found.X[:300, :6], found.Y[:300], name="small", scaling="standard")


@pytest.fixture(scope="module")
def data(problem: Problem, tmp_path_factory: pytest.TempPathFactory) -> dict[str, xr.Dataset]:
    """The data of all items on a short horizon, through NetCDF."""
    folder = tmp_path_factory.mktemp("kept")
    found = {}
    for name, module in MODULES.items():
        item: Item = module.ITEM
        context = Context(problem, (0, 1), 400, quick=True, cache=RunCache(folder / "runs"), kept=KeptData(folder))
        made = item.work(context)
        made.to_netcdf(folder / f"{name}.nc", engine="h5netcdf")
        found[name] = xr.load_dataset(folder / f"{name}.nc", engine="h5netcdf")
    return found


def setting(steps: int = 400) -> Setting:
    return Setting("small", "standard", (0, 1), steps)


@pytest.mark.parametrize("name", MODULES)
def test_short_runs_give_no_verdict_and_pictures_draw(name: str, data: dict[str, xr.Dataset]) -> None:
    item: Item = MODULES[name].ITEM
    claims = item.claims(data[name], setting())
    assert claims
    assert {c.id for c in claims} == {s.id for s in item.statements}
    assert item.part == "beyond"
    assert {c.verdict for c in claims if c.id != "beyond.imbalance-certified"} == {"inconclusive"}
    assert any(c.is_control for c in claims)
    pictures = item.pictures(data[name])
    assert pictures
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000


def test_what_was_kept_is_what_is_computed(problem: Problem, tmp_path: Path) -> None:
    made = [imbalance.ITEM.work(Context(problem, (0,), 50, kept=KeptData(tmp_path))) for _ in range(2)]
    xr.testing.assert_identical(made[0].drop_attrs(), made[1].drop_attrs())


# Imbalance


def test_started_runs_start_where_they_are_told(problem: Problem) -> None:
    weight = product(Run(depth=1, seed=3).start(1, problem.d))
    for dial in imbalance.IMBALANCES:
        factors = tuple(factors_with_imbalance(weight, 2, dial))
        run = imbalance.StartedRun(depth=2, seed=3, lr=1e-3, factors=factors)
        start = run.start(1, problem.d)
        assert torch.allclose(product(start), weight, rtol=1e-12)
        assert float(imbalance_of(start)[0]) == pytest.approx(dial, abs=1e-12)
        short = sweep(problem, [run, Run(depth=1, seed=3, lr=1e-3)], steps=1, record_every=1)
        assert float(short["loss"][0, 0]) == pytest.approx(float(short["loss"][1, 0]), rel=1e-6)


def test_descent_on_two_factors_is_the_hand_written_one() -> None:
    loss = matrix_distance(torch.tensor([[1.0, -2.0]]))
    a, b = np.array([0.3, 0.1]), 0.5
    expected = []
    for _ in range(4):
        residual = b * a - np.array([1.0, -2.0])
        expected.append(0.5 * residual @ residual)
        a, b = a - 0.1 * b * residual, b - 0.1 * residual @ a
    start = [torch.tensor([[0.3, 0.1]], dtype=torch.float64), torch.tensor([[0.5]], dtype=torch.float64)]
    measured = imbalance.descent_gaps(loss, [start, start], [0.1, 0.2], steps=3)
    np.testing.assert_allclose(measured[0], expected, rtol=1e-12)
    assert (measured[1, 1:] < measured[0, 1:]).all()


def test_imbalance_is_certified_and_the_gap_keeps_below(data: dict[str, xr.Dataset]) -> None:
    claims = [c for c in imbalance.claims(data["imbalance"], setting()) if c.id == "beyond.imbalance-certified"]
    assert {c.comparison for c in claims} == {"whitened data, l2: imbalance 0.1", "whitened data, l2: imbalance 1"}
    assert {c.verdict for c in claims} == {"holds"}
    worse = data["imbalance"].copy(deep=True)
    worse["whitened_gap"][{"dial": -1, "start": 1, "white_step": 1}] *= 1e30
    assert "fails" in {c.verdict for c in imbalance.claims(worse, setting()) if c.id == "beyond.imbalance-certified"}


def test_an_undefined_gap_is_not_certified_to_hold(data: dict[str, xr.Dataset]) -> None:
    for name in ("whitened_gap", "certified_gap"):
        broken = data["imbalance"].copy(deep=True)
        broken[name][{"dial": -1, "start": 1, "white_step": 1}] = np.nan
        found = {c.comparison: c.verdict for c in imbalance.claims(broken, setting())}
        assert found["whitened data, l2: imbalance 1"] == "inconclusive"


def test_certificates_that_prove_nothing_are_told(data: dict[str, xr.Dataset]) -> None:
    silent = data["imbalance"].assign(certified_rate=data["imbalance"]["certified_rate"] * 0)
    (claim,) = [c for c in imbalance.claims(silent, setting()) if c.id == "beyond.imbalance-certified"]
    assert claim.verdict == "not run"
    assert "At no imbalance" in claim.note


def dialled(data: xr.Dataset, last: dict[int, float]) -> str:
    """The verdict on imbalance 0.1 against 0, whose gap ends at 0.09; the former's end by seed, negative: diverged."""
    made = data.copy(deep=True)
    for row, (own, seed) in enumerate(zip(made["imbalance"].values, made["seed"].values, strict=True)):
        end = last[int(seed)] if own == 0.1 else 0.09
        curve = np.geomspace(1, abs(end), made.sizes["step"])
        if end < 0:
            curve[1:] = np.nan
        made["loss"][row] = float(made["optimal_loss"][row]) + curve
    found = {(c.id, c.comparison): c for c in imbalance.claims(made, setting(100_000))}
    return found["beyond.imbalance", "imbalance 0.1 against 0"].verdict


def test_a_dial_that_diverges_is_not_slow_and_a_bounded_median_is_not_known(data: dict[str, xr.Dataset]) -> None:
    made = data["imbalance"]
    assert dialled(made, {0: 1e-5, 1: 1e-6}) == "holds"
    assert dialled(made, {0: 0.5, 1: 0.5}) == "fails"  # bounds, but of one side
    assert dialled(made, {0: -1.0, 1: -1.0}) == "inconclusive"  # diverged
    assert dialled(made, {0: 1e-5, 1: 0.5}) == "inconclusive"  # one bound


def test_bounds_that_leave_a_median_open_are_told() -> None:
    def said(least: list[list[float]], most: list[list[float]]) -> str:
        return imbalance.unknown_median(escape.PREDICTED, least, most, *escape.TWICE)

    assert said([[1.0], [1.2]], [[1.0], [1.2]]) == ""
    assert "median is not known" in said([[1.0], [2.5]], [[1.0], [math.inf]])
    assert said([[1.0], [2.5], [1.1]], [[1.0], [math.inf], [1.1]]) == ""  # an odd number has one in the middle
    assert said([[3.0, 1.0], [3.0, 2.5]], [[3.0, 1.0], [3.0, math.inf]]) == ""  # fails by the first of the two
    assert said([[math.nan], [2.5]], [[math.nan], [math.inf]]) == ""


def test_a_larger_dial_that_is_slower_fails(data: dict[str, xr.Dataset]) -> None:
    made = data["imbalance"].copy(deep=True)
    curves = np.geomspace(1, 1e-3, made.sizes["step"])
    slow = np.linspace(1, 0.05, made.sizes["step"])
    for row, dial in enumerate(made["imbalance"].values):
        made["loss"][row] = float(made["optimal_loss"][row]) + (slow if dial > 0 else curves)
    claims = imbalance.claims(made, setting(100_000))
    found = {c.comparison: c for c in claims if c.id == imbalance.FASTER.id}
    assert found["imbalance 0.1 against 0"].verdict == "fails"
    tuned = {c.comparison: c for c in claims if c.id == imbalance.TUNED.id}
    assert (tuned["imbalance -1 against 0"].value, tuned["imbalance -1 against 0"].verdict) == (1.0, "holds")
    # The balanced one is at 0.05 after log(0.05) / log(1e-3) of the steps: so much slower is the imbalanced one.
    assert tuned["imbalance 1 against 0"].value == pytest.approx(np.log(0.05) / np.log(1e-3), rel=1e-6)
    assert tuned["imbalance 1 against 0"].verdict == "fails"


def test_dependent_features_are_not_whitened(problem: Problem) -> None:
    dependent = Problem(np.hstack([problem.X, problem.X[:, :1]]), problem.Y)
    assert imbalance.whitened_loss(dependent) is None
    made = escape.ITEM.work(Context(dependent, (0,), 10))
    assert {c.verdict for c in escape.claims(made, setting())} == {"not run"}
    assert {c.id for c in escape.claims(made, setting())} == {s.id for s in escape.ITEM.statements}
    assert escape.pictures(made) == []
    turned = imbalance.ITEM.work(Context(dependent, (0, 1), 20))
    found = [c for c in imbalance.claims(turned, setting(20)) if c.id == "beyond.imbalance-certified"]
    assert [c.verdict for c in found] == ["not run"]
    assert len(imbalance.pictures(turned)) == 2


# Minibatches and methods


def test_smoothing_takes_medians_of_the_last_records_and_keeps_divergence() -> None:
    rng = np.random.default_rng(0)
    loss = rng.random((3, 40))
    loss[1, 30:] = np.nan
    smooth = minibatch.smoothed(xr.Dataset({"loss": (("run", "step"), loss)}))["loss"].values
    for row, step in np.ndindex(loss.shape):
        if np.isnan(loss[row, step]):
            assert np.isnan(smooth[row, step])
        else:
            expected = np.median(loss[row, max(0, step - minibatch.WINDOW + 1) : step + 1])
            assert smooth[row, step] == expected


def test_small_data_leave_large_batches_out(problem: Problem) -> None:
    few = Problem(problem.X[:100], problem.Y[:100])
    plans = minibatch.plans(few, [0])
    assert [plan.batch_size for plan in plans] == [32, None]
    made = Context(few, (0,), 20).sweep("minibatch", plans)
    verdicts = {c.comparison: c.verdict for c in minibatch.claims(made, Setting("few", "none", (0,), 20))}
    assert verdicts["batch 256: depth 2 against depth 1"] == "not run"
    assert verdicts["batch 32: depth 2 against depth 1"] == "inconclusive"
    assert verdicts["all data a step: depth 2 against depth 1"] == "inconclusive"


def set_gaps(data: xr.Dataset, ends: dict[int, float]) -> xr.Dataset:
    """The same runs with straight logarithmic gaps that end where their depth says, whatever the learning rate."""
    made = data.copy(deep=True)
    for row, depth in enumerate(made["depth"].values):
        gap = np.geomspace(1.0, ends[int(depth)], made.sizes["step"])
        made["loss"][row] = float(made["optimal_loss"][row]) + gap
    return made


def test_catch_ups_are_the_ratios_of_straight_lines(data: dict[str, xr.Dataset]) -> None:
    made = set_gaps(data["methods"], {1: 1e-2, 2: 1e-4, 3: 1e-1})
    found = {c.comparison: c for c in methods.claims(made, setting(100_000))}
    for name in methods.NAMES.values():
        fast, slow = found[f"{name}: depth 2 against depth 1"], found[f"{name}: depth 3 against depth 1"]
        assert fast.value == pytest.approx(2.0, rel=1e-3)
        assert (fast.verdict, slow.value, slow.verdict) == ("holds", 0.0, "fails")
    assert found["gradient descent: depth 2 against depth 1"].is_control
    assert not found["momentum: depth 2 against depth 1"].is_control


def test_minibatch_claims_can_hold_and_fail(data: dict[str, xr.Dataset]) -> None:
    made = set_gaps(data["minibatch"], {1: 1e-2, 2: 1e-4, 3: 1e-1})
    found = {c.comparison: c for c in minibatch.claims(made, setting(100_000))}
    assert found["all data a step: depth 2 against depth 1"].is_control
    assert found["all data a step: depth 2 against depth 1"].value == pytest.approx(2.0, rel=1e-3)
    assert found["batch 32: depth 3 against depth 1"].verdict == "fails"


# Escape


@pytest.mark.parametrize("depth", [3, 4, 5])
def test_the_direction_factor_is_that_of_the_flow(depth: int) -> None:
    """Against r' = N r^{2-2/N} s cos, theta' = -r^{1-2/N} s sin, stepped until r has grown by far."""
    angle, size, elapsed = 1.2, 1e-9, 0.0
    unit = size ** (1 - 2 / depth)
    while size < 1.0 and angle > 0:
        # Steps in units of the rate at which things change now, midpoint rule.
        step = 1e-3 / size ** (1 - 2 / depth)
        middle = size * math.exp(step / 2 * depth * size ** (1 - 2 / depth) * math.cos(angle))
        turned = angle - step / 2 * size ** (1 - 2 / depth) * math.sin(angle)
        size *= math.exp(step * depth * middle ** (1 - 2 / depth) * math.cos(turned))
        angle -= step * middle ** (1 - 2 / depth) * math.sin(turned)
        elapsed += step
    expected = elapsed * unit * (depth - 2)
    assert escape.direction_factor(math.cos(1.2), depth) == pytest.approx(expected, rel=3e-3)


def test_direction_factors_known_in_closed_form() -> None:
    assert escape.direction_factor(1.0, 3) == 1.0
    assert escape.direction_factor(0.0, 3) == pytest.approx(math.pi / 2)
    assert escape.direction_factor(0.0, 4) == pytest.approx(2.0)
    assert escape.direction_factor(0.5, 4) == pytest.approx(2 * (1 - 0.5) / 0.75)


def test_escape_is_measured_and_predicted_for_starts_along_the_target(problem: Problem) -> None:
    made = escape.ITEM.work(Context(problem, (0,), 3_000, quick=True))
    along = select(made, arm=escape.ALONG, depth=3)
    known = np.isfinite(along["escape"].values)
    assert known.any()
    np.testing.assert_allclose(along["escape"].values[known], along["predicted"].values[known], rtol=0.05)
    np.testing.assert_allclose(along["start_cosine"].values, 1.0)
    balanced = select(made, arm=escape.BALANCED, depth=3, scale=0.1)
    drawn = select(made, arm=escape.NEAR_ZERO, depth=3, scale=0.1)
    np.testing.assert_allclose(balanced["start_norm"].values, drawn["start_norm"].values)


def test_escape_claims_judge_ratios_bounds_and_powers(data: dict[str, xr.Dataset]) -> None:
    made = data["escape"].copy(deep=True)
    made.attrs["draws"] = escape.DRAWS
    made["escape"] = 1.5 * made["predicted"]
    found = {(c.id, c.comparison): c for c in escape.claims(made, setting(100_000))}
    near = found["beyond.escape", "depth 3, near zero"]
    assert near.value == pytest.approx(1.5)
    assert near.verdict == "holds"
    assert found["beyond.escape-along", "depth 3, along the target"].verdict == "fails"
    assert found["beyond.escape-power", "depth 4, near zero"].value == pytest.approx(1.0)
    made["escape"] = made["escape"] * np.nan
    made["predicted"] = made["predicted"] * 0 + 1e-3  # no escape by far later than predicted: fails, by a bound
    found = {(c.id, c.comparison): c for c in escape.claims(made, setting(100_000))}
    assert found["beyond.escape", "depth 3, near zero"].verdict == "fails"
    assert found["beyond.escape-power", "depth 3, near zero"].verdict == "inconclusive"
    made["predicted"] = made["predicted"] * 0 + 1e9  # later than the horizon either way: nothing is known
    found = {(c.id, c.comparison): c for c in escape.claims(made, setting(100_000))}
    assert found["beyond.escape", "depth 3, near zero"].verdict == "inconclusive"


def test_runs_that_diverge_are_told_from_those_that_do_not_escape(data: dict[str, xr.Dataset]) -> None:
    made = data["escape"].copy(deep=True)
    made.attrs["draws"] = escape.DRAWS
    made["escape"] = made["escape"] * np.nan
    made["predicted"] = made["predicted"] * 0 + 1e-3
    made["diverged_at"] = made["diverged_at"].fillna(40.0)
    found = {(c.id, c.comparison): c for c in escape.claims(made, setting(100_000))}
    near = found["beyond.escape", "depth 3, near zero"]
    assert near.verdict == "inconclusive"
    assert "12 of 12 runs diverged" in near.note
    assert "did not escape" not in near.note


def test_a_bound_among_an_even_number_of_seeds_does_not_hold(data: dict[str, xr.Dataset]) -> None:
    made = data["escape"].copy(deep=True)
    made.attrs["draws"] = escape.DRAWS
    second = made["outer_seed"] == 1
    made["predicted"] = made["predicted"].where(~second, 8 / 2.5)  # horizon 8: no escape is 2.5 times that, or more
    made["escape"] = (0.6 * made["predicted"]).where(~second)
    found = {(c.id, c.comparison): c for c in escape.claims(made, setting(100_000))}
    near = found["beyond.escape", "depth 3, near zero"]
    assert near.value == pytest.approx((0.6 + 2.5) / 2)
    assert near.verdict == "inconclusive"
    assert "Of an even number of seeds" in near.note


def test_the_median_of_draws_is_known_where_its_bounds_agree(data: dict[str, xr.Dataset]) -> None:
    part = select(data["escape"], depth=3, arm=escape.NEAR_ZERO, outer_seed=0)  # two draws a scale, horizon 8
    first = part["seed"] == part["seed"].min()
    for expected, known, bounds in ((2.0, 1.8, (2.9, math.inf)), (8.0, 1.0, None), (2.0, math.nan, (4.0, math.inf))):
        made = part.assign(predicted=part["predicted"] * 0 + expected, escape=(part["predicted"] * 0).where(first))
        made["escape"] = made["escape"] + known * expected
        found = escape._ratios(made, *escape.TWICE, turns=False)
        for values, bound in zip(found, bounds or (math.nan, math.nan), strict=True):
            np.testing.assert_allclose(values, [bound] * 3)


@pytest.mark.parametrize("size", [1e-3, 0.0])
def test_starts_beyond_half_of_a_weak_target_have_no_prediction(problem: Problem, size: float) -> None:
    weak = Problem(problem.X, size * np.random.default_rng(0).normal(size=(300, 1)))
    made = escape.ITEM.work(Context(weak, (0,), 20, quick=True))
    assert np.isnan(made["predicted"].values).any()
    made.attrs["draws"] = escape.DRAWS
    found = {(c.id, c.comparison): c for c in escape.claims(made, Setting("weak", "none", (0,), 100_000))}
    claim = found["beyond.escape", "depth 3, balanced"]
    assert claim.verdict == "inconclusive"
    assert "too large for the target" in claim.note
    assert found["beyond.escape-power", "depth 3, balanced"].verdict == "inconclusive"
    assert escape.pictures(made)


def test_few_starts_decide_nothing(data: dict[str, xr.Dataset]) -> None:
    claims = escape.claims(data["escape"], setting(100_000))
    assert {c.verdict for c in claims if not c.is_control} == {"inconclusive"}


# Equal cost


def test_times_are_taken_anew_and_few_rounds_decide_nothing(
    problem: Problem, data: dict[str, xr.Dataset], tmp_path: Path
) -> None:
    made = data["equal"].copy(deep=True)
    assert made.attrs["rounds"] == equal_cost.QUICK_ROUNDS
    timed = ("beyond.equal-cost-time", "beyond.equal-cost-step")
    claims = [c for c in equal_cost.claims(made, setting(100_000)) if c.id in timed]
    assert {c.verdict for c in claims} == {"inconclusive"}
    assert all("too few to tell" in c.note for c in claims)
    context = Context(problem, (0,), 20, quick=True, cache=RunCache(tmp_path / "runs"), kept=KeptData(tmp_path))
    equal_cost.ITEM.work(context)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_equal_time_is_equal_steps_weighed_by_the_clock(data: dict[str, xr.Dataset]) -> None:
    made = data["equal"].copy(deep=True).assign_attrs(rounds=equal_cost.ROUNDS)
    for row, method in enumerate(made["method"].values):
        end = 1e-3 if method == "end_to_end" else 1e-2
        made["loss"][row] = float(made["optimal_loss"][row]) + np.geomspace(1.0, end, made.sizes["step"])
    made["step_seconds"] = made["step_seconds"] * 0 + 1.0
    made["step_seconds"].loc[{"arm": "adagrad"}] = 0.5
    found = {(c.id, c.comparison): c for c in equal_cost.claims(made, setting(100_000))}
    for method, expected, verdict in (("AdaGrad", 0.75, "fails"), ("Adam", 1.5, "holds")):
        what = f"rule N = 2 against {method}"
        assert found["beyond.equal-cost", what].value == pytest.approx(1.5, rel=1e-3)
        assert found["beyond.equal-cost-time", what].value == pytest.approx(expected, rel=1e-3)
        assert found["beyond.equal-cost-time", what].verdict == verdict
    assert found["beyond.equal-cost-step", "rule N = 3 against AdaGrad"].verdict == "fails"
    assert found["beyond.equal-cost-step", "rule N = 3 against Adam"].verdict == "holds"


def test_the_rule_starts_from_a_layers_norm(problem: Problem, data: dict[str, xr.Dataset]) -> None:
    made = data["equal"]
    layer = select(made, method="gd", seed=1)
    rule = select(made, method="end_to_end", seed=1, norm=np.isfinite)
    norm = float(product(Run(depth=1, seed=1).start(1, problem.d)).norm())
    np.testing.assert_allclose(rule["norm"].values, norm)
    assert gaps(layer)[0, 0] == pytest.approx(gaps(rule)[0, 0], rel=0.2)
    assert (made["step_seconds"] > 0).all()
