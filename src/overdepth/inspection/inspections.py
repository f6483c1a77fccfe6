"""All products of a model: rows, a table, a picture."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overdepth._extras import missing_extra
from overdepth.inspection.chains import Kind
from overdepth.inspection.products import Product
from overdepth.inspection.table import grouped, table

if TYPE_CHECKING:
    import plotly.graph_objects as go

LINES = 60


@dataclass(frozen=True)
class Inspection:
    """What :func:`overdepth.inspect` found: its ``repr`` is a table, and it iterates over its rows.

    Attributes:
        model: The class of the model.
        products: The rows, heads one by one.
        left_out: Why something that looks like a product is none here, by its name.
        remarks: Sentences on the model as a whole.
    """

    model: str
    products: tuple[Product, ...]
    left_out: Mapping[str, str]
    remarks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.products)

    def __iter__(self) -> Iterator[Product]:
        return iter(self.products)

    def __getitem__(self, index: int) -> Product:
        return self.products[index]

    def __repr__(self) -> str:
        return self.table()

    def table(self, *, by_head: bool = False, lines: int | None = LINES) -> str:
        """The table as text.

        Args:
            by_head: A line for each head and each group of a convolution, instead of one with their range.
            lines: How many lines at most; None for all.
        """
        if not self.products:
            return "\n".join([self.nothing(), *self._below()])
        groups = [[product] for product in self.products] if by_head else grouped(self.products)
        shown = groups[:lines]
        written = table(shown)
        if len(groups) > len(shown):
            written.append(f"and {len(groups) - len(shown)} more lines: .table(lines=None), or iterate")
        notes: dict[str, list[str]] = {}
        for group in shown:
            for note in dict.fromkeys(note for product in group for note in product.notes):
                notes.setdefault(note, []).append(f"{group[0].name} ({group[0].kind})")
        written += [f"{_some(names)}: {note}" for note, names in notes.items()]
        return "\n".join([*written, *self._below()])

    def nothing(self) -> str:
        """The sentence for a model without products."""
        return (
            f"no products in {self.model}: it has no attention whose heads can be told, no linear layers in a row, no "
            f"LoRA pairs, and nothing that overdepth.overparameterize_ made"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined or infinite is None."""
        return {
            "model": self.model,
            "products": [product.to_dict() for product in self.products],
            "left_out": dict(self.left_out),
            "remarks": list(self.remarks),
        }

    def figure(self, kind: Kind | None = None) -> go.Figure:
        """A Plotly figure: each product's multipliers in falling order, heads as a band; needs the extra ``lab``.

        Args:
            kind: Draw the products of this kind alone.

        Raises:
            ModuleNotFoundError: Without the extra ``lab``.
            ValueError: If there is nothing to draw.
        """
        figure: go.Figure = _pictures().multiplier_figure(self, kind)
        return figure

    def save_page(self, path: str | Path) -> None:
        """Writes table and pictures as one page that opens without a network; needs the extra ``lab``.

        Args:
            path: The .html file.

        Raises:
            ModuleNotFoundError: Without the extra ``lab``.
            OSError: If the disk refuses.
            ValueError: If there is nothing to show.
        """
        _pictures().write_inspection(Path(path), self)

    def _below(self) -> list[str]:
        reasons: dict[str, list[str]] = {}
        for name, reason in self.left_out.items():
            reasons.setdefault(reason, []).append(name)
        said = [f"left out: {_some(names)} ({reason})" for reason, names in reasons.items()]
        return [*said, *self.remarks]


def _some(names: list[str], most: int = 3) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _pictures() -> Any:
    """The module that draws, which is far above the numbers."""
    try:
        return importlib.import_module("overdepth.paper.inspected")
    except ModuleNotFoundError as error:
        missing_extra(error, "the picture", "lab")
