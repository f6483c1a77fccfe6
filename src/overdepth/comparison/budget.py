"""How long a comparison will take, found by a few steps of every arm."""

from __future__ import annotations

import statistics
import time

import torch

from overdepth.comparison.arms import Arm
from overdepth.comparison.jobs import Job
from overdepth.comparison.making import make
from overdepth.comparison.search import STARTUP
from overdepth.comparison.settings import Settings
from overdepth.comparison.task import Task
from overdepth.comparison.training import steps_of

FEWEST_STEPS = 20
_STEPS = 5
_SHARE = 0.9
"""Of the budget that steps are made for; the rest is for what is not a step."""


def affordable_steps(task: Task, settings: Settings, budget: float) -> int:
    """The steps of a run that a budget in seconds affords.

    Raises:
        ValueError: If that is next to none.
    """
    seconds = {arm.name: runs * _step_seconds(task, arm) for arm, runs in _runs(settings, pruned=False)}
    steps = int(_SHARE * budget / max(sum(seconds.values()), 1e-9))
    if steps < FEWEST_STEPS:
        raise ValueError(_too_small(seconds, FEWEST_STEPS, budget, settings))
    return steps


def check_budget(task: Task, settings: Settings, budget: float) -> None:
    """Checks that a budget in seconds is enough, even if every trial that can be pruned is.

    Raises:
        ValueError: If it is not, with the arm that takes most.
    """
    seconds = {arm.name: runs * _step_seconds(task, arm) for arm, runs in _runs(settings, pruned=True)}
    if settings.steps * sum(seconds.values()) > budget:
        raise ValueError(_too_small(seconds, settings.steps, budget, settings))


def _runs(settings: Settings, *, pruned: bool) -> list[tuple[Arm, float]]:
    """Every arm with its number of runs, a pruned one counting for a third."""
    trials = STARTUP + (settings.trials - STARTUP) / 3 if pruned and settings.trials > STARTUP else settings.trials
    others = settings.runs_of_a_form - settings.trials
    return [(arm, settings.seeds * (trials + (others if arm.form else 1))) for arm in settings.arms]


def _step_seconds(task: Task, arm: Arm) -> float:
    with torch.random.fork_rng():
        job = Job("cost", arm, task.first_lr, 0, _STEPS)
        stepper = steps_of(task, job, make(task, arm, job.lr, job.seed))
        next(stepper, None)
        times = []
        for _ in range(_STEPS):
            began = time.perf_counter()
            if next(stepper, None) is None:
                break
            times.append(time.perf_counter() - began)
        return statistics.median(times) if times else 0.0


def _too_small(seconds: dict[str, float], steps: int, budget: float, settings: Settings) -> str:
    slowest = max(seconds, key=lambda name: seconds[name])
    total, most = steps * sum(seconds.values()), steps * seconds[slowest]
    return (
        f"budget is {budget:g} s, but {steps} steps of {settings.trials} trials and {settings.seeds} seeds take at "
        f"least {total:.3g} s, {most:.3g} s of them in arm {slowest!r}; raise the budget, or lower steps, trials or "
        f"seeds, or leave this arm out."
    )
