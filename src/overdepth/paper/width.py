"""Scalar hidden layers cost nothing: the time of a training step at depth 3 and width 1 against depth 1."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr

from overdepth.lab.engine import Engine
from overdepth.lab.objectives import objective
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run, grid
from overdepth.lab.settings import Settings
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context
from overdepth.paper.item import Item, Picture
from overdepth.paper.picture import Curve, add_curve, blank_figure

DEPTHS = (1, 3)
GROUP_SIZES = (1, 10, 100)
MODEL = 10
"""Runs of the comparison that decides: a model on the learning-rate grid, as the figures train it."""

LEARNING_RATE = 1e-5  # the smallest of the grid: what diverges would leave the products
BLOCK = 64  # steps timed together: the engine looks for diverged runs as often
WARM_UP = 2
ROUNDS, QUICK_ROUNDS = 50, 5
PARTS = 5
LAYERS = "torch layers, one network"

FREE = Statement(
    id="width.free",
    source="Arora, Cohen & Hazan 2018, Section 8",
    text="Hidden layers of width 1 cost nothing.",
    statistic=f"time of a step, depth 3 / depth 1: median of the medians of {PARTS} batches of rounds, their range",
    threshold="<= 1.05",
    holds=lambda ratio: ratio <= 1.05,
)


def work(context: Context) -> xr.Dataset:
    """The seconds of a step by arrangement, depth and round; not kept, since they are this machine's and today's."""
    rounds = QUICK_ROUNDS if context.quick else ROUNDS
    timed: dict[str, Callable[[int], Callable[[], bool]]] = {
        _engine_label(size): _engine(context.problem, size, BLOCK * (WARM_UP + rounds)) for size in GROUP_SIZES
    }
    timed[LAYERS] = _layers(context.problem)
    context.reporter.begin("width", 1, len(timed))
    seconds = np.empty((len(timed), len(DEPTHS), rounds))
    for i, of_depth in enumerate(timed.values()):
        seconds[i] = alternating([of_depth(depth) for depth in DEPTHS], rounds) / BLOCK
        context.reporter.advance(i + 1, 1)
    return xr.Dataset(
        {
            "seconds": (
                ("arrangement", "depth", "round"),
                seconds,
                {"long_name": "time of a training step of all runs", "units": "s"},
            )
        },
        coords={
            "arrangement": list(timed),
            "runs": ("arrangement", [*GROUP_SIZES, 1], {"long_name": "networks trained together"}),
            "depth": list(DEPTHS),
            "round": np.arange(rounds),
        },
        attrs={"threads": torch.get_num_threads(), "rows": context.problem.m, "columns": context.problem.d},
    )


def alternating(blocks: Sequence[Callable[[], bool]], rounds: int) -> np.ndarray:
    """Seconds of blocks that take turns, so that a drifting clock or a noisy neighbour meets all of them alike.

    Args:
        blocks: Each does some work and returns whether it was all that it should do.
        rounds: How often each is timed, after ``WARM_UP`` calls.

    Returns:
        Shape (blocks, rounds); NaN where a block could not do its work.
    """
    seconds = np.empty((len(blocks), rounds))
    for _ in range(WARM_UP):
        for block in blocks:
            block()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            order = range(len(blocks)) if turn % 2 else reversed(range(len(blocks)))
            for i in order:
                began = time.perf_counter()
                is_whole = blocks[i]()
                seconds[i, turn] = time.perf_counter() - began if is_whole else np.nan
    finally:
        if enabled:
            gc.enable()
    return seconds


def _engine_label(size: int) -> str:
    return f"sweep engine, {size} run{'s' if size > 1 else ''}"


def _engine(problem: Problem, size: int, steps: int) -> Callable[[int], Callable[[], bool]]:
    """By depth, a block of steps of the sweep engine on so many runs."""

    def of_depth(depth: int) -> Callable[[], bool]:
        runs = grid(depth=depth, seed=range(size), lr=LEARNING_RATE)
        engine = Engine(problem, runs, objective("l4"), Settings(steps, record_every=steps))
        state = engine.start()

        def block() -> bool:
            engine.advance(state, state.step + BLOCK)
            return state.live == size

        return block

    return of_depth


def _layers(problem: Problem) -> Callable[[int], Callable[[], bool]]:
    """By depth, a block of steps of one network made of torch's layers, with autograd and torch's optimizer."""

    def of_depth(depth: int) -> Callable[[], bool]:
        network = layers_at_start(problem, depth)
        step = _stepper(problem, network)

        def block() -> bool:
            for _ in range(BLOCK):
                step()
            return all(bool(p.isfinite().all()) for p in network.parameters())

        return block

    return of_depth


def layers_at_start(problem: Problem, depth: int) -> torch.nn.Sequential:
    """Linear layers of width 1 without bias, at the factors that a run starts from."""
    starts = Run(depth=depth).start(problem.k, problem.d)
    layers = [torch.nn.Linear(start.shape[1], start.shape[0], bias=False) for start in starts]
    with torch.no_grad():
        for layer, start in zip(layers, starts, strict=True):
            layer.weight.copy_(start)
    return torch.nn.Sequential(*layers)


def _stepper(problem: Problem, network: torch.nn.Sequential) -> Callable[[], None]:
    features, targets = (torch.from_numpy(np.ascontiguousarray(a)).float() for a in (problem.X, problem.Y))
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss = ((network(features) - targets) ** 4).mean() / 4
        loss.backward()
        optimizer.step()

    return step


def _ratios(data: xr.Dataset, arrangement: str) -> np.ndarray:
    """Of each round, the time at depth 3 over that at depth 1."""
    seconds = data["seconds"].sel(arrangement=arrangement)
    return np.asarray((seconds.sel(depth=DEPTHS[1]) / seconds.sel(depth=DEPTHS[0])).values)


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdict for a model on the learning-rate grid; as controls fewer and more runs, and torch's layers."""
    setting = replace(setting, horizon=0)  # of steps, the statement says nothing
    rounds, threads = data.sizes["round"], int(data.attrs["threads"])
    too_few = f"{rounds} rounds are too few to tell." if rounds < ROUNDS else ""
    found = []
    for arrangement in data["arrangement"].values.tolist():
        seconds = data["seconds"].sel(arrangement=arrangement).median(dim="round")
        times = " and ".join(f"{1e6 * float(seconds.sel(depth=depth)):,.0f}" for depth in DEPTHS)
        note = f"Microseconds a step at depth 1 and 3: {times}; {threads} thread{'s' if threads > 1 else ''}."
        ratios = _ratios(data, arrangement)
        medians = [float(np.median(part)) for part in np.array_split(ratios, PARTS)]
        claim = FREE.judge(
            f"depth 3, width 1 against depth 1: {arrangement}",
            medians,
            setting,
            note=note,
            control=arrangement != _engine_label(MODEL),
            too_few=too_few,
        )
        found.append(claim)
    return found


