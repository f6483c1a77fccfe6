"""The figures as files for papers and slides, drawn by a headless browser."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path

import plotly.graph_objects as go
import plotly.io

WIDTH, HEIGHT, SCALE = 960, 560, 2


def check_static() -> None:
    """Checks that figures can be written as files, by drawing an empty one.

    Raises:
        ModuleNotFoundError: If Kaleido is not installed.
        ValueError: If Kaleido finds no Chrome or Chromium that draws.
    """
    if importlib.util.find_spec("kaleido") is None:
        raise ModuleNotFoundError(
            "--static needs kaleido, which is not installed; install the extra: pip install 'overdepth[static]'.",
            name="kaleido",
        )
    for name in ("choreographer", "kaleido"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        plotly.io.to_image(go.Figure(), format="svg")
    except Exception as error:  # Kaleido, choreographer and the browser each have their own
        reason = " ".join(str(error).split()).split(". ")[0].rstrip(".")
        raise ValueError(
            f"--static needs Chrome or Chromium, and none could be used ({reason}); install one, or leave --static out."
        ) from error


def write_figures(folder: Path, figures: Mapping[str, go.Figure]) -> None:
    """Writes every figure as NAME.png (two pixels a point) and NAME.svg into ``folder``, which is made.

    Args:
        folder: Where to write.
        figures: By name.
    """
    folder.mkdir()
    plain = [go.Figure(figure).update_layout(updatemenus=()) for figure in figures.values()]  # paper has no buttons
    for extension, scale in (("png", SCALE), ("svg", 1)):
        plotly.io.write_images(
            fig=plain,
            file=[folder / f"{name}.{extension}" for name in figures],
            width=WIDTH,
            height=[int(figure.layout.height or HEIGHT) for figure in figures.values()],
            scale=scale,
        )
