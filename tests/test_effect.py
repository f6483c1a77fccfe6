"""The README's picture is drawn from sweeps, and the README shows it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from docs.effect import draw
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent


def test_the_readme_shows_the_picture() -> None:
    assert "docs/effect.svg" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "<text" in (ROOT / "docs" / "effect.svg").read_text(encoding="utf-8")


def test_each_depth_is_drawn_at_its_best_rate_and_a_diverging_one_is_no_choice() -> None:
    steps = np.arange(3)
    final = {(1, 0.1): 0.3, (1, 0.2): 0.2, (2, 0.1): 0.1, (2, 0.2): np.nan, (3, 0.1): 0.5, (3, 0.2): 0.4}
    data = xr.Dataset(
        {
            "loss": (("run", "step"), [[1.0, 0.9, value] for value in final.values()]),
            "optimal_loss": ("run", [0.0] * 6),
        },
        coords={
            "step": steps,
            "depth": ("run", [float(depth) for depth, _ in final]),
            "lr": ("run", [lr for _, lr in final]),
        },
    )
    panel = Figure().subplots()
    draw(panel, data, "l4 loss")
    drawn = {str(line.get_label()): np.asarray(line.get_ydata(), dtype=np.float64)[-1] for line in panel.get_lines()}
    assert drawn == pytest.approx({"depth 1, lr 0.2": 0.2, "depth 2, lr 0.1": 0.1, "depth 3, lr 0.2": 0.4})
