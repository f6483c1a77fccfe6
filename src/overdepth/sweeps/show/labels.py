"""Settings in words, and the colour and dash by which their curves are told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from overdepth.sweeps.show.best import Settings

LONGEST = 60
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SPEAKS_FOR_ITSELF = ("init", "method", "objective")
COLORS = 7
"""Beside the grey one."""


def text(value: object, longest: int = LONGEST) -> str:
    """A value for people: 2 instead of 2.0, ∞ for infinity, "none" for NaN.

    Example:
        >>> from overdepth.sweeps.show.labels import text
        >>> [text(value) for value in (2.0, 0.05, float("inf"), float("nan"), True, "near_zero")]
        ['2', '0.05', '∞', 'none', 'yes', 'near_zero']
    """
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return str(value)
    if isinstance(value, (float, np.floating)):
        return "none" if math.isnan(value) else ("-∞" if value < 0 else "∞") if math.isinf(value) else f"{value:g}"
    found = " ".join(str(value).split())
    return found if len(found) <= longest else f"{found[: longest - 3]}..."


def label(settings: Settings) -> str:
    """Settings in one line.

    Example:
        >>> from overdepth.sweeps.show.labels import label
        >>> label({"depth": 2.0, "width": 10, "init": "orthogonal"})
        'depth 2, width 10, orthogonal'
    """
    parts = (text(value) if name in SPEAKS_FOR_ITSELF else f"{name} {text(value)}" for name, value in settings.items())
    return ", ".join(parts)


def escaped(words: str) -> str:
    """Words for Plotly, which takes angle brackets for markup."""
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def looks(groups: Sequence[Settings]) -> list[tuple[int, str]]:
    """A colour and a dash for every group: a colour a depth, a dash for what else varies, as far as these suffice."""
    values = {
        name: list(dict.fromkeys(text(group[name]) for group in groups)) for name in (groups[0] if groups else {})
    }
    varying = {name: own for name, own in values.items() if len(own) > 1}
    if varying:
        colored = "depth" if "depth" in varying else max(varying, key=lambda name: len(varying[name]))
        rest = list(dict.fromkeys(tuple(text(group[name]) for name in varying if name != colored) for group in groups))
        if len(varying[colored]) <= COLORS and len(rest) <= len(DASHES):
            return [
                (
                    1 + varying[colored].index(text(group[colored])),
                    DASHES[rest.index(tuple(text(group[name]) for name in varying if name != colored))],
                )
                for group in groups
            ]
    return [(1 + i % COLORS, DASHES[i // COLORS % len(DASHES)]) for i in range(len(groups))]
