"""Every method of the engine against torch.optim, and against TensorFlow 1's definitions written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from overdepth.initialization import Init
from overdepth.lab import Problem, Run, sweep
from overdepth.lab.engine import Engine
from overdepth.lab.objectives import objective
from overdepth.lab.settings import Settings
from overdepth.lab.update_rules import RULES

Array = NDArray[np.float64]
STEPS = 25

TORCH: dict[str, Callable[[list[torch.Tensor], float], torch.optim.Optimizer]] = {
    "momentum": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "nesterov": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9, nesterov=True),
    "adagrad": lambda params, lr: torch.optim.Adagrad(params, lr=lr),
    "adadelta": lambda params, lr: torch.optim.Adadelta(params, lr=lr),
    "rmsprop": lambda params, lr: torch.optim.RMSprop(params, lr=lr),
    "adam": lambda params, lr: torch.optim.Adam(params, lr=lr),
}


def tf1_step(method: str, g: Array, state: dict[str, Array], t: int, lr: float) -> Array:
    """What TensorFlow 1's optimizers subtract from a variable, as its documentation and kernels have it."""

    def kept(name: str, start: float) -> Array:
        return state.setdefault(name, np.full_like(g, start))

    if method in ("momentum_tf1", "nesterov_tf1"):
        state["accum"] = 0.9 * kept("accum", 0.0) + g
        return lr * g + 0.9 * lr * state["accum"] if method == "nesterov_tf1" else lr * state["accum"]
    if method == "adagrad_tf1":
        state["accum"] = kept("accum", 0.1) + g**2
        return lr * g / np.sqrt(state["accum"])
    if method == "adadelta_tf1":
        state["accum"] = 0.95 * kept("accum", 0.0) + 0.05 * g**2
        update = np.sqrt(kept("accum_update", 0.0) + 1e-8) / np.sqrt(state["accum"] + 1e-8) * g
        state["accum_update"] = 0.95 * state["accum_update"] + 0.05 * update**2
        return lr * update
    if method == "rmsprop_tf1":
        state["ms"] = 0.9 * kept("ms", 1.0) + 0.1 * g**2
        return lr * g / np.sqrt(state["ms"] + 1e-10)
    if method == "adam_tf1":
        state["m"] = 0.9 * kept("m", 0.0) + 0.1 * g
        state["v"] = 0.999 * kept("v", 0.0) + 0.001 * g**2
        step = lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return np.asarray(step * state["m"] / (np.sqrt(state["v"]) + 1e-8))
    raise AssertionError(method)


def problem(k: int) -> Problem:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 4))
    return Problem(X, X @ rng.standard_normal((4, k)))


def by_hand(run: Run, data: Problem, name: str) -> list[float]:
    """The full-data losses after 0, 1, ... steps, by autograd on the factors."""
    X, Y = torch.from_numpy(data.X), torch.from_numpy(data.Y)
    factors = [f.clone().requires_grad_() for f in run.start(data.k, data.d)]
    optimizer = TORCH[run.method](list(factors), run.lr) if run.method in TORCH else None
    states: list[dict[str, Array]] = [{} for _ in factors]
    losses = []
    for t in range(STEPS + 1):
        weight = factors[0]
        for factor in factors[1:]:
            weight = factor @ weight
        p = int(name[1:])
        value = ((X @ weight.T - Y) ** p).sum() / p / len(X)
        losses.append(float(value.detach()))
        grads = torch.autograd.grad(value, factors)
        with torch.no_grad():
            for factor, grad, state in zip(factors, grads, states, strict=True):
                if run.weight_decay:
                    factor.mul_(1 - run.lr * run.weight_decay)
                if optimizer is None:
                    factor.sub_(torch.from_numpy(tf1_step(run.method, grad.numpy(), state, t + 1, run.lr)))
                else:
                    factor.grad = grad
        if optimizer is not None:
            optimizer.step()
    return losses


@pytest.mark.parametrize("method", sorted(RULES))
@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("name", ["l2", "l4"])
def test_every_method_is_the_one_it_is_named_after(method: Any, k: int, name: str) -> None:
    """Depths and widths are mixed in one sweep, float64; the runs share groups where they can."""
    data = problem(k)
    settings: list[tuple[int, int, Init]] = [
        (1, 1, "near_zero"),
        (2, 1, "near_zero"),
        (3, 1, "near_identity"),
        (3, 5, "near_identity"),
    ]
    runs = [
        Run(depth=depth, width=width, scale=0.5, seed=depth, lr=lr, method=method, init=init)
        for depth, width, init in settings
        for lr in (1e-3, 1e-2)
    ]
    losses = sweep(data, runs, objective=name, steps=STEPS, record_every=1, dtype=torch.float64)["loss"].values
    for run, found in zip(runs, losses, strict=True):
        np.testing.assert_allclose(found, by_hand(run, data, name), rtol=1e-8)


@pytest.mark.parametrize("method", ["adam", "adagrad_tf1"])
@pytest.mark.parametrize("k", [1, 2])
def test_weight_decay_is_decoupled(method: Any, k: int) -> None:
    data = problem(k)
    runs = [
        Run(depth=n, width=w, scale=0.5, lr=0.05, method=method, weight_decay=0.3) for n, w in ((1, 1), (2, 3), (2, 1))
    ]
    losses = sweep(data, runs, objective="l2", steps=STEPS, record_every=1, dtype=torch.float64)["loss"].values
    for run, found in zip(runs, losses, strict=True):
        np.testing.assert_allclose(found, by_hand(run, data, "l2"), rtol=1e-8)


@pytest.mark.parametrize("method", sorted(RULES))
def test_a_cut_by_steps_and_a_diverged_neighbour_change_no_bit(method: Any) -> None:
    """The memory of a method follows its runs when others leave, and when a sweep is cut."""
    data = problem(2)
    runs = [
        Run(depth=2, width=3, scale=0.5, seed=s, lr=lr, method=method) for s, lr in ((0, 1e-3), (1, 1e200), (2, 1e-2))
    ]
    settings = Settings(steps=200, record_every=50, dtype=torch.float64)
    whole, cut = (Engine(data, runs, objective("l4"), settings) for _ in range(2))
    state = whole.advance(whole.start())
    pieces = cut.start()
    for until in (3, 64, 70, 200):
        pieces = cut.advance(pieces, until)
    assert state.diverged_at[1] > 0
    np.testing.assert_array_equal(state.loss, pieces.loss)
    alone = Engine(data, [runs[2]], objective("l4"), settings)
    np.testing.assert_allclose(state.loss[2], alone.advance(alone.start()).loss[0], rtol=1e-9)
