"""On which line of a TOML file a key stands: tomllib reads values alone."""

from __future__ import annotations

import contextlib
import re
import tomllib
from collections.abc import Iterator
from typing import Any

Key = tuple[str | int, ...]
"""The way to a value: names, and a number for a table of an array, as ``("grid", 1, "lr")``."""

_TOKEN = re.compile(
    r"""
      \"{3} (?: \\. | [^\\] )*? \"{3,5} | '{3} .*? '{3,5}    # strings over many lines
    | " (?: \\. | [^"\\] )* " | ' [^']* '                 # strings
    | \# [^\n]*                                           # comments
    | [][{}] | \n
    """,
    re.VERBOSE | re.DOTALL,
)
"""What decides where a statement of a valid document ends, and whatever could be mistaken for it."""


def line_numbers(text: str) -> dict[Key, int]:
    r"""The line, counted from 1, on which every table and key of a valid TOML document begins.

    A document is a sequence of statements, headers and assignments, each of which is a document by itself. A
    statement ends at the first end of a line that no bracket and no string encloses.

    Example:
        >>> from overdepth.sweeps.positions import line_numbers
        >>> line_numbers("steps = 10\n[[grid]]\nlr = [\n  0.1,\n]\nseed = 1")
        {('steps',): 1, ('grid',): 2, ('grid', 0): 2, ('grid', 0, 'lr'): 3, ('grid', 0, 'seed'): 6}
    """
    found: dict[Key, int] = {}
    table: Key = ()
    tables: dict[Key, int] = {}
    for line, statement, values in _statements(text.replace("\r\n", "\n")):
        if statement.lstrip().startswith("["):
            table = _resolved(_header(values), tables)
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
    begin, line, depth = 0, 1, 0
    text += "\n"
    for token in _TOKEN.finditer(text):
        if token[0] in "[{":
            depth += 1
        elif token[0] in "]}":
            depth -= 1
        elif token[0] == "\n" and depth == 0:
            statement = text[begin : token.start()]
            with contextlib.suppress(ValueError, RecursionError):
                if values := tomllib.loads(statement):
                    yield line, statement, values
            line += statement.count("\n") + 1
            begin = token.end()


def _resolved(names: Key, tables: dict[Key, int]) -> Key:
    """A header's names with the numbers of the tables that it stands in: ``[grid.lr]`` belongs to the last grid."""
    key: Key = ()
    for name in names[:-1]:
        key = (*key, name)
        if key in tables:
            key = (*key, tables[key])
    return (*key, *names[-1:])


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
