"""Groups and their best learning rates, against plain loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.reference import best_rates as reference
from tests.sweeps.made import made, runs_of, swept

from overdepth.sweeps.show import Best, best_rates, panels
from overdepth.sweeps.show.best import Grouping

INF, NAN = math.inf, math.nan


def plain(best: Best) -> tuple[Any, ...]:
    settings = tuple(
        "nan" if isinstance(value, float) and math.isnan(value) else value
        for value in (value.item() for value in best.settings.values())
    )
    return (settings, best.lr, best.seeds, best.runs, best.diverged, best.missing)


def agree(found: list[Best], expected: list[reference.Found]) -> None:
    assert [plain(best) for best in found] == [
        (each.settings, each.lr, each.seeds, each.runs, each.diverged, each.missing) for each in expected
    ]
    for best, each in zip(found, expected, strict=True):
        assert best.gap == pytest.approx(each.gap, rel=1e-12, nan_ok=True)
        if best.lr is not None:
            assert (best.low, best.high) == (each.low, each.high)
            assert len(best.members) == each.seeds


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    return swept()


def test_a_real_sweep_against_loops(data: xr.Dataset) -> None:
    assert np.isfinite(data.diverged_at).any()
    shuffled = data.isel(run=np.random.default_rng(0).permutation(data.sizes["run"]))
    for one in (data, shuffled):
        runs = runs_of(one)
        assert set(runs.varying) == {"depth", "init", "lr", "seed", "objective"}
        found = panels(runs)
        assert [settings["objective"] for settings, _ in found] == ["l2", "l4"]
        for settings, part in found:
            own = one.isel(run=np.flatnonzero(one.objective.values == settings["objective"]))
            agree(best_rates(part), reference.best_rates(own, ["depth", "init"]))
            agree(best_rates(part, ["depth"]), reference.best_rates(own, ["depth"], tuned=["init"]))
            members = [run for best in best_rates(part) for run in best.members]
            assert (one.objective.values[members] == settings["objective"]).all()


depths, norms = st.sampled_from([1.0, 2.0, INF]), st.sampled_from([NAN, 0.5])
gaps = st.sampled_from([0.25, 0.5, 1.0, 3.0, INF, NAN])


@given(st.lists(st.tuples(depths, norms, gaps), min_size=1, max_size=40))
def test_any_table_against_loops(rows: list[tuple[float, float, float]]) -> None:
    data = made(
        [
            {"depth": depth, "norm": norm, "lr": [0.1, 0.2, 0.3][i % 3], "seed": i, "gap": gap}
            for i, (depth, norm, gap) in enumerate(rows)
        ]
    )
    runs = runs_of(data)
    assume(runs.step == data.step.values[-1])
    depth, norm = ([name] if name in runs.varying else [] for name in ("depth", "norm"))
    agree(best_rates(runs), reference.best_rates(data, depth + norm))
    agree(best_rates(runs, ["depth"]), reference.best_rates(data, depth, tuned=norm))


def table(final: dict[float, list[float]], **settings: Any) -> list[dict[str, Any]]:
    return [{"lr": lr, "seed": i, "gap": gap, **settings} for lr, own in final.items() for i, gap in enumerate(own)]


def only(final: dict[float, list[float]], **attrs: Any) -> Best:
    (best,) = best_rates(runs_of(made(table(final), **attrs)))
    return best


def test_the_median_decides() -> None:
    best = only({0.1: [1.0, 1.0, 9.0], 0.2: [0.1, 2.0, 2.0], 0.4: [3.0, 3.0, 3.0]})
    assert (best.lr, best.gap, best.low, best.high, best.seeds) == (0.1, 1.0, 1.0, 9.0, 3)


def test_half_of_the_seeds_diverging_is_no_choice() -> None:
    best = only({0.1: [1.0, 1.0], 0.2: [0.1, INF]})
    assert (best.lr, best.diverged, best.seeds_diverged) == (0.1, 1, 0)


def test_seeds_that_diverged_at_the_best_rate_are_said() -> None:
    best = only({0.05: [2.0] * 3, 0.1: [1.0, 1.0, INF], 0.2: [INF] * 3})
    assert (best.lr, best.gap, best.high) == (0.1, 1.0, 1.0)
    assert best.notes == ["1 of 3 seeds diverged at it"]


def test_a_rate_at_the_edge_is_said() -> None:
    assert only({0.1: [1.0], 0.2: [2.0]}).notes == ["best lr at the edge of the grid: extend it to lower rates"]
    assert only({0.1: [2.0], 0.2: [1.0]}).notes == ["best lr at the edge of the grid: extend it to higher rates"]
    assert only({0.1: [2.0], 0.2: [1.0], 0.3: [INF]}).edge == ""
    assert only({0.1: [2.0]}).edge == ""


def test_a_tie_is_said() -> None:
    best = only({0.1: [1.0], 0.2: [1.0], 0.3: [2.0]})
    assert (best.lr, best.tied, best.edge) == (0.1, (0.1, 0.2), "")
    assert best.notes == ["tie: lr 0.1, 0.2 are equally good"]


def test_gaps_below_the_resolution_are_a_tie() -> None:
    best = only({0.1: [1.0], 0.2: [1e-8], 0.3: [2e-9], 0.4: [1e-3]})
    assert (best.lr, best.tied, best.at_resolution) == (0.3, (0.2, 0.3), True)
    assert best.notes == ["tie: the gaps at lr 0.2, 0.3 are all rounding"]
    assert only({0.1: [1.0], 0.2: [1e-8], 0.3: [2e-9], 0.4: [1e-3]}, dtype="float64").tied == (0.3,)


def test_a_group_that_diverged_everywhere_is_said() -> None:
    best = only({0.1: [INF, INF], 0.2: [INF, INF]})
    assert (best.lr, best.gap, best.diverged, best.runs) == (None, INF, 4, 4)
    assert best.notes == ["every learning rate diverged: try lower ones"]


def test_runs_that_are_not_finished_do_not_count() -> None:
    first = table({0.1: [1.0, NAN], 0.2: [2.0, NAN]}, depth=1.0)
    second = table({0.1: [NAN, NAN], 0.2: [NAN, NAN]}, depth=2.0)
    runs = runs_of(made([*first, *second]))
    assert runs.step == 40
    one, other = best_rates(runs)
    assert (one.lr, one.seeds, one.missing) == (0.1, 1, 2)
    assert "2 runs are not finished" in one.notes
    assert (other.lr, other.missing, other.notes) == (None, 4, ["no run is finished yet"])


def test_gaps_are_told_at_the_last_step_that_was_reached() -> None:
    data = made(table({0.1: [NAN, INF], 0.2: [NAN, INF]}))
    runs = runs_of(data)
    assert (runs.step, runs.position) == (10, 1)
    expected = data.loss.values[0, 1] - 0.5
    assert runs.gap.tolist() == [expected, INF, expected, INF]
    assert runs_of(made(table({0.1: [INF]}))).step == 40


def test_a_setting_that_comes_twice_counts_once() -> None:
    rows = table({0.1: [1.0, 3.0], 0.2: [2.0, 2.5]})
    runs = runs_of(made([*rows, rows[1], rows[1]]))
    assert (len(runs), runs.repeated) == (4, 2)
    assert best_rates(runs)[0].gap == 2.0


def test_a_norm_for_every_seed_is_one_group() -> None:
    free = table({0.1: [1.0, 2.0, 3.0], 0.2: [4.0, 4.0, 4.0]}, depth=2.0)
    matched = [{**row, "norm": [0.31, 0.32, 0.33][row["seed"]]} for row in free]
    runs = runs_of(made([*free, *matched]))
    assert runs.norm_follows_seed
    assert [best.settings["norm"].item() for best in best_rates(runs)] == [False, True]
    assert [best.seeds for best in best_rates(runs)] == [3, 3]
    deeper = [{**row, "depth": 3.0, "norm": row["norm"] ** 2} for row in matched]
    assert runs_of(made([*free, *matched, *deeper])).norm_follows_seed
    searched = [{"lr": 0.1 + i, "seed": i, "norm": 0.3 + i} for i in range(5)]
    assert not runs_of(made(searched)).norm_follows_seed
    crossed = [{**row, "norm": norm} for row, norm in itertools.product(free, (0.31, 0.32, 0.33))]
    assert not runs_of(made(crossed)).norm_follows_seed


def test_what_is_not_named_is_chosen_as_the_rate_is() -> None:
    rows = [*table({0.1: [1.0], 0.2: [2.0]}, width=1), *table({0.1: [3.0], 0.2: [0.5]}, width=9)]
    (best,) = best_rates(runs_of(made(rows)), ["depth"])
    assert (best.lr, best.chosen, best.gap) == (0.2, {"width": 9}, 0.5)


def test_a_setting_that_was_searched_at_random_is_tuned() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"depth": float(1 + i % 2), "scale": scale, "lr": 0.1 + i % 3, "gap": gap}
        for i, (scale, gap) in enumerate(zip(rng.random(60), rng.random(60), strict=True))
    ]
    data = made(rows)
    agree(best_rates(runs_of(data)), reference.best_rates(data, ["depth"], tuned=["scale"]))
    agree(best_rates(runs_of(data), ["scale"]), reference.best_rates(data, ["scale"], tuned=["depth"]))


@pytest.mark.parametrize("name", ["lr", "seed", "colour"])
def test_what_makes_no_group_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"--group is '{name}', expected some of depth, width"):
        Grouping(runs_of(made(table({0.1: [1.0]}))), [name])
