"""The search for a learning rate: it finds the valley, spends what it may, and prunes what is hopeless."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from tests.comparison.problems import task

from overdepth.comparison.arms import Arm
from overdepth.comparison.jobs import Job, Outcome, Tried
from overdepth.comparison.search import Search, Spent, next_lr, offset, pruner, spread
from overdepth.comparison.training import train


def search(*, lrs: list[float] | None = None, trials: int = 9, replicate: int = 0, first: float = 1.0) -> Search:
    return Search(Arm("plain"), replicate, 40, lrs=lrs, trials=trials, first=first, is_full_batch=True)


def finished(found: Search, loss: Callable[[float], float]) -> list[list[float]]:
    """Runs a search on a loss that is known; the rounds."""
    rounds = []
    while lrs := found.next_round():
        rounds.append(lrs)
        for lr in lrs:
            value = loss(lr)
            if math.isfinite(value):
                found.tell(lr, Outcome(np.linspace(9.0, value, 40)))
            else:
                found.tell(lr, Outcome(np.array([1.0, 5.0]), "diverged"))
    return rounds


@pytest.mark.parametrize("best", [1e-4, 3e-3, 0.2, 1.0, 7.0, 600.0])
def test_the_valley_is_found_wherever_it_is(best: float) -> None:
    found = search()
    finished(found, lambda lr: abs(math.log10(lr / best)) + 1)
    assert len(found.tried) == 9
    assert found.best_lr is not None
    assert abs(math.log10(found.best_lr / best)) < 0.5
    assert not found.is_at_edge


def test_more_trials_come_closer() -> None:
    found = search(trials=15)
    finished(found, lambda lr: abs(math.log10(lr / 0.37)) + 1)
    assert found.best_lr == pytest.approx(0.37, rel=0.15)


def test_what_diverges_bounds_the_search_from_above() -> None:
    found = search()
    finished(found, lambda lr: math.inf if lr > 2 else 3 - lr)
    assert found.best_lr is not None
    assert 1 < found.best_lr < 2
    assert not found.is_at_edge


def test_everything_diverging_walks_down_and_ends() -> None:
    found = search()
    rounds = finished(found, lambda lr: math.inf)
    assert found.best_lr is None
    assert min(map(min, rounds)) == pytest.approx(1e-7)
    assert Spent.of([found]) == Spent(9, 0, 9, 18)


def test_alike_arms_try_alike_and_replicates_do_not() -> None:
    first, again, other = search(), search(), search(replicate=1)
    loss = lambda lr: abs(math.log(lr / 0.3)) + 1  # noqa: E731
    assert finished(first, loss) == finished(again, loss)
    finished(other, loss)
    assert not {t.lr for t in other.tried} & {t.lr for t in first.tried}


def test_offsets_cover_a_rung() -> None:
    found = np.sort([offset(r) for r in range(20)])
    assert offset(0) == 0
    assert found.min() >= -0.5
    assert found.max() < 0.5
    assert np.diff(found).max() < 0.1


def test_given_learning_rates_are_all_tried_and_ties_go_to_the_smaller() -> None:
    found = search(lrs=[0.1, 0.2, 0.3, 0.4, 0.5])
    rounds = finished(found, lambda lr: 1.0 if lr > 0.15 else 2.0)
    assert rounds == [[0.3, 0.1, 0.5], [0.2, 0.4]]
    assert found.best_lr == 0.2
    edge = search(lrs=[0.1, 0.2])
    finished(edge, lambda lr: lr)
    assert edge.is_at_edge
    assert spread([3, 1]) == [1, 3]


def test_a_ladder_never_repeats_itself() -> None:
    tried: dict[float, float] = {}
    for _ in range(30):
        lr = next_lr(1.0, tried)
        assert lr not in tried
        tried[lr] = (math.log(lr) - 1) ** 2


def test_a_hopeless_trial_is_pruned_and_a_good_one_is_not() -> None:
    given = task(batch_size=None)
    earlier = []
    for lr in (0.03, 0.1, 0.3):
        losses = train(given, Job("search", Arm("plain"), lr, 0, 40)).losses
        curve = tuple((step, float(losses[step - 1])) for step in range(2, 41, 2))
        earlier.append(Tried(lr, curve, "done", float(losses[-1])))
    results = {}
    for lr in (1e-4, 0.2):
        job = Job("search", Arm("plain"), lr, 0, 40, tuple(earlier))
        results[lr] = train(given, job, should_prune=pruner(earlier, 40))
    assert results[1e-4].status == "pruned"
    assert 40 // 3 <= len(results[1e-4].losses) < 40
    assert results[0.2].status == "done"
    assert pruner([], 40) is None
