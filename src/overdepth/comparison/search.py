"""The search for an arm's learning rate: as many trials for every arm, and the hopeless ones cut short (Optuna)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from overdepth.comparison.arms import Arm
from overdepth.comparison.jobs import Outcome, Tried, looks, smoothed, smoothing_window

optuna.logging.set_verbosity(optuna.logging.WARNING)

STARTUP = 3
"""Trials of the first round, which is never pruned; later rounds are, by the median of what is finished."""
ROUND = 2
RUNG = 10.0
_LR = FloatDistribution(1e-15, 1e9, log=True)
_STATES = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "diverged": TrialState.FAIL}


class Ladder(optuna.samplers.BaseSampler):
    """Walks in rungs of 10 towards lower losses until both neighbours of the best one are worse, then halves the gaps.

    It draws nothing at random, so that arms that are alike get the same trials.

    Args:
        first: The first learning rate, whose neighbours are the next two.
    """

    def __init__(self, first: float) -> None:
        self.first = first

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing is drawn jointly."""
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing is drawn jointly."""
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> float:
        """The next learning rate."""
        others = [t for t in study.get_trials(deepcopy=False) if "lr" in t.params and t.number != trial.number]
        return next_lr(self.first, {t.params["lr"]: _rank(t) for t in others})


def next_lr(first: float, tried: dict[float, float]) -> float:
    """The learning rate to try next.

    Args:
        first: Where to begin.
        tried: Losses by learning rate; ``math.inf`` for what diverged or was pruned, NaN for what is still running.

    Example:
        >>> from overdepth.comparison.search import next_lr
        >>> next_lr(0.1, {0.01: 3.0, 0.1: 2.0, 1.0: 1.0})
        10.0
        >>> next_lr(0.1, {0.01: 3.0, 0.1: 2.0, 1.0: math.inf})
        0.316228
    """
    if len(tried) < STARTUP:
        return _tidy(first * RUNG ** (0, -1, 1)[len(tried)])
    lrs = sorted(tried)
    finished = [lr for lr in lrs if math.isfinite(tried[lr])]
    if not finished:
        return _tidy(lrs[0] / RUNG)
    best = min(finished, key=lambda lr: (tried[lr], lr))
    at = lrs.index(best)
    if all(math.isnan(tried[lr]) for lr in lrs[at + 1 :]):
        return _tidy(lrs[-1] * RUNG)
    if all(math.isnan(tried[lr]) for lr in lrs[:at]):
        return _tidy(lrs[0] / RUNG)
    gaps = [(lrs[i], lrs[i + 1]) for i in (at, at - 1) if 0 <= i < len(lrs) - 1]
    low, high = max(gaps, key=lambda gap: math.log(gap[1] / gap[0]) + 1e-9 * (gap[0] == best))
    return _tidy(math.sqrt(low * high))


class Search:
    """The search of one arm in one replicate: rounds of trials, each known to the later ones.

    Args:
        arm: Whose.
        replicate: Which.
        steps: Of a trial.
        lrs: Learning rates to try; None: the ladder's.
        trials: How many to try, if they are the ladder's.
        first: The ladder's first, but for the replicate's :func:`offset`.
        is_full_batch: Whether losses need no smoothing.
    """

    def __init__(
        self,
        arm: Arm,
        replicate: int,
        steps: int,
        *,
        lrs: Sequence[float] | None,
        trials: int,
        first: float,
        is_full_batch: bool,
    ) -> None:
        self.arm = arm
        self.replicate = replicate
        self.steps = steps
        self.tried: list[Tried] = []
        self.outcomes: list[Outcome] = []
        self._window = smoothing_window(steps, is_full_batch=is_full_batch)
        self._study = optuna.create_study(sampler=Ladder(first * RUNG ** offset(replicate)))
        self._left = trials if lrs is None else len(lrs)
        self._running: dict[float, optuna.Trial] = {}
        for lr in [] if lrs is None else spread(lrs):
            self._study.enqueue_trial({"lr": lr})
        self._is_given = lrs is not None

    def next_round(self) -> list[float]:
        """The learning rates of the next round; none if the budget is spent."""
        first = not self.tried
        size = min(self._left, STARTUP if first else self._left if self._is_given else ROUND)
        self._left -= size
        for _ in range(size):
            trial = self._study.ask()
            self._running[trial.suggest_float("lr", _LR.low, _LR.high, log=True)] = trial
        return list(self._running)

    def tell(self, lr: float, outcome: Outcome) -> None:
        """Takes the outcome of a trial."""
        curve = smoothed(outcome.losses, self._window)
        read = [step for step in looks(self.steps) if self._window <= step <= len(outcome.losses)]
        seen = tuple((step, float(curve[step - self._window])) for step in read)
        value = float(curve[-1]) if outcome.status == "done" and len(curve) else math.inf
        status = outcome.status if math.isfinite(value) or outcome.status != "done" else "diverged"
        self.tried.append(Tried(lr, seen, status, value))
        self.outcomes.append(outcome)
        trial = self._running.pop(lr)
        for step, loss in seen:
            trial.report(loss, step)
        self._study.tell(trial, value if status == "done" else None, state=_STATES[status])

    @property
    def best_lr(self) -> float | None:
        """The learning rate with the lowest last loss; None if every trial diverged."""
        done = [t for t in self.tried if t.status == "done"]
        return min(done, key=lambda t: (t.value, t.lr)).lr if done else None

    def next_smaller(self, lr: float) -> float | None:
        """The next smaller learning rate of which a trial was finished, if there is one."""
        return max((t.lr for t in self.tried if t.status == "done" and t.lr < lr), default=None)

    @property
    def is_at_edge(self) -> bool:
        """Whether the best one is the largest or smallest that was tried: a better one may lie beyond."""
        lrs = sorted(t.lr for t in self.tried)
        return len(lrs) > 1 and self.best_lr in (lrs[0], lrs[-1])


def offset(replicate: int) -> float:
    """Where in a rung the ladder of a replicate begins, in [-0.5, 0.5): 0, then spread evenly.

    All arms of a replicate climb the same ladder, but an arm's best learning rate may lie on a rung or between two.
    Were the ladders of all replicates the same, that luck would be the same in all of them, and look like a difference.
    """
    return (replicate * (math.sqrt(5) - 1) / 2 + 0.5) % 1 - 0.5


def pruner(earlier: Sequence[Tried], steps: int) -> Callable[[int, float], bool] | None:
    """Whether a trial is worse than the median of the finished ones at the same step, from a third of the steps on."""
    finished = [t for t in earlier if t.status == "done"]
    if len(finished) < STARTUP - 1:
        return None
    rule = optuna.pruners.MedianPruner(n_startup_trials=STARTUP - 1, n_warmup_steps=steps // 3)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), pruner=rule)
    for each in finished:
        trial = optuna.trial.create_trial(
            value=each.value, params={"lr": each.lr}, distributions={"lr": _LR}, intermediate_values=dict(each.curve)
        )
        study.add_trial(trial)
    running = study.ask()

    def should_prune(step: int, loss: float) -> bool:
        running.report(loss, step)
        return running.should_prune()

    return should_prune


@dataclass(frozen=True)
class Spent:
    """What a search cost.

    Attributes:
        trials: Learning rates tried.
        pruned: How many of them were cut short.
        diverged: How many diverged.
        steps: Steps made in all.
    """

    trials: int
    pruned: int
    diverged: int
    steps: int

    @staticmethod
    def of(searches: Sequence[Search]) -> Spent:
        """The sum over searches."""
        tried = [t for search in searches for t in search.tried]
        made = sum(len(outcome.losses) for search in searches for outcome in search.outcomes)
        count = [sum(t.status == status for t in tried) for status in ("pruned", "diverged")]
        return Spent(len(tried), count[0], count[1], made)


def spread(lrs: Sequence[float]) -> list[float]:
    """Given learning rates, three that span them first.

    Example:
        >>> from overdepth.comparison.search import spread
        >>> spread([1, 2, 3, 4, 5])
        [3, 1, 5, 2, 4]
    """
    ordered = sorted(lrs)
    if len(ordered) <= STARTUP:
        return ordered
    first = [ordered[len(ordered) // 2], ordered[0], ordered[-1]]
    return first + [lr for lr in ordered if lr not in first]


def _rank(trial: FrozenTrial) -> float:
    if trial.state == TrialState.RUNNING:
        return math.nan
    return float(trial.value) if trial.state == TrialState.COMPLETE and trial.value is not None else math.inf


def _tidy(lr: float) -> float:
    """Six digits: what is named can be given again."""
    return float(np.clip(float(f"{lr:.6g}"), _LR.low, _LR.high))
