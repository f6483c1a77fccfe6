"""All mistakes of a sweep file as one error."""

from __future__ import annotations

from collections.abc import Sequence

MOST_SHOWN = 20


class SweepFileError(ValueError):
    """All mistakes of a sweep file.

    Attributes:
        mistakes: Line (None: the file as a whole) and what is wrong.
    """

    def __init__(self, name: str, mistakes: Sequence[tuple[int | None, str]]) -> None:
        self.mistakes = tuple(sorted(mistakes, key=lambda mistake: mistake[0] or 0))
        shown = [f"line {line}: {text}" if line else text for line, text in self.mistakes[:MOST_SHOWN]]
        if len(self.mistakes) > MOST_SHOWN:
            shown.append(f"and {len(self.mistakes) - MOST_SHOWN} more")
        count = f"{len(self.mistakes)} mistakes" if len(self.mistakes) > 1 else "a mistake"
        super().__init__(f"{name} has {count}:\n  " + "\n  ".join(shown))
