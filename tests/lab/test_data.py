"""Problems: the scalings, the embedded set, the user's files, and the Ethanol set with what can be wrong with it."""

from __future__ import annotations

import functools
import gc
import io
import logging
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import overdepth.lab.ethanol
from overdepth.lab import DATASETS, SCALINGS, Problem, load_problem
from overdepth.lab.ethanol import ARCHIVE_NAME, FEATURES, FILE_NAME, ROWS_PER_BATCH, parse_batches
from overdepth.lab.problem import scaled

Array = NDArray[np.float64]


@pytest.fixture
def no_open_files() -> Iterator[None]:
    """A file that a loader leaves open is reported in the test that left it (as a ResourceWarning, an error here)."""
    yield
    gc.collect()


def refused(name_or_path: str | Path, *mentions: str, target: str | list[str] | None = "y") -> None:
    """Loading is a ValueError: one sentence that holds every mention."""
    with pytest.raises(ValueError, match=r".+") as caught:
        load_problem(name_or_path, target=target)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    for mention in mentions:
        assert mention in message, message


# --- the embedded set and the scalings


def test_the_breast_cancer_set_has_its_known_facts() -> None:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    problem = load_problem("breast-cancer")
    assert (problem.m, problem.d, problem.k) == (569, 30, 1)
    assert problem.scaling == "standard"
    assert problem.name == "breast-cancer"
    assert problem.feature_names == tuple(bunch.feature_names)
    assert problem.X.dtype == problem.Y.dtype == np.float64
    values, counts = np.unique(problem.Y, return_counts=True)
    assert counts.tolist() == [212, 357]  # malignant, benign
    share = 357 / 569
    np.testing.assert_allclose(values, [-np.sqrt(share / (1 - share)), np.sqrt((1 - share) / share)], rtol=1e-12)
    raw = np.asarray(bunch.data)
    np.testing.assert_allclose(problem.X, (raw - raw.mean(axis=0)) / raw.std(axis=0), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("scaling", ["standard", "unit-rows", "minmax", "maxabs", "label5"])
def test_scalings_follow_their_definitions(scaling: str) -> None:
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(50, 4)) * [1.0, 100.0, 1e-3, 5.0] + [0.0, 1e3, 0.0, -20.0]
    targets = rng.normal(size=(50, 2)) * 7 + 3
    problem = scaled(Problem(raw, targets), scaling)
    standard = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    expected = {
        "standard": standard,
        "unit-rows": standard / np.sqrt(4),
        "minmax": (raw - raw.min(axis=0)) / (raw.max(axis=0) - raw.min(axis=0)),
        "maxabs": raw / np.abs(raw).max(axis=0),
        "label5": standard,
    }[scaling]
    np.testing.assert_allclose(problem.X, expected, rtol=1e-12, atol=1e-12)
    standard_targets = (targets - targets.mean(axis=0)) / targets.std(axis=0)
    np.testing.assert_allclose(problem.Y, standard_targets * (5 if scaling == "label5" else 1), rtol=1e-12, atol=1e-13)
    assert problem.scaling == scaling


def test_scalings_have_the_properties_that_they_are_named_for() -> None:
    by_name = {scaling: load_problem("breast-cancer", scaling=scaling) for scaling in SCALINGS}
    assert set(by_name) == {"standard", "unit-rows", "minmax", "maxabs", "label5"}
    for name in ("standard", "label5"):
        np.testing.assert_allclose(by_name[name].X.mean(axis=0), 0, atol=1e-12)
        np.testing.assert_allclose(by_name[name].X.var(axis=0), 1, rtol=1e-12)
    assert np.mean(np.sum(by_name["unit-rows"].X ** 2, axis=1)) == pytest.approx(1.0, rel=1e-12)
    assert by_name["minmax"].X.min(axis=0).tolist() == [0.0] * 30
    assert by_name["minmax"].X.max(axis=0).tolist() == [1.0] * 30
    assert np.abs(by_name["maxabs"].X).max(axis=0).tolist() == [1.0] * 30
    for name, problem in by_name.items():
        np.testing.assert_allclose(problem.Y.std(axis=0), 5 if name == "label5" else 1, rtol=1e-12)
        np.testing.assert_allclose(problem.Y.mean(axis=0), 0, atol=1e-13)


