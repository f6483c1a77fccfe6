"""Controls as data: what can be set, between which values, and how a link says it.

A control has a key, which is its name in the page's address. Numbers have a list of steps, so that every value a reader
meets is a round one; a number in an address is moved to the nearest step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

Value = float | str
Values = Mapping[str, Value]

DIGITS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)


@dataclass(frozen=True)
class Slider:
    """A number among steps.

    Attributes:
        key: Its name in an address.
        label: What a reader sees beside it.
        steps: Increasing; whole numbers are shown and given as such.
        default: One of them.
    """

    key: str
    label: str
    steps: Sequence[float]
    default: float

    def read(self, text: str) -> float:
        """The step nearest to a number, by ratio where all steps are positive and span decades.

        Raises:
            ValueError: If the text is no finite number.
        """
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(
                f"{self.key} is {text!r} in the address, expected a number from {self.steps[0]:g} to "
                f"{self.steps[-1]:g}; its default, {self.default:g}, is shown."
            )
        return min(self.steps, key=lambda step: self._distance(step, number))

    def _distance(self, step: float, number: float) -> float:
        if self.steps[0] > 0 and self.steps[-1] >= 10 * self.steps[0] and number > 0:
            return abs(math.log(step / number))
        return abs(step - number)


@dataclass(frozen=True)
class Choice:
    """One of a few options.

    Attributes:
        key: Its name in an address.
        label: What a reader sees beside it.
        options: What a reader sees, by what an address says.
        default: A key of ``options``.
    """

    key: str
    label: str
    options: Mapping[str, str]
    default: str

    def read(self, text: str) -> str:
        """The option of this name.

        Raises:
            ValueError: If there is none.
        """
        if text not in self.options:
            raise ValueError(
                f"{self.key} is {text!r} in the address, expected one of {', '.join(self.options)}; "
                f"{self.default!r} is shown."
            )
        return text


@dataclass(frozen=True)
class Text:
    """A line of text, such as a path."""

    key: str
    label: str
    default: str = ""
    placeholder: str = field(default="", kw_only=True)

    def read(self, text: str) -> str:
        """The text as it is."""
        return text


Control = Slider | Choice | Text


def decades(low: int, high: int) -> tuple[float, ...]:
    """Round numbers from 10^low to 10^high, six a decade.

    Example:
        >>> from overdepth.explorer.controls import decades
        >>> decades(-1, 0)
        (0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1.0)
    """
    steps = [float(f"{digit}e{exponent}") for exponent in range(low, high) for digit in DIGITS]
    return (*steps, float(f"1e{high}"))


def evenly(low: float, high: float, step: float) -> tuple[float, ...]:
    """Numbers from low to high at a distance, without the noise of adding them up.

    Example:
        >>> from overdepth.explorer.controls import evenly
        >>> evenly(0, 0.4, 0.1)
        (0.0, 0.1, 0.2, 0.3, 0.4)
    """
    return tuple(round(low + i * step, 10) for i in range(round((high - low) / step) + 1))


def read(controls: Sequence[Control], query: Mapping[str, object]) -> tuple[dict[str, Value], list[str]]:
    """The values that an address asks for, defaults where it says nothing, and a sentence on everything it gets wrong.

    Args:
        controls: Of the view.
        query: The address's parameters; of a repeated one the last counts.

    Example:
        >>> from overdepth.explorer.controls import Slider, read
        >>> read([Slider("depth", "depth N", (1, 2, 3), 2)], {"depth": "3"})
        ({'depth': 3}, [])
    """
    values: dict[str, Value] = {}
    wrong = []
    for control in controls:
        values[control.key] = control.default
        given = query.get(control.key)
        if isinstance(given, (list, tuple)):
            given = given[-1] if given else None
        if given is not None:
            try:
                values[control.key] = control.read(str(given))
            except ValueError as error:
                wrong.append(str(error))
    return values, wrong


def write(controls: Sequence[Control], values: Values) -> dict[str, str]:
    """What an address has to say for these values: nothing where they are the defaults.

    Example:
        >>> from overdepth.explorer.controls import Slider, write
        >>> write([Slider("depth", "depth N", (1, 2, 3), 2)], {"depth": 3.0})
        {'depth': '3'}
    """
    return {
        control.key: f"{value:g}" if isinstance(value, (int, float)) else value
        for control in controls
        if (value := values[control.key]) != control.default
    }
