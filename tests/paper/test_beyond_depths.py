"""Scale, depths, widths and powers: what is run, catch-ups of curves that are known, and small runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from tests.paper.stored import through_netcdf

from overdepth.chain import imbalance, product
from overdepth.lab import Problem, Run
from overdepth.paper import fig3
from overdepth.paper.beyond import ITEMS, depths, powers, scale, widths
from overdepth.paper.beyond.tuning import TunedArm, best_rate, chosen, listed, nearby_rates, plain_rate, smallest_of
from overdepth.paper.claim import Claim, Setting
from overdepth.paper.context import Context
from overdepth.paper.item import LEARNING_RATES, Item

SEEDS = (0, 1)
STEPS = 500
SETTING = Setting("data", "standard", SEEDS, 100_000)
NAMES = ("scale", "depths", "widths", "powers")
Speed = Callable[[xr.Dataset], np.ndarray]


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Regression on a few columns, correlated like a spectrum's."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 6)) * 0.5 ** np.arange(6) @ np.linalg.qr(rng.normal(size=(6, 6)))[0]
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    target = features @ rng.normal(size=6) + 0.1 * rng.normal(size=60)
    target = (target - target.mean()) / target.std()
    return Problem(features, target[:, None])


@pytest.fixture(scope="module")
def results(problem: Problem) -> dict[str, xr.Dataset]:
    """The items' data, as they are read back from a file."""
    context = Context(problem, SEEDS, STEPS, quick=True)
    return {name: through_netcdf(item(name).work(context)) for name in NAMES}


def item(name: str) -> Item:
    return next(entry for entry in ITEMS if entry.name == name)


def runs_of(data: xr.Dataset) -> list[Run]:
    """The runs that data are of."""
    found = []
    for r in range(data.sizes["run"]):
        row = {name: data[name].values[r] for name in ("width", "init", "scale", "seed", "method", "lr", "norm")}
        depth = float(data["depth"].values[r])
        row["norm"] = None if math.isnan(row["norm"]) else row["norm"]
        found.append(Run(depth=int(depth) if depth.is_integer() else depth, **row))
    return found


def with_speeds(data: xr.Dataset, speed: Speed) -> xr.Dataset:
    """The data with gaps exp(-speed t / T) for all learning rates: C(a over b) is the ratio of their speeds."""
    time = data["step"].values / data["step"].values[-1]
    gap = np.exp(-speed(data)[:, None] * time)
    altered = data.copy()
    altered["loss"] = (("run", "step"), gap + data["optimal_loss"].values[:, None])
    return altered


def judged(name: str, data: xr.Dataset, setting: Setting = SETTING) -> list[Claim]:
    claims = item(name).claims(data, setting)
    assert len({(claim.id, claim.comparison) for claim in claims}) == len(claims)
    assert {claim.id for claim in claims} == {statement.id for statement in item(name).statements}
    assert all(claim.id.startswith(f"beyond.{name}") and claim.source.startswith("ours") for claim in claims)
    return claims


def obvious_catch_up(data: xr.Dataset, deep: np.ndarray, plain: np.ndarray) -> float:
    """C for two sets of runs, given as masks, by a walk over the records."""
    curves = []
    for mask in (deep, plain):
        rows = [row for row in (data["loss"] - data["optimal_loss"]).values[mask] if not np.isnan(row[-1])]
        curves.append(min(rows, key=lambda row: float(row[-1])) if rows else None)
    first, second = curves
    assert second is not None
    if first is None or first.min() > second[-1]:
        return 0.0
    steps = data["step"].values
    i = 0
    while first[i] > second[-1]:
        i += 1
    time = float(steps[0]) if i == 0 else 0.0
    if i:
        fraction = np.log(first[i - 1] / second[-1]) / np.log(first[i - 1] / first[i])
        time = float(steps[i - 1] + fraction * (steps[i] - steps[i - 1]))
    return float(steps[-1]) / max(time, 1.0)