def test_the_checksum_is_of_the_data_before_scaling() -> None:
    checksums = {load_problem("breast-cancer", scaling=scaling).checksum for scaling in SCALINGS}
    assert len(checksums) == 1
    assert len(checksums.pop()) == 64
    X, Y = np.ones((3, 2)), np.arange(3.0)[:, None]
    assert Problem(X, Y).checksum == Problem(X.copy(), Y.copy()).checksum
    assert Problem(X, Y).checksum != Problem(X, Y + 1).checksum


def test_scaled_data_are_not_scaled_twice() -> None:
    with pytest.raises(ValueError, match="scaled already"):
        scaled(load_problem("breast-cancer"), "minmax")


@pytest.mark.parametrize("scaling", ["raw", "zscore", "", "Standard"])
def test_an_unknown_scaling_is_refused_with_the_known_ones(scaling: str) -> None:
    with pytest.raises(ValueError, match="unit-rows, minmax, maxabs, label5") as caught:
        load_problem("breast-cancer", scaling=scaling)
    assert repr(scaling) in str(caught.value)


@pytest.mark.parametrize(
    ("X", "Y", "mentions"),
    [
        (np.ones(3), np.ones((3, 1)), ["(3,)", "(3, 1)"]),
        (np.ones((3, 2)), np.ones(3), ["(3, 2)", "(3,)", "y[:, None]"]),
        (np.ones((3, 2)), np.ones((4, 1)), ["(3, 2)", "(4, 1)"]),
        (np.ones((0, 2)), np.ones((0, 1)), ["(0, 2)"]),
        (np.array([[1.0], [np.nan]]), np.ones((2, 1)), ["X[1, 0]", "nan"]),
        (np.ones((2, 1)), np.array([[np.inf], [0.0]]), ["Y[0, 0]", "inf"]),
    ],
)
def test_arrays_that_are_no_problem_are_refused(X: Array, Y: Array, mentions: list[str]) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        Problem(X, Y)
    for mention in mentions:
        assert mention in str(caught.value)


# --- the user's files


def frame() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    columns = {"a": rng.normal(size=12), "b": rng.integers(0, 50, size=12), "y": rng.normal(size=12) + 4}
    return pd.DataFrame(columns)


def save_columns(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    np.savez(path, allow_pickle=True, **columns)


def written(table: pd.DataFrame, path: Path) -> Path:
    if path.suffix.lower() == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        save_columns(path, {str(name): table[name].to_numpy() for name in table.columns})
    return path


@pytest.mark.parametrize("name", ["table.csv", "table.npz", "table.parquet", "TABLE.CSV"])
@pytest.mark.parametrize("target", ["y", ["y"], ["y", "a"], ["a", "y"]])
def test_tables_survive_the_way_through_a_file(tmp_path: Path, name: str, target: str | list[str]) -> None:
    table = frame()
    problem = load_problem(written(table, tmp_path / name), target=target, scaling="maxabs")
    targets = [target] if isinstance(target, str) else target
    features = [column for column in table.columns if column not in targets]
    assert problem.target_names == tuple(targets)
    assert problem.feature_names == tuple(features)
    raw = table[features].to_numpy(dtype=np.float64)
    np.testing.assert_allclose(problem.X, raw / np.abs(raw).max(axis=0), rtol=1e-13)
    Y = table[targets].to_numpy(dtype=np.float64)
    np.testing.assert_allclose(problem.Y, (Y - Y.mean(axis=0)) / Y.std(axis=0), rtol=1e-11)
    assert problem.name.lower() == "table"
    assert str(tmp_path / name) in problem.source


def test_the_same_table_has_the_same_checksum_in_every_format(tmp_path: Path) -> None:
    names = ("t.csv", "t.npz", "t.parquet")
    checksums = {load_problem(written(frame(), tmp_path / name), target="y").checksum for name in names}
    assert len(checksums) == 1


def test_two_dimensional_arrays_become_numbered_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(10, 3)), rng.normal(size=10)
    np.savez(tmp_path / "arrays.npz", X=X, y=y)
    problem = load_problem(str(tmp_path / "arrays.npz"), target="y", scaling="maxabs")
    assert problem.feature_names == ("X[0]", "X[1]", "X[2]")
    np.testing.assert_allclose(problem.X, X / np.abs(X).max(axis=0), rtol=1e-14)
    column = load_problem(tmp_path / "arrays.npz", target=["X[1]", "y"])
    assert column.feature_names == ("X[0]", "X[2]")
    assert column.target_names == ("X[1]", "y")


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    refused("iris", "'iris'", *DATASETS, ".csv", ".npz", ".parquet", target=None)
    refused("", "''", *DATASETS, target=None)


