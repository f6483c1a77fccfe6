"""Lists of settings in a sweep file: a value, a list of values, or a short way to write a list."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overdepth.lab.run import RUN_FIELDS, Run

MOST_VALUES = 1_000_000
NORM_OF_DEPTH = "depth "
"""``norm = "depth 1"``: the norm of the initial product of depth 1, which is known once the data are."""


_REALS = ("lr", "scale", "weight_decay", "norm")
_LONGEST = 200


def _logspace(low: Any, high: Any, count: Any) -> list[float]:
    first, last = _real(low), _real(high)
    if min(first, last) <= 0:
        raise ValueError
    return _rounded(np.geomspace(first, last, _count(count)))


def _linspace(low: Any, high: Any, count: Any) -> list[float]:
    return _rounded(np.linspace(_real(low), _real(high), _count(count)))


def _rounded(values: NDArray[np.float64]) -> list[float]:
    # To 12 digits: 1e-3 is to be met as 1e-3, and the same on every machine.
    return [float(f"{value:.12g}") for value in values]


def _range(*bounds: Any) -> list[int]:
    if not all(type(bound) is int for bound in bounds) or not 2 <= len(bounds) <= 3:
        raise ValueError
    found = range(*bounds)
    if len(found) > MOST_VALUES:
        raise ValueError
    return list(found)


def _count(count: Any) -> int:
    if type(count) is not int or not 1 <= count <= MOST_VALUES:
        raise ValueError
    return count


def _real(number: Any) -> float:
    if type(number) not in (int, float):
        raise ValueError
    return float(number)


_SHORT: dict[str, tuple[Callable[..., Sequence[Any]], str]] = {
    "logspace": (_logspace, "[first, last, how many], with first and last > 0"),
    "linspace": (_linspace, "[first, last, how many]"),
    "range": (_range, "[first, beyond the last] or [first, beyond the last, step], integers"),
}


def listed(value: Any) -> list[Any]:
    """The values that an entry of a sweep file stands for.

    Args:
        value: A number or word, a list of these, or a table with one of the keys ``logspace``, ``linspace``, ``range``.

    Raises:
        ValueError: If it is something else, or an empty list.

    Example:
        >>> from overdepth.sweeps.values import listed
        >>> listed(0.1), listed({"logspace": [1e-3, 1e-1, 3]}), listed({"range": [0, 3]})
        ([0.1], [0.001, 0.01, 0.1], [0, 1, 2])
    """
    if isinstance(value, dict):
        if len(value) != 1 or next(iter(value)) not in _SHORT:
            raise ValueError(f"is a table, expected one with a single key, one of {', '.join(_SHORT)}.")
        [(name, bounds)] = value.items()
        make, wanted = _SHORT[name]
        try:
            if not isinstance(bounds, list):
                raise TypeError
            with np.errstate(all="ignore"):  # what overflows is told below
                value = list(make(*bounds))
            if not all(math.isfinite(number) for number in value):
                raise ValueError
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"has {name} = {shown(bounds)}, expected {wanted}.") from None
    values = value if isinstance(value, list) else [value]
    if not values:
        raise ValueError("is an empty list, expected at least one value.")
    return values


def checked(field: str, value: Any) -> Any:
    """A single value of a field of :class:`~overdepth.lab.Run`, as the run will take it.

    Raises:
        ValueError: If no run can have it, with what is allowed.
    """
    if field == "norm" and isinstance(value, str):
        depth = value.removeprefix(NORM_OF_DEPTH)
        if value.startswith(NORM_OF_DEPTH) and re.fullmatch("[1-9][0-9]{0,5}", depth):
            return value
        raise ValueError(f'is {shown(value)}, expected a number > 0, or "depth 1" to match the start of depth 1.')
    if field == "depth" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if field in _REALS and type(value) is int:  # 1 and 1.0 are one setting
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"is {shown(value)}, expected a finite number.") from None
    settings = {"method": "end_to_end", "lr": 1e-300} if field in ("depth", "weight_decay") else {}
    try:
        Run(**{**settings, field: value})
    except (ValueError, TypeError) as error:
        raise ValueError(str(error).removeprefix(f"Run.{field} ")) from None
    return value


def shown(value: Any) -> str:
    """A value as a message shows it: on one line, and not without end."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no number of thousands of digits
        return "a huge number"
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def closest(name: str, known: Sequence[str]) -> str:
    """``; did you mean lr?`` if a known name is near."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else "."


def plain(name: str) -> str:
    """A name as it is, or quoted where it could not be told from what is around it."""
    return name if re.fullmatch(r"[\w-]{1,60}", name) else shown(name)


def combinations(lists: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """All combinations of lists, the last one varying fastest."""
    for combination in itertools.product(*lists.values()):
        yield dict(zip(lists, combination, strict=True))


def norm_of_depth(settings: dict[str, Any]) -> int:
    """Takes ``norm = "depth 1"`` out of the settings and returns the depth."""
    if not isinstance(settings.get("norm"), str):
        return 0
    return int(settings.pop("norm").removeprefix(NORM_OF_DEPTH))


FIELDS = RUN_FIELDS
