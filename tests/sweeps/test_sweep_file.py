"""Sweep files: valid ones are the product of their lists, of invalid ones every mistake is told, none crashes."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sweeps.sweeping import document

from overdepth.lab import Run
from overdepth.sweeps import SweepFileError, parse, read

TOP = 'data = "breast-cancer"\nsteps = 10\n'

reals = st.floats(1e-6, 10.0)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "depth": st.integers(1, 5),
    "width": st.integers(1, 3),
    "init": st.sampled_from(["near_zero", "near_identity", "balanced"]),
    "scale": reals,
    "seed": st.integers(0, 2**32 - 1),
    "method": st.sampled_from(["gd", "momentum", "adam_tf1"]),
    "lr": reals,
    "weight_decay": st.floats(0.0, 10.0),
    "norm": reals,
}
OBJECTIVES = ["l2", "l4", "l6", "logistic"]


@st.composite
def grids(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.lists(st.sampled_from(list(FIELDS)), unique=True, max_size=4))
    return {name: draw(FIELDS[name] | st.lists(FIELDS[name], min_size=1, max_size=3)) for name in names}


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    """A grid of the end-to-end rule, at depths that no network has."""
    depths = st.floats(1.0, 8.0) | st.integers(1, 8) | st.just(math.inf)
    return {"method": "end_to_end", "depth": draw(st.lists(depths, min_size=1, max_size=3)), "lr": draw(reals)}


def plain_product(objectives: Sequence[str], tables: Sequence[dict[str, Any]]) -> list[tuple[str, Run]]:
    found = []
    for objective in objectives:
        for table in tables:
            lists = [value if isinstance(value, list) else [value] for value in table.values()]
            found += [(objective, Run(**dict(zip(table, values, strict=True)))) for values in itertools.product(*lists)]
    return found


@given(
    objectives=st.lists(st.sampled_from(OBJECTIVES), min_size=1, max_size=2, unique=True),
    tables=st.lists(grids() | rules(), min_size=1, max_size=3),
    rows=st.lists(
        grids().map(lambda table: {n: v[0] if isinstance(v, list) else v for n, v in table.items()}), max_size=2
    ),
)
def test_the_runs_are_the_product_of_the_lists(
    objectives: list[str], tables: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> None:
    file = parse(document({"data": "auto", "steps": 5, "objective": objectives}, tables, rows))
    expected = plain_product(objectives, [*tables, *rows])
    assert [(row.objective, row.run) for row in file.rows] == list(dict.fromkeys(expected))
    assert file.repeated == len(expected) - len(set(expected))


def test_what_a_file_says_beside_its_runs(tmp_path: Path) -> None:
    text = """
        data = "sub/data.csv"
        target = ["y", "z"]
        scaling = "minmax"
        objective = "logistic"
        steps = 1_000
        record_every = 7
        dtype = "float64"
        batch_size = 8
        batch_seed = 3
        [[run]]
    """
    file = parse(text, folder=tmp_path)
    assert file.data == str(tmp_path / "sub" / "data.csv")
    assert (file.target, file.scaling, file.text) == (("y", "z"), "minmax", text)
    settings = file.settings
    assert (settings.steps, settings.record_every, settings.batch_size, settings.batch_seed) == (1000, 7, 8, 3)
    assert str(settings.dtype) == "torch.float64"
    assert [(row.objective, row.run) for row in file.rows] == [("logistic", Run())]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("lr = { logspace = [1e-3, 1e-1, 3] }", "lr = [1e-3, 1e-2, 1e-1]"),
        ("lr = { linspace = [1, 2, 3] }", "lr = [1.0, 1.5, 2.0]"),
        ("seed = { range = [0, 3] }", "seed = [0, 1, 2]"),
        ("seed = { range = [6, 0, -3] }", "seed = [6, 3]"),
        ("depth = [1.0, 2]", "depth = [1, 2]"),
        ("lr = 1", "lr = 1.0"),
        ("[grid.lr]\nlogspace = [1e-3, 1e-1, 3]", "lr = [1e-3, 1e-2, 1e-1]"),
        ("lr = [\n  0.1,  # small\n  0.2,\n]", "lr = [0.1, 0.2]"),
    ],
)
def test_short_ways_to_write_a_list(written: str, meant: str) -> None:
    rows, expected = (parse(f"{TOP}[[grid]]\n{text}").rows for text in (written, meant))
    assert rows == expected
    assert repr(rows) == repr(expected)  # 1 and 1.0 are equal, but described differently


def test_a_norm_matches_the_start_of_another_depth() -> None:
    rows = parse(f'{TOP}[[grid]]\ndepth = [2, 3]\nwidth = 7\nnorm = ["depth 1", 0.5]').rows
    assert [(row.run.depth, row.run.norm, row.norm_of_depth) for row in rows] == [
        (2, None, 1),
        (2, 0.5, 0),
        (3, None, 1),
        (3, 0.5, 0),
    ]


ALONE = {  # a line, and what must be said about it
    "scaling": ('scaling = "whitened"', "scaling is 'whitened', expected one of standard, unit-rows, minmax"),
    "objective": ('objective = ["l4", "l3"]', "objective is 'l3', expected l2, l4 or another even l<p>, logistic"),
    "record_every": ("record_every = -1", "record_every is -1, expected an integer >= 1"),
    "dtype": ('dtype = "float16"', "dtype is 'float16', expected one of float32, float64"),
    "batch_size": ("batch_size = 2.5", "batch_size is 2.5, expected an integer >= 1"),
    "batch_seed": ("batch_seed = true", "batch_seed is True, expected an integer >= 0"),
    "target": ("target = [1]", "target is [1], expected a column's name, or a list of them"),
    "stepz": ("stepz = 3", "stepz is unknown, expected one of data, target, scaling"),
}
IN_A_TABLE = {
    "lr": ("lr = [0.1, -0.5]", "lr is -0.5, expected a finite number > 0"),
    "depth": ("depth = 0", "depth is 0, expected"),
    "widht": ("widht = 3", "widht is unknown, expected one of depth, width, init, scale, seed, method, lr"),
    "init": ('init = "xavier"', "init is 'xavier', expected one of near_zero"),
    "method": ('method = ["gd", "sgd"]', "method is 'sgd', expected one of gd, end_to_end, momentum"),
    "seed": ("seed = { range = [5, 5] }", "seed is an empty list, expected at least one value"),
    "scale": ("scale = { logspace = [0, 1, 3] }", "scale has logspace = [0, 1, 3], expected [first, last, how many]"),
    "weight_decay": ("weight_decay = nan", "weight_decay is nan, expected a finite number >= 0"),
    "norm": ('norm = "shallow"', "norm is 'shallow', expected a number > 0, or \"depth 1\""),
    "width": (
        "width = { range = [1, 2], step = 1 }",
        "width is a table, expected one with a single key, one of logspace",
    ),
}
FILLER = st.sampled_from(["", "# a comment with \u2028 a separator", '# """', "   "])