def test_rates_nearby_lie_on_the_papers_grid() -> None:
    assert nearby_rates(1e-3, 4, 5) == list(LEARNING_RATES)
    assert nearby_rates(5e-5, 1, 1) == [1e-5, 5e-5, 1e-4]
    assert nearby_rates(1.9e-3, 0, 0) == [1e-3]
    assert nearby_rates(5e-1, 0, 2) == [5e-1, 1.0, 5.0]
    assert len(nearby_rates(5e-9, 3, 8)) == 12


def sweep_of(losses: list[list[float]], rates: list[float], seeds: list[int]) -> xr.Dataset:
    return xr.Dataset(
        {"loss": (("run", "step"), np.array(losses)), "optimal_loss": ("run", np.zeros(len(losses)))},
        coords={"lr": ("run", rates), "seed": ("run", seeds), "step": [0, 100]},
    )


def test_the_best_rate_is_a_seeds_own() -> None:
    losses = [[1.0, 0.5], [1.0, 0.1], [1.0, 0.2], [1.0, np.nan], [1.0, np.nan], [1.0, np.nan]]
    data = sweep_of(losses, [0.1, 0.5] * 3, [0, 0, 1, 1, 2, 2])
    assert best_rate(data, (0, 1, 2)) == 0.1
    assert best_rate(data, (0, 2)) == 0.5
    assert math.isnan(best_rate(data, (2,)))
    arm = TunedArm.of(data, (0, 1, 2))
    assert chosen({"plain": arm}) == "Chosen lr: plain 0.5, 0.1, none (the smallest and the largest tried)."
    np.testing.assert_array_equal(arm.curve("plain", color=1).values, [[1.0, 0.1], [1.0, 0.2], [np.nan, np.nan]])
    assert chosen({"a": TunedArm.of(data, (0,))}) == "Chosen lr: a 0.5 (the largest tried)."


def test_words_and_minima_of_several_ratios() -> None:
    ratios = {"here": [1.0, 3.0], "there": [2.0, 2.0]}
    assert listed(ratios) == "2 here, 2 there"
    assert smallest_of(ratios) == [1.0, 2.0]
    np.testing.assert_array_equal(smallest_of({"a": [1.0, np.nan], "b": [0.0, 2.0]}), [0.0, np.nan])


def test_the_plain_rate_falls_back_to_the_smallest(problem: Problem) -> None:
    context = Context(problem, SEEDS, 300)
    assert plain_rate(context, "test", rates=(100.0, 500.0)) == 100.0
    assert plain_rate(context, "test") in LEARNING_RATES


def test_all_depths_start_from_one_weight(problem: Problem, results: dict[str, xr.Dataset]) -> None:
    runs = runs_of(results["depths"])
    assert {run.depth for run in runs if run.method == "gd"} == set(range(1, 9))
    assert {1.25, 1.5, 2.5} < {run.depth for run in runs if run.method == "end_to_end"}
    for seed in SEEDS:
        for norm in (depths.NORM, depths.SMALL_NORM):
            starts = [run.start(1, problem.d) for run in runs if run.seed == seed and run.norm == norm]
            for factors in starts:
                np.testing.assert_allclose(product(factors), product(starts[0]), rtol=1e-9, atol=1e-12)
                size = norm ** (2 / len(factors))
                assert all(float(d.abs().max()) < 0.1 * size for d in imbalance(factors))  # nearly balanced


def test_scale_and_norm_are_separated(problem: Problem, results: dict[str, xr.Dataset]) -> None:
    data = results["scale"]
    runs = runs_of(data)
    starts = data["start"].values
    assert set(starts) == {*scale.STARTS, *scale.OWN.values()}
    for seed in SEEDS:
        for start in set(starts):
            norms = [
                float(product(run.start(1, problem.d)).norm())
                for run, own in zip(runs, starts, strict=True)
                if own == start and run.seed == seed
            ]
            np.testing.assert_allclose(norms, norms[0], rtol=1e-9)
    figure3 = set(next(plan for plan in fig3.plans(problem, SEEDS) if plan.objective == "l4").runs)
    shared = [run for run, s, f in zip(runs, starts, data["is_fine"].values, strict=True) if s == "0.01" and not f]
    shared += [run for run, s in zip(runs, starts, strict=True) if s in scale.OWN.values() and run.depth > 1]
    assert set(shared) == figure3


