"""What long work tells of itself, to whoever shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reporter:
    """What is told of the work while it runs; both are called often.

    Attributes:
        begin: With a description, the number of runs and the number of steps.
        advance: With the step reached and the number of runs that still take part.
    """

    begin: Callable[[str, int, int], None] = field(default=lambda *_: None)
    advance: Callable[[int, int], None] = field(default=lambda *_: None)
