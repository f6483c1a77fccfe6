"""Runs, grids, the data set that a sweep returns, and the cache of finished runs."""

from __future__ import annotations

import gc
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from overdepth.lab import Problem, Run, RunCache, grid, load_problem, objective, optimal_loss, sweep
from overdepth.lab.settings import Settings

RUN_FIELDS = [f.name for f in fields(Run)]


def make_problem(seed: int = 0, k: int = 1, *, m: int = 20, d: int = 3) -> Problem:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(m, d))
    return Problem(X, X @ rng.normal(size=(d, k)) + 0.3 * rng.normal(size=(m, k)), name=f"made{seed}")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products do not gain from threads, and on a shared machine threads that wait for each other cost much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


RUNS = [
    Run(1, lr=0.05),
    Run(2, width=3, init="near_identity", scale=0.1, seed=4, lr=0.02, weight_decay=0.1, norm=0.5),
    Run(3, method="end_to_end", init="balanced", scale=0.5, lr=0.05),
    Run(math.inf, method="end_to_end", scale=0.5, lr=0.05),
    Run(1, lr=1e6),
]


# --- runs


def test_defaults_of_a_run_are_those_of_the_contract() -> None:
    run = Run()
    contract = {
        "depth": 1, "width": 1, "init": "near_zero", "scale": 0.01, "seed": 0, "method": "gd", "lr": 1e-3,
        "weight_decay": 0.0,
    }  # fmt: skip
    assert {name: getattr(run, name) for name in contract} == contract


@pytest.mark.parametrize(
    ("settings", "mentions"),
    [
        ({"lr": 0.0}, ["Run.lr", "0.0"]),
        ({"lr": -1e-3}, ["Run.lr", "-0.001"]),
        ({"lr": math.nan}, ["Run.lr", "nan"]),
        ({"lr": math.inf}, ["Run.lr", "inf"]),
        ({"depth": 0}, ["Run.depth", "0"]),
        ({"depth": -2}, ["Run.depth", "-2"]),
        ({"depth": 2.5}, ["Run.depth", "2.5", "integer"]),
        ({"depth": math.inf}, ["Run.depth", "inf", "integer"]),
        ({"depth": 0.5, "method": "end_to_end"}, ["Run.depth", "0.5"]),
        ({"depth": math.nan, "method": "end_to_end"}, ["Run.depth", "nan"]),
        ({"width": 0}, ["Run.width", "0"]),
        ({"width": 1.5}, ["Run.width", "1.5"]),
        ({"init": "zeros"}, ["Run.init", "'zeros'", "near_zero", "near_identity", "orthogonal", "balanced"]),
        ({"method": "newton"}, ["Run.method", "'newton'", "gd", "end_to_end"]),
        ({"scale": 0.0}, ["Run.scale", "0.0"]),
        ({"scale": math.nan}, ["Run.scale", "nan"]),
        ({"norm": 0.0}, ["Run.norm", "0.0"]),
        ({"norm": math.inf}, ["Run.norm", "inf"]),
        ({"weight_decay": -0.1}, ["Run.weight_decay", "-0.1"]),
        ({"weight_decay": math.nan}, ["Run.weight_decay", "nan"]),
        ({"seed": -1}, ["Run.seed", "-1"]),
        ({"seed": 0.5}, ["Run.seed", "0.5"]),
    ],
)
def test_a_setting_out_of_range_is_one_sentence_that_names_it(settings: dict[str, Any], mentions: list[str]) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        Run(**settings)
    message = str(caught.value)
    assert "\n" not in message
    for mention in mentions:
        assert mention in message


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 2.5, "method": "end_to_end"},
        {"depth": math.inf, "method": "end_to_end"},
        {"depth": 8, "width": 100},
        {"norm": None},
        {"weight_decay": 0.0},
    ],
)
def test_settings_in_range_are_taken(settings: dict[str, Any]) -> None:
    run = Run(**settings)
    assert {name: getattr(run, name) for name in settings} == settings


def test_the_rule_starts_from_the_product_of_the_factors_of_gradient_descent() -> None:
    problem = make_problem(k=2)
    for depth in (1, 2, 3):
        runs = grid(depth=depth, width=4, scale=0.4, method=["gd", "end_to_end"])
        loss = sweep(problem, runs, steps=1, dtype=torch.float64).loss.isel(step=0)
        assert float(loss[0]) == pytest.approx(float(loss[1]), rel=1e-14)