def test_every_arm_has_a_finer_grid(results: dict[str, xr.Dataset]) -> None:
    data = results["scale"]
    for depth in scale.DEPTHS:
        for start in scale.STARTS:
            arm = (data["depth"] == depth) & (data["start"] == start)
            fine = data.isel(run=np.flatnonzero(arm & (data["is_fine"] == 1)))
            coarse = data.isel(run=np.flatnonzero(arm & (data["is_fine"] == 0)))
            for seed in SEEDS:
                rates = fine["lr"].values[fine["seed"].values == seed]
                final = coarse["loss"].values[coarse["seed"].values == seed, -1]
                best = coarse["lr"].values[coarse["seed"].values == seed][np.nanargmin(final)]
                for factor in (1 / 1.25, 1.25, 1.25**2, 1.25**6):
                    assert np.isclose(rates, best * factor).any()


def test_widths_and_powers_reuse_figure_3(problem: Problem, results: dict[str, xr.Dataset]) -> None:
    figure3 = {plan.objective: set(plan.runs) for plan in fig3.plans(problem, SEEDS)}
    assert figure3["l4"] == {run for run in runs_of(results["widths"]) if run.width == 1}
    data = results["powers"]
    for objective in ("l2", "l4"):
        part = data.isel(run=np.flatnonzero(data["objective"].values == objective))
        assert set(runs_of(part)) == figure3[objective]
    assert set(data["objective"].values) == {"l2", "l4", "l6"}


def test_ratios_of_known_speeds(results: dict[str, xr.Dataset]) -> None:
    """A speed equal to the depth: depth N catches up N times sooner."""
    for name in NAMES:
        data = with_speeds(results[name], lambda data: data["depth"].values)
        for claim in judged(name, data):
            if claim.id == "beyond.depths":
                expected = 2.0
            elif claim.id == "beyond.depths-deeper":
                expected = 1.2 if "rule" in claim.comparison else 4 / 3 if claim.is_control else 8 / 7
            elif claim.id in ("beyond.depths-rule", "beyond.widths-spread"):
                expected = 1.0
            elif claim.id == "beyond.powers-order":
                expected = 0.0
            else:
                expected = 2.0 if "depth 2" in claim.comparison else 3.0
            assert claim.value == pytest.approx(expected, rel=1e-6, abs=1e-9), claim
            assert claim.verdict == ("fails" if claim.id == "beyond.powers-order" else "holds")


@pytest.mark.parametrize("name", NAMES)
def test_depth_that_slows_down_fails(name: str, results: dict[str, xr.Dataset]) -> None:
    for claim in judged(name, with_speeds(results[name], lambda data: 1 / data["depth"].values)):
        if claim.id not in ("beyond.depths-rule", "beyond.widths-spread"):
            assert (claim.value, claim.verdict) == (0.0, "fails")
        else:
            assert (claim.value, claim.verdict) == (None, "inconclusive")  # of times that do not exist


def test_the_order_of_powers_holds_if_higher_ones_gain_more(results: dict[str, xr.Dataset]) -> None:
    power = np.array([int(name[1:]) for name in results["powers"]["objective"].values])
    data = with_speeds(results["powers"], lambda data: data["depth"].values ** (power / 4))
    claims = judged("powers", data)
    assert {claim.verdict for claim in claims if claim.id == "beyond.powers-order"} == {"holds"}
    low = [claim for claim in claims if claim.comparison.startswith("l2: depth 2")]
    assert [claim.verdict for claim in low] == ["fails", "fails"]
    assert low[0].value == pytest.approx(math.sqrt(2), rel=1e-6)
    assert low[1].is_control


