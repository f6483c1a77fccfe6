"""On which line a key of a TOML document stands."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overdepth.sweeps.positions import line_numbers


def test_keys_tables_and_arrays_of_tables() -> None:
    text = """\
# a comment with "quotes', [brackets and {more

steps = 1
"quoted key" = 'a # b [ {'
dotted.inner."x.y" = 3
[table]
a = 1
[table.below]
b = 2
[[grid]]
lr = { logspace = [1, 2, 3] }
[grid.seed]
range = [0, 3]
[[grid]]
lr = 2
[[grid.inner]]
c = 1
[[grid.inner]]
c = 2
"""
    assert line_numbers(text) == {
        ("steps",): 3,
        ("quoted key",): 4,
        ("dotted",): 5,
        ("dotted", "inner"): 5,
        ("dotted", "inner", "x.y"): 5,
        ("table",): 6,
        ("table", "a"): 7,
        ("table", "below"): 8,
        ("table", "below", "b"): 9,
        ("grid",): 10,
        ("grid", 0): 10,
        ("grid", 0, "lr"): 11,
        ("grid", 0, "lr", "logspace"): 11,
        ("grid", 0, "seed"): 12,
        ("grid", 0, "seed", "range"): 13,
        ("grid", 1): 14,
        ("grid", 1, "lr"): 15,
        ("grid", 1, "inner"): 16,
        ("grid", 1, "inner", 0): 16,
        ("grid", 1, "inner", 0, "c"): 17,
        ("grid", 1, "inner", 1): 18,
        ("grid", 1, "inner", 1, "c"): 19,
    }


@pytest.mark.parametrize(
    "value",
    [
        "[\n 1, # ] no end\n 2\n]",
        '"""\n a = 1\n[[grid]]\n"""',
        "'''\n a = 1\n \"\"\" '''",
        '"""a\\""" \n"""',
        '"""a"""""',
        "''''a'''''",
        '""',
        "''",
        '"\\"[" # """',
        '["""\n[""", {a = "}"}, [\n\n]]',
        '"one \u2028 line \x85"',
        "1 # \u2028 [",
        '"""\\\n  a"""',
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_value_of_many_lines_hides_none(value: str, end: str) -> None:
    text = f"first = {value}\nlast = 1\n[table]\na = {value}\nb = 2"
    lines = value.count("\n")
    expected = {("first",): 1, ("last",): 2 + lines, ("table",): 3 + lines, ("table", "a"): 4 + lines}
    expected["table", "b"] = 5 + 2 * lines
    found = line_numbers(text.replace("\n", end))
    assert {key: found[key] for key in expected} == expected


strings = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\"'[]{}#=,\\\n"))


@given(st.lists(st.tuples(strings, st.booleans()), max_size=8))
def test_any_strings(values: list[tuple[str, bool]]) -> None:
    text, expected = "", {}
    for number, (value, many) in enumerate(values):
        expected[f"key{number}",] = text.count("\n") + 1
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        quoted = f'"""{escaped}"""' if many else '"' + escaped.replace("\n", "\\n") + '"'
        text += f"key{number} = {quoted} # {value.splitlines()[0] if value.splitlines() else ''}\n"
    assert line_numbers(text) == expected


@given(st.text() | st.text("[]={}\"'\n.#a1 \\\r\t"))
def test_no_text_crashes(text: str) -> None:
    found: dict[Any, int] = line_numbers(text)
    assert all(1 <= line <= text.count("\n") + 1 for line in found.values())


def test_time_is_linear_in_the_lines() -> None:
    text = "a = [\n" + "1,\n" * 200_000 + "]\nb = 2"
    began = time.process_time()
    assert line_numbers(text)["b",] == 200_003
    assert time.process_time() - began < 10