# --- grids


def test_a_grid_is_the_product_of_its_lists_the_last_varying_fastest() -> None:
    runs = grid(depth=[1, 2], width=7, lr=[0.1, 0.5, 0.9], init="near_identity")
    assert [(r.depth, r.lr) for r in runs] == [(1, 0.1), (1, 0.5), (1, 0.9), (2, 0.1), (2, 0.5), (2, 0.9)]
    assert {r.width for r in runs} == {7}
    assert {r.init for r in runs} == {"near_identity"}
    assert {r.seed for r in runs} == {0}


def test_a_grid_takes_any_iterable_and_none_at_all() -> None:
    assert grid() == [Run()]
    assert [r.seed for r in grid(seed=range(3))] == [0, 1, 2]
    assert [r.lr for r in grid(lr=(10.0**-e for e in (1, 2)))] == [0.1, 0.01]
    assert grid(lr=[]) == []


def test_a_grid_refuses_an_unknown_field_and_a_bad_value() -> None:
    with pytest.raises(ValueError, match=r"'rate'.*lr"):
        grid(rate=[0.1])
    with pytest.raises(ValueError, match=r"Run\.lr"):
        grid(lr=[0.1, -0.1])


# --- the data set


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    return sweep(make_problem(), RUNS, objective="l4", steps=25, record_every=10)


def test_the_result_has_the_dimensions_coordinates_and_variables_of_the_contract(result: xr.Dataset) -> None:
    assert dict(result.sizes) == {"run": len(RUNS), "step": 4}
    assert result.loss.dims == ("run", "step")
    assert result.optimal_loss.dims == ("run",)
    assert result.diverged_at.dims == ("run",)
    assert result.loss.dtype == np.float64
    assert result.step.values.tolist() == [0, 10, 20, 25]
    assert set(result.data_vars) == {"loss", "optimal_loss", "diverged_at"}
    for name in (*RUN_FIELDS, "objective"):
        assert result[name].dims == ("run",), name
        assert name in result.coords


def test_the_coordinates_are_the_settings_of_the_runs(result: xr.Dataset) -> None:
    for name in RUN_FIELDS:
        for run, value in zip(RUNS, result[name].values.tolist(), strict=True):
            expected = getattr(run, name)
            assert value == expected or (expected is None and math.isnan(value)), name
    assert set(result.objective.values.tolist()) == {"l4"}


def test_the_loss_is_nan_from_the_divergence_on_and_nowhere_else(result: xr.Dataset) -> None:
    at = result.diverged_at
    assert at.isnull().values.tolist() == [run.lr < 1e6 for run in RUNS]
    gone = result.step >= at  # comparisons with NaN are false
    assert bool((result.loss.isnull() == gone).all())
    assert bool(gone.isel(run=-1, step=-1))


def test_the_optimal_loss_is_that_of_a_linear_model_and_below_every_loss(result: xr.Dataset) -> None:
    optimum = optimal_loss(make_problem(), objective("l4"))
    assert result.optimal_loss.values.tolist() == [optimum.value] * len(RUNS)
    assert result.optimal_loss.attrs["attained"] == 1
    assert bool((result.loss.fillna(math.inf) >= result.optimal_loss).all())


def test_a_separable_problem_says_that_its_optimum_is_an_infimum() -> None:
    problem = Problem(np.array([[1.0], [2.0], [-1.0]]), np.array([[1.0], [1.0], [0.0]]))
    separable = sweep(problem, [Run(lr=0.1)], objective="logistic", steps=3)
    assert separable.optimal_loss.values.tolist() == [0.0]
    assert separable.optimal_loss.attrs["attained"] == 0


def test_the_result_survives_netcdf(result: xr.Dataset, tmp_path: Path) -> None:
    path = tmp_path / "sweep.nc"
    result.to_netcdf(path)
    with xr.open_dataset(path) as opened:
        xr.testing.assert_equal(opened.load(), result)
        assert opened.attrs.keys() == result.attrs.keys()
        assert opened.optimal_loss.attrs["attained"] == 1
        assert opened.isel(run=3).depth == math.inf
        np.testing.assert_array_equal(opened.where(opened.method == "gd", drop=True).lr, [0.05, 0.02, 1e6])