def test_a_width_that_gains_less_is_seen(results: dict[str, xr.Dataset]) -> None:
    def slower(data: xr.Dataset) -> np.ndarray:
        return np.where((data["width"] == 10) & (data["depth"] == 3), 1.2, data["depth"])

    claims = {(c.id, c.comparison): c for c in judged("widths", with_speeds(results["widths"], slower))}
    for words in ("", ", norm matched"):
        claim = claims["beyond.widths", f"depth 3 at width 1, 10 and 100{words}"]
        assert claim.value == pytest.approx(1.2, rel=1e-6)
        assert claim.verdict == "fails"
        claim = claims["beyond.widths-spread", f"depth 3 at width 1, 10 and 100{words}"]
        assert claim.value == pytest.approx(0.4, rel=1e-6)
        assert claim.verdict == "fails"
        assert claims["beyond.widths", f"depth 2 at width 1, 10 and 100{words}"].verdict == "holds"


def test_a_rule_that_differs_from_the_network_is_seen(results: dict[str, xr.Dataset]) -> None:
    def differs(data: xr.Dataset) -> np.ndarray:
        factor = np.where((data["method"] == "end_to_end") & (data["depth"] == 6), 1.5, 1.0)
        return np.asarray(factor * data["depth"].values)

    claims = {(c.id, c.comparison): c for c in judged("depths", with_speeds(results["depths"], differs))}
    claim = next(c for (name, _), c in claims.items() if name == "beyond.depths-rule")
    assert claim.value == pytest.approx(1.5, rel=1e-6)  # iterations: the network takes longer
    assert claim.verdict == "fails"
    assert "1.5 at depth 6" in claim.note


def test_a_gap_in_the_grid_is_seen(results: dict[str, xr.Dataset]) -> None:
    """Plain layers that are as fast as deep ones off the paper's grid alone."""

    def hidden(data: xr.Dataset) -> np.ndarray:
        return np.where((data["depth"] == 1) & (data["is_fine"] == 1), 2.5, data["depth"])

    claims = judged("scale", with_speeds(results["scale"], hidden))
    verdicts = {(c.id, c.comparison): c.verdict for c in claims}
    one = "against depth 1, W_e of one norm"
    assert verdicts["beyond.scale", f"depth 3 {one}"] == "holds"
    assert verdicts["beyond.scale-grid", f"depth 3 {one}, finer grid for depth 1"] == "fails"  # 3 / 2.5
    assert verdicts["beyond.scale-grid", f"depth 2 {one}, finer grid for both"] == "fails"
    assert {c.comparison for c in claims if c.is_control} == {
        *(f"depth {n} {one}, finer grid for both" for n in (2, 3)),
        *(f"depth {n} from near zero against depth 1 with that norm of W_e" for n in (2, 3)),
    }


def test_a_scale_at_which_depth_gains_nothing_is_seen(results: dict[str, xr.Dataset]) -> None:
    def stuck(data: xr.Dataset) -> np.ndarray:
        return np.where((data["depth"] > 1) & (data["start"] == "0.1"), 1.1, data["depth"])

    claim = judged("scale", with_speeds(results["scale"], stuck))[0]
    assert claim.value == pytest.approx(1.1, rel=1e-6)
    assert claim.verdict == "fails"
    assert "1.1 at scale 0.1" in claim.note
    assert "2 at scale 0.01" in claim.note
    assert scale.NEVER not in claim.note


def test_a_scale_at_which_depth_never_gets_there_is_told_without_a_cause(results: dict[str, xr.Dataset]) -> None:
    data = with_speeds(results["scale"], lambda data: np.where(data["depth"] > 1, 0.5, 1.0))
    claim = judged("scale", data)[0]
    assert (claim.value, claim.verdict) == (0.0, "fails")
    assert claim.note.endswith("C is 0 where the deeper network does not get there within the horizon.")


