"""Gradient descent and its noise against the flow."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import overdepth as od
from overdepth.theory.discretization import discretization_gap
from overdepth.theory.gradient_flow import flow
from overdepth.theory.losses import LeastSquares, least_squares, matrix_distance

RATES = [0.02, 0.01, 0.005]


def problem(seed: int, sizes: list[int], examples: int = 12) -> tuple[list[Tensor], LeastSquares]:
    generator = torch.Generator().manual_seed(seed)
    factors = [0.7 * torch.randn(b, a, generator=generator, dtype=torch.float64) for a, b in itertools.pairwise(sizes)]
    X = torch.randn(examples, sizes[0], generator=generator, dtype=torch.float64)
    Y = torch.randn(examples, sizes[-1], generator=generator, dtype=torch.float64)
    return factors, least_squares(X, Y)


@pytest.mark.parametrize(("seed", "sizes"), [(0, [3, 2]), (1, [3, 2, 2]), (2, [2, 3, 3, 1]), (3, [2, 2, 2, 2, 2])])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_gap_is_of_first_order_in_the_learning_rate(seed: int, sizes: list[int], decay: float) -> None:
    factors, loss = problem(seed, sizes)
    gap = discretization_gap(factors, loss, RATES, 1.0, weight_decay=decay)
    assert gap.steps.values.tolist() == [50, 100, 200]
    assert gap.attrs["order"] == pytest.approx(1.0, abs=0.1)
    halves = gap.distance.values[:-1] / gap.distance.values[1:]
    assert (np.abs(halves - 2) < 0.2).all()


def test_it_is_gradient_descent_that_is_compared() -> None:
    factors, loss = problem(4, [3, 2, 2])
    chain = [f.clone().requires_grad_() for f in factors]
    optimizer = torch.optim.SGD(chain, lr=0.05, weight_decay=0.2)
    for _ in range(20):
        optimizer.zero_grad()
        torch.autograd.backward(loss.value(od.product(chain)))
        optimizer.step()
    weight = od.product(chain).detach()
    gap = discretization_gap(factors, loss, [0.05], 1.0, weight_decay=0.2)
    followed = flow(factors, loss, [1.0], weight_decay=0.2)
    assert float(gap.loss[0]) == pytest.approx(float(loss.value(weight)), rel=1e-12)
    assert float(gap.flow_loss[0]) == pytest.approx(float(followed.loss[0]), rel=1e-9)
    assert float(gap.distance[0]) == pytest.approx(float(np.linalg.norm(weight.numpy() - followed.weight[0])), rel=1e-7)
    assert math.isnan(gap.attrs["order"])


def test_learning_rates_that_do_not_divide_the_time() -> None:
    factors, loss = problem(5, [2, 2])
    gap = discretization_gap(factors, loss, [0.03, 0.1, 0.01, 0.1 / 3], 1.0)
    assert gap.steps.values.tolist() == [33, 10, 100, 30]
    assert gap.time.values == pytest.approx([0.99, 1.0, 1.0, 1.0])
    for lr, time in zip(gap.lr.values, gap.time.values, strict=True):
        alone = flow(factors, loss, [time])
        assert float(gap.flow_loss.sel(lr=lr)) == pytest.approx(float(alone.loss[0]), rel=1e-9)


def test_noise_shrinks_with_the_learning_rate_and_the_batch() -> None:
    factors, loss = problem(6, [3, 2, 2], examples=64)
    seeds = range(24)
    one = discretization_gap(factors, loss, [0.02, 0.005], 1.0, batch_size=1, seeds=seeds)
    four = discretization_gap(factors, loss, [0.02, 0.005], 1.0, batch_size=4, seeds=seeds)
    assert one.noise.dims == ("lr", "seed")
    size = np.sqrt((one.noise**2).mean("seed")).values  # ~ sqrt(lr / batch_size)
    smaller = np.sqrt((four.noise**2).mean("seed")).values
    assert size[0] / size[1] == pytest.approx(2.0, rel=0.3)
    assert (size / smaller) == pytest.approx(2.0, rel=0.3)
    assert (smaller > 3 * four.distance).all()  # noise outweighs the discretization
    assert (np.abs(one.noisy_distance - one.noise) <= one.distance + 1e-12).all()


def test_seeds_repeat() -> None:
    factors, loss = problem(7, [2, 2])
    runs = [discretization_gap(factors, loss, [0.1], 1.0, batch_size=2, seeds=seeds) for seeds in ([0, 1], [1])]
    assert float(runs[0].noisy_loss.sel(seed=1)[0]) == float(runs[1].noisy_loss.sel(seed=1)[0])
    assert float(runs[0].noisy_loss[0, 0]) != float(runs[0].noisy_loss[0, 1])


def test_a_run_that_diverges_is_infinitely_far() -> None:
    factors, loss = problem(8, [3, 3, 3, 3])
    gap = discretization_gap(factors, loss, [10.0, 0.01], 2000.0 * 0.01)
    assert float(gap.distance[0]) > 1e3 or math.isinf(float(gap.distance[0]))
    steep = discretization_gap([100 * f for f in factors], loss, [1.0], 100.0, method="LSODA", rtol=1e-6, atol=1e-8)
    assert math.isinf(float(steep.distance[0]))
    assert math.isinf(float(steep.loss[0]))


@pytest.mark.parametrize(
    ("lrs", "time", "options", "message"),
    [
        ([], 1.0, {}, "lrs is empty"),
        ([0.1, -0.1], 1.0, {}, r"lrs\[1\] is -0.1"),
        ([math.nan], 1.0, {}, r"lrs\[0\] is nan"),
        ([3.0], 1.0, {}, r"lrs\[0\] is 3.0 and time is 1.0: not one step"),
        ([0.1], 0.0, {}, "time is 0.0"),
        ([0.1], 1.0, {"batch_size": 0}, "batch_size is 0"),
        ([0.1], 1.0, {"batch_size": 1, "seeds": []}, r"seeds is \[\]"),
        ([0.1], 1.0, {"batch_size": 1, "seeds": [0.5]}, r"seeds is \[0.5\]"),
        ([0.1], 1.0, {"weight_decay": -1}, "weight_decay is -1"),
        ([0.1], 1.0, {"method": "Euler"}, "method is 'Euler'"),
    ],
)
def test_bad_arguments_are_refused_by_name(lrs: list[float], time: float, options: dict, message: str) -> None:
    factors, loss = problem(0, [2, 2])
    with pytest.raises(ValueError, match=message):
        discretization_gap(factors, loss, lrs, time, **options)


def test_losses_are_refused_by_name() -> None:
    factors, _ = problem(0, [2, 2])
    with pytest.raises(ValueError, match="batch_size is 1 with a loss without data; use least_squares"):
        discretization_gap(factors, matrix_distance(torch.eye(2)), [0.1], 1.0, batch_size=1)
    with pytest.raises(TypeError, match="loss is a function"):
        discretization_gap(factors, lambda w: w, [0.1], 1.0)  # type: ignore[arg-type]
