"""The views, in the order in which a reader meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overdepth.explorer import certified, ellipse, own_sweep, plateaus, two_point_pictures
from overdepth.explorer.controls import Control, Values
from overdepth.explorer.drawing import Shown


def _nothing(_: Values) -> Sequence[Control]:
    return ()


@dataclass(frozen=True)
class View:
    """A view.

    Attributes:
        key: Its name in an address.
        title: On its tab.
        says: A sentence on what it shows.
        controls: What can be set.
        show: From the controls' values to text and figures.
        further: Controls that depend on what is set.
    """

    key: str
    title: str
    says: str
    controls: Sequence[Control]
    show: Callable[[Values], Shown]
    further: Callable[[Values], Sequence[Control]] = _nothing


VIEWS: dict[str, View] = {
    view.key: view
    for view in (
        View(
            "points",
            "Two points",
            "Section 7 of Arora, Cohen & Hazan: two labels, one large and one small. Plain descent must take steps "
            "small enough for the large one, and crawls towards the small one. The end-to-end rule need not.",
            two_point_pictures.CONTROLS,
            two_point_pictures.show,
        ),
        View(
            "preconditioner",
            "Preconditioner",
            "Depth acts on the gradient as a preconditioner (Theorem 1, Claim 1): it favours the directions in which "
            "the weight is large already.",
            ellipse.CONTROLS,
            ellipse.show,
        ),
        View(
            "modes",
            "Modes",
            "Seen along the singular vectors of its target a deep linear network is a set of numbers that are learned "
            "one by one, each after a plateau.",
            plateaus.CONTROLS,
            plateaus.show,
        ),
        View(
            "rates",
            "Certified rates",
            "Gradient flow keeps the imbalance between the layers, and a rate can be proved from it (Min, Vidal & "
            "Mallada): the larger it is, the faster the flow must be.",
            certified.CONTROLS,
            certified.show,
        ),
        View(
            "sweep",
            "Your sweep",
            "Runs of your own, from `overdepth.lab.sweep` or a report.",
            own_sweep.CONTROLS,
            own_sweep.show,
            own_sweep.further,
        ),
    )
}
"""By their names in an address."""