def test_catch_ups_of_a_small_run_are_the_obvious_ones(results: dict[str, xr.Dataset]) -> None:
    data = results["powers"]
    for seed in SEEDS:
        setting = Setting("data", "standard", (seed,), STEPS)
        values = {c.comparison: c.value for c in judged("powers", data, setting) if c.id == "beyond.powers"}
        for power in powers.POWERS:
            own = (data["objective"].values == f"l{power}") & (data["seed"].values == seed)
            matched = np.isfinite(data["norm"].values)
            plain = own & (data["depth"].values == 1)
            for depth in (2, 3):
                for words, chosen_norm in (("", ~matched), (", norm matched", matched)):
                    deep = own & (data["depth"].values == depth) & chosen_norm
                    expected = obvious_catch_up(data, deep, plain)
                    assert values[f"l{power}: depth {depth} against depth 1{words}"] == pytest.approx(expected)


def test_smallest_catch_ups_of_a_small_run_are_the_obvious_ones(results: dict[str, xr.Dataset]) -> None:
    setting = Setting("data", "standard", (0,), STEPS)
    data = results["widths"]
    first = data["seed"].values == 0
    for claim in judged("widths", data, setting):
        depth = int(claim.comparison[6])
        is_norm = np.isfinite(data["norm"].values) == claim.is_control
        arms = [first & is_norm & (data["depth"].values == depth) & (data["width"].values == w) for w in widths.WIDTHS]
        ratios = [obvious_catch_up(data, arm, first & (data["depth"].values == 1)) for arm in arms]
        if claim.id == "beyond.widths":
            assert claim.value == pytest.approx(min(ratios))
        elif max(ratios) > 0:
            assert claim.value == pytest.approx(min(ratios) / max(ratios))
    data = results["depths"]
    first = (data["seed"].values == 0) & (data["norm"].values == depths.NORM) & (data["method"].values == "gd")
    arms = [first & (data["depth"].values == depth) for depth in range(1, 9)]
    ratios = [obvious_catch_up(data, arm, arms[0]) for arm in arms[1:]]
    over_next = [obvious_catch_up(data, b, a) for a, b in itertools.pairwise(arms)]
    claims = {(c.id, c.comparison): c.value for c in judged("depths", data, setting)}
    assert claims["beyond.depths", "networks, depth 1 to 8"] == pytest.approx(min(ratios))
    assert claims["beyond.depths-deeper", "networks, depth 1 to 8"] == pytest.approx(min(over_next))


@pytest.mark.parametrize("name", NAMES)
def test_short_runs_and_diverged_plain_layers_give_no_verdict(name: str, results: dict[str, xr.Dataset]) -> None:
    short = Setting("data", "standard", SEEDS, STEPS)
    assert {claim.verdict for claim in judged(name, results[name], short)} == {"inconclusive"}
    data = results[name].copy()
    loss = data["loss"].values.copy()
    loss[data["depth"].values == 1, 1:] = np.nan
    data["loss"] = (("run", "step"), loss)
    for claim in judged(name, data):
        if claim.id != "beyond.depths-deeper":
            assert claim.verdict == "inconclusive", claim
    loss[:, 1:] = np.nan
    assert not any(claim.verdict == "holds" for claim in judged(name, data))
    assert item(name).pictures(data)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_drawn_and_small(name: str, results: dict[str, xr.Dataset]) -> None:
    pictures = item(name).pictures(results[name])
    assert 1 <= len(pictures) <= 4
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000
    assert all(picture.caption.endswith(".") and picture.figure.data for picture in pictures)


def test_late_divergence_is_told(results: dict[str, xr.Dataset]) -> None:
    data = results["depths"].copy()
    data["diverged_at"] = ("run", np.full(data.sizes["run"], np.nan))
    assert not any("late" in claim.note for claim in judged("depths", data))
    diverged = np.where((data["method"] == "gd") & (data["norm"] == depths.NORM) & (data["depth"] == 8), 400.0, np.nan)
    data["diverged_at"] = ("run", diverged)
    notes = {claim.comparison: claim.note for claim in judged("depths", data) if claim.id == "beyond.depths"}
    assert [
        what for what, note in notes.items() if "22 runs diverged late, at iterations 400 to 400: depth 8." in note
    ] == ["networks, depth 1 to 8"]
