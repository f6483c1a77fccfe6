"""On which line of a TOML file a key stands: tomllib reads values alone."""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Iterator
from typing import Any

Key = tuple[str | int, ...]
"""The way to a value: names, and a number for a table of an array, as ``("grid", 1, "lr")``."""


def line_numbers(text: str) -> dict[Key, int]:
    r"""The line, counted from 1, on which every table and key of a valid TOML document begins.

    A document is a sequence of statements, headers and assignments, each of which is a document by itself. So the
    shortest run of lines that parses is the next statement, whatever it holds: arrays over many lines, strings with
    brackets, dotted keys. Arrays of tables inside arrays of tables are not told apart.

    Example:
        >>> from overdepth.sweeps.positions import line_numbers
        >>> line_numbers("steps = 10\n[[grid]]\nlr = [\n  0.1,\n]\nseed = 1")
        {('steps',): 1, ('grid',): 2, ('grid', 0): 2, ('grid', 0, 'lr'): 3, ('grid', 0, 'seed'): 6}
    """
    found: dict[Key, int] = {}
    table: Key = ()
    tables: dict[Key, int] = {}
    for line, statement, values in _statements(text):
        if statement.lstrip().startswith("["):
            table = _header(values)
            found.setdefault(table, line)
            if statement.lstrip().startswith("[["):
                tables[table] = tables.get(table, -1) + 1
                table = (*table, tables[table])
                found[table] = line
        else:
            for key in _keys(values):
                found.setdefault((*table, *key), line)
    return found


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """The first line, the text and the values of every statement."""
    lines = text.splitlines()
    first = 0
    for last in range(len(lines)):
        statement = "\n".join(lines[first : last + 1])
        with contextlib.suppress(tomllib.TOMLDecodeError):
            values = tomllib.loads(statement)
            if values:
                yield first + 1, statement, values
            first = last + 1


def _header(values: dict[str, Any]) -> Key:
    """The names in a header, from the empty table that it opens."""
    names: list[str] = []
    inner: Any = values
    while inner:
        if isinstance(inner, list):
            inner = inner[0]
        else:
            [(name, inner)] = inner.items()
            names.append(name)
    return tuple(names)


def _keys(values: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The keys of an assignment, tables first."""
    for name, value in values.items():
        yield (name,)
        if isinstance(value, dict):
            for rest in _keys(value):
                yield (name, *rest)
