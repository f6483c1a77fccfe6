"""The verdict on an arm, in words that claim no more than the intervals do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from overdepth.comparison.jobs import Array
from overdepth.comparison.measures import Cost, Spread, race, spread_of_differences, spread_of_ratios, spread_of_times

FEWEST_SEEDS = 3
"""Below, no verdict is given: the interval over two seeds is as wide as everything."""
Kind = Literal["faster", "slower", "lower loss", "higher loss", "mixed", "no difference", "unstable", "not decided"]


@dataclass(frozen=True)
class Side:
    """What one arm did, seed by seed.

    Attributes:
        name: Of the arm.
        curves: Smoothed losses; empty where a run diverged.
    """

    name: str
    curves: Sequence[Array]

    @property
    def diverged(self) -> int:
        """How many runs did."""
        return sum(len(curve) == 0 for curve in self.curves)


@dataclass(frozen=True)
class Verdict:
    """What can be said of an arm against another one.

    Attributes:
        kind: In a word.
        words: In a sentence without a full stop.
        steps: How many times faster it is in steps; None if that is not known.
        time: The same in time.
        loss: The other's last loss over its own; their difference where losses are not all positive.
    """

    kind: Kind
    words: str
    steps: Spread | None = None
    time: Spread | None = None
    loss: Spread | None = None


def judge(arm: Side, plain: Side, window: int, cost: Cost | None = None) -> Verdict:
    """The verdict on an arm against plain training (or another one), seed by seed.

    Args:
        arm: The arm.
        plain: What it is compared with, with the same seeds.
        window: Of the smoothing.
        cost: The time of a step of the arm over that of the other; None if it is not known.
    """
    n = len(arm.curves)
    for side in (plain, arm):
        if side.diverged:
            whose = "" if side is arm else f"{side.name} "
            return Verdict(
                "unstable", f"unstable: {whose}diverged for {side.diverged} of {n} seeds at the learning rate chosen"
            )
    if n < FEWEST_SEEDS:
        return Verdict("not decided", f"not decided: too few seeds ({n}) to show a spread; give {FEWEST_SEEDS} or more")
    races = [race(p, a, window) for p, a in zip(plain.curves, arm.curves, strict=True)]
    speeds = [r.speed for r in races]
    steps = spread_of_ratios(speeds)
    time = None if cost is None else spread_of_times(speeds, cost)
    last = [(float(p[-1]), float(a[-1])) for p, a in zip(plain.curves, arm.curves, strict=True)]
    if all(p > 0 and a > 0 for p, a in last):
        loss = spread_of_ratios([p / a for p, a in last])
    else:
        loss = spread_of_differences([p - a for p, a in last], max(abs(p) for p, _ in last))
    return Verdict(_kind(steps, time, loss), _words(steps, time, loss, n), steps, time, loss)


def _kind(steps: Spread, time: Spread | None, loss: Spread | None) -> Kind:
    pace = {steps.sign, time.sign if time is not None else 0} - {0}
    signs = pace | ({loss.sign} if loss is not None else set()) - {0}
    if not signs:
        return "no difference"
    if len(signs) == 2:
        return "mixed"
    if pace:
        return "faster" if pace == {1} else "slower"
    return "lower loss" if signs == {1} else "higher loss"


def _words(steps: Spread, time: Spread | None, loss: Spread | None, n: int) -> str:
    said = _pace(steps, time, n)
    if loss is None or loss.sign == 0:
        return said
    how = "lower" if loss.sign > 0 else "higher"
    return f"{said}; its last loss is {between(_outward(loss))} {how}"


def _pace(steps: Spread, time: Spread | None, n: int) -> str:
    if time is None:
        return _clause(steps, "in steps", n)
    if steps.sign == time.sign == 0:
        both = f"{between(steps)} as fast in steps, {between(time)} in time"
        return f"no difference that {n} seeds can show ({both})"
    if steps.sign == time.sign:
        return f"{_clause(steps, 'in steps', n)}, {between(_outward(time))} in time"
    joint = ", but" if steps.sign else ";"
    return f"{_clause(steps, 'in steps', n)}{joint} {_clause(time, 'in time', n)}"


def _clause(spread: Spread, unit: str, n: int) -> str:
    if spread.sign == 0:
        return f"no difference {unit} that {n} seeds can show ({between(spread)})"
    return f"{'faster' if spread.sign > 0 else 'slower'} by {between(_outward(spread))} {unit}"


def _outward(spread: Spread) -> Spread:
    """The same, told as a gain: ``slower by 2``, not ``faster by 0.5``."""
    return spread if spread.sign > 0 else spread.inverted()


def between(spread: Spread) -> str:
    """``1.3 to 1.6 x``: both ends rounded outwards, so that no more is said than is known.

    Example:
        >>> from overdepth.comparison.measures import Spread
        >>> from overdepth.comparison.verdict import between
        >>> between(Spread(1.5, 1.349, 1.611, (1.4, 1.5, 1.6)))
        '1.34 to 1.62 x'
        >>> between(Spread(3.0, 0.0042, 12345.6, ()))
        '0.00420 to 12,400 x'
    """
    unit = " x" if spread.neutral else ""
    return f"{_rounded(spread.low, math.floor)} to {_rounded(spread.high, math.ceil)}{unit}"


def _rounded(value: float, towards: object) -> str:
    """Three digits, towards zero decimals or infinity as asked; what is beyond all measure is said so."""
    if not math.isfinite(value) or abs(value) >= 1e6:
        return "over a million" if value > 0 else "under minus a million"
    if abs(value) < 1e-6:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 2)
    rounded = (math.floor(value / unit + 1e-9) if towards is math.floor else math.ceil(value / unit - 1e-9)) * unit
    return f"{rounded:,.0f}" if abs(rounded) >= 1000 else f"{rounded:#.3g}".rstrip(".")
