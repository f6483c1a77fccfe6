"""The sweep engine against training every run on its own, step by step."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.reference.training import Array, Rows, Trajectory, train_end_to_end, train_factors

import overdepth.lab.products
from overdepth.initialization import Init
from overdepth.lab import Problem, Run, grid, objective
from overdepth.lab.engine import Engine, SweepState
from overdepth.lab.run import Method
from overdepth.lab.settings import Settings

PLAIN: tuple[Method, ...] = ("gd", "end_to_end")  # the methods without memory; test_update_rules.py has the others
INITS: tuple[Init, ...] = ("near_zero", "near_identity", "orthogonal", "balanced", "identity")
OBJECTIVES = {1: ("l2", "l4", "l6", "logistic"), 3: ("l2", "l4", "l6", "cross_entropy")}
CASES = [(k, name) for k, names in OBJECTIVES.items() for name in names]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products do not gain from threads, and on a shared machine threads that wait for each other cost much."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_problem(k: int, name: str, *, m: int = 40, d: int = 6, seed: int = 0) -> Problem:
    """Noisy linear data, with the targets that the objective asks for."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(m, d)) * np.linspace(0.3, 0.9, d) + 0.1
    Y = X @ rng.normal(size=(d, k)) + 0.3 * rng.normal(size=(m, k))
    Y = np.clip(Y / Y.std(), -2.0, 2.0)  # high powers of outliers would only ask for tiny learning rates
    if name == "logistic":
        Y = np.where(Y > np.median(Y), 7.0, -2.0)  # any two values will do
    if name == "cross_entropy":
        Y = np.eye(k)[Y.argmax(axis=1)]
    return Problem(X, Y)


def reference(problem: Problem, run: Run, name: str, steps: int, rows: Rows | None = None) -> Trajectory:
    start = run.start(problem.k, problem.d)
    if run.method == "gd":
        return train_factors(
            problem.X, problem.Y, start,
            objective=name, lr=run.lr, weight_decay=run.weight_decay, steps=steps, rows=rows,
        )  # fmt: skip
    W = functools.reduce(lambda below, factor: factor @ below, [f.numpy() for f in start])
    return train_end_to_end(
        problem.X, problem.Y, W,
        depth=run.depth, objective=name, lr=run.lr, weight_decay=run.weight_decay, steps=steps, rows=rows,
    )  # fmt: skip


def engine_for(problem: Problem, runs: Sequence[Run], name: str, steps: int, **options: object) -> Engine:
    chosen = Settings(**{"steps": steps, "record_every": 1, "dtype": torch.float64, **options})  # type: ignore[arg-type]
    return Engine(problem, list(runs), objective(name), chosen)


def train(problem: Problem, runs: Sequence[Run], name: str, steps: int, **options: object) -> SweepState:
    engine = engine_for(problem, runs, name, steps, **options)
    return engine.advance(engine.start())


def final_weights(state: SweepState, problem: Problem, runs: int) -> Array:
    """End-to-end weights by run; NaN for those that have left."""
    weights = np.full((runs, problem.k, problem.d), np.nan)
    for group in state.groups:
        own = torch.empty(len(group.index), problem.k, problem.d, dtype=torch.float64)
        group.write(own)
        weights[group.index.numpy()] = own.numpy()
    return weights


def weight_error(actual: Array, expected: Array) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


RATES = {"l2": 4.0, "l4": 0.5, "l6": 0.08, "logistic": 8.0, "cross_entropy": 4.0}
"""Learning rates that make progress and stay finite are of different size."""


