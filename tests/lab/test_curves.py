"""The statistics of curves on curves whose answers are known by eye."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr

from overdepth.lab.curves import best_run, catch_up, first_step, gaps, mean_log_ratio, ratio_of_times, select

STEPS = np.array([0, 10, 20, 30, 40])


def data(loss: list[list[float]], **coordinates: list[float]) -> xr.Dataset:
    return xr.Dataset(
        {"loss": (("run", "step"), np.array(loss)), "optimal_loss": ("run", np.full(len(loss), 1.0))},
        coords={"step": STEPS, **{name: ("run", np.array(values)) for name, values in coordinates.items()}},
    )


def test_gap_is_loss_minus_optimal_loss() -> None:
    np.testing.assert_array_equal(gaps(data([[5, 4, 3, 2, 1.5]])), [[4, 3, 2, 1, 0.5]])


def test_select_takes_values_none_and_predicates() -> None:
    table = data([[1.0] * 5] * 3, depth=[1, 2, 2], norm=[np.nan, np.nan, 0.5])
    assert select(table, depth=2).sizes["run"] == 2
    assert select(table, depth=2, norm=None).sizes["run"] == 1
    assert select(table, norm=np.isfinite).depth.values.tolist() == [2]
    assert select(table, depth=7).sizes["run"] == 0


def test_best_run_is_lowest_at_the_horizon_among_finite_ones() -> None:
    assert best_run(data([[9, 1, 1, 1, 3], [9, 8, 7, 6, 2], [9, 0, 0, np.nan, np.nan]])) == 1
    assert best_run(data([[9, np.nan, np.nan, np.nan, np.nan]])) is None


def test_first_step_reaching_a_level() -> None:
    gap = np.array([4.0, 3.0, 1.0, 2.0, 0.5])
    assert first_step(gap, STEPS, 1.0) == 20
    assert first_step(gap, STEPS, 4.0) == 0
    assert first_step(gap, STEPS, math.sqrt(3.0)) == pytest.approx(15)  # half way from 3 to 1 in the logarithm
    assert first_step(np.array([4.0, -1.0]), STEPS[:2], 1.0) == 10  # below the optimum by rounding
    assert math.isnan(first_step(gap, STEPS, 0.1))
    assert math.isnan(first_step(np.full(5, np.nan), STEPS, 0.1))


def test_catch_up_against_its_definition() -> None:
    reference = np.array([4.0, 3.0, 2.5, 2.0, 1.0])
    assert catch_up(np.array([4.0, 1.0, 0.5, 0.2, 0.1]), reference, STEPS) == 4.0  # T / 10
    assert catch_up(reference, reference, STEPS) == 1.0
    assert catch_up(np.full(5, 2.0), reference, STEPS) == 0.0
    assert math.isnan(catch_up(reference, np.array([4.0, 3.0, np.nan, np.nan, np.nan]), STEPS))


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (30.0, 20.0, 1.5),
        (math.nan, math.nan, math.nan),
        (50.0, math.nan, 0.5),  # below 0.8 whatever the second is beyond the horizon
        (90.0, math.nan, math.nan),  # might be 0.9
        (math.nan, 50.0, 2.0),
        (math.nan, 90.0, math.nan),
    ],
)
def test_ratio_of_times_decides_only_what_is_known(first: float, second: float, expected: float) -> None:
    result = ratio_of_times(first, second, 100.0, 0.8, 1.25)
    assert result.value == pytest.approx(expected, nan_ok=True)
    assert result.is_bound == (math.isnan(first) != math.isnan(second) and not math.isnan(expected))


def test_mean_log_ratio_looks_at_the_first_tenth_only() -> None:
    steps = np.arange(0, 1001, 10)
    reference = np.ones(len(steps))
    gap = np.where(steps <= 100, 10.0, 1e-9)
    assert mean_log_ratio(gap, reference, steps) == pytest.approx(1.0)