@st.composite
def mistaken(draw: st.DrawFn) -> tuple[str, list[tuple[int, str]]]:
    """A file with mistakes, and for each its line and what is said of it."""
    lines, wanted = ['data = "data.csv"'], []

    def add(mistakes: dict[str, tuple[str, str]], least: int = 0) -> None:
        for name in draw(st.lists(st.sampled_from(list(mistakes)), unique=True, min_size=least, max_size=4)):
            lines.extend(draw(st.lists(FILLER, max_size=2)))
            text, said = mistakes[name]
            lines.append(text)
            wanted.append((len(lines), said))

    add(ALONE, 1)
    lines.append("steps = 5")
    for kind in draw(st.lists(st.sampled_from(["grid", "run"]), min_size=1, max_size=3)):
        lines.append(f"[[{kind}]]")
        if kind == "grid":
            add(IN_A_TABLE)
        else:
            wanted.append((len(lines), "lr * weight_decay is 2.0, expected at most 1"))
            lines.extend(['method = "end_to_end"', "lr = 2.0", "weight_decay = 1.0"])
    end = draw(st.sampled_from(["\n", "\r\n"]))
    return end.join(lines), wanted


@given(mistaken())
def test_every_mistake_is_told_with_its_line_and_what_is_allowed(case: tuple[str, list[tuple[int, str]]]) -> None:
    text, wanted = case
    with pytest.raises(SweepFileError) as caught:
        parse(text)
    found = caught.value.mistakes
    for line, said in wanted:
        assert any(number == line and message.startswith(said) for number, message in found), (line, said, found)
    assert len(found) == len(set(found)) <= len(wanted)
    assert [line for line, _ in found] == sorted(line for line, _ in found if line)


