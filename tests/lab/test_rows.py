"""Problems read in blocks of rows: the same facts, statistics, training and optima as in memory."""

from __future__ import annotations

import logging
import math
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.lab.test_engine import CASES, RATES, TAME

from overdepth.lab import SCALINGS, Problem, RowProblem, Run, grid, load_problem, open_rows, optimal_loss, sweep
from overdepth.lab.cache import RunCache
from overdepth.lab.engine import Engine, SweepState
from overdepth.lab.objectives import objective
from overdepth.lab.problem import SCALING_MEANINGS
from overdepth.lab.read_ahead import read_ahead
from overdepth.lab.settings import Settings
from overdepth.lab.triangular import stacked_triangle

Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def table(m: int = 103, columns: int = 6, seed: int = 0) -> Array:
    """Columns of different size and offset, the last one a noisy sum of the others."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(m, columns)) * np.geomspace(1e-2, 1e2, columns) + np.linspace(-300, 500, columns)
    raw[:, -1] = raw @ rng.normal(size=columns) + rng.standard_t(5, size=m)
    return raw


def saved(path: Path, array: NDArray[Any], *, row_group: int = 17) -> Path:
    if path.suffix.lower() == ".npy":
        np.save(path, array)
    else:
        frame = pd.DataFrame(array, columns=[f"X[{i}]" for i in range(array.shape[1])])
        frame.to_parquet(path, row_group_size=row_group)
    return path


def stacked(problem: Problem | RowProblem) -> tuple[Array, Array]:
    blocks = list(problem.row_blocks())
    return np.vstack([X for X, _ in blocks]), np.vstack([Y for _, Y in blocks])


SMALL = 8 * 6 * 10  # ten rows of a table of six columns


# --- facts and statistics


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("scaling", SCALING_MEANINGS)
@pytest.mark.parametrize("target", ["X[5]", ["X[2]"], ["X[4]", "X[1]"]])
def test_blocks_of_rows_are_the_rows_of_the_problem_in_memory(
    tmp_path: Path, suffix: str, scaling: str, target: str | list[str]
) -> None:
    path = saved(tmp_path / f"t{suffix}", table())
    held = load_problem(path, target=target, scaling=scaling)
    rows = open_rows(path, target=target, scaling=scaling, block_bytes=SMALL)
    for fact in ("m", "d", "k", "name", "feature_names", "target_names", "scaling", "source", "checksum"):
        assert getattr(rows, fact) == getattr(held, fact), fact
    assert [len(X) for X, _ in rows.row_blocks()] == [10] * 10 + [3]
    X, Y = stacked(rows)
    assert X.dtype == Y.dtype == np.float64
    np.testing.assert_allclose(X, held.X, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(Y, held.Y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int16", "uint8", "bool", ">f8", "<i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_every_numeric_type_and_either_order_is_read(tmp_path: Path, dtype: str, order: str) -> None:
    rng = np.random.default_rng(1)
    raw = rng.integers(0, 2 if dtype == "bool" else 100, size=(40, 3))
    array = np.asarray(raw, order=order).astype(dtype)  # type: ignore[call-overload]
    path = saved(tmp_path / "t.npy", array)
    rows, held = open_rows(path, target="-1", block_bytes=200), load_problem(path, target="-1")
    assert rows.checksum == held.checksum
    assert rows.target_names == ("X[2]",)
    np.testing.assert_allclose(stacked(rows)[0], held.X, rtol=1e-12, atol=1e-14)


@given(
    m=st.integers(2, 60),
    block=st.integers(1, 70),
    offset=st.sampled_from([0.0, 1.0, -1e6, 1e9]),
    size=st.sampled_from([1e-6, 1.0, 1e4]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_streamed_scales_are_those_of_exact_arithmetic(
    tmp_path_factory: pytest.TempPathFactory, m: int, block: int, offset: float, size: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.normal(size=(m, 2)) * size + offset
    if (np.ptp(raw, axis=0) == 0).any():
        return
    path = saved(tmp_path_factory.mktemp("rows") / "t.npy", raw)
    X, _ = stacked(open_rows(path, target="1", block_bytes=16 * block))
    wide = raw[:, 0].astype(np.longdouble)
    mean = wide.mean()
    exact = (wide - mean) / np.sqrt(np.mean((wide - mean) ** 2))
    digits = 1e-15 * (abs(offset) / size + 1)  # what the mean's own rounding is to a standard deviation
    np.testing.assert_allclose(X[:, 0], exact.astype(np.float64), rtol=1e-12, atol=20 * digits)


@pytest.mark.parametrize("size", [1e200, 1e-300])
def test_columns_whose_squares_leave_the_range_are_standardised_all_the_same(size: float, tmp_path: Path) -> None:
    raw = np.random.default_rng(0).normal(size=(20, 3))
    raw[:, 1] = raw[:, 0] * size
    X, _ = stacked(open_rows(saved(tmp_path / "t.npy", raw), target="2", block_bytes=100))
    np.testing.assert_allclose(X[:, 1], X[:, 0], rtol=1e-12)


def test_a_problem_in_blocks_holds_no_data_and_can_be_sent_to_another_process(tmp_path: Path) -> None:
    problem = open_rows(saved(tmp_path / "t.npy", table(m=5000)), target="-1")
    sent = pickle.dumps(problem)
    assert len(sent) < 5000
    copy = pickle.loads(sent)  # noqa: S301
    np.testing.assert_array_equal(stacked(copy)[0], stacked(problem)[0])


def test_row_labels_of_a_data_frame_are_no_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0], "y": [1.0, 3.0, 2.0]}, index=pd.Index([7, 8, 9], name="label"))
    frame.to_parquet(tmp_path / "t.parquet")
    rows = open_rows(tmp_path / "t.parquet", target="y")
    assert rows.feature_names == ("a",)
    assert rows.checksum == load_problem(tmp_path / "t.parquet", target="y").checksum


# --- files that are refused


def refused(path: Path, *mentions: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        open_rows(path, **{"target": "-1", **options})
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for mention in mentions:
        assert mention in message, message


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_entry_that_is_not_finite_is_named_by_row_and_column(tmp_path: Path, suffix: str, bad: float) -> None:
    raw = table()
    raw[57, 3] = bad
    path = saved(tmp_path / f"t{suffix}", raw)
    refused(path, "'X[3]'", repr(bad), "row 58", target="X[5]", block_bytes=SMALL)


def test_an_empty_cell_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0], "n": pd.array([1, None, 3], dtype="Int64"), "y": [1.0, 2.0, 5.0]})
    frame.to_parquet(tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", "'n'", "nan", "row 2", target="y")


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize(("column", "kind"), [(1, "feature"), (5, "target")])
def test_a_constant_column_is_named(tmp_path: Path, suffix: str, column: int, kind: str) -> None:
    raw = table()
    raw[:, column] = 0.1
    path = saved(tmp_path / f"t{suffix}", raw)
    refused(path, f"'X[{column}]'", kind, "constant", target="X[5]", block_bytes=SMALL)
    assert open_rows(path, target="X[5]", scaling="none").m == len(raw)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = saved(tmp_path / f"t{suffix}", table())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, str(path))
    with pytest.raises(ValueError, match="replace it by a good copy"):
        load_problem(path, target="X[5]")


def test_arrays_that_are_no_table_of_numbers_are_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    for array, mention in (
        (np.array([[1, "two"], [None, 3]], dtype=object), "plain numbers"),
        (np.ones(5), "(5,)"),
        (np.ones((2, 3, 4)), "(2, 3, 4)"),
        (np.ones((4, 2), dtype=complex), "complex128"),
        (np.array([["a", "b"]]), "<U1"),
    ):
        np.save(path, array, allow_pickle=True)
        refused(path, str(path), mention)
        with pytest.raises(ValueError, match=r".+") as caught:
            load_problem(path, target="-1")
        assert mention in str(caught.value)


def test_an_empty_table_and_one_of_a_single_column_are_refused(tmp_path: Path) -> None:
    for array in (np.empty((0, 3)), np.ones((4, 1))):
        path = saved(tmp_path / "t.npy", array)
        refused(path, f"{array.shape[0]} rows", f"{array.shape[1]} columns")


def test_targets_must_be_named_known_and_leave_a_feature(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.npy", table())
    refused(path, "X[0], X[1]", target=None)
    for unknown in ("6", "-7", "y", "X[9]"):
        refused(path, repr(unknown), "X[0]", target=unknown)
        with pytest.raises(ValueError, match="has no column"):
            load_problem(path, target=unknown)
    refused(path, "feature", target=[str(i) for i in range(6)])
    refused(path, "target", target=[])
    refused(path, "scaling", "zscore", scaling="zscore")
    refused(path, "block_bytes", "0", block_bytes=0)
    refused(tmp_path / "t.csv", ".npy, .parquet")
    refused(tmp_path / "gone.npy", "does not exist")


def test_words_and_lists_in_a_parquet_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": ["one", "two"], "y": [1.0, 2.0]}).to_parquet(path)
    refused(path, "'a'", "string", target="y")
    pd.DataFrame({"a": [[1.0], [2.0]], "y": [1.0, 2.0]}).to_parquet(path)
    refused(path, "'a'", "list", target="y")


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_file_that_changes_or_goes_while_it_is_in_use_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"t{suffix}", table())
    problem = open_rows(path, target="X[5]", block_bytes=SMALL)
    saved(path, table(m=104))
    with pytest.raises(ValueError, match="changed while it was in use"):
        list(problem.row_blocks())
    path.unlink()
    with pytest.raises(ValueError, match="still there"):
        list(problem.row_blocks())


# --- training


def training_file(path: Path, k: int, name: str, m: int = 90, d: int = 6) -> list[str]:
    """Noisy linear data with the targets that the objective asks for; returns the targets' names."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(m, d)) * np.linspace(0.3, 0.9, d) + 0.1
    Y = X @ rng.normal(size=(d, k)) + 0.3 * rng.normal(size=(m, k))
    Y = np.clip(Y / Y.std(), -2.0, 2.0)
    if name == "logistic":
        Y = np.where(Y > np.median(Y), 7.0, -2.0)
    if name == "cross_entropy":
        Y = np.eye(k)[Y.argmax(axis=1)]
    saved(path, np.hstack([X, Y]))
    return [f"X[{d + i}]" for i in range(k)]


