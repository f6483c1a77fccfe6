"""Sweeps in a folder: what storing costs, how close to the machine's peak, how fast they resume, two Ray workers.

    OVERDEPTH_DATA=path/to/data python benchmarks/sweep_scale.py [--rounds 3] [--only storing peak ethanol resume ray]

``storing``: 1500 runs on the embedded data, into a folder with a piece every second, against the engine in memory with
the same blocks; alternating, median of the quotients. ``peak``: 10,000 l4 runs (depths 1 to 5 x 40 learning rates x
50 seeds, width 1), 2000 steps, embedded data, into a folder; operations are counted as in ``sweep.py``, 4 m d for each
run and step after which the run was finite, and the peak is measured before and after. ``ethanol``: the same runs, 200
steps. ``resume``: a folder of the 10,000 runs is left half way; the seconds from opening it to the next step. ``ray``:
two workers with a core each against this process with two threads, in run-steps a second while both compute; starting
the cluster is not counted, its pieces and their way to the writer are.

The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from measure import fastest, machine, peak_memory, timed
from overdepth.gemm import matmul_transposed
from overdepth.lab import grid, load_problem
from overdepth.lab.engine import Engine
from overdepth.lab.problem import Array, Problem
from overdepth.lab.settings import Settings
from overdepth.sweeps.block_run import BlockRun, store
from overdepth.sweeps.execution import Work, run_here
from overdepth.sweeps.folder import SweepFolder
from overdepth.sweeps.on_ray import run_on_ray
from overdepth.sweeps.plan import Block, cut, default_block_runs
from overdepth.sweeps.sweep_file import Row

GEMM_SIZE = 2048
PIECE_SECONDS = 1.0


def main() -> None:
    """Runs the benchmark and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    options = parser.parse_args()
    figures: dict[str, object] = {"benchmark": "sweep_scale", **machine()}
    for name in options.only:
        found = PARTS[name](options.rounds)
        print(f"{name}: {found}")
        figures[name] = found
    print(json.dumps(figures))


def storing(rounds: int) -> dict[str, float]:
    """Into a folder against in memory, with the same blocks."""
    work = _work("breast-cancer", seeds=range(10), rates=30, steps=2000)

    def in_memory() -> None:
        engine: Engine | None = None
        for block in work.blocks:
            engine = work.engine(block, engine)
            engine.advance(engine.start())

    quotients, pieces = [], 0
    in_memory()
    for _ in range(rounds):
        _, plain = timed(in_memory)
        with tempfile.TemporaryDirectory() as name:
            folder = _folder(name, work)
            _, stored = timed(lambda folder=folder: run_here(work, folder, Quiet(), seconds=PIECE_SECONDS))  # type: ignore[misc]
            pieces = sum(1 for _ in Path(name).rglob("*.piece"))
        quotients.append(stored / plain)
    return {"runs": len(work.rows), "overhead": round(statistics.median(quotients) - 1, 4), "pieces": pieces}


def peak(rounds: int) -> dict[str, float]:
    """The fraction of the peak on the embedded data, and the memory of this process."""
    return _fraction(_work("breast-cancer", steps=2000), rounds=1)


def ethanol(rounds: int) -> dict[str, float]:
    """The fraction of the peak on Ethanol."""
    return _fraction(_work("ethanol", steps=200), rounds=1)


def resume(rounds: int) -> dict[str, float]:
    """From opening a half-finished folder to the first step of what is missing."""
    work = _work("breast-cancer", steps=2000)
    seconds = []
    with tempfile.TemporaryDirectory() as name:
        folder = _folder(name, work)
        half = len(work.blocks) // 2
        run_here(_first_blocks(work, half), folder, Quiet())
        running = BlockRun(work.engine(work.blocks[half]))
        span = running.advance(0.5)
        store(folder, half, span)
        for _ in range(rounds):
            watcher = UntilItMoves(half, span.last)
            began = time.perf_counter()
            try:
                run_here(work, _folder(name, work), watcher, seconds=0.01)
            except MovedOn:
                seconds.append(time.perf_counter() - began)
    return {"seconds_to_next_step": round(statistics.median(seconds), 3)}


def ray(rounds: int) -> dict[str, float]:
    """Two workers with a core each against one process with two threads."""
    work = _work("breast-cancer", steps=1000)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        here, there = Clock(), Clock()
        run_here(work, _folder(one, work), here)
        run_on_ray(work, _folder(other, work), there, seconds=PIECE_SECONDS)
    return {
        "here_run_steps_per_second": round(here.rate),
        "ray_run_steps_per_second": round(there.rate),
        "throughput": round(there.rate / here.rate, 3),
    }