def mistakes_of(text: str) -> list[tuple[int | None, str]]:
    with pytest.raises(SweepFileError) as caught:
        parse(text)
    return list(caught.value.mistakes)


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("", None, "data is missing; give one of auto, ethanol, breast-cancer, or the path of a file"),
        ("", None, "steps is missing"),
        ("", None, "there are no runs; add a table [[grid]] of lists, or a table [[run]]"),
        ("steps = = 3", None, "it is no TOML document"),
        ("steps = 1\nsteps = 2", None, "it is no TOML document"),
        ("a = " + "[" * 5000, None, "it is no TOML document"),
        ("a = " + "9" * 5000, None, "it is no TOML document"),
        (TOP + "[grid]\nlr = 0.1", 3, "grid is no table of its own; write [[grid]] above its settings"),
        (TOP + "grid = [1]", 3, "grid is no table of its own"),
        (TOP + "[[run]]\nlr = 0.1\nseed = [1, 2]", 5, "seed has 2 values; lists go into [[grid]]"),
        (TOP + "[[run]]\n[[run]]\nlr = 0.1\ndepth = 1.5", 4, "depth is 1.5, expected an integer >= 1"),
        (TOP + "[[grid]]\n\n[grid.lr]\nlogspace = [1, 2]", 5, "lr has logspace = [1, 2], expected"),
        (TOP + "[[run]]\n[[grid]]\nseed = 1\n[[grid]]\nlr = [\n1.0,\n-1.0]", 7, "lr is -1.0"),
        ('data = "breast-cancer"\ntarget = "y"\nsteps = 1\n[[run]]', 2, "target is given, but the data set"),
        ('data = "breast-canser"\nsteps = 1\n[[run]]', 1, "data is 'breast-canser', expected one of auto, ethanol"),
        ('data = "sub/data.txt"\nsteps = 1\n[[run]]', 1, "data is 'sub/data.txt', expected one of auto, ethanol"),
        ('data = "a\\u0000.csv"\nsteps = 1\n[[run]]', 1, "data is 'a\\x00.csv', expected"),
        ('data = "~no-such-user/a.csv"\nsteps = 1\n[[run]]', 1, "data is '~no-such-user/a.csv', expected"),
        ("data = 3\nsteps = 1\n[[run]]", 1, "data is 3, expected one of auto"),
        (TOP + "objective = []\n[[run]]", 3, "objective is [], expected l2, l4"),
        (TOP + "[[grid]]\nlr = " + "9" * 400, 4, "lr is 9999"),
        (TOP + "[[grid]]\nlr = {linspace = [-1e308, 1e308, 3]}", 4, "lr has linspace = [-1e+308, 1e+308, 3], expected"),
        (TOP + "[[grid]]\nlr = {linspace = [0, inf, 3]}", 4, "lr has linspace = [0, inf, 3], expected"),
        (TOP + "[[grid]]\nlr = {logspace = [-1, 1, 3]}", 4, "lr has logspace = [-1, 1, 3], expected"),
        (TOP + "[[grid]]\nlr = {logspace = [-2, -1, 3]}", 4, "lr has logspace = [-2, -1, 3], expected"),
        (TOP + '[[grid]]\nlr = {logspace = ["1", 2, 3]}', 4, "lr has logspace = ['1', 2, 3], expected"),
        (TOP + "[[grid]]\nlr = {linspace = [true, 2, 3]}", 4, "lr has linspace = [True, 2, 3], expected"),
        (TOP + "[[grid]]\nlr = {linspace = [1, 2, true]}", 4, "lr has linspace = [1, 2, True], expected"),
        (TOP + "[[grid]]\nseed = {range = [false, 2]}", 4, "seed has range = [False, 2], expected"),
        (TOP + "[[grid]]\nseed = {range = [3]}", 4, "seed has range = [3], expected"),
        (TOP + "[[grid]]\nseed = {range = [0, 9, 0]}", 4, "seed has range = [0, 9, 0], expected"),
        (TOP + f"[[grid]]\nseed = {{range = [0, {10**30}]}}", 4, "seed has range = [0, 1000"),
        (TOP + f"[[grid]]\nlr = {{logspace = [1, 2, {10**30}]}}", 4, "lr has logspace = [1, 2, 1000"),
        (TOP + "[[grid]]\nlr = {logspace = 3}", 4, "lr has logspace = 3, expected"),
        (TOP + "[[grid]]\nlr = 1979-05-27", 4, "lr is datetime.date(1979, 5, 27), expected"),
        (TOP + "[[grid]]\nlr = [[0.1]]", 4, "lr is [0.1], expected"),
        (TOP + "[[grid]]\nmethod = [[]]", 4, "method is [], expected"),
        (TOP + '[[grid]]\nmethod = [{a = 1}, "gd"]', 4, "method is {'a': 1}, expected"),
        (TOP + '[[grid]]\nnorm = ["depth 0"]', 4, "norm is 'depth 0', expected"),
        (TOP + '[[grid]]\nnorm = "depth ' + "9" * 5000 + '"', 4, "norm is"),
        (TOP + '[[grid]]\n"a\\nb" = 1', 4, "'a\\nb' is unknown, expected"),
        (TOP + '"\\u001b[2J" = 1\n[[run]]', 3, "'\\x1b[2J' is unknown, expected"),
        (f'data = "auto"\nsteps = {10**12}\n[[run]]', 2, f"steps is {10**12}, expected"),
        (f'data = "auto"\nrecord_every = 1\nsteps = {10**9}\n[[run]]', 2, "record_every is 1, which asks for 1,000,"),
        (f'data = "auto"\nsteps = {10**10}\n[[run]]', 2, "steps is 10000000000, which asks for"),
    ],
)  # fmt: skip
def test_a_mistake_by_itself(text: str, line: int | None, said: str) -> None:
    found = mistakes_of(text)
    assert any(number == line and message.startswith(said) for number, message in found), found