def test_two_results_can_be_joined_along_runs() -> None:
    problem = make_problem()
    parts = [sweep(problem, RUNS[:2], objective=name, steps=5, record_every=1) for name in ("l2", "l4")]
    joined = xr.concat(parts, dim="run", combine_attrs="drop_conflicts")
    assert joined.objective.values.tolist() == ["l2", "l2", "l4", "l4"]
    assert joined.sizes["run"] == 4


def test_losses_and_optimum_follow_their_definition() -> None:
    problem = make_problem(k=2)
    run = Run(1, scale=0.5, seed=3)
    W = run.start(2, problem.d)[0].numpy()
    residual = problem.X @ W.T - problem.Y
    for p in (2, 4, 6):
        loss = sweep(problem, [run], objective=f"l{p}", steps=1).loss.values[0, 0]
        assert loss == pytest.approx(np.sum(residual**p) / p / problem.m, rel=1e-6)  # W is rounded to float32
        double = sweep(problem, [run], objective=f"l{p}", steps=1, dtype=torch.float64).loss.values[0, 0]
        assert double == pytest.approx(np.sum(residual**p) / p / problem.m, rel=1e-13)


def test_a_sweep_leaves_no_trace_in_the_global_random_state() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    sweep(make_problem(), RUNS, steps=3, batch_size=4)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_sweep_with_minibatches_is_reproducible_and_depends_on_the_seed() -> None:
    problem = make_problem(m=40)

    def losses(**options: Any) -> np.ndarray:
        loss = sweep(problem, RUNS[:3], steps=20, record_every=5, batch_size=8, **options).loss
        return np.asarray(loss.values)

    np.testing.assert_array_equal(losses(batch_seed=1), losses(batch_seed=1))
    assert not np.array_equal(losses(batch_seed=1)[:, 1:], losses(batch_seed=2)[:, 1:])
    np.testing.assert_array_equal(losses(batch_seed=1)[:, 0], losses(batch_seed=2)[:, 0])


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        ({"objective": "l3"}, ["'l3'", "even"]),
        ({"objective": "l1"}, ["'l1'", "even"]),
        ({"objective": "l0"}, ["'l0'"]),
        ({"objective": "l2.5"}, ["'l2.5'"]),
        ({"objective": "l-2"}, ["'l-2'"]),
        ({"objective": "hinge"}, ["'hinge'", "logistic", "cross_entropy"]),
        ({"objective": ""}, ["''"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"steps": -5}, ["steps", "-5"]),
        ({"steps": 2.5}, ["steps", "2.5"]),
        ({"record_every": 0}, ["record_every", "0"]),
        ({"batch_size": 0}, ["batch_size", "0"]),
        ({"batch_size": 21}, ["batch_size", "21", "20"]),
        ({"dtype": torch.float16}, ["dtype", "float16", "float32"]),
        ({"objective": "logistic"}, ["logistic", "two values"]),
        ({"objective": "cross_entropy"}, ["cross_entropy", "two target columns"]),
        ({"runs": []}, ["runs"]),
    ],
)
def test_bad_input_is_one_sentence_that_names_it(options: dict[str, Any], mentions: list[str]) -> None:
    arguments = {"problem": make_problem(), "runs": RUNS, "steps": 3, **options}
    with pytest.raises(ValueError, match=r".+") as caught:
        sweep(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    for mention in mentions:
        assert mention in message


def test_cross_entropy_refuses_rows_that_are_not_one_hot() -> None:
    X = np.arange(6.0).reshape(3, 2)
    for Y in (np.eye(3)[[0, 1, 1]] * 2, np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), np.full((3, 2), 0.5)):
        with pytest.raises(ValueError, match="cross_entropy"):
            sweep(Problem(X, Y), [Run()], objective="cross_entropy", steps=1)


def test_a_sweep_runs_on_the_embedded_data() -> None:
    problem = load_problem("breast-cancer")
    result = sweep(problem, grid(depth=[1, 2], lr=[1e-3, 1e-2]), objective="l4", steps=50, record_every=50)
    assert bool((result.loss.isel(step=-1) < result.loss.isel(step=0)).all())
    assert result.attrs["problem"] == "breast-cancer"
    assert result.attrs["scaling"] == "standard"