def mixed_runs(k: int, name: str) -> list[Run]:
    """Every depth, width, initialization, method and decay that the shape allows, in no tidy order."""
    runs = []
    for i, (depth, width) in enumerate(itertools.product((1, 2, 3, 4), (1, 2, 5))):
        for j, init in enumerate(INITS):
            if init == "identity" and depth > 1 and width < k:
                continue  # cannot hold the weight
            decay = (0.0, 0.3)[(i + j) % 2]
            method = PLAIN[(i + j // 2) % 2]
            scale = {"near_zero": (0.01, 0.4), "near_identity": (0.01, 0.1)}.get(init, (0.4, 0.4))[i % 2]
            runs.append(
                Run(depth, width, init, scale=scale, seed=i + 100 * j, method=method, lr=0.01 + 0.01 * j,
                    weight_decay=decay)
            )  # fmt: skip
    runs += grid(depth=[2.5, math.inf], method="end_to_end", scale=0.4, lr=0.05, weight_decay=[0.0, 0.2])
    order = np.random.default_rng(5).permutation(len(runs))
    return [replace(runs[i], lr=RATES[name] * runs[i].lr) for i in order]


@functools.cache
def mixed_references(k: int, name: str, steps: int) -> tuple[Trajectory, ...]:
    problem = make_problem(k, name)
    return tuple(reference(problem, run, name, steps) for run in mixed_runs(k, name))


def test_the_mixed_table_holds_every_combination_that_is_claimed() -> None:
    for k in OBJECTIVES:
        runs = mixed_runs(k, "l2")
        for field, wanted in (("method", PLAIN), ("init", INITS), ("weight_decay", (0.0, 0.3))):
            assert {(r.depth, getattr(r, field)) for r in runs} >= set(itertools.product((1, 2, 3, 4), wanted)), field
        assert {(r.depth, r.width) for r in runs if r.method == "gd"} >= set(itertools.product((1, 2, 3, 4), (1, 2, 5)))
        assert {r.depth for r in runs if r.method == "end_to_end"} == {1, 2, 3, 4, 2.5, math.inf}


@pytest.mark.parametrize(("k", "name"), CASES)
def test_every_run_of_a_mixed_sweep_agrees_with_its_reference_at_every_step(k: int, name: str) -> None:
    steps = 25
    problem, runs = make_problem(k, name), mixed_runs(k, name)
    expected = mixed_references(k, name, steps)
    state = train(problem, runs, name, steps)
    weights = final_weights(state, problem, len(runs))
    for i, (run, trajectory) in enumerate(zip(runs, expected, strict=True)):
        assert trajectory.diverged_at is None, run
        np.testing.assert_allclose(state.loss[i], trajectory.losses, rtol=1e-10, err_msg=str(run))
        assert weight_error(weights[i], trajectory.weights[-1]) < 1e-10, run
    moved = [t for t in expected if t.losses[-1] < 0.95 * t.losses[0]]
    assert len(moved) > len(runs) / 3  # the comparison would be idle if nothing happened


@pytest.mark.parametrize("name", OBJECTIVES[1])
@pytest.mark.parametrize("extra", [0, 1, 3])
def test_scalar_chains_of_one_depth_or_several_agree_with_the_reference(name: str, extra: int) -> None:
    problem = make_problem(1, name)
    runs = grid(depth=list(range(1, extra + 2)), init="near_identity", lr=[0.01, 0.1], weight_decay=[0.0, 0.5])
    state = train(problem, runs, name, 40)
    for i, run in enumerate(runs):
        np.testing.assert_allclose(state.loss[i], reference(problem, run, name, 40).losses, rtol=1e-10)


@pytest.mark.parametrize(("m", "d"), [(4, 9), (9, 9), (60, 2), (12, 1)])
@pytest.mark.parametrize("name", ["l2", "l4"])
def test_wide_square_and_tall_data_agree_with_the_reference(name: str, m: int, d: int) -> None:
    for k in (1, 3):
        problem = make_problem(k, name, m=m, d=d)
        runs = grid(depth=[1, 2, 3], width=[1, 4], scale=0.4, method=PLAIN, lr=0.02, weight_decay=0.1)
        state = train(problem, runs, name, 12)
        for i, run in enumerate(runs):
            # Interpolated data lose digits: the loss is a sum of squares of differences of numbers of size Y.
            rounding = 1e-13 * float(np.mean(problem.Y**2))
            expected = reference(problem, run, name, 12).losses
            np.testing.assert_allclose(state.loss[i], expected, rtol=1e-10, atol=rounding, err_msg=str(run))


@pytest.mark.parametrize(("k", "name"), CASES)
def test_float32_agrees_with_float64_to_its_rounding(k: int, name: str) -> None:
    problem = make_problem(k, name)
    inits, lr = ["near_identity", "balanced"], 0.01 * RATES[name]  # of full rank: the rule is smooth there
    runs = grid(depth=[1, 2, 3], width=5, init=inits, scale=0.3, method=PLAIN, lr=lr)
    double = train(problem, runs, name, 40).loss
    single = train(problem, runs, name, 40, dtype=torch.float32).loss
    np.testing.assert_allclose(single, double, rtol=1e-4)
    assert not np.array_equal(single, double)  # else it was not float32


def test_losses_are_recorded_in_float64_also_when_training_in_float32() -> None:
    problem = make_problem(1, "l4")
    run = Run(2, init="near_identity", seed=3)
    engine = engine_for(problem, [run], "l4", 1, dtype=torch.float32)
    weights = torch.empty(1, 1, problem.d, dtype=torch.float32)
    state = engine.start()
    state.groups[0].write(weights)
    exact = np.mean((problem.X @ weights[0].double().numpy().T - problem.Y) ** 4) / 4
    assert state.loss[0, 0] == pytest.approx(exact, rel=1e-13)


# --- divergence


DIVERGING = [
    Run(1, lr=50.0, init="near_identity"),
    Run(2, lr=20.0, init="near_identity", seed=1),
    Run(3, width=2, lr=5.0, init="orthogonal", scale=0.7),
    Run(3, method="end_to_end", lr=5.0, scale=0.5),
    Run(2.5, method="end_to_end", lr=5.0, scale=0.5, weight_decay=0.01),
]
TAME = [
    Run(1, lr=0.01, scale=0.1),
    Run(2, lr=0.02, init="near_identity", weight_decay=0.1),
    Run(4, lr=0.01, init="near_identity"),
    Run(3, width=2, lr=0.01, init="orthogonal", scale=0.7),
    Run(3, method="end_to_end", lr=0.01, scale=0.5),
]


@pytest.mark.parametrize(("k", "name"), [(1, "l4"), (3, "l4"), (1, "l6"), (1, "l2"), (3, "l2")])
def test_divergence_is_noticed_at_the_step_of_the_reference_and_leaves_the_others_alone(k: int, name: str) -> None:
    steps = 130 if name != "l2" else 70
    problem = make_problem(k, name)
    runs = [run for pair in zip(DIVERGING, TAME, strict=True) for run in pair]
    state = train(problem, runs, name, steps)
    expected = [reference(problem, run, name, steps) for run in runs]
    for i, trajectory in enumerate(expected):
        step = trajectory.diverged_at
        assert state.diverged_at[i] == (-1 if step is None else step), runs[i]
        assert np.isnan(state.loss[i, step:] if step is not None else []).all()
        assert not np.isnan(state.loss[i, : step if step is not None else None]).any()
    if name != "l2":  # a power above 2 feeds on itself: all of them are gone within a few steps
        assert all(t.diverged_at is not None for t in expected[::2])
    assert all(t.diverged_at is None for t in expected[1::2])
    alone = train(problem, TAME, name, steps)
    np.testing.assert_allclose(state.loss[1::2], alone.loss, rtol=1e-10)
    np.testing.assert_allclose(
        final_weights(state, problem, len(runs))[1::2], final_weights(alone, problem, len(TAME)), rtol=1e-9, atol=1e-12
    )


def test_a_sweep_in_which_every_run_diverges_ends_with_nan() -> None:
    state = train(make_problem(1, "l4"), DIVERGING, "l4", 200, record_every=100)
    assert state.live == 0
    assert state.step == 200
    assert (state.diverged_at > 0).all()
    assert np.isfinite(state.loss[:, 0]).all()
    assert np.isnan(state.loss[:, 1:]).all()


def slowly_diverging() -> tuple[Problem, Run, float]:
    """Gram matrix 2^-12 I and targets 0: every l2 step multiplies W by -1.0625 (exactly, lr being 2.0625 * 2^12)."""
    d = 64
    problem = Problem(np.eye(d) / 8, np.zeros((d, 1)))
    run = next(
        run
        for seed in range(1000)
        if abs(float((W := (run := Run(lr=2.0625 * 2**12, seed=seed)).start(1, d)[0]).sum())) > 6 * W.abs().max()
    )
    return problem, run, -1.0625


@pytest.mark.parametrize(
    "company",
    [
        [],
        [Run(2, lr=1e-3)],
        [Run(2, width=3, lr=1e-3), Run(3, method="end_to_end", lr=1e-3)],
    ],
    ids=["alone", "with a deeper scalar chain", "with other groups"],
)
@pytest.mark.parametrize("method", PLAIN)
def test_slow_divergence_is_noticed_when_the_weight_overflows_and_not_before(
    company: list[Run], method: Method
) -> None:
    problem, run, growth = slowly_diverging()
    run = replace(run, method=method)
    largest = float(run.start(1, problem.d)[0].abs().max())
    exact = math.log(torch.finfo(torch.float32).max / largest) / math.log(-growth)
    # Rounding of 1600 float32 steps is 1e-4 of W at most, 0.002 steps: the ceiling is safe.
    assert 0.01 < exact % 1 < 0.99
    state = train(problem, [run, *company], "l2", 1700, dtype=torch.float32, record_every=50)
    assert state.diverged_at[0] == math.ceil(exact)
    last_finite = math.ceil(exact) - 1
    assert np.isfinite(state.loss[0, : last_finite // 50 + 1]).all()
    assert np.isnan(state.loss[0, last_finite // 50 + 1 :]).all()


# --- cutting


CUT_STEPS = 150


@functools.cache
def cut_case(name: str, batch_size: int | None) -> tuple[Problem, tuple[Run, ...], dict[str, object]]:
    runs = [*TAME, *DIVERGING, Run(2, width=3, init="near_identity", lr=0.02), Run(1, lr=0.3)]
    # Enough runs that the matrix products round differently once some have left.
    runs += grid(depth=[1, 2, 3], init="near_identity", seed=range(6), lr=[0.002, 0.02, 0.2, 2.0, 20.0])
    return make_problem(1, name, d=30), tuple(runs), {"record_every": 7, "batch_size": batch_size}


@functools.cache
def uncut(name: str, batch_size: int | None) -> tuple[NDArray[np.float64], NDArray[np.int64], Array, int]:
    problem, runs, options = cut_case(name, batch_size)
    state = train(problem, runs, name, CUT_STEPS, **options)
    return state.loss, state.diverged_at, final_weights(state, problem, len(runs)), state.run_steps


def assert_bits_equal(state: SweepState, name: str, batch_size: int | None) -> None:
    problem, runs, _ = cut_case(name, batch_size)
    loss, diverged_at, weights, run_steps = uncut(name, batch_size)
    assert state.step == CUT_STEPS
    np.testing.assert_array_equal(state.loss, loss)
    np.testing.assert_array_equal(state.diverged_at, diverged_at)
    np.testing.assert_array_equal(final_weights(state, problem, len(runs)), weights)
    assert state.run_steps == run_steps


def test_the_case_for_cuts_has_runs_that_diverge_and_runs_that_do_not() -> None:
    for name, batch_size in (("l2", None), ("l4", None), ("l4", 9)):
        diverged_at = uncut(name, batch_size)[1]
        assert (diverged_at > 0).any()
        assert (diverged_at == -1).sum() >= len(TAME)


@given(
    cuts=st.lists(st.integers(0, CUT_STEPS), max_size=8),
    case=st.sampled_from([("l2", None), ("l4", None), ("l4", 9)]),
)
@settings(max_examples=25)
def test_cuts_by_steps_change_no_bit(cuts: list[int], case: tuple[str, int | None]) -> None:
    name, batch_size = case
    problem, runs, options = cut_case(name, batch_size)
    engine = engine_for(problem, runs, name, CUT_STEPS, **options)
    state = engine.start()
    for cut in sorted(cuts):
        assert engine.advance(state, until=cut) is state
        assert state.step == cut
    assert_bits_equal(engine.advance(state), name, batch_size)


def test_a_cut_after_every_step_changes_no_bit() -> None:
    problem, runs, options = cut_case("l4", None)
    engine = engine_for(problem, runs, "l4", CUT_STEPS, **options)
    state = engine.start()
    for step in range(1, CUT_STEPS + 1):
        engine.advance(state, until=step)
    assert_bits_equal(state, "l4", None)


@given(cut=st.integers(0, CUT_STEPS), case=st.sampled_from([("l2", None), ("l4", 9)]))
@settings(max_examples=10)
def test_a_state_taken_over_by_another_engine_continues_to_the_same_bits(
    cut: int, case: tuple[str, int | None]
) -> None:
    name, batch_size = case
    problem, runs, options = cut_case(name, batch_size)
    first = engine_for(problem, runs, name, CUT_STEPS, **options)
    before = first.advance(first.start(), until=cut)
    kept = [group.state() for group in before.groups]
    loss, diverged_at = before.loss.copy(), before.diverged_at.copy()

    second = engine_for(problem, runs, name, CUT_STEPS, **options)
    groups = []
    for tensors in kept:  # a group whose runs have all diverged has left
        (fresh,) = (g for g in second.start().groups if set(tensors["index"].tolist()) <= set(g.index.tolist()))
        fresh.load_state(tensors)
        groups.append(fresh)
    first.advance(before)  # a state that was taken over is a copy: going on here must not touch it there
    state = SweepState(cut, groups, loss, diverged_at, run_steps=0)
    second.advance(state)
    state.run_steps = before.run_steps
    assert_bits_equal(state, name, batch_size)


@pytest.mark.parametrize(("k", "name"), CASES)
def test_cuts_by_runs_agree_to_rounding(k: int, name: str) -> None:
    problem, runs = make_problem(k, name), mixed_runs(k, name)
    whole = train(problem, runs, name, 25).loss
    parts = [train(problem, runs[first : first + 9], name, 25).loss for first in range(0, len(runs), 9)]
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-10)


def test_until_beyond_the_last_step_stops_at_the_last_step() -> None:
    problem, runs, options = cut_case("l4", None)
    engine = engine_for(problem, runs, "l4", CUT_STEPS, **options)
    assert_bits_equal(engine.advance(engine.start(), until=10 * CUT_STEPS), "l4", None)


# --- recording


@pytest.mark.parametrize(
    ("steps", "record_every", "expected"),
    [
        (10, 3, [0, 3, 6, 9, 10]),
        (10, 5, [0, 5, 10]),
        (10, 11, [0, 10]),
        (1, 1, [0, 1]),
        (70, 64, [0, 64, 70]),
    ],
)
def test_records_are_the_regular_steps_and_the_last(steps: int, record_every: int, expected: list[int]) -> None:
    problem = make_problem(1, "l4")
    runs = TAME
    assert Settings(steps, record_every).recorded_steps == expected
    every = train(problem, runs, "l4", steps).loss
    some = train(problem, runs, "l4", steps, record_every=record_every).loss
    assert some.shape == (len(runs), len(expected))
    np.testing.assert_allclose(some, every[:, expected], rtol=1e-13)


def test_progress_reports_reach_the_last_step_and_count_the_live_runs() -> None:
    problem = make_problem(1, "l4")
    reports: list[tuple[int, int]] = []
    engine = engine_for(problem, [*TAME, *DIVERGING], "l4", 200, record_every=50)
    engine.advance(engine.start(), progress=lambda step, live: reports.append((step, live)))
    steps, live = zip(*reports, strict=True)
    assert list(steps) == sorted(steps)
    assert steps[-1] == 200
    assert live[-1] == len(TAME)
    assert all(0 <= n <= len(TAME) + len(DIVERGING) for n in live)


def test_run_steps_count_the_steps_after_which_a_run_was_finite() -> None:
    problem = make_problem(1, "l4")
    runs = [*TAME, *DIVERGING]
    state = train(problem, runs, "l4", 100)
    expected = sum(100 if at < 0 else at - 1 for at in state.diverged_at.tolist())
    assert state.run_steps == expected


# --- minibatches


@pytest.mark.parametrize(("m", "size"), [(40, 8), (41, 8), (40, 40), (7, 1), (40, 21)])
def test_an_epoch_uses_every_row_at_most_once(m: int, size: int) -> None:
    engine = engine_for(make_problem(1, "l4", m=m), TAME, "l4", 1, batch_size=size, batch_seed=3)
    per_epoch = m // size
    epochs = [[engine._batch(e * per_epoch + i) for i in range(per_epoch)] for e in range(3)]
    for epoch in epochs:
        rows = torch.cat(epoch).tolist()
        assert all(len(batch) == size for batch in epoch)
        assert len(rows) == len(set(rows))
        assert set(rows) <= set(range(m))
        assert m - len(rows) < size  # no more is left over than does not fill a batch
    if size < m:
        assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))


def test_minibatches_are_a_function_of_seed_and_step() -> None:
    problem = make_problem(1, "l4")

    def rows(seed: int, step: int) -> list[int]:
        return engine_for(problem, TAME, "l4", 1, batch_size=8, batch_seed=seed)._batch(step).tolist()

    assert rows(1, 12) == rows(1, 12)
    assert rows(1, 12) != rows(2, 12)
    assert rows(1, 12) != rows(1, 13)


@pytest.mark.parametrize(("k", "name"), CASES)
@pytest.mark.parametrize("size", [1, 13, 40])
def test_minibatch_training_agrees_with_a_reference_on_the_same_rows(k: int, name: str, size: int) -> None:
    problem, steps = make_problem(k, name), 12
    lr = 0.02 * RATES[name]
    runs = [
        Run(1, scale=0.5, lr=lr),
        Run(2, init="near_identity", lr=lr, weight_decay=0.1),
        Run(3, width=5, init="balanced", scale=0.5, lr=lr),
        Run(2, width=5, method="end_to_end", scale=0.5, lr=lr),
    ]
    engine = engine_for(problem, runs, name, steps, batch_size=size, batch_seed=11)
    state = engine.advance(engine.start())

    def rows(step: int) -> NDArray[np.int64]:
        return np.asarray(engine._batch(step).numpy())

    for i, run in enumerate(runs):
        expected = reference(problem, run, name, steps, rows=rows).losses
        np.testing.assert_allclose(state.loss[i], expected, rtol=1e-10, err_msg=str(run))


def test_a_batch_of_all_rows_is_full_batch_descent() -> None:
    for name in ("l2", "l4"):
        problem = make_problem(1, name)
        whole = train(problem, TAME, name, 30).loss
        batched = train(problem, TAME, name, 30, batch_size=problem.m).loss
        np.testing.assert_allclose(batched, whole, rtol=1e-10)


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match=r"batch_size is 41.*40"):
        engine_for(make_problem(1, "l4"), TAME, "l4", 10, batch_size=41)


# --- tiles of runs and rows


@pytest.mark.parametrize(("k", "name"), CASES)
@pytest.mark.parametrize("m", [256, 600, 1025])
def test_tiles_of_runs_and_rows_change_only_rounding(
    monkeypatch: pytest.MonkeyPatch, k: int, name: str, m: int
) -> None:
    problem = make_problem(k, name, m=m)
    runs = grid(depth=[1, 2], width=5, method=PLAIN, scale=0.5, lr=0.02 * RATES[name], weight_decay=0.1)
    whole = train(problem, runs, name, 8)
    monkeypatch.setattr(overdepth.lab.products, "TILE_BYTES", 1)
    monkeypatch.setattr(overdepth.lab.products, "TILE_ROWS", 200)
    tiles = train(problem, runs, name, 8)
    np.testing.assert_allclose(tiles.loss, whole.loss, rtol=1e-12)
    np.testing.assert_allclose(
        final_weights(tiles, problem, len(runs)), final_weights(whole, problem, len(runs)), rtol=1e-11, atol=1e-13
    )


# --- the rule and balanced factors


def gap_after(problem: Problem, depth: int, lr: float, steps: int) -> float:
    """Distance between balanced factors and the rule, from one start."""
    runs = [Run(depth, problem.k, "balanced", scale=0.7, seed=4, method=method, lr=lr) for method in PLAIN]
    state = train(problem, runs, "l4", steps)
    factors, rule = final_weights(state, problem, 2)
    return float(np.linalg.norm(factors - rule))


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("k", [1, 3])
def test_halving_the_learning_rate_quarters_the_gap_of_one_step(k: int, depth: int) -> None:
    problem = make_problem(k, "l4")
    gaps = [gap_after(problem, depth, lr, 1) for lr in (4e-5, 2e-5, 1e-5)]
    assert gaps[-1] > 1e-12  # above rounding
    for larger, smaller in itertools.pairwise(gaps):
        assert larger / smaller == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("k", [1, 3])
def test_over_a_fixed_time_the_gap_is_first_order(k: int, depth: int) -> None:
    problem = make_problem(k, "l4")
    gaps = [gap_after(problem, depth, 0.1 / steps, steps) for steps in (400, 800)]
    assert gaps[0] / gaps[1] == pytest.approx(2.0, rel=0.02)


def test_the_rule_of_depth_1_is_plain_gradient_descent() -> None:
    for k, name in CASES:
        problem = make_problem(k, name)
        runs = [Run(1, scale=0.5, seed=2, lr=0.02, weight_decay=0.1, method=method) for method in PLAIN]
        plain, rule = train(problem, [*runs, Run(3, method="end_to_end")], name, 30).loss[:2]
        np.testing.assert_allclose(rule, plain, rtol=1e-12)


def test_an_engine_without_runs_is_refused() -> None:
    with pytest.raises(ValueError, match="runs is empty"):
        engine_for(make_problem(1, "l4"), [], "l4", 3)