def test_an_unknown_kind_of_file_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "table.xlsx"
    path.write_bytes(b"PK")
    refused(path, str(path), ".csv", ".npz", ".parquet")


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".parquet"])
def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path, suffix: str) -> None:
    refused(tmp_path / f"gone{suffix}", f"gone{suffix}", "does not exist")
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    refused(folder, str(folder), "not a file")


@pytest.mark.usefixtures("no_open_files")
@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    path = written(frame(), tmp_path / f"table{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path, str(path))


@pytest.mark.usefixtures("no_open_files")
@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table{suffix}"
    path.write_text("a,b,y\n1,2,3\n")
    refused(path, str(path))


def damaged(content: bytes, positions: int) -> Iterator[bytes]:
    """Copies of a file with some bytes overwritten, here and there."""
    for start in np.linspace(0, len(content) - 40, positions).astype(int).tolist():
        yield content[:start] + bytes(range(200, 240)) + content[start + 40 :]


@pytest.mark.usefixtures("no_open_files")
@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_npz_file_is_refused(tmp_path: Path, *, compressed: bool) -> None:
    path = tmp_path / "table.npz"
    X = np.random.default_rng(0).normal(size=(300, 3)).round(1)
    save = np.savez_compressed if compressed else np.savez
    save(path, X=X, y=X.sum(axis=1))
    for content in damaged(path.read_bytes(), 60):
        path.write_bytes(content)
        refused(path, str(path))


def test_a_pickled_array_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, y=np.array([1, "two", None], dtype=object), a=np.arange(3))
    refused(path, str(path))


@pytest.mark.usefixtures("no_open_files")
def test_a_bare_array_named_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    with path.open("wb") as file:
        np.save(file, np.ones((3, 2)))
    refused(path, str(path))


def test_arrays_of_three_dimensions_or_of_different_lengths_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, images=np.ones((4, 2, 2)), y=np.ones(4))
    refused(path, str(path), "'images'", "(4, 2, 2)")
    np.savez(path, X=np.ones((4, 2)), y=np.ones(3))
    refused(path, str(path), "rows")


@pytest.mark.parametrize(
    "content", ["", "\n", "a,b,y\n", "y\n1\n2\n"], ids=["nothing", "blank", "header only", "one column"]
)
def test_an_empty_csv_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(content)
    refused(path, str(path))


def test_a_csv_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(bytes(range(128, 256)) * 4)
    refused(path, str(path))


@pytest.mark.parametrize(
    ("rows", "column", "cell", "row"),
    [
        (["1,2,3", "4,five,6", "7,8,9"], "b", "five", 2),
        (["1,2,3", "4,5,6", "7,8,"], "y", "nan", 3),
        (["1,2,3", "4,5", "7,8,9"], "y", "nan", 2),
        (["1,2,3", "inf,5,6", "7,8,9"], "a", "inf", 2),
        (["1,2,3", "4,5,6", "7,8,NA"], "y", "nan", 3),
        (["2020-01-01,2,3", "2020-01-02,5,6"], "a", "2020-01-01", 1),
        (["1,2,high", "4,5,low"], "y", "high", 1),
    ],
)
def test_a_cell_that_is_no_finite_number_is_named_by_file_column_and_row(
    tmp_path: Path, rows: list[str], column: str, cell: str, row: int
) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n".join(["a,b,y", *rows]) + "\n")
    refused(path, str(path), f"'{column}'", cell, f"row {row}")


