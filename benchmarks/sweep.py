"""The sweep engine against the machine's matrix-multiply peak, and against a plain autograd loop over the runs.

    OVERDEPTH_DATA=path/to/data python benchmarks/sweep.py [--data ethanol] [--steps 3000] [--rounds 5]

The sweep is the one behind Figure 3: depths 1, 2, 3 x 10 learning rates x 5 seeds, hidden width 1, float32. Floating-
point operations are counted as 4 m d for each run and step after which the run was still finite; everything else the
engine does (chain rule, updates, recording the losses in float64 every 100 steps, dropping diverged runs) counts as
overhead. Peak and sweep alternate in one process, and the median over rounds is reported: the machine's clock drifts.
``gemm_peak_fraction`` is of the peak of torch.mm; ``onednn_peak_fraction`` is of that of oneDNN's kernels, which the
engine uses where torch has them, and which are faster on some processors (``overdepth.gemm``).

The loop is the usual one: for each run a torch.nn.Sequential of bias-free torch.nn.Linear, backward(), torch.optim.SGD.
A few steps of one run a depth are timed and extrapolated. ``loop_speedup`` is for all runs and steps, which such a loop
computes whether runs diverged or not; ``loop_speedup_live`` charges it only for the run-steps that the engine computed.

The last line is one line of JSON. Without the Ethanol set, an equally large random problem stands in.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from measure import fastest, machine, peak_memory, reset_peak_memory, timed
from overdepth.gemm import matmul_transposed
from overdepth.lab import Problem, Run, grid, load_problem, objective
from overdepth.lab.engine import Engine
from overdepth.lab.run import METHODS
from overdepth.lab.settings import Settings
from overdepth.paper.item import LEARNING_RATES

GEMM_SIZE = 2048
LOOP_STEPS = 40
METHOD_STEPS = 500


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="ethanol")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    problem = _problem(options.data)
    runs = grid(depth=[1, 2, 3], lr=LEARNING_RATES, seed=range(5))
    figures: dict[str, object] = {
        "benchmark": "sweep",
        "data": problem.name,
        "m": problem.m,
        "d": problem.d,
        "runs": len(runs),
        "steps": options.steps,
        **machine(),
    }
    for name in ("l4", "l2"):
        figures[name] = _measure(problem, runs, name, options.steps, options.rounds)
    figures["onednn_peak_fraction_by_method"] = _by_method(problem, options.rounds)
    figures["microseconds_per_step_by_runs"] = {name: _by_runs(problem, name) for name in ("l4", "l2")}
    print(json.dumps(figures))


def _measure(problem: Problem, runs: list[Run], name: str, steps: int, rounds: int) -> dict[str, float]:
    engine = Engine(problem, runs, objective(name), Settings(steps=steps))
    gemm, best_gemm = _gemms()
    loop = _loop(problem, engine.runs, name)
    peaks, best_peaks, sweeps, loop_times = [], [], [], []
    resident = reset_peak_memory()
    state = engine.advance(engine.start())
    memory = peak_memory() - resident
    for _ in range(rounds):
        peaks.append(2 * GEMM_SIZE**3 / fastest(gemm))
        best_peaks.append(2 * GEMM_SIZE**3 / fastest(best_gemm))
        state, seconds = timed(lambda: engine.advance(engine.start()))
        sweeps.append(seconds)
        loop_times.append(loop())
    flops = 4.0 * problem.m * problem.d * state.run_steps
    fractions = [flops / seconds / peak for seconds, peak in zip(sweeps, peaks, strict=True)]
    speedups = [each * len(runs) * steps / seconds for each, seconds in zip(loop_times, sweeps, strict=True)]
    figures = {
        "peak_gflops": statistics.median(peaks) / 1e9,
        "microseconds_per_step": statistics.median(sweeps) / steps * 1e6,
        "live_runs_at_the_end": state.live,
        "loop_microseconds_per_run_step": statistics.median(loop_times) * 1e6,
        "loop_speedup": statistics.median(speedups),
        "loop_speedup_live": statistics.median(speedups) * state.run_steps / (len(runs) * steps),
        "peak_memory_growth_mb": memory,
    }
    if name != "l2":  # l2 works on Gram matrices: it has no such number of operations
        figures["gemm_peak_fraction"] = statistics.median(fractions)
        best = [flops / seconds / peak for seconds, peak in zip(sweeps, best_peaks, strict=True)]
        figures["onednn_peak_gflops"] = statistics.median(best_peaks) / 1e9
        figures["onednn_peak_fraction"] = statistics.median(best)
    figures = {key: round(value, 3) for key, value in figures.items()}
    print(f"{name}: " + ", ".join(f"{key} {value:g}" for key, value in figures.items()))
    return figures


def _by_method(problem: Problem, rounds: int) -> dict[str, float]:
    """The fraction of the peak for each method on the grid of the sweep, and for four methods in one sweep."""
    table = [("gd", "adagrad_tf1", "adadelta_tf1", "adam_tf1")]
    found = {}
    for methods in [*((method,) for method in METHODS), *table]:
        runs = grid(depth=[1, 2, 3], lr=LEARNING_RATES, seed=range(5 if len(methods) == 1 else 2), method=methods)
        engine = Engine(problem, runs, objective("l4"), Settings(steps=METHOD_STEPS))
        _, gemm = _gemms()
        fractions = []
        engine.advance(engine.start())
        for _ in range(rounds):
            peak = 2 * GEMM_SIZE**3 / fastest(gemm)
            state, seconds = timed(lambda engine=engine: engine.advance(engine.start()))  # type: ignore[misc]
            fractions.append(4.0 * problem.m * problem.d * state.run_steps / seconds / peak)
        found[" + ".join(methods)] = round(statistics.median(fractions), 3)
    print(f"l4, fraction of the peak by method: {found}")
    return found


def _by_runs(problem: Problem, name: str) -> dict[int, float]:
    """Microseconds a step by the number of runs, none of which diverges: where the cost stops being linear."""
    found = {}
    for count in (1, 4, 15, 30, 60, 120, 240, 480, 960):
        runs = [Run(depth=1 + i % 3, lr=LEARNING_RATES[0], seed=i // 3) for i in range(count)]
        engine = Engine(problem, runs, objective(name), Settings(steps=300))
        engine.advance(engine.start())
        seconds = fastest(lambda engine=engine: engine.advance(engine.start()))  # type: ignore[misc]
        found[count] = round(seconds / engine.settings.steps * 1e6, 1)
    print(f"{name}, microseconds per step by number of runs: {found}")
    return found


def _loop(problem: Problem, runs: Sequence[Run], name: str) -> Callable[[], float]:
    """A function that takes ``LOOP_STEPS`` steps of a run of each depth and returns the seconds per run and step."""
    X = torch.from_numpy(problem.X).float()
    y = torch.from_numpy(problem.Y).float()
    power = int(name.removeprefix("l"))
    chosen = [run for run in runs if run.lr == LEARNING_RATES[0] and run.seed == 0]

    def train(run: Run) -> float:
        layers = []
        for factor in run.start(problem.k, problem.d):
            layer = torch.nn.Linear(factor.shape[1], factor.shape[0], bias=False)
            layer.weight.data.copy_(factor)
            layers.append(layer)
        model = torch.nn.Sequential(*layers)
        optimizer = torch.optim.SGD(model.parameters(), lr=run.lr)
        began = time.perf_counter()
        for _ in range(LOOP_STEPS):
            optimizer.zero_grad()
            loss = ((model(X) - y) ** power).mean() / power
            loss.backward()
            optimizer.step()
        return time.perf_counter() - began

    def measure() -> float:
        return sum(map(train, chosen)) / (LOOP_STEPS * len(chosen))

    measure()
    return measure


def _gemms() -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    """A large square product by torch.mm, and by what the engine uses."""
    a, b = torch.randn(GEMM_SIZE, GEMM_SIZE), torch.randn(GEMM_SIZE, GEMM_SIZE)
    out = torch.empty(GEMM_SIZE, GEMM_SIZE)
    return lambda: torch.mm(a, b, out=out), lambda: matmul_transposed(a, b)


def _problem(name: str) -> Problem:
    try:
        return load_problem(name)
    except (ConnectionError, ValueError) as error:
        print(f"{error} A random problem of Ethanol's size stands in.")
        rng = np.random.default_rng(0)
        X = rng.standard_normal((2565, 128))
        return Problem(X, X @ rng.standard_normal((128, 1)) / 11.3 + rng.standard_normal((2565, 1)), name="random")


if __name__ == "__main__":
    main()