def mixed(name: str) -> list[Run]:
    rate = RATES[name]
    return [
        *grid(depth=[1, 2, 3], width=[1, 4], scale=0.4, method=["gd", "end_to_end"], lr=0.02 * rate, weight_decay=0.1),
        *grid(depth=[1, 2], width=3, scale=0.4, method=["adam", "rmsprop_tf1"], lr=0.01),
    ]


def final(state: SweepState) -> dict[str, Array]:
    return {
        f"{i}.{name}": np.array(tensor.numpy())
        for i, group in enumerate(state.groups)
        for name, tensor in group.state().items()
    }


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize(("k", "name"), CASES)
def test_streamed_training_agrees_with_training_in_memory(tmp_path: Path, suffix: str, k: int, name: str) -> None:
    path = tmp_path / f"t{suffix}"
    target = training_file(path, k, name)
    chosen = Settings(30, record_every=7, dtype=torch.float64)
    held, rows = (
        Engine(problem, mixed(name), objective(name), chosen)
        for problem in (
            load_problem(path, target=target, scaling="none"),
            open_rows(path, target=target, scaling="none", block_bytes=8 * (6 + k) * 13),
        )
    )
    expected, actual = held.advance(held.start()), rows.advance(rows.start())
    np.testing.assert_allclose(actual.loss, expected.loss, rtol=1e-10)
    for key, tensor in final(expected).items():
        np.testing.assert_allclose(final(actual)[key], tensor, rtol=1e-8, atol=1e-10, err_msg=key)


