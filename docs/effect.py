"""Draws the picture of the README: the same learning problem at depth 1, 2 and 3, each at its best learning rate.

    python -m docs.effect [--out docs/effect.svg]

The data ship with scikit-learn; some seconds on two cores. Both losses are shown, whether depth helps with them or not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import xarray as xr
from docs.drawing import BLUE, RED, STYLE
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import overdepth as od

STEPS = 20_000
LEARNING_RATES = [float(f"{digit}e{exponent}") for exponent in range(-4, 0) for digit in (1, 2, 5)]
COLORS = {1: "black", 2: BLUE, 3: RED}


def main() -> None:
    """Trains and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("effect.svg"))
    out: Path = parser.parse_args().out
    problem = od.lab.load_problem("breast-cancer")
    runs = od.lab.grid(depth=list(COLORS), lr=LEARNING_RATES, seed=range(3))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.0, 3.0), layout="constrained")
        for panel, objective in zip(figure.subplots(1, 2), ("l4", "l2"), strict=True):
            data = od.lab.sweep(problem, runs, objective=objective, steps=STEPS, record_every=50)
            draw(panel, data, f"{objective} loss")
        figure.savefig(out, metadata={"Date": None})


def draw(panel: Axes, data: xr.Dataset, title: str) -> None:
    """The gap at each depth's best learning rate, the median over seeds."""
    gap = data["loss"] - data["optimal_loss"]
    for depth, color in COLORS.items():
        own = gap.where(data["depth"] == depth, drop=True)
        median = own.groupby("lr").median(skipna=False)  # a rate at which a seed diverges is no choice
        best = median["lr"][int(np.nanargmin(median.isel(step=-1)))]
        curve = median.sel(lr=best)
        panel.plot(curve["step"], curve, color=color, linestyle="-", label=f"depth {depth}, lr {float(best):g}")
    panel.set(xlabel="iterations", ylabel="loss minus optimal loss", title=title, yscale="log")
    panel.legend()


if __name__ == "__main__":
    main()
