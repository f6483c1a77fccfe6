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
import json
import statistics

from measure import machine
from overdepth.paper.min2023.frozen_width import frozen_run

WIDTHS = (3, 10, 30, 100, 300, 1000)
DEPTHS = (2, 3)


def main() -> None:
    """Runs the experiment and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    figures: dict[str, object] = {"benchmark": "frozen_width", **machine()}
    for depth in DEPTHS:
        found = {}
        for width in WIDTHS if depth == 2 else WIDTHS[:-1]:
            runs = [frozen_run(depth, width, seed) for seed in seeds]
            ratios = sorted(run.ratio for run in runs)
            found[width] = {
                "rate_over_frozen": round(statistics.median(ratios), 3),
                "range": [round(ratios[0], 3), round(ratios[-1], 3)],
                "certified": sum(run.certified for run in runs) / len(runs),
            }
            print(f"depth {depth}, width {width}: {found[width]}")
        figures[f"depth_{depth}"] = found
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
