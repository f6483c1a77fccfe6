"""What all pictures of the documentation share: colours, panels, saving, and their narrow versions."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

import overdepth as od
from overdepth import theory

BLUE, RED, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"  # Okabe & Ito: told apart by colour-blind readers
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "overdepth",  # the same names in every run
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=["black", BLUE, RED, GREEN], linestyle=["-", "--", "-.", (0, (1, 1.2))]),
    "legend.frameon": False,
}


def panels(count: int, width: float = 8.0, height: float = 3.2) -> tuple[Figure, Sequence[Axes]]:
    """A figure with panels side by side."""
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, list(fig.subplots(1, count, squeeze=False)[0])


def label(ax: Axes, x: str, y: str, title: str) -> None:
    """The words around a panel."""
    ax.set(xlabel=x, ylabel=y, title=title)


def normal(seed: int, *shape: int) -> torch.Tensor:
    """Standard normal numbers of a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(matrices: Sequence[torch.Tensor]) -> float:
    """The Frobenius norm of all matrices together."""
    return math.sqrt(sum(float(matrix.square().sum()) for matrix in matrices))


def descend(
    chain: list[torch.Tensor], loss: theory.Loss, lr: float, steps: int, decay: float = 0.0
) -> list[list[torch.Tensor]]:
    """The factors at every step of gradient descent."""
    path = [chain]
    for _ in range(steps):
        grads = theory.layer_gradients(path[-1], loss.gradient(od.product(path[-1])))
        path.append([(1 - lr * decay) * f - lr * g for f, g in zip(path[-1], grads, strict=True)])
    return path


def stack(figure: Figure) -> Figure:
    """The same figure with its panels below each other, for narrow screens; it changes the figure itself."""
    shown = [ax for ax in figure.axes if ax.get_subplotspec() is not None]
    width, height = figure.get_size_inches()
    narrow = 4.0
    figure.set_size_inches(narrow, len(shown) * height * narrow * len(shown) / width)
    places = GridSpec(len(shown), 1, figure=figure)
    for row, ax in enumerate(shown):
        ax.set_subplotspec(places[row])
    return figure


def save(figure: Figure, path: Path) -> int:
    """Writes an SVG file without a date, hundredths of a point being enough, and returns its size."""
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    short = re.sub(r"(\.\d\d)\d{3,}| *<!--.*?-->\n", r"\1", path.read_text(encoding="utf-8"))
    path.write_text(re.sub(r" +\n", "\n", short), encoding="utf-8")
    return path.stat().st_size