# --- the cache


def cached(folder: Path, problem: Problem, runs: list[Run] = RUNS, **options: Any) -> xr.Dataset:
    return sweep(problem, runs, **{"steps": 20, "record_every": 10, "cache": RunCache(folder), **options})


def test_a_second_call_computes_nothing_and_returns_the_same_numbers(tmp_path: Path) -> None:
    first = cached(tmp_path, make_problem())
    second = cached(tmp_path, make_problem())  # equal content, other object
    assert first.attrs["runs_computed"] == len(RUNS)
    assert second.attrs["runs_computed"] == 0
    xr.testing.assert_identical(first.drop_attrs(deep=False), second.drop_attrs(deep=False))
    np.testing.assert_array_equal(first.loss, cached(tmp_path, make_problem(), cache=None).loss)


def test_only_missing_runs_are_computed_and_order_is_kept(tmp_path: Path) -> None:
    cached(tmp_path, make_problem(), RUNS[1:3])
    mixed = cached(tmp_path, make_problem(), RUNS)
    assert mixed.attrs["runs_computed"] == len(RUNS) - 2
    fresh = cached(tmp_path / "other", make_problem(), RUNS)
    np.testing.assert_allclose(mixed.loss, fresh.loss, rtol=1e-5)  # float32 in other company
    np.testing.assert_array_equal(mixed.diverged_at, fresh.diverged_at)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 21},
        {"record_every": 5},
        {"dtype": torch.float64},
        {"objective": "l2"},
        {"batch_size": 5},
        {"batch_size": 5, "batch_seed": 1},
    ],
)
def test_a_changed_setting_misses(tmp_path: Path, change: dict[str, Any]) -> None:
    cached(tmp_path, make_problem())
    if "batch_seed" in change:
        cached(tmp_path, make_problem(), batch_size=5)
    assert cached(tmp_path, make_problem(), **change).attrs["runs_computed"] == len(RUNS)


@pytest.mark.parametrize(
    "change",
    [
        {"depth": 2}, {"width": 2}, {"init": "near_identity"}, {"scale": 0.02}, {"seed": 1}, {"method": "end_to_end"},
        {"lr": 0.06}, {"weight_decay": 0.1}, {"norm": 0.3},
    ],
)  # fmt: skip
def test_a_changed_field_of_the_run_misses(tmp_path: Path, change: dict[str, Any]) -> None:
    cached(tmp_path, make_problem(), RUNS[:1])
    assert cached(tmp_path, make_problem(), [replace(RUNS[0], **change)]).attrs["runs_computed"] == 1


def test_every_field_of_a_run_is_covered_by_the_test_above() -> None:
    assert set(RUN_FIELDS) == {"depth", "width", "init", "scale", "seed", "method", "lr", "weight_decay", "norm"}


@pytest.mark.parametrize(
    "change",
    [
        lambda problem: make_problem(1),
        lambda problem: Problem(problem.X, 2 * problem.Y),
        lambda problem: Problem(2 * problem.X, problem.Y),
        lambda problem: Problem(problem.X[::-1], problem.Y[::-1]),
        lambda problem: replace(problem, Y=2 * problem.Y),
        lambda problem: replace(problem, X=problem.X[:, :2], feature_names=()),
    ],
    ids=["other data", "Y", "X", "order of rows", "Y replaced", "X replaced"],
)
def test_changed_data_miss(tmp_path: Path, change: Callable[[Problem], Problem]) -> None:
    cached(tmp_path, make_problem())
    changed = cached(tmp_path, change(make_problem()))
    assert changed.attrs["runs_computed"] == len(RUNS)


def test_another_scaling_misses(tmp_path: Path) -> None:
    for scaling in ("standard", "unit-rows", "label5"):
        problem = load_problem("breast-cancer", scaling=scaling)
        assert cached(tmp_path, problem, RUNS[:1], steps=2).attrs["runs_computed"] == 1


