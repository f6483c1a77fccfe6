"""From which width on the frozen (NTK) prediction describes the flow: an experiment.

    python benchmarks/frozen_width.py [--seeds 5]

f(W) = ||W - W*||_F^2 / 2 for 3 x 3 weights, W* with entries N(0, 1). The factors have entries N(0, s^2), s^2 chosen,
as in the NTK parametrization, so that W_e(0) has entries of variance 1 at every width: s^2 = width^(1/N - 1). The
prediction is gap(0) exp(-lambda_min(T(0)) pl t); the figure is the rate at which the flow takes the gap to a
thousandth, divided by the predicted one, median and range over seeds. ``certified`` is the fraction of the seeds in
which the lazy certificate, which proves what the prediction assumes up to a factor, applies. The last line is one line
of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics

import torch

import overdepth as od
from measure import machine
from overdepth import theory

WIDTHS = (3, 10, 30, 100, 300, 1000)
DEPTHS = (2, 3)
FALL = 1e-3


def main() -> None:
    """Runs the experiment and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    figures: dict[str, object] = {"benchmark": "frozen_width", **machine()}
    for depth in DEPTHS:
        found = {}
        for width in WIDTHS if depth == 2 else WIDTHS[:-1]:
            runs = [_run(depth, width, seed) for seed in seeds]
            ratios = sorted(ratio for ratio, _ in runs)
            found[width] = {
                "rate_over_frozen": round(statistics.median(ratios), 3),
                "range": [round(ratios[0], 3), round(ratios[-1], 3)],
                "certified": sum(certified for _, certified in runs) / len(runs),
            }
            print(f"depth {depth}, width {width}: {found[width]}")
        figures[f"depth_{depth}"] = found
    print(json.dumps(figures))


def _run(depth: int, width: int, seed: int) -> tuple[float, bool]:
    """The measured over the predicted rate, and whether the lazy certificate applies."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    sizes = [3, *[width] * (depth - 1), 3]
    scale = width ** ((1 / depth - 1) / 2)
    factors = [
        scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        for columns, rows in itertools.pairwise(sizes)
    ]
    loss = theory.matrix_distance(target)
    gap = float(loss.gap(od.product(factors)))
    predicted = theory.frozen_rate(factors) * loss.pl
    certified = theory.lazy_rate(factors, gap=gap, pl=loss.pl).alpha > 0
    horizon = -math.log(FALL) / predicted if predicted > 0 else 100.0
    times = torch.linspace(0, 2, 401, dtype=torch.float64) * horizon
    gaps = torch.as_tensor(theory.flow(factors, loss, times, rtol=1e-6, atol=1e-9)["gap"].values)
    below = (gaps <= FALL * gap).nonzero()
    last = int(below[0]) if len(below) else len(times) - 1
    return float((gap / gaps[last]).log() / times[last]) / predicted, certified


if __name__ == "__main__":
    main()
