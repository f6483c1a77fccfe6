"""The figures of a comparison as text for a table and as plain JSON values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from overdepth.comparison.measures import Spread
from overdepth.comparison.verdict import Verdict
from overdepth.paper.claim import number


def median_text(values: Sequence[float], infinite: str) -> str:
    """The median and how many are infinite."""
    missing = sum(not math.isfinite(v) for v in values)
    middle = statistics.median(values)
    shown = number(middle) if math.isfinite(middle) else infinite
    return shown if missing in (0, len(values)) else f"{shown} ({infinite}: {missing} of {len(values)})"


def range_text(lrs: Sequence[float]) -> str:
    """The median, and the smallest and largest where they are not the same."""
    known = sorted(lr for lr in lrs if math.isfinite(lr))
    if not known:
        return "diverged"
    shown = f"{statistics.median(known):.3g}"
    return shown if known[0] == known[-1] else f"{shown} ({known[0]:.3g} to {known[-1]:.3g})"


def plain(value: Any) -> float | None:
    """A number as JSON knows it; None if it is infinite or unknown."""
    found = float(value)
    return found if math.isfinite(found) else None


def verdict_dict(verdict: Verdict | None) -> dict[str, Any] | None:
    """A verdict with its three quantities."""
    if verdict is None:
        return None
    spreads = {"steps": verdict.steps, "time": verdict.time, "loss": verdict.loss}
    return {"kind": verdict.kind, "words": verdict.words, **{name: spread_dict(s) for name, s in spreads.items()}}


def spread_dict(spread: Spread | None) -> dict[str, Any] | None:
    """Median and interval of a ratio, and its value for every seed."""
    if spread is None:
        return None
    values = [plain(value) for value in spread.values]
    return {"median": plain(spread.median), "low": plain(spread.low), "high": plain(spread.high), "values": values}