def test_numpy_numbers_are_settings_like_any_other(tmp_path: Path) -> None:
    runs = grid(depth=np.arange(1, 3), seed=np.arange(2), lr=np.logspace(-3, -2, 2))
    first = cached(tmp_path, make_problem(), runs)
    plain = grid(depth=[1, 2], seed=[0, 1], lr=np.logspace(-3, -2, 2).tolist())
    second = cached(tmp_path, make_problem(), plain)
    assert second.attrs["runs_computed"] == 0
    np.testing.assert_array_equal(first.loss, second.loss)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("kept", [slice(0), slice(10), slice(300), slice(-1)], ids=str)
def test_a_truncated_file_is_computed_again_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: slice
) -> None:
    problem = make_problem()
    first = cached(tmp_path, problem)
    assert len(files(tmp_path)) == len(RUNS)
    broken = files(tmp_path)[1]
    broken.write_bytes(broken.read_bytes()[kept])
    with caplog.at_level(logging.WARNING, logger="overdepth"):
        second = cached(tmp_path, problem)
    assert second.attrs["runs_computed"] == 1
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(broken) in caplog.text
    np.testing.assert_allclose(first.loss, second.loss, rtol=1e-5)
    assert cached(tmp_path, problem).attrs["runs_computed"] == 0  # repaired
    gc.collect()  # a file left open would be reported here


def test_a_flipped_byte_anywhere_changes_no_result(tmp_path: Path) -> None:
    problem = make_problem()
    first = cached(tmp_path, problem, RUNS[:1])
    (path,) = files(tmp_path)
    content = path.read_bytes()
    computed = 0
    for position in range(0, len(content), 9):
        path.write_bytes(content[:position] + bytes([content[position] ^ 255]) + content[position + 1 :])
        again = cached(tmp_path, problem, RUNS[:1])
        computed += again.attrs["runs_computed"]
        np.testing.assert_array_equal(first.loss, again.loss, err_msg=f"byte {position} of {len(content)}")
        np.testing.assert_array_equal(first.diverged_at, again.diverged_at)
    assert computed > 10  # a few bytes of an archive mean nothing
    gc.collect()  # a file left open would be reported here


def test_a_file_that_would_execute_code_is_not_executed(tmp_path: Path) -> None:
    problem, run = make_problem(), RUNS[0]
    cached(tmp_path, problem, [run])
    (path,) = files(tmp_path)
    with path.open("wb") as file:
        np.savez(file, loss=np.array([{"an": "object"}], dtype=object), diverged_at=-1)
    assert cached(tmp_path, problem, [run]).attrs["runs_computed"] == 1


def test_a_folder_that_cannot_be_written_is_only_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    occupied = tmp_path / "a file"  # permissions would not stop root
    occupied.write_text("no folder")
    with caplog.at_level(logging.WARNING, logger="overdepth"):
        result = cached(occupied, make_problem())
    assert result.attrs["runs_computed"] == len(RUNS)
    assert str(occupied) in caplog.text
    np.testing.assert_array_equal(result.loss, cached(tmp_path / "good", make_problem()).loss)
    assert occupied.read_text() == "no folder"


def test_no_partial_files_are_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    result = cached(tmp_path, make_problem())
    assert np.isfinite(result.loss[0]).all()
    assert files(tmp_path) == []


def test_keys_are_the_same_in_every_session_and_for_every_way_to_write_a_setting() -> None:
    cache, problem, settings = RunCache(Path("unused")), make_problem(), Settings(20, 10)
    first, same, other = cache.keys(problem, "l4", [Run(2), Run(depth=2, width=1), Run(3)], settings)
    assert first == same != other


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"depth": 2.5, "method": "end_to_end", "lr": 2.0, "weight_decay": 1.0}, "Run.weight_decay"),
        ({"width": None}, "Run.width"),
        ({"lr": "1e-3"}, "Run.lr"),
        ({"depth": 10**400, "method": "end_to_end"}, "Run.depth"),
    ],
)
def test_settings_that_would_fail_later_are_refused_at_once(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        Run(**settings)


@pytest.mark.parametrize(("name", "value"), [("batch_seed", -1), ("batch_seed", 1.5), ("steps", 0), ("steps", 2.5)])
def test_shared_settings_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        Settings(**{"steps": 3, name: value})
    assert Settings(steps=int(np.int64(3))) == Settings(steps=np.int64(3))  # type: ignore[arg-type]
