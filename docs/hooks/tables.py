"""Wide tables of words become cards on a narrow screen: each cell says its column, and nothing has to be scrolled."""

from __future__ import annotations

import re
from html import escape

_TABLE = re.compile(r"<table>(?P<inside>.*?)</table>", re.DOTALL)
_ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)
_CELL = re.compile(r"<(?P<tag>t[hd])(?P<more>[^>]*)>(?P<text>.*?)</(?P=tag)>", re.DOTALL)
_COLUMNS, _WORDS = 3, 30


def on_page_content(content: str, **_: object) -> str:
    """Marks such tables, and names the column in each cell; the style sheet does the rest."""
    return _TABLE.sub(lambda found: _marked(found["inside"]), content)


def _marked(inside: str) -> str:
    rows = [[_plain(cell["text"]) for cell in _CELL.finditer(row)] for row in _ROW.findall(inside)]
    lengths = sorted(max(map(len, row)) for row in rows[1:] if row)
    if not lengths or len(rows[0]) < _COLUMNS or lengths[len(lengths) // 2] < _WORDS:
        return f"<table>{inside}</table>"
    names = rows[0]

    def labelled(row: re.Match[str]) -> str:
        place = iter(names)
        return _CELL.sub(lambda cell: _cell(cell, next(place, "")), row[0])

    return f"<table data-cards>{_ROW.sub(labelled, inside)}</table>"


def _cell(cell: re.Match[str], name: str) -> str:
    label = f' data-label="{escape(name)}"' if cell["tag"] == "td" and name else ""
    return f"<{cell['tag']}{cell['more']}{label}>{cell['text']}</{cell['tag']}>"


def _plain(text: str) -> str:
    return re.sub(r"<[^>]+>", "", text).strip()
