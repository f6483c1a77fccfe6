"""Curves and maps: what they show, against plain loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from tests.reference.best_rates import final_gap
from tests.sweeps.made import made, runs_of, swept

from overdepth.sweeps.show import panels
from overdepth.sweeps.show.best import Grouping
from overdepth.sweeps.show.curves import best_curves, gap_band, sensitivity
from overdepth.sweeps.show.grids import MAX_LINES, MAX_RATES, Grid, grids, rate_axis
from overdepth.sweeps.show.labels import DASHES, looks
from overdepth.sweeps.show.maps import color_range, divergence_map, gap_map

INF, NAN = math.inf, math.nan


def median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def small() -> list[dict[str, Any]]:
    """Two depths, two widths, three rates, two seeds; the highest rate diverges."""
    gap = {0.1: 1.0, 0.2: 0.5, 0.4: INF}
    return [
        {"depth": float(depth), "width": width, "lr": lr, "seed": seed, "gap": end / depth * width + seed * 0.01}
        for depth in (1, 2)
        for width in (1, 5)
        for lr, end in gap.items()
        for seed in (0, 1)
    ]


def lines(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.name}


def test_a_band_against_loops() -> None:
    rng = np.random.default_rng(0)
    for seeds in (1, 2, 3, 4, 5):
        values = np.exp(rng.normal(size=(seeds, 6)))
        values[rng.random((seeds, 6)) < 0.3] = NAN
        band = gap_band(values)
        for column in range(6):
            own = [INF if math.isnan(value) else float(value) for value in values[:, column]]
            middle = median(own)
            if math.isinf(middle):
                assert np.isnan(band[:, column]).all()
            else:
                stayed = [value for value in own if value < INF]
                expected = [min(stayed), middle, max(stayed)] if seeds > 1 else [middle]
                assert band[:, column].tolist() == pytest.approx(expected)


def test_curves_are_those_of_the_best_rate() -> None:
    data = swept(steps=100)
    _, runs = panels(runs_of(data))[1]
    grouping = Grouping(runs)
    figure = best_curves(grouping, grouping.best, title="")
    drawn = lines(figure)
    assert len(drawn) == 6
    for best in grouping.best:
        assert best.lr is not None
        depth, init = best.settings["depth"].item(), str(best.settings["init"])
        trace = drawn[f"depth {depth:g}, {init}, lr {best.lr:g}"]
        assert trace.meta == {"depth": f"{depth:g}", "init": init}
        members = [
            run
            for run in range(data.sizes["run"])
            if (data.objective.values[run], data.depth.values[run], data.init.values[run], data.lr.values[run])
            == ("l4", depth, init, best.lr)
        ]
        gaps = data.loss.values[members] - data.optimal_loss.values[members, None]
        assert np.asarray(trace.x).tolist() == data.step.values.tolist()
        np.testing.assert_allclose(np.asarray(trace.y), np.median(gaps, axis=0), rtol=1e-6)


def test_sensitivity_leaves_out_where_half_diverged() -> None:
    grouping = Grouping(runs_of(made(small())))
    drawn = lines(sensitivity(grouping, grouping.best, title=""))
    trace = drawn["depth 2, width 5"]
    np.testing.assert_allclose(np.asarray(trace.x), [0.1, 0.2, 0.4], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(trace.y), [2.505, 1.255, NAN], rtol=1e-6)


def test_a_grid_against_loops() -> None:
    data = swept(steps=60)
    _, runs = panels(runs_of(data))[0]
    found = grids(Grouping(runs), most=6)
    assert (found.total, len(found.shown)) == (2, 2)
    for grid in found.shown:
        assert grid.lines == ["1", "2", "3"]
        assert grid.rates == ["0.001", "0.01", "0.1", "1", "1000"]
        for i, depth in enumerate((1, 2, 3)):
            for j, lr in enumerate((1e-3, 1e-2, 1e-1, 1.0, 1e3)):
                members = [
                    run
                    for run in range(data.sizes["run"])
                    if (data.objective.values[run], data.depth.values[run], data.init.values[run], data.lr.values[run])
                    == ("l2", depth, grid.settings["init"], lr)
                ]
                gone = [at for at in data.diverged_at.values[members] if math.isfinite(at)]
                assert grid.median[i, j] == pytest.approx(median([final_gap(data, run) for run in members]))
                assert (grid.seeds[i, j], grid.seeds_diverged[i, j]) == (3, len(gone))
                assert grid.fraction[i, j] == len(gone) / 3
                expected = np.median(gone) if gone else NAN
                assert grid.when[i, j] == pytest.approx(expected, nan_ok=True)
                assert grid.all_when[i, j] == pytest.approx(expected, nan_ok=True)


def test_what_is_chosen_is_at_its_best_in_a_grid() -> None:
    (grid,) = grids(Grouping(runs_of(made(small())), ["depth"]), most=6).shown
    np.testing.assert_allclose(grid.median, [[1.005, 0.505, INF], [0.505, 0.255, INF]])
    assert grid.runs.tolist() == [[4, 4, 4], [4, 4, 4]]
    assert grid.fraction.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert grid.all_when[:, 2].tolist() == [20, 20]


def test_maps_without_need_are_not_drawn() -> None:
    rows = small()
    assert not grids(Grouping(runs_of(made(rows)), []), most=6).shown
    assert not grids(Grouping(runs_of(made([row for row in rows if row["lr"] == 0.1]))), most=6).shown
    (only,) = grids(Grouping(runs_of(made([row for row in rows if row["depth"] == 1]))), most=6).shown
    assert (only.rows_by, only.lines) == ("width", ["1", "5"])


def test_rates_that_were_not_run_take_no_room() -> None:
    rows = [row for row in small() if row["width"] == 1 or row["lr"] == 0.1]
    first, second = grids(Grouping(runs_of(made(rows))), most=6).shown
    assert (first.rates, second.rates) == (["0.1", "0.2", "0.4"], ["0.1"])
    assert [grid.settings for grid in grids(Grouping(runs_of(made(rows))), most=1).shown] == [{"width": 1}]


def test_many_rates_share_columns() -> None:
    rates = np.geomspace(1e-5, 1, 500)
    rng = np.random.default_rng(1)
    gap = rng.random(500)
    axis = rate_axis(rates, MAX_RATES)
    assert axis.is_binned
    edges = np.geomspace(1e-5, 1, MAX_RATES + 1)
    for rate, column in zip(rates, axis.index, strict=True):
        assert edges[column] * (1 - 1e-9) <= rate <= edges[column + 1] * (1 + 1e-9)
    ends = list(zip(rates, gap, strict=True))
    rows = [{"lr": lr, "depth": float(depth), "gap": end * depth} for lr, end in ends for depth in (1, 2)]
    found = grids(Grouping(runs_of(made(rows))), most=1)
    (grid,) = found.shown
    assert found.is_binned
    expected = [min(gap[axis.index == column]) for column in range(MAX_RATES)]
    np.testing.assert_allclose(grid.median, [expected, np.multiply(expected, 2)])
    assert grid.runs.sum() == 1000
    grouping = Grouping(runs_of(made(rows)))
    y = np.asarray(lines(sensitivity(grouping, grouping.best, title=""))["depth 1"].y)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_many_lines_are_thinned() -> None:
    rows = [{"lr": lr, "depth": float(depth)} for lr in (0.1, 0.2) for depth in range(1, 101)]
    found = grids(Grouping(runs_of(made(rows))), most=1)
    assert found.lines_left_out == 100 - MAX_LINES
    assert (found.shown[0].lines[0], found.shown[0].lines[-1]) == ("1", "100")


def a_grid() -> Grid:
    rows = [row for row in small() if row["width"] == 1]
    rows[-3]["gap"] = INF  # depth 2, lr 0.2, seed 1: half of its seeds
    rows.append({**rows[0], "seed": 2, "gap": INF})  # depth 1, lr 0.1: one of three
    (grid,) = grids(Grouping(runs_of(made(rows))), most=1).shown
    return grid


def test_a_map_marks_what_diverged_and_the_best() -> None:
    grid = a_grid()
    figure = gap_map(grid, color_range([grid], start=2.0, resolution=1e-7))
    heat, grey = (trace for trace in figure.data if isinstance(trace, go.Heatmap))
    np.testing.assert_array_equal(np.isnan(heat.z), np.isinf(grid.median))
    np.testing.assert_array_equal(np.isnan(grey.z), np.isfinite(grid.median))
    assert grey.customdata[1, 1].tolist() == [2, 1, 20]
    marks = {trace.name: set(zip(trace.x, trace.y, strict=True)) for trace in figure.data if trace.name}
    assert marks == {
        "diverged": {("0.4", "1"), ("0.2", "2"), ("0.4", "2")},
        "some seeds diverged": {("0.1", "1")},
        "best of its line": {("0.2", "1"), ("0.1", "2")},
    }
    np.testing.assert_allclose(heat.z[0, :2], np.log10(grid.median[0, :2]), rtol=1e-6)


def test_a_divergence_map_tells_when() -> None:
    (heat,) = divergence_map(a_grid()).data
    at = ", at step 20 (median)"
    np.testing.assert_allclose(heat.z, [[1 / 3, 0, 1], [0, 0.5, 1]], rtol=1e-6)
    assert heat.customdata.tolist() == [[3, 2, 2], [2, 2, 2]]
    assert [list(line) for line in heat.text] == [[at, "", at] if i == 0 else ["", at, at] for i in (0, 1)]


@pytest.mark.parametrize(
    ("gaps", "expected"),
    [
        ([1e-3, 1.0], (-3, 0)),
        ([1e-12, 1e-2], (-7, -2)),  # below the resolution is rounding
        ([1e-2, 1e6], (-2, math.log10(2))),  # above the start is as bad
        ([5.0, 7.0], (math.log10(5) - 0.05, math.log10(5) + 0.05)),
        ([0.0, INF], (-1, 0)),
    ],
)
def test_the_colours_end_at_the_start_and_at_rounding(gaps: list[float], expected: tuple[float, float]) -> None:
    rows = [{"lr": i + 1, "depth": float(depth), "gap": gap} for depth in (1, 2) for i, gap in enumerate(gaps)]
    (grid,) = grids(Grouping(runs_of(made(rows))), most=1).shown
    assert color_range([grid], start=2.0, resolution=1e-7) == pytest.approx(expected)


def test_a_colour_a_depth() -> None:
    groups = [{"depth": float(depth), "init": init} for depth in (1, 2, 4) for init in ("near_zero", "orthogonal")]
    assert looks(groups) == [(color, dash) for color in (1, 2, 3) for dash in DASHES[:2]]
    many = [{"depth": float(depth)} for depth in range(1, 20)]
    assert len(set(looks(many))) == 19
    assert looks([{}]) == [(1, "solid")]