def test_a_row_that_is_longer_than_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b,y\n1,2,3\n4,5,6,7\n")
    refused(path, str(path))


def test_rows_that_are_all_longer_than_the_header_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a,b,y\n1,2,3,4\n4,5,6,9\n7,9,9,9\n")  # else the columns' names would meet the wrong numbers
    refused(path, str(path))


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
def test_gaps_and_words_in_other_formats_are_named_too(tmp_path: Path, suffix: str) -> None:
    gap = frame().assign(b=[1.0, np.nan, *range(10)])
    refused(written(gap, tmp_path / f"gap{suffix}"), f"gap{suffix}", "'b'", "nan", "row 2")
    words = frame().assign(b=np.array(["1"] * 3 + ["x"] * 9, dtype=str))
    if suffix == ".npz":
        columns = {str(name): np.asarray(words[name], dtype=str) for name in words.columns}
        save_columns(tmp_path / "words.npz", columns)
    else:
        words.to_parquet(tmp_path / "words.parquet")
    refused(tmp_path / f"words{suffix}", f"words{suffix}", "expected finite numbers")


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    np.savez(path, a=np.array([1 + 2j, 3.0, 4.0]), y=np.arange(3.0))
    refused(path, str(path), "'a'")


def test_nested_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pd.DataFrame({"a": [[1.0, 2.0], [3.0], [4.0]], "y": [1.0, 2.0, 3.0]}).to_parquet(path)
    refused(path, str(path), "'a'")


@pytest.mark.parametrize(("column", "kind"), [("b", "feature"), ("y", "target")])
@pytest.mark.parametrize("suffix", [".csv", ".npz", ".parquet"])
def test_a_constant_column_is_named(tmp_path: Path, column: str, kind: str, suffix: str) -> None:
    path = written(frame().assign(**{column: 0.1}), tmp_path / f"table{suffix}")
    refused(path, str(path), f"'{column}'", kind, "constant")


def test_targets_must_be_named_known_and_leave_a_feature(tmp_path: Path) -> None:
    path = written(frame(), tmp_path / "table.csv")
    refused(path, str(path), "a, b, y", target=None)
    refused(path, str(path), "'price'", "a, b, y", target="price")
    refused(path, str(path), "'price'", target=["y", "price"])
    refused(path, str(path), "feature", target=["a", "b", "y"])
    refused(path, target=[])


@pytest.mark.parametrize("name", DATASETS)
def test_built_in_sets_take_no_target(name: str) -> None:
    refused(name, repr(name), "'y'", target="y")


# --- Ethanol: the lines of the archive


def line(gas: int = 1, ppm: str = "10.000000", first: str = "15596.162100", features: int = FEATURES) -> str:
    values = [first, *(f"{i}.5" for i in range(2, features + 1))]
    return f"{gas};{ppm} " + " ".join(f"{i}:{value}" for i, value in enumerate(values, start=1))


def test_lines_of_ethanol_are_read_in_order_and_other_gases_skipped() -> None:
    texts = {
        "batch1.dat": "\n".join([line(ppm="10.0"), line(gas=2, ppm="20.0"), line(ppm="2.5", first="-1.5e2")]) + "\n",
        "batch2.dat": line(gas=6) + "\n\n" + line(ppm="600") + " \r\n",
        "batch3.dat": "",
    }
    X, y = parse_batches(texts)
    assert y.tolist() == [10.0, 2.5, 600.0]
    assert X.shape == (3, FEATURES)
    assert X[:, 0].tolist() == [15596.1621, -150.0, 15596.1621]
    assert X[0, 1:].tolist() == [i + 0.5 for i in range(2, FEATURES + 1)]
    assert X.dtype == y.dtype == np.float64


