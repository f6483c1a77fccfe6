"""The views, in the order in which a reader meets them; each is a module, imported when it is first looked at."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from overdepth.explorer.controls import Control, Values
    from overdepth.explorer.drawing import Shown


@dataclass(frozen=True)
class View:
    """A view.

    Attributes:
        key: Its name in an address.
        title: On its tab.
        says: A sentence on what it shows.
        module: Of this package. It has ``CONTROLS``; ``show``, from the controls' values to text and figures; and maybe
            ``further``, controls that depend on what is set.
    """

    key: str
    title: str
    says: str
    module: str

    @functools.cached_property
    def made(self) -> Any:
        """The module."""
        return importlib.import_module(f"overdepth.explorer.{self.module}")

    @property
    def controls(self) -> Sequence[Control]:
        """What can be set."""
        found: Sequence[Control] = self.made.CONTROLS
        return found

    def further(self, values: Values) -> Sequence[Control]:
        """What else can be set, as things are."""
        found: Sequence[Control] = self.made.further(values) if hasattr(self.made, "further") else ()
        return found

    def show(self, values: Values) -> Shown:
        """Text and figures.

        Raises:
            ValueError: If the values do not fit together; with a sentence for the reader.
        """
        found: Shown = self.made.show(values)
        return found


VIEWS: dict[str, View] = {
    view.key: view
    for view in (
        View(
            "points",
            "Two points",
            "Section 7 of Arora, Cohen & Hazan: two labels, one large and one small. Plain descent must take steps "
            "small enough for the large one, and crawls towards the small one. The end-to-end rule need not.",
            "two_point_pictures",
        ),
        View(
            "preconditioner",
            "Preconditioner",
            "Depth acts on the gradient as a preconditioner (Theorem 1, Claim 1): it favours the directions in which "
            "the weight is large already.",
            "ellipse",
        ),
        View(
            "modes",
            "Modes",
            "Seen along the singular vectors of its target a deep linear network is a set of numbers that are learned "
            "one by one, each after a plateau.",
            "plateaus",
        ),
        View(
            "rates",
            "Certified rates",
            "Gradient flow keeps the imbalance between the layers, and a rate can be proved from it (Min, Vidal & "
            "Mallada): the larger it is, the faster the flow must be.",
            "certified",
        ),
        View(
            "sweep",
            "Your sweep",
            "Runs of your own, from `overdepth.lab.sweep` or a report.",
            "own_sweep",
        ),
    )
}
"""By their names in an address."""
