"""The cost of width-1 hidden layers: how times are taken, and verdicts on times that are known."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
import xarray as xr

from overdepth.chain import product
from overdepth.lab import Problem, Run, load_problem, sweep
from overdepth.paper import width
from overdepth.paper.claim import Claim, Setting
from overdepth.paper.context import Context
from overdepth.paper.reproduce import Reproduced, reproduce
from overdepth.reporter import Reporter

DECIDING = f"depth 3, width 1 against depth 1: sweep engine, {width.MODEL} runs"
SETTING = Setting("data", "standard", (0, 1), 100)


def tiny(scale: float = 1.0) -> Problem:
    return Problem(scale * np.random.default_rng(0).normal(size=(30, 4)), np.ones((30, 1)))


@pytest.fixture(scope="module")
def small() -> Reproduced:
    return reproduce([width.ITEM], Context(tiny(), (0,), 100, quick=True))[0]


def timed(ratio: float, rounds: int = width.ROUNDS) -> xr.Dataset:
    """Times of two arrangements, the deeper step taking so many times as long, whatever the noise of a round."""
    noise = np.exp(np.random.default_rng(0).normal(size=(2, 1, rounds)))
    seconds = 1e-4 * noise * np.array([1.0, ratio])[:, None]
    return xr.Dataset(
        {"seconds": (("arrangement", "depth", "round"), seconds)},
        coords={
            "arrangement": [width._engine_label(width.MODEL), width.LAYERS],
            "depth": [1, 3],
            "round": np.arange(rounds),
        },
        attrs={"threads": 1},
    )


def judged(data: xr.Dataset) -> dict[str, Claim]:
    return {claim.comparison: claim for claim in width.claims(data, SETTING)}


@pytest.mark.parametrize(("ratio", "verdict"), [(0.9, "holds"), (1.04, "holds"), (1.06, "fails"), (2.0, "fails")])
def test_the_verdict_is_on_the_ratio_of_neighbours(ratio: float, verdict: str) -> None:
    claims = judged(timed(ratio))
    assert claims[DECIDING].value == pytest.approx(ratio)
    assert claims[DECIDING].verdict == verdict
    assert [claim.is_control for claim in claims.values()] == [False, True]
    assert all(claim.note.endswith("; 1 thread.") for claim in claims.values())  # times, and no causes of them
    assert "iterations" not in claims[DECIDING].note  # the length of the other items' runs does not matter


def test_few_rounds_give_no_verdict() -> None:
    claim = judged(timed(1.0, rounds=width.QUICK_ROUNDS))[DECIDING]
    assert claim.verdict == "inconclusive"
    assert "too few" in claim.note


def test_a_single_slow_round_does_not_matter() -> None:
    data = timed(1.0)
    data["seconds"][0, 1, 7] *= 100
    assert judged(data)[DECIDING].value == pytest.approx(1.0)


def test_blocks_take_turns_and_both_come_first_equally_often() -> None:
    order: list[str] = []

    def block(name: str) -> bool:
        order.append(name)
        return True

    seconds = width.alternating([lambda: block("a"), lambda: block("b")], rounds=4)
    assert "".join(order[2 * width.WARM_UP :]) == "baabbaab"
    assert seconds.shape == (2, 4)
    assert (seconds >= 0).all()


def test_the_time_of_a_block_is_its_own() -> None:
    def sleep() -> bool:
        time.sleep(0.02)
        return True

    seconds = width.alternating([lambda: True, sleep], rounds=2)
    assert seconds[0].max() < 0.02 <= seconds[1].min()


def test_a_block_that_diverged_has_no_time() -> None:
    seconds = width.alternating([lambda: False, lambda: True], rounds=2)
    assert np.isnan(seconds[0]).all()
    assert np.isfinite(seconds[1]).all()


def test_diverging_runs_give_no_number() -> None:
    data = width.work(Context(tiny(scale=1e7), (0,), 100, quick=True))
    claims = judged(data)
    assert {claim.value for claim in claims.values()} == {None}
    assert {claim.verdict for claim in claims.values()} == {"inconclusive"}


@pytest.mark.parametrize("depth", [1, 3])
def test_the_steps_of_torchs_layers_are_those_of_the_engine(depth: int) -> None:
    problem = load_problem("breast-cancer")
    network = width.layers_at_start(problem, depth)
    step = width._stepper(problem, network)
    for _ in range(width.BLOCK):
        step()
    weight = product([factor.detach().double() for factor in network.parameters()]).numpy()
    ours = float(((problem.X @ weight.T - problem.Y) ** 4).mean() / 4)
    run = Run(depth=depth, lr=width.LEARNING_RATE)
    losses = sweep(problem, [run], objective="l4", steps=width.BLOCK)["loss"].values[0]
    assert ours == pytest.approx(losses[-1], rel=1e-6)
    if depth == 1:
        assert losses[0] - losses[-1] > 1e-5 * losses[0]


def test_a_quick_run_times_every_arrangement_and_says_how_far_it_is() -> None:
    told: list[int] = []
    reporter = Reporter(advance=lambda done, _: told.append(done))
    data = width.ITEM.work(Context(tiny(), (0,), 100, quick=True, reporter=reporter))
    assert data.sizes == {"arrangement": 4, "depth": 2, "round": width.QUICK_ROUNDS}
    assert float(data["seconds"].min()) > 0
    assert told == [1, 2, 3, 4]


def test_pictures_and_claims_come_from_stored_data(small: Reproduced) -> None:
    stored = io.BytesIO(bytes(small.data.to_netcdf(engine="h5netcdf")))
    data = xr.load_dataset(stored, engine="h5netcdf")
    assert width.ITEM.claims(data, small.setting) == small.claims
    assert {claim.verdict for claim in small.claims} == {"inconclusive"}
    (picture,) = width.ITEM.pictures(data)
    assert len(picture.figure.data) == 4
    assert len(picture.figure.to_json()) < 50_000
