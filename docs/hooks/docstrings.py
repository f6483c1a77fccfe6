"""How the reference reads the docstrings: their roles, formulas and examples, as Markdown has them."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`~?([\w.]+)`")
_FORMULA = re.compile(r"^(?P<indent> *)\.\. math:: (?P<formula>.+(?:\n(?P=indent) +\S.*)*)$", re.MULTILINE)
_STAR = re.compile(r"(?<![\w*])(W|x|f|alpha)\*")
_SOURCE = re.compile(r"^References:\n(?P<text>(?:    .*(?:\n|$)|\n(?=    ))+)", re.MULTILINE)
_UNDERSCORE = re.compile(r"(?<=[\])|}])_")
_TAG = re.compile(r"<(?=[A-Za-z/(])")
_CODE = re.compile(r"(``.+?``|`[^`]+`)")


class Docstrings(griffe.Extension):
    """Rewrites every docstring before its sections are read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = rewritten(obj.docstring.value)


def rewritten(text: str) -> str:
    """A docstring as Markdown in Google's sections.

    Example:
        >>> print(rewritten("As :func:`f`, with <g, u> > 0."))
        As `f`, with &lt;g, u> > 0.
    """
    text = _SOURCE.sub(lambda found: "**Source.** " + re.sub(r"^    ", "", found["text"], flags=re.MULTILINE), text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    text = _FORMULA.sub(lambda found: f"{found['indent']}$${' '.join(found['formula'].split())}$$", text)
    text = _ROLE.sub(r"`\1`", text)
    lines, in_examples = [], False
    for line in text.split("\n"):
        if line.strip().endswith(":") and line.strip()[:-1].isalpha():
            in_examples = line.strip() == "Examples:"
        lines.append(line if in_examples or line.lstrip().startswith(">>>") else _prose(line))
    return "\n".join(lines)


def _prose(line: str) -> str:
    """A line of text in which <g, u> is no tag of HTML."""
    if "$$" in line:
        return line
    parts = _CODE.split(line)
    return "".join(part if part.startswith("`") else _escaped(part) for part in parts)


def _escaped(text: str) -> str:
    return _UNDERSCORE.sub(r"\_", _STAR.sub(r"\1\*", _TAG.sub("&lt;", text)))
