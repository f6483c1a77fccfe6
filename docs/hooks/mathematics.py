"""Formulas become MathML while the site is built: browsers draw it themselves, without a script or a font."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">(?:\\\((?P<inline>.*?)\\\)|\\\[(?P<block>.*?)\\\])</(?P=tag)>', re.DOTALL
)


def on_page_content(content: str, **_: object) -> str:
    """Replaces the formulas that arithmatex has found on a page."""
    return _FORMULA.sub(_to_mathml, content)


def _to_mathml(found: re.Match[str]) -> str:
    display = "inline" if found["inline"] is not None else "block"
    source = html.unescape(found["inline"] or found["block"] or "").strip()
    mathml = convert(source, display=display)
    return f'<{found["tag"]} class="formula">{mathml}</{found["tag"]}>'