def pictures(data: xr.Dataset) -> list[Picture]:
    """The ratio of every round, by arrangement."""
    figure = blank_figure("A step at depth 3 over one at depth 1", x="round", y="ratio of times", log_y=False)
    for color, arrangement in enumerate(data["arrangement"].values.tolist()):
        add_curve(figure, data["round"].values, Curve(arrangement, _ratios(data, arrangement)[None], color=color))
    figure.add_hline(y=1.05, line={"dash": "dot", "width": 1})
    figure.update_yaxes(rangemode="tozero")
    caption = (
        "Time of a training step at depth 3 and width 1 over that at depth 1, both taken in turn in one process, "
        f"{BLOCK} steps a round; dotted: what the statement allows."
    )
    return [Picture(caption, figure)]


ITEM = Item(
    name="width",
    title="Width 1: what scalar hidden layers cost",
    said=("Hidden layers of width 1 suffice for a single output, and cost next to nothing.",),
    ran=(
        "Full-batch steps with l4 loss at depth 1, and at depth 3 with hidden width 1, taken in turn in one process.",
        "The engine takes both depths through the same operations, at depth 1 with no scalars to multiply.",
        f"The verdict is on the sweep engine with {MODEL} runs together, as many as the learning-rate grid has rates.",
        "Control: one run, and 100 together; and one network of torch's layers under autograd, layer after layer.",
    ),
    statements=(FREE,),
    work=work,
    claims=claims,
    pictures=pictures,
    minutes=(0.4, 0.1),
)