def test_no_lines_of_ethanol_give_empty_arrays() -> None:
    X, y = parse_batches({"batch1.dat": line(gas=3)})
    assert X.shape == (0, FEATURES)
    assert y.shape == (0,)


GOOD = line()


@pytest.mark.parametrize(
    ("bad", "mentions"),
    [
        ("hello", ["'hello'"]),
        (GOOD.replace("1;10.000000", "1 10.000000"), ["'1'"]),
        (GOOD.replace("1;10.000000", "1;ten"), ["'1;ten'"]),
        (GOOD.replace("1;10.000000", "one;10"), ["'one;10'"]),
        (GOOD.replace("1;10.000000", "1;10;5"), ["'1;10;5'"]),
        (GOOD.replace("1;10.000000", "1;nan"), ["'1;nan'"]),
        (GOOD.replace("1;10.000000", "1;inf"), ["'1;inf'"]),
        (line(features=127), ["127", "128"]),
        (line(features=129), ["129", "128"]),
        (GOOD[: len(GOOD) // 2], ["128"]),
        (GOOD.replace(" 5:5.5", " 6:5.5"), ["'6:5.5'", "5"]),
        (GOOD.replace(" 5:5.5", " 5=5.5"), ["'5=5.5'", "5"]),
        (GOOD.replace(" 5:5.5", " 5:"), ["'5:'", "5"]),
        (GOOD.replace(" 5:5.5", " 5:x"), ["'5:x'", "5"]),
        (GOOD.replace(" 5:5.5", " 5:1,5"), ["'5:1,5'", "5"]),
        (GOOD.replace(" 5:5.5", " 5:nan"), ["'5:nan'", "5"]),
        (GOOD.replace(" 5:5.5", " 5:inf"), ["'5:inf'", "5"]),
        (line(gas=2).replace(" 5:5.5", " 5:x"), ["'5:x'", "5"]),
    ],
)
def test_a_malformed_line_is_named_by_file_and_number(bad: str, mentions: list[str]) -> None:
    assert bad != GOOD
    texts = {"data/batch1.dat": GOOD + "\n", "data/batch2.dat": "\n".join([GOOD, "", line(gas=4), bad, GOOD])}
    with pytest.raises(ValueError, match=r"data/batch2\.dat, line 4") as caught:
        parse_batches(texts)
    for mention in mentions:
        assert mention in str(caught.value)


# --- Ethanol: a made-up set with the known facts, in every wrapping


@functools.cache
def made_up() -> tuple[Array, Array]:
    """2565 rows with the mean and the standard deviation of the real targets."""
    rng = np.random.default_rng(8)
    m = sum(ROWS_PER_BATCH)
    X = rng.integers(0, 100, size=(m, FEATURES)).astype(np.float64)
    y = rng.gamma(2.0, size=m)
    y = (y - y.mean()) / y.std() * overdepth.lab.ethanol.TARGET_STD + overdepth.lab.ethanol.TARGET_MEAN
    return X, y


@functools.cache
def made_up_batches() -> dict[str, str]:
    X, y = made_up()
    lines = [
        f"1;{target!r} " + " ".join(f"{j}:{value:g}" for j, value in enumerate(row, start=1))
        for row, target in zip(X.tolist(), y.tolist(), strict=True)
    ]
    texts, first = {}, 0
    for batch, rows in enumerate(ROWS_PER_BATCH, start=1):
        own = lines[first : first + rows]
        texts[f"batch{batch}.dat"] = "\n".join([own[0], line(gas=5), *own[1:]]) + "\n"  # another gas in between
        first += rows
    return texts


def archive(texts: dict[str, str], *, folder: str = "Dataset/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("README.txt", "about the data")
        for name, text in texts.items():
            file.writestr(folder + name, text)
    return buffer.getvalue()


def wrapped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("driftdataset.zip", content)
    return buffer.getvalue()


class NoNetworkError(OSError):
    """Raised by the stand-in for the downloader."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``OVERDEPTH_DATA``, an empty cache, and no network."""
    folder, cache = tmp_path / "data", tmp_path / "cache"
    folder.mkdir()
    cache.mkdir()

    def offline(*_args: object, **_options: object) -> str:
        raise NoNetworkError("no route to host")

    monkeypatch.setenv("OVERDEPTH_DATA", str(folder))
    monkeypatch.setattr(overdepth.lab.ethanol, "data_cache", lambda: cache)
    monkeypatch.setattr("pooch.retrieve", offline)
    return folder


def assert_is_the_made_up_set(problem: Problem, *, where: Path) -> None:
    X, y = made_up()
    np.testing.assert_array_equal(problem.X, X)
    np.testing.assert_array_equal(problem.Y[:, 0], y)
    assert (problem.name, problem.target_names, problem.scaling) == ("ethanol", ("ppmv",), "none")
    assert len(set(problem.feature_names)) == FEATURES
    assert str(where) in problem.source


def test_the_set_is_read_from_arrays(data: Path) -> None:
    X, y = made_up()
    np.savez(data / FILE_NAME, X=X, y=y)
    assert_is_the_made_up_set(overdepth.lab.ethanol.load(), where=data)


def test_the_set_is_read_from_batch_files(data: Path) -> None:
    for name, text in made_up_batches().items():
        (data / name).write_text(text)
    assert_is_the_made_up_set(overdepth.lab.ethanol.load(), where=data)


@pytest.mark.parametrize("nested", [False, True], ids=["flat", "a zip in the zip"])
@pytest.mark.parametrize("folder", ["", "Dataset/"])
def test_the_set_is_read_from_the_archive(data: Path, folder: str, *, nested: bool) -> None:
    content = archive(made_up_batches(), folder=folder)
    (data / ARCHIVE_NAME).write_bytes(wrapped(content) if nested else content)
    assert_is_the_made_up_set(overdepth.lab.ethanol.load(), where=data)


def test_the_cache_is_used_when_the_folder_has_nothing(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = overdepth.lab.ethanol.data_cache()
    (cache / ARCHIVE_NAME).write_bytes(wrapped(archive(made_up_batches())))
    assert_is_the_made_up_set(overdepth.lab.ethanol.load(), where=cache)
    monkeypatch.delenv("OVERDEPTH_DATA")
    assert_is_the_made_up_set(overdepth.lab.ethanol.load(), where=cache)


def test_a_download_is_read_and_the_folder_comes_before_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = overdepth.lab.ethanol.data_cache()
    asked: list[object] = []

    def online(url: str, **options: object) -> str:
        asked.append(url)
        path = cache / ARCHIVE_NAME
        path.write_bytes(wrapped(archive(made_up_batches())))
        return str(path)

    monkeypatch.setattr("pooch.retrieve", online)
    assert_is_the_made_up_set(overdepth.lab.ethanol.load(), where=cache)
    assert_is_the_made_up_set(overdepth.lab.ethanol.load(), where=cache)
    assert len(asked) == 1  # the second time from the cache
    assert str(asked[0]).startswith("https://archive.ics.uci.edu/")
    X, y = made_up()
    np.savez(data / FILE_NAME, X=X, y=y)
    assert_is_the_made_up_set(overdepth.lab.ethanol.load(), where=data)


def test_a_download_gives_up_after_seconds(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}

    def slow(_url: str, **options: object) -> str:
        seen.update(options)
        raise TimeoutError

    monkeypatch.setattr("pooch.retrieve", slow)
    with pytest.raises(ConnectionError):
        load_problem("ethanol")
    timeout = getattr(seen["downloader"], "kwargs", {}).get("timeout")
    assert isinstance(timeout, float | int)
    assert 0 < timeout <= 60


def test_without_data_and_network_the_error_names_the_remedies(data: Path) -> None:
    with pytest.raises(ConnectionError, match=r".+") as caught:
        load_problem("ethanol")
    message = str(caught.value)
    assert "\n" not in message
    for mention in ("OVERDEPTH_DATA", FILE_NAME, "breast-cancer"):
        assert mention in message


def test_auto_takes_ethanol_where_it_is(data: Path) -> None:
    X, y = made_up()
    np.savez(data / FILE_NAME, X=X, y=y)
    assert load_problem("auto").name == "ethanol"


def test_auto_falls_back_to_the_embedded_set_and_says_so(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="overdepth"):
        problem = load_problem("auto")
    assert problem.name == "breast-cancer"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "breast-cancer" in caplog.text


@pytest.mark.usefixtures("no_open_files")
def test_auto_also_falls_back_when_the_files_at_hand_are_broken(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    (data / FILE_NAME).write_bytes(b"PK\x03\x04 no more")
    with caplog.at_level(logging.WARNING, logger="overdepth"):
        assert load_problem("auto").name == "breast-cancer"
    assert str(data / FILE_NAME) in caplog.text


@pytest.mark.parametrize("name", ["auto", "ethanol"])
def test_a_folder_that_does_not_exist_is_like_an_empty_one(
    data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("OVERDEPTH_DATA", str(data / "gone"))
    if name == "auto":
        assert load_problem(name).name == "breast-cancer"
    else:
        with pytest.raises(ConnectionError):
            load_problem(name)


@pytest.mark.usefixtures("no_open_files")
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("name", [FILE_NAME, ARCHIVE_NAME])
def test_a_truncated_file_of_the_set_is_refused(data: Path, name: str, share: float) -> None:
    if name == FILE_NAME:
        X, y = made_up()
        np.savez(data / name, X=X, y=y)
    else:
        (data / name).write_bytes(archive(made_up_batches()))
    content = (data / name).read_bytes()
    (data / name).write_bytes(content[: int(share * len(content))])
    refused("ethanol", str(data / name), target=None)


@pytest.mark.usefixtures("no_open_files")
@pytest.mark.parametrize("kind", ["arrays", "compressed arrays", "archive", "archive in archive"])
def test_a_damaged_file_of_the_set_is_refused_or_the_damage_is_beside_the_data(data: Path, kind: str) -> None:
    X, y = made_up()
    path = data / (FILE_NAME if "arrays" in kind else ARCHIVE_NAME)
    if "arrays" in kind:
        save = np.savez_compressed if kind.startswith("compressed") else np.savez
        save(path, X=X, y=y)
    else:
        content = archive(made_up_batches())
        path.write_bytes(content if kind == "archive" else wrapped(content))
    found, named = 0, 0
    for damage in damaged(path.read_bytes(), 25 if "archive" in kind else 8):
        path.write_bytes(damage)
        try:
            assert_is_the_made_up_set(overdepth.lab.ethanol.load(), where=path)  # an archive has a README, too
        except ValueError as error:
            found += 1
            named += str(path) in str(error)
    assert named == found
    assert found >= 6


def test_arrays_of_other_names_are_refused(data: Path) -> None:
    np.savez(data / FILE_NAME, features=made_up()[0], y=made_up()[1])
    refused("ethanol", str(data / FILE_NAME), "X and y", target=None)


def test_a_set_with_a_row_or_a_column_too_few_is_refused(data: Path) -> None:
    X, y = made_up()
    np.savez(data / FILE_NAME, X=X[1:], y=y[1:])
    refused("ethanol", str(data / FILE_NAME), "2564", "2565", target=None)
    np.savez(data / FILE_NAME, X=X[:, 1:], y=y)
    refused("ethanol", str(data / FILE_NAME), "127", "128", target=None)


@pytest.mark.parametrize(("shift", "stretch"), [(1.0, 1.0), (0.0, 1.01)])
def test_a_set_with_other_targets_is_refused(data: Path, shift: float, stretch: float) -> None:
    X, y = made_up()
    np.savez(data / FILE_NAME, X=X, y=(y - y.mean()) * stretch + y.mean() + shift)
    refused("ethanol", str(data / FILE_NAME), "114.95029", "86.6206", target=None)


def test_values_of_the_set_that_are_not_finite_are_refused_with_the_file(data: Path) -> None:
    X, y = made_up()
    X = X.copy()
    X[5, 7] = np.nan
    np.savez(data / FILE_NAME, X=X, y=y)
    refused("ethanol", str(data / FILE_NAME), "nan", target=None)


@pytest.mark.parametrize("missing", ["batch1.dat", "batch7.dat", "batch10.dat"])
def test_an_archive_without_one_batch_is_refused(data: Path, missing: str) -> None:
    texts = {name: text for name, text in made_up_batches().items() if name != missing}
    (data / ARCHIVE_NAME).write_bytes(archive(texts))
    refused("ethanol", str(data / ARCHIVE_NAME), missing, target=None)


def test_a_folder_without_one_batch_is_refused(data: Path) -> None:
    for name, text in made_up_batches().items():
        if name != "batch7.dat":
            (data / name).write_text(text)
    refused("ethanol", str(data / "batch7.dat"), target=None)


def test_a_malformed_line_in_a_folder_or_an_archive_is_named(data: Path) -> None:
    texts = dict(made_up_batches())
    lines = texts["batch3.dat"].splitlines()
    lines[9] = lines[9].replace(" 5:", " 5;")
    texts["batch3.dat"] = "\n".join(lines)
    (data / ARCHIVE_NAME).write_bytes(archive(texts))
    refused("ethanol", str(data / ARCHIVE_NAME), "batch3.dat, line 10", target=None)
    for name, text in texts.items():
        (data / name).write_text(text)
    refused("ethanol", f"{data / 'batch3.dat'}, line 10", target=None)


def test_a_batch_file_cut_in_the_middle_of_a_line_is_named(data: Path) -> None:
    for name, text in made_up_batches().items():
        (data / name).write_text(text[: len(text) // 2] if name == "batch10.dat" else text)
    refused("ethanol", f"{data / 'batch10.dat'}, line", target=None)


# --- Ethanol: the real set


def test_the_real_set_has_its_known_facts() -> None:
    folder = os.environ.get("OVERDEPTH_DATA")
    if not folder or not (Path(folder) / FILE_NAME).is_file():
        pytest.skip(f"OVERDEPTH_DATA names no folder with {FILE_NAME}")
    raw = overdepth.lab.ethanol.load()
    assert (raw.m, raw.d, raw.k) == (2565, 128, 1)
    y = raw.Y[:, 0]
    assert len(np.unique(y)) == 35
    assert (y.min(), y.max()) == (2.5, 600.0)
    assert round(float(y.mean()), 5) == 114.95029
    assert round(float(y.std()), 4) == 86.6206
    for scaling in SCALINGS:
        problem = load_problem("ethanol", scaling=scaling)
        assert (problem.m, problem.d, problem.k) == (2565, 128, 1)
        assert problem.checksum == raw.checksum
    assert ROWS_PER_BATCH == (90, 164, 365, 64, 28, 514, 649, 30, 61, 600)


def test_prepared_data_are_taken_as_given_so_that_classes_can_come_from_a_file(tmp_path: Path) -> None:
    labels = np.arange(12) % 3
    features = np.random.default_rng(0).normal(size=(12, 2))
    path = tmp_path / "classes.npz"
    np.savez(path, x=features, c=np.eye(3)[labels])
    problem = load_problem(path, target=["c[0]", "c[1]", "c[2]"], scaling="none")
    np.testing.assert_array_equal(problem.X, features)
    np.testing.assert_array_equal(problem.Y, np.eye(3)[labels])


@pytest.mark.parametrize("size", [1e200, 1e-300])
def test_columns_whose_squares_leave_the_range_are_standardised_all_the_same(size: float, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "table.npz"
    column = rng.normal(size=20)
    np.savez(path, a=column * size, b=column, y=rng.normal(size=20))
    problem = load_problem(path, target="y")
    np.testing.assert_allclose(problem.X[:, 0], problem.X[:, 1], rtol=1e-12)