@pytest.mark.parametrize("name", ["l2", "l4"])
@pytest.mark.parametrize("size", [1, 20])
def test_minibatches_of_an_npy_file_are_those_in_memory(tmp_path: Path, name: str, size: int) -> None:
    path = tmp_path / "t.npy"
    target = training_file(path, 1, name)
    losses = [
        sweep(problem, TAME, objective=name, steps=40, record_every=1, dtype=torch.float64, batch_size=size).loss
        for problem in (load_problem(path, target=target), open_rows(path, target=target, block_bytes=8 * 7 * 13))
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-9)


def test_minibatches_of_a_parquet_file_are_refused(tmp_path: Path) -> None:
    target = training_file(tmp_path / "t.parquet", 1, "l4")
    problem = open_rows(tmp_path / "t.parquet", target=target)
    with pytest.raises(ValueError, match=r"minibatches.*\.npy"):
        sweep(problem, TAME, objective="l4", steps=3, batch_size=8)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
@pytest.mark.parametrize("size", [None, 9])
@pytest.mark.parametrize("name", ["l2", "l4"])
def test_a_cut_of_streamed_training_changes_no_bit(tmp_path: Path, suffix: str, name: str, size: int | None) -> None:
    if suffix == ".parquet" and size:
        pytest.skip("minibatches of Parquet files are refused")
    path = tmp_path / f"t{suffix}"
    target = training_file(path, 1, name)
    runs = [*mixed(name), Run(2, lr=30.0, init="near_identity"), Run(3, lr=5.0, init="near_identity")]
    chosen = Settings(70, record_every=9, batch_size=size)

    def engine() -> Engine:
        return Engine(open_rows(path, target=target, block_bytes=8 * 7 * 13), runs, objective(name), chosen)

    whole = engine().advance(engine().start())
    first = engine()
    cut = first.advance(first.start(), until=33)
    second = engine()  # as after a new start of the process
    groups = []
    for kept in [group.state() for group in cut.groups]:
        (fresh,) = (g for g in second.start().groups if set(kept["index"].tolist()) <= set(g.index.tolist()))
        fresh.load_state(kept)
        groups.append(fresh)
    resumed = second.advance(SweepState(33, groups, cut.loss.copy(), cut.diverged_at.copy()))
    np.testing.assert_array_equal(resumed.loss, whole.loss)
    np.testing.assert_array_equal(resumed.diverged_at, whole.diverged_at)
    for key, tensor in final(whole).items():
        np.testing.assert_array_equal(final(resumed)[key], tensor, err_msg=key)


