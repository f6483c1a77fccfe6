"""What ``overdepth.compare`` costs over the user's own loop, and how often it sees a difference where there is none.

    python benchmarks/compare.py [--calibration 200]

Overhead: training as the harness does it against the same training written by hand (batches, zero_grad, loss, backward,
step, and ``loss.item()`` at every hundredth step), alternating in one process; of a small network, a larger one, and
the factors of form 2.

Calibration (not run by default, minutes): plain training against plain training on other seeds, each with searches of
its own, again and again with fresh seeds; how often a verdict was not "no difference". On three problems, at 3 and 5
seeds.
The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

import overdepth as od
from measure import machine, ratio
from overdepth.comparison import Arm, Task
from overdepth.comparison.jobs import Job
from overdepth.comparison.making import make
from overdepth.comparison.training import train

ROUNDS = 30
SEEDS = (3, 5)
TARGET = 1.03


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=int, default=0, metavar="REPEATS")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, Any] = {"benchmark": "compare", **machine(), "overdepth": od.__version__}
    figures["overhead"] = {}
    for name, task, arm, steps in _loads():
        found = ratio(partial(_ours, task, arm, steps), partial(_by_hand, task, arm, steps), options.rounds)
        figures["overhead"][name] = found
        print(f"{name}: {found['ratio']:.3f} x the time of a loop by hand ({steps} steps)", flush=True)
    figures["met"] = all(found["ratio"] <= TARGET for found in figures["overhead"].values())
    if options.calibration:
        figures["calibration"] = _calibration(options.calibration)
    print(json.dumps(figures))
    return 0


def _loads() -> list[tuple[str, Task, Arm, int]]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(4096, 64, generator=generator), torch.randint(10, (4096,), generator=generator)
    small = Task(partial(_network, 64), _cross_entropy, (x, y), torch.optim.SGD, 64)
    large = Task(partial(_network, 512), _cross_entropy, (x, y), torch.optim.Adam, 256)
    return [
        ("network 64-64-64-10, batch 64, SGD", small, Arm("plain"), 800),
        ("network 64-512-512-10, batch 256, Adam", large, Arm("plain"), 80),
        ("network 64-64-64-10, batch 64, form 2", small, Arm.parse("form2:2"), 400),
    ]


def _network(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


def _cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _squares(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.mse_loss(model(batch[0]), batch[1])


def _ours(task: Task, arm: Arm, steps: int) -> None:
    train(task, Job("final", arm, 0.01, 0, steps))


def _by_hand(task: Task, arm: Arm, steps: int) -> None:
    """What a user writes."""
    made = make(task, arm, 0.01, 0)
    model, optimizer = made.model, made.optimizer
    x, y = task.data
    generator = torch.Generator().manual_seed(0)
    done = 0
    while done < steps:
        for rows in torch.split(torch.randperm(len(x), generator=generator), task.batch_size or len(x)):
            optimizer.zero_grad()
            loss = task.loss_step(model, (x[rows], y[rows]))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if done % 100 == 0:
                loss.item()
            done += 1
            if done == steps:
                break


def _calibration(repeats: int) -> dict[str, Any]:
    """How often plain training is said to differ from itself."""
    found = {}
    for name, task, options in _problems():
        for seeds in SEEDS:
            kinds: dict[str, int] = {}
            for repeat in range(repeats):
                kind = _against_itself(task, options, seeds, 1_000_000 + 1_000 * repeat)
                kinds[kind] = kinds.get(kind, 0) + 1
            found[f"{name}, {seeds} seeds"] = kinds
            print(f"{name}, {seeds} seeds: {kinds}", flush=True)
    return found


def _against_itself(task: Task, options: dict[str, Any], seeds: int, first: int) -> str:
    arms = [Arm("one", seed_shift=first), Arm("other", seed_shift=first + 500)]
    compare: Callable[..., Any] = od.compare
    found = compare(
        task.build,
        task.loss_step,
        task.data,
        arms=arms,
        base=task.base,
        batch_size=task.batch_size,
        seeds=seeds,
        controls=(),
        **options,
    )
    kind: str = found.against("one")["other"].kind
    return kind


def _problems() -> list[tuple[str, Task, dict[str, Any]]]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(128, 6, generator=generator)
    y = x @ torch.randn(6, 1, generator=generator) + 0.5 * torch.randn(128, 1, generator=generator)
    linear = partial(nn.Linear, 6, 1)
    lrs = [0.02, 0.06, 0.2]
    return [
        (
            "least squares in batches of 8",
            Task(linear, _squares, (x, y), torch.optim.SGD, 8),
            {"lrs": lrs, "steps": 60},
        ),
        ("least squares, full batch", Task(linear, _squares, (x, y), torch.optim.SGD), {"lrs": lrs, "steps": 40}),
        ("ReLU network", Task(partial(_relu, 6), _squares, (x, y), torch.optim.Adam, 16), {"lrs": lrs, "steps": 60}),
    ]


def _relu(features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, 16), nn.ReLU(), nn.Linear(16, 1))


if __name__ == "__main__":
    sys.exit(main())
