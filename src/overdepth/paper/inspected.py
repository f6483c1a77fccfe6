"""Picture and page of an :class:`overdepth.inspection.Inspection`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from overdepth.inspection import Inspection, Product
from overdepth.inspection.chains import KINDS, Kind
from overdepth.inspection.table import HEADER, grouped, line
from overdepth.paper.picture import COLORS, Curve, add_curve, blank_figure
from overdepth.paper.rendering import embedded, write_page

_DASHES = ("solid", "dash", "dashdot", "longdash")


def multiplier_figure(inspection: Inspection, kind: Kind | None = None) -> go.Figure:
    """Learning-rate multipliers in falling order: the median over the heads of a layer, and their range as a band.

    Dotted in the same colour: balanced factors with the same product. Zeros have no place on the logarithmic axis. Of
    a product whose spectrum is not computed the certain bounds of its ends are joined by a thin line.

    Args:
        inspection: What to draw.
        kind: Draw the products of this kind alone.

    Raises:
        ValueError: If there is nothing to draw.
    """
    products = [p for p in inspection if kind is None or p.kind == kind]
    if not products:
        raise ValueError(f"nothing to draw: {inspection.nothing() if not inspection else f'no product is {kind!r}'}.")
    title = f"{inspection.model}: learning-rate multipliers" + (f" of {kind} products" if kind else "")
    figure = blank_figure(title, x="directions of the product, fastest first (percent)", y="multiplier")
    figure.update_layout(hovermode="closest")
    for index, group in enumerate(grouped(products)):
        dash = _DASHES[(index + 1) // len(COLORS) % len(_DASHES)]
        label = f"{group[0].name} ({group[0].kind})" if kind is None else group[0].name
        _add(figure, group, label, index + 1, dash)
    return figure


def write_inspection(path: Path, inspection: Inspection, *, command: str = "") -> None:
    """Writes the page.

    Args:
        path: The .html file.
        inspection: What was found.
        command: The command line that makes the page.

    Raises:
        OSError: If the disk refuses.
        ValueError: If there is nothing to show.
    """
    if not inspection.products:
        raise ValueError(f"no page was written: {inspection.nothing()}.")
    kinds = [kind for kind in KINDS if any(p.kind == kind for p in inspection)]
    groups = grouped(inspection)
    write_page(
        path,
        "inspected.html",
        inspection=inspection,
        header=HEADER,
        rows=[line(group) for group in groups],
        notes=[sorted({note for product in group for note in product.notes}) for group in groups],
        factors=[_factors(group) for group in groups],
        pictures=[(kind, embedded(multiplier_figure(inspection, kind))) for kind in kinds],
        command=command,
    )


def _add(figure: go.Figure, group: Sequence[Product], label: str, color: int, dash: str) -> None:
    known = all(p.multipliers.curve for p in group)
    values = np.array(
        [p.multipliers.curve if known else (p.multipliers.largest, p.multipliers.smallest) for p in group]
    )
    balanced = np.array([p.balanced_multipliers.curve for p in group])
    percent = np.linspace(0, 100, values.shape[1])
    add_curve(figure, percent, Curve(label, values, color, dash, 2.5 if known else 1.0))
    median = Curve(f"{label}, balanced", np.median(balanced, axis=0)[None], color, "dot", 1.2)
    add_curve(figure, np.linspace(0, 100, balanced.shape[1]), median)
    figure.data[-1].update(showlegend=False, legendgroup=label)


def _factors(group: Sequence[Product]) -> str:
    """W_1, ..., W_N of the first product of a line."""
    more = " ..." if len(group) > 1 else ""
    return ", ".join(group[0].factors) + more