def test_mistakes_of_fields_hide_none_of_their_combination() -> None:
    text = TOP + "[[grid]]\nlr = [-1.0]\n[[run]]\ndepth = 1.5\n[[run]]\nbogus = 1\ndepth = 2.5"
    found = mistakes_of(text)
    assert [line for line, _ in found] == [4, 5, 7, 8]


def test_the_message_lists_the_mistakes_and_counts_what_it_leaves_out() -> None:
    found = mistakes_of(TOP + "[[grid]]\nlr = [" + ", ".join(f"-{n}.0" for n in range(1, 31)) + "]")
    assert len(found) == 30
    message = str(SweepFileError("my.toml", found))
    assert message.startswith("my.toml has 30 mistakes:\n  line 4: lr is -1.0, expected")
    assert message.endswith("\n  and 10 more")
    assert str(SweepFileError("my.toml", found[:1])).startswith("my.toml has a mistake:\n  line 4: ")


@pytest.mark.parametrize(
    "text",
    [
        TOP + "[[grid]]\nlr = {linspace = [-2, -1, 100000]}",
        TOP + "[[grid]]\nlr = [" + "\n".join(f"0.{n:05d}1," for n in range(3000)) + "\n-1]",
        TOP + "[[run]]\nlr = 1\n" * 1500 + "[[run]]\nlr = 0",
        TOP + "[[grid]]\nseed = {range = [0, 9999]}\nlr = {linspace = [1, 2, 9999]}",
    ],
    ids=["mistakes", "lines", "tables", "runs"],
)
def test_large_files_are_refused_in_seconds(text: str) -> None:
    began = time.process_time()
    mistakes_of(text)
    assert time.process_time() - began < 10


# Whatever comes: a sweep file, or its mistakes.

words = st.sampled_from(
    [*FIELDS, "data", "steps", "target", "objective", "grid", "run", "logspace", "range", "linspace"]
)
numbers = st.integers(-3, 10) | st.integers() | st.floats() | st.sampled_from([10**18, 10**400, -(10**19)])
leaves = numbers | st.booleans() | st.text(max_size=8) | words | st.sampled_from(["auto", "l4", "depth 1", "gd"])
names = words | st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=5)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=3), max_leaves=8
)


def parsed_or_refused(text: str) -> None:
    with contextlib.suppress(SweepFileError):
        parse(text)
        return
    found = mistakes_of(text)
    assert found
    assert all(line is None or 1 <= line <= text.count("\n") + 1 for line, _ in found)


@settings(max_examples=150)
@given(st.dictionaries(names, values, max_size=5), st.lists(st.dictionaries(names, values, max_size=4), max_size=3))
def test_no_document_crashes(top: dict[str, Any], tables: list[dict[str, Any]]) -> None:
    parsed_or_refused(document({"data": "auto", "steps": 3, **top}, tables))


@settings(max_examples=150)
@given(st.dictionaries(st.sampled_from(list(FIELDS)), values, max_size=3))
def test_no_table_crashes(table: dict[str, Any]) -> None:
    parsed_or_refused(document({"data": "auto", "steps": 3}, [table], [table]))


@settings(max_examples=150)
@given(st.text() | st.text("[]={}\"'\n.#a1 \\\r\t"))
def test_no_text_crashes(text: str) -> None:
    parsed_or_refused(text)


@given(st.binary())
def test_no_file_crashes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "random.toml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"random\.toml"):
        read(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist; check the path, or give the name of a preset"):
        read(tmp_path / "absent.toml")
    with pytest.raises(ValueError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'data = "\xe4.csv"')
    with pytest.raises(ValueError, match="it is not UTF-8 text"):
        read(tmp_path / "latin.toml")