def test_l2_does_not_read_the_file_once_the_engine_is_made(tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    target = training_file(path, 1, "l2")
    engine = Engine(open_rows(path, target=target), TAME, objective("l2"), Settings(20, record_every=5))
    path.unlink()
    assert np.isfinite(engine.advance(engine.start()).loss).all()
    other = tmp_path / "u.npy"
    target = training_file(other, 1, "l4")
    engine = Engine(open_rows(other, target=target), TAME, objective("l4"), Settings(20))
    other.unlink()
    with pytest.raises(ValueError, match="still there"):
        engine.start()


def test_the_cache_tells_streamed_problems_apart(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.npy", table())
    cache = RunCache(tmp_path / "cache")
    problems = [open_rows(path, target="-1", scaling=scaling) for scaling in SCALINGS]
    problems.append(open_rows(saved(tmp_path / "u.npy", table(seed=1)), target="-1"))
    keys = [cache.keys(problem, "l4", [Run()], Settings(5))[0] for problem in problems]
    assert len(set(keys)) == len(keys)
    first, second = (sweep(problems[0], [Run()], steps=5, cache=cache) for _ in range(2))
    assert (first.attrs["runs_computed"], second.attrs["runs_computed"]) == (1, 0)


# --- optimal losses


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", ["l2", "l4", "l6", "l8"])
@pytest.mark.parametrize("m", [200, 12])
def test_streamed_optima_of_powers_are_those_in_memory(tmp_path: Path, k: int, name: str, m: int) -> None:
    path = tmp_path / "t.npy"
    target = training_file(path, k, name, m=m)
    value = optimal_loss(load_problem(path, target=target), name).value
    streamed = optimal_loss(open_rows(path, target=target, block_bytes=8 * (6 + k) * 13), name)
    assert streamed.attained
    assert streamed.value == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("name", ["l2", "l4", "l6"])
def test_interpolated_data_and_features_without_full_rank_are_no_obstacle(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 4))
    X = np.hstack([X, X[:, :2] + 1.0 * X[:, 2:]])
    exact = saved(tmp_path / "exact.npy", np.hstack([X, X @ rng.normal(size=(6, 1))]))
    assert optimal_loss(open_rows(exact, target="-1", scaling="none", block_bytes=500), name).value < 1e-20
    noisy = saved(tmp_path / "noisy.npy", np.hstack([X, rng.normal(size=(60, 1))]))
    value = optimal_loss(load_problem(noisy, target="-1", scaling="none"), name).value
    streamed = optimal_loss(open_rows(noisy, target="-1", scaling="none", block_bytes=500), name).value
    assert streamed == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize(("k", "name"), [(1, "logistic"), (3, "cross_entropy"), (2, "cross_entropy")])
@pytest.mark.parametrize("redundant", [False, True])
def test_streamed_optima_of_classes_are_those_in_memory(tmp_path: Path, k: int, name: str, *, redundant: bool) -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(150, 4)) * np.geomspace(0.1, 30, 4)
    labels = (X / X.std(axis=0) @ rng.normal(size=(4, max(k, 2))) + 3 * rng.normal(size=(150, max(k, 2)))).argmax(
        axis=1
    )
    if redundant:
        X = np.hstack([X, X[:, :1] - X[:, 1:2], np.zeros((150, 1))])
    Y = np.eye(k)[labels] if k > 1 else labels[:, None].astype(float)
    path = saved(tmp_path / "t.npy", np.hstack([X, Y]))
    target = [str(X.shape[1] + i) for i in range(k)]
    expected = optimal_loss(load_problem(path, target=target, scaling="none"), name)
    streamed = optimal_loss(open_rows(path, target=target, scaling="none", block_bytes=900), name)
    assert expected.attained
    assert streamed.attained
    assert streamed.value == pytest.approx(expected.value, rel=1e-10)