class Quiet:
    """A watcher that looks away."""

    def found(self, block: Block, step: int, loss: Array, diverged: int) -> None:
        """Nothing."""

    def moved(self, block: Block, step: int, diverged: int) -> None:
        """Nothing."""

    def stored(self, block: Block, loss: Array) -> None:
        """Nothing."""


class MovedOn(BaseException):
    """The sweep has gone on."""


class UntilItMoves(Quiet):
    """Ends a sweep as soon as a block has gone beyond a step."""

    def __init__(self, block: int, step: int) -> None:
        self.block, self.step = block, step

    def moved(self, block: Block, step: int, diverged: int) -> None:
        """Ends it."""
        if block.number == self.block and step > self.step:
            raise MovedOn


class Clock(Quiet):
    """The rate between the first and the last piece: without the start of a cluster."""

    def __init__(self) -> None:
        self._steps: dict[int, tuple[int, int]] = {}
        self._marks: list[tuple[float, int]] = []

    def moved(self, block: Block, step: int, diverged: int) -> None:
        """Takes the time."""
        self._steps[block.number] = (step, len(block.index))
        self._marks.append((time.perf_counter(), sum(step * runs for step, runs in self._steps.values())))

    @property
    def rate(self) -> float:
        """Runs times steps a second."""
        (began, first), (ended, last) = self._marks[0], self._marks[-1]
        return (last - first) / (ended - began)


def _fraction(work: Work, rounds: int) -> dict[str, float]:
    a, b = torch.randn(GEMM_SIZE, GEMM_SIZE), torch.randn(GEMM_SIZE, GEMM_SIZE)
    out = torch.empty(GEMM_SIZE, GEMM_SIZE)
    gemms: dict[str, Callable[[], object]] = {
        "torch": lambda: torch.mm(a, b, out=out),
        "onednn": lambda: matmul_transposed(a, b),
    }
    peaks = {name: [2 * GEMM_SIZE**3 / fastest(gemm)] for name, gemm in gemms.items()}
    with tempfile.TemporaryDirectory() as name:
        folder = _folder(name, work)
        _, seconds = timed(lambda: run_here(work, folder, Quiet()))
        run_steps = sum(_finite_steps(work, folder))
    for kind, gemm in gemms.items():
        peaks[kind].append(2 * GEMM_SIZE**3 / fastest(gemm))
    flops = 4.0 * work.problem.m * work.problem.d * run_steps
    return {
        "runs": len(work.rows),
        "seconds": round(seconds, 2),
        "gflops": round(flops / seconds / 1e9, 1),
        "gemm_peak_fraction": round(flops / seconds / statistics.mean(peaks["torch"]), 3),
        "onednn_peak_fraction": round(flops / seconds / statistics.mean(peaks["onednn"]), 3),
        "peak_memory_mb": round(peak_memory()),
    }


def _finite_steps(work: Work, folder: SweepFolder) -> list[int]:
    steps = work.settings.steps
    found = []
    for block in work.blocks:
        diverged_at = work.progressed(folder, block).diverged_at
        found += [steps if at < 0 else int(at) for at in diverged_at]
    return found


def _work(
    data: str, *, steps: int, depths: Sequence[int] = (1, 2, 3, 4, 5), rates: int = 40, seeds: Sequence[int] = range(50)
) -> Work:
    problem = _problem(data)
    lrs = [10 ** (-5 + 4 * i / (rates - 1)) for i in range(rates)]
    rows = [Row("l4", run) for run in grid(depth=depths, lr=lrs, seed=seeds)]
    return Work(problem, rows, cut(rows, problem, default_block_runs(len(rows))), Settings(steps=steps))


def _first_blocks(work: Work, count: int) -> Work:
    return Work(work.problem, work.rows, work.blocks[:count], work.settings)


def _folder(name: str, work: Work) -> SweepFolder:
    folder = SweepFolder(Path(name))
    folder.begin({"runs": len(work.rows)}, "", base=Path(name))
    return folder


def _problem(name: str) -> Problem:
    return load_problem(name)


PARTS: dict[str, Callable[[int], dict[str, float]]] = {
    "storing": storing,
    "peak": peak,
    "ethanol": ethanol,
    "resume": resume,
    "ray": ray,
}

if __name__ == "__main__":
    main()
