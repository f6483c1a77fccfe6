"""What the explorer does at a move of a slider: from the controls' values to the figures as JSON.

    python benchmarks/explore.py          # the functions alone
    python benchmarks/explore.py --page   # and a headless Chromium: start to first picture, key to changed text

Every control of every view is moved from its default to every other value it has; nothing is cached before a value is
met for the first time. Wall-clock and processor time are given: on a busy machine the second is what the work costs.
The last line is JSON. The aim: 100 ms a move, the first picture within 5 s of the command's start, on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import xarray as xr

from measure import machine, timed
from overdepth.explorer.controls import Choice, Slider, Value
from overdepth.explorer.views import VIEWS, View

ROOT = Path(__file__).parent.parent
RUNS, STEPS = 1000, 500
FIRST = "[...document.querySelectorAll('marimo-plotly')].some((plot) => plot.shadowRoot?.querySelector('.main-svg'))"


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="measure the page in a headless Chromium too")
    asked = parser.parse_args()
    figures: dict[str, object] = {"benchmark": "explore", "load": list(os.getloadavg()), **machine()}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        _large_sweep(Path(folder) / "results.nc")
        for view in VIEWS.values():
            figures[view.key] = found = _moves(view, folder)
            print(view.key, found)
        if asked.page:
            figures["page"] = _page(Path(folder))
    print(json.dumps(figures))


def _moves(view: View, folder: str) -> dict[str, float]:
    """Milliseconds of all moves of a view."""
    defaults: dict[str, Value] = {control.key: control.default for control in view.controls}
    if view.key == "sweep":
        defaults["sweep"] = folder
    _drawn(view, defaults)
    wall, processor = [], []
    for values in _settings(view, defaults):
        began = time.process_time()
        wall.append(timed(lambda values=values: _drawn(view, values))[1] * 1e3)  # type: ignore[misc]
        processor.append((time.process_time() - began) * 1e3)
    return {
        "moves": len(wall),
        "median_ms": round(statistics.median(wall), 1),
        "worst_ms": round(max(wall), 1),
        "processor_median_ms": round(statistics.median(processor), 1),
        "processor_worst_ms": round(max(processor), 1),
    }


def _settings(view: View, defaults: dict[str, Value]) -> Iterator[dict[str, Value]]:
    for control in view.controls:
        values = (
            control.steps if isinstance(control, Slider) else control.options if isinstance(control, Choice) else ()
        )
        for value in values:
            yield {**defaults, control.key: value}


def _drawn(view: View, values: dict[str, Value]) -> int:
    try:
        return sum(len(picture.figure.to_json()) for picture in view.show(values).pictures)
    except ValueError:  # labels that do not fit together: a sentence instead of pictures
        return 0


def _large_sweep(path: Path) -> None:
    """A thousand runs, falling."""
    rng = np.random.default_rng(0)
    depth, lr, seed = (grid.ravel() for grid in np.meshgrid([1.0, 2.0, 3.0, 4.0], np.geomspace(1e-4, 1, 25), range(10)))
    steps = np.arange(STEPS) * 10
    data = xr.Dataset(
        {
            "loss": (("run", "step"), np.exp(-lr[:, None] * steps) + 0.01 * rng.random((RUNS, STEPS))),
            "optimal_loss": ("run", np.zeros(RUNS)),
            "diverged_at": ("run", np.full(RUNS, np.nan)),
        },
        coords={"step": steps, "depth": ("run", depth), "lr": ("run", lr), "seed": ("run", seed)},
    )
    data.to_netcdf(path, engine="h5netcdf")


def _page(folder: Path) -> dict[str, float]:
    """Seconds from the command's start to the first picture, and milliseconds from a key to the changed text."""
    sys.path.insert(0, str(ROOT))
    from tests.explorer.browser import opened
    from tests.explorer.test_app import DRAWN, TEXT, focus

    with opened(folder / "profile") as page:
        page.stop_noting_requests()
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "overdepth", "explore", "--no-browser"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        address = process.stdout.readline().split()[2]
        answers = time.perf_counter() - began
        page.open(f"{address}?view=modes", width=1920)
        page.wait_for(FIRST)
        first = time.perf_counter() - began
        page.wait_for(DRAWN)
        all_pictures = time.perf_counter() - began
        focus(page, 0)
        moves = []
        for key in ("ArrowRight", "ArrowLeft") * 10:
            text = page.evaluate(TEXT)
            moved = time.perf_counter()
            page.press(key)
            page.wait_for(f"({TEXT}) !== {json.dumps(text)}", every=0.005)
            moves.append((time.perf_counter() - moved) * 1e3)
        process.send_signal(signal.SIGINT)
        process.wait()
    found = {
        "server_answers_s": round(answers, 2),
        "first_picture_s": round(first, 2),
        "all_pictures_s": round(all_pictures, 2),
        "key_to_text_median_ms": round(statistics.median(moves), 1),
        "key_to_text_worst_ms": round(max(moves), 1),
    }
    print("page", found)
    return found


if __name__ == "__main__":
    main()
