"""The loop: the batches, what it records, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from tests.comparison.problems import linear, network, regression, squares, task
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from overdepth.comparison.arms import Arm
from overdepth.comparison.batches import batches
from overdepth.comparison.cost import cost
from overdepth.comparison.jobs import Job, smoothed, smoothing_window
from overdepth.comparison.training import Stopped, train

PLAIN = Arm("plain")


def job(**changes: Any) -> Job:
    return Job(**{"role": "final", "arm": PLAIN, "lr": 0.05, "replicate": 0, "steps": 40, **changes})


def test_the_losses_are_those_of_an_own_loop() -> None:
    """The same start, batches and steps as a user would write them."""
    given = task()
    torch.manual_seed(3)
    model = linear()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(3)
    x, y = given.data
    expected: list[float] = []
    while len(expected) < 40:
        for rows in torch.split(torch.randperm(64, generator=generator), 8):
            loss = squares(model, (x[rows], y[rows]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            expected.append(loss.item())
    found = train(given, job(replicate=3))
    assert found.losses.tolist() == expected[:40]
    assert found.status == "done"


def test_a_seed_fixes_start_and_batches_whatever_happens_around() -> None:
    given = task(build=lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 1)))
    first = train(given, job())
    torch.rand(7)
    before = torch.get_rng_state()
    assert np.array_equal(train(given, job()).losses, first.losses)
    assert torch.equal(torch.get_rng_state(), before)  # the user's random numbers go on as if nothing had been
    assert not np.array_equal(train(given, job(replicate=1)).losses, first.losses)
    assert not np.array_equal(train(given, job(role="search")).losses, first.losses)


def test_every_arm_sees_the_same_batches() -> None:
    seen: dict[str, list[float]] = {}

    def loss_step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        seen.setdefault(current, []).append(float(batch[0].sum()))
        return squares(model, batch)

    for data, size in ((regression(), 8), (DataLoader(TensorDataset(*regression()), 8, shuffle=True), None)):
        given = task(data=data, batch_size=size, loss_step=loss_step, build=network)
        for current in ("plain", "form1:2", "form2:2", "form3:2"):
            train(given, job(arm=Arm.parse(current)))
        assert len(seen["plain"]) == 40
        assert len({tuple(values) for values in seen.values()}) == 1
        assert len(set(seen["plain"])) > 8  # epochs are shuffled anew
        seen.clear()


def test_loaders_and_functions_of_the_seed() -> None:
    x, y = regression(rows=12)

    def endless(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed)
        while True:
            rows = torch.randint(12, (4,), generator=generator)
            yield x[rows], y[rows]

    for data in ([(x, y)], [(x[:6], y[:6]), (x[6:], y[6:])], endless, lambda seed: [(x, y)]):
        given = task(data=data, batch_size=None)
        assert len(train(given, job()).losses) == 40
    single = task(data=x, batch_size=4, loss_step=lambda model, batch: model(batch).square().mean())
    assert next(batches(single, 0)).shape == (4, 3)


def test_a_generator_of_a_loader_is_seeded() -> None:
    loader = DataLoader(TensorDataset(*regression()), 8, shuffle=True, generator=torch.Generator())
    given = task(data=loader, batch_size=None)
    first, again, other = (next(batches(given, seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_step": lambda m, b: [1.0]}, "arm 'plain': loss_step returned a list, expected a scalar tensor"),
        (
            {"loss_step": lambda m, b: m(b[0])},
            "loss_step returned a tensor of shape (8, 1), expected a scalar; return its",
        ),
        (
            {"loss_step": lambda m, b: squares(m, b).detach()},
            "returned a loss without a gradient; compute it from the model",
        ),
        (
            {"loss_step": lambda m, b: 1 / 0},
            "arm 'plain': step 1 failed: division by zero (ZeroDivisionError); mend what",
        ),
        ({"loss_step": lambda m, b: m(b[1])}, "arm 'plain': step 1 failed: mat1 and mat2 shapes cannot be multiplied"),
        ({"build": lambda: "model"}, "arm 'plain': build returned a str, expected a torch.nn.Module"),
        (
            {"data": lambda seed: iter([regression()] * 7), "batch_size": None},
            "data ran dry after 7 of 40 steps; give a",
        ),
        (
            {"data": [], "batch_size": None},
            "arm 'plain': step 1 failed: data has no batch at all; give a loader that is",
        ),
        ({"base": partial(torch.optim.SGD, nesterov=True)}, "arm 'plain': Nesterov momentum requires a momentum"),
    ],
)
def test_what_is_wrong_is_one_sentence_with_the_arm(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=r"^arm 'plain'.*\.$") as caught:
        train(task(**changes), job())
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": 3}, "data is a int, expected tensors, a loader, or a function of the seed"),
        ({"data": iter([1])}, "data is an iterator, which can be read only once"),
        ({"data": TensorDataset(*regression())}, "data is a Dataset of single examples; wrap it"),
        (
            {"data": (torch.ones(3, 1), torch.ones(4, 1))},
            "tensors of shapes (3, 1), (4, 1), expected the same number of rows",
        ),
        ({"batch_size": 65}, "batch_size is 65, but data has 64 rows"),
        ({"data": [1, 2]}, "batch_size is for data that are tensors"),
        ({"base": torch.nn.Linear}, "expected an optimizer class such as torch.optim.SGD"),
        ({"base": partial(torch.optim.SGD, lr=-1)}, "lr of base is -1, expected a finite number > 0"),
        ({"build": 3}, "build is a int, expected a function"),
        ({"schedule": 3}, "schedule is a int, expected a function or None"),
    ],
)
def test_a_task_is_checked(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=r"\.$") as caught:
        task(**changes)
    assert message in str(caught.value)


@pytest.mark.parametrize("arm", ["plain", "form1:2", "form2:2", "form3:2", "form3:2.5"])
def test_a_run_that_diverges_is_no_error(arm: str) -> None:
    found = train(task(build=network), job(arm=Arm.parse(arm), lr=1e6, steps=200))
    assert found.status == "diverged"
    assert np.isfinite(found.losses).all()
    assert len(found.losses) < 200


def test_a_run_can_be_stopped_and_pruned() -> None:
    with pytest.raises(Stopped):
        train(task(), job(), should_stop=lambda: True)
    asked: list[int] = []

    def prune(step: int, loss: float) -> bool:
        asked.append(step)
        return step >= 10

    found = train(task(), job(), should_prune=prune)
    assert (found.status, len(found.losses)) == ("pruned", 10)
    assert asked == [2, 4, 6, 8, 10]


def test_a_schedule_is_stepped() -> None:
    given = task(schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.0))
    for arm in ("plain", "form2:2", "form3:2"):
        losses = train(task(schedule=given.schedule, batch_size=None), job(arm=Arm.parse(arm))).losses
        assert losses[0] != losses[1]
        assert (losses[1:] == losses[1]).all()  # the learning rate is 0 from the second step on


def test_the_cost_of_a_step_is_taken_of_both() -> None:
    found = cost(task(build=network), Job("cost", Arm.parse("form1:3"), 0.01, 0, 60, beside=0.01))
    assert found.times is not None
    assert found.times.shape[0] == 2
    assert (found.times > 0).all()
    assert found.memory[1] > found.memory[0] > 0


def test_memory_is_counted() -> None:
    """A layer 3 -> 1 in float32 under Adam: weight, gradient, two moments, a step count; the batch; 8 residuals."""
    given = task(base=torch.optim.Adam)
    found = cost(given, Job("cost", Arm("twin"), 0.01, 0, 30, beside=0.01)).memory
    assert found[0] == found[1]
    weight, batch = 3 * 4, 8 * 3 * 4
    assert found[0] >= 4 * weight + 4 + batch
    assert found[0] <= 4 * weight + 4 + batch + 8 * 4 * 3


def test_smoothing_is_a_running_mean() -> None:
    losses = np.random.default_rng(0).normal(size=50) + 1e6
    expected = [losses[i : i + 7].mean() for i in range(44)]
    assert smoothed(losses, 7) == pytest.approx(expected, rel=1e-13)
    assert smoothed(losses, 1) is losses
    assert len(smoothed(losses[:3], 7)) == 0
    assert smoothing_window(1000, is_full_batch=False) == 50
    assert smoothing_window(1000, is_full_batch=True) == 1