@pytest.mark.parametrize("kind", ["separable", "quasi-separable"])
def test_separable_classes_are_told_in_a_warning(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(80, 2))
    signs = np.sign(X[:, 0])
    if kind == "quasi-separable":  # the first feature separates the first half and says nothing of the others
        X[40:, 0] = 0.0
        signs[40:] = np.sign(X[40:, 1] + 2 * rng.normal(size=40))
    path = saved(tmp_path / "t.npy", np.column_stack([X, signs]))
    with caplog.at_level(logging.WARNING, logger="overdepth"):
        found = optimal_loss(open_rows(path, target="-1", scaling="none", block_bytes=500), "logistic")
    assert math.isnan(found.value)
    assert not found.attained
    assert "separable" in caplog.text
    assert not optimal_loss(load_problem(path, target="-1", scaling="none"), "logistic").attained


@pytest.mark.parametrize("name", ["l2", "l4"])
def test_ethanol_streamed_has_its_known_optimal_losses(tmp_path: Path, name: str) -> None:
    if not os.environ.get("OVERDEPTH_DATA"):
        pytest.skip("OVERDEPTH_DATA names no folder")
    held = load_problem("ethanol", scaling="standard")
    path = saved(tmp_path / "ethanol.npy", np.hstack([held.X, held.Y]))
    streamed = optimal_loss(open_rows(path, target="-1", scaling="none", block_bytes=400_000), name).value
    assert streamed == pytest.approx({"l2": 0.04999, "l4": 0.05535}[name], abs=5e-6)
    assert streamed == pytest.approx(optimal_loss(held, name).value, rel=1e-10)


# --- pieces


@given(cuts=st.lists(st.integers(1, 30), min_size=1, max_size=5), columns=st.integers(1, 6), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_triangle_of_stacked_blocks_has_the_gram_matrix_of_all_rows(
    cuts: list[int], columns: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    blocks = [rng.normal(size=(rows, columns)) for rows in cuts]
    triangle = None
    for block in blocks:
        triangle = stacked_triangle(triangle, block)
    assert triangle is not None
    everything = np.vstack(blocks)
    assert triangle.shape == (min(len(everything), columns), columns)
    np.testing.assert_allclose(triangle.T @ triangle, everything.T @ everything, rtol=1e-10, atol=1e-10)


def test_reading_ahead_keeps_the_order_reads_one_ahead_and_passes_errors_on() -> None:
    made: list[int] = []
    threads = set()

    def items() -> Iterator[int]:
        for i in range(5):
            threads.add(threading.get_ident())
            made.append(i)
            yield i
        raise OSError("gone")

    ahead, seen = read_ahead(items()), []
    for _ in range(5):
        seen.append(next(ahead))
        assert len(made) <= len(seen) + 1
    with pytest.raises(OSError, match="gone"):
        next(ahead)
    assert seen == [0, 1, 2, 3, 4]
    assert threading.get_ident() not in threads
    assert list(read_ahead(iter([]))) == []
