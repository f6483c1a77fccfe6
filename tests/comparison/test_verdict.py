"""Intervals that can be believed, and words that claim no more than they do."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from overdepth.comparison.jobs import Array
from overdepth.comparison.measures import CLOCK, LEVEL, Cost, Spread, interval, race, spread_of_ratios, spread_of_times
from overdepth.comparison.verdict import Side, between, judge

REPEATS = 2000


def decay(rate: float, *, steps: int = 400, floor: float = 0.1) -> Array:
    return np.asarray(floor + np.exp(-rate * np.arange(steps)), dtype=np.float64)


def side(name: str, *rates: float) -> Side:
    return Side(name, [decay(rate) for rate in rates])


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("draw", ["normal", "heavy", "uniform"])
def test_intervals_cover_the_centre_as_often_as_they_say(n: int, draw: str) -> None:
    """Of normal, Student t (4) and uniform values, at a verdict's level."""
    rng = np.random.default_rng(n)
    drawn = {
        "normal": rng.normal(size=(REPEATS, n)),
        "heavy": rng.standard_t(4, size=(REPEATS, n)),
        "uniform": rng.uniform(-1, 1, size=(REPEATS, n)),
    }[draw]
    missed = sum(not low <= 0 <= high for low, high in map(interval, drawn))
    expected = (1 - LEVEL) * REPEATS
    assert missed <= expected + 3 * math.sqrt(expected)


def test_the_percentile_bootstrap_alone_would_not() -> None:
    """Why Student's interval is in it: three values contain the median between them in 3 of 4 cases."""
    drawn = np.random.default_rng(0).normal(size=(REPEATS, 3))
    missed = np.mean((drawn.min(axis=1) > 0) | (drawn.max(axis=1) < 0))
    assert missed == pytest.approx(0.25, abs=0.03)


def test_the_race_treats_alike_arms_alike() -> None:
    rng = np.random.default_rng(0)
    one, other = (np.cumsum(rng.normal(-0.1, 1, size=100)) for _ in range(2))
    forth, back = race(one, other, 5), race(other, one, 5)
    assert forth.speed == pytest.approx(1 / back.speed)
    assert race(one, one, 1).speed == 1


def test_the_race_goes_to_the_best_loss_that_both_reach() -> None:
    slow, fast = decay(0.01), decay(0.02)
    found = race(slow, fast, 1)
    assert (found.plain, found.arm) == (400, 201)
    assert race(np.array([3.0, 2.0, 1.0]), np.array([3.0, 2.5, 2.0]), 1) == (2, 3)


@pytest.mark.parametrize(
    ("arm", "step", "kind", "words"),
    [
        (side("arm", 0.02, 0.021, 0.0205), 1, "faster", r"^faster by 1\.\d+ to \d\.\d+ x in steps, 1\.\d+ to "),
        (side("arm", 0.01, 0.0101, 0.01), 1, "no difference", r"^no difference that 3 seeds can show \(0\.\d+ to 1"),
        (side("arm", 0.01, 0.01, 0.01), 2, "slower", r"^no difference in steps that 3 seeds can show \(.*\); slo"),
        (side("arm", 0.005, 0.0051, 0.0052), 1, "slower", r"^slower by 1\.\d+ to 2\.\d+ x in steps, .* in time; its "),
        (side("arm", 0.02, 0.021, 0.0205), 9, "mixed", r"^faster by .* x in steps, but slower by .* x in time"),
        (side("arm", 0.02, 0.021, 0.0205), 2, "faster", r"^faster by .* x in steps, but no difference in time th"),
        (side("arm", 0.01, 0.02, 0.005), 1, "no difference", r"^no difference that 3 seeds"),
        (side("arm", 0.01, 0.02), 1, "not decided", r"^not decided: too few seeds \(2\) to show a spread; give 3"),
    ],
)  # fmt: skip
def test_words(arm: Side, step: float, kind: str, words: str) -> None:
    import re

    plain = side("plain", *[0.01] * len(arm.curves))
    found = judge(arm, plain, 1, Cost(step, step, step))
    assert found.kind == kind
    assert re.search(words, found.words), found.words


def test_a_lower_last_loss_alone_is_said() -> None:
    rng = np.random.default_rng(0)
    ragged = [0.5 + 0.01 * rng.random(100) for _ in range(3)]
    for curve, at in zip(ragged, (20, 90, 50), strict=True):
        curve[at] = 0.1
    low = [np.where(np.arange(100) == 99, 0.3, curve) for curve in ragged]
    found = judge(Side("arm", low), Side("plain", ragged), 1)
    assert found.kind == "lower loss"
    assert "no difference in steps that 3 seeds can show" in found.words
    assert found.words.endswith("x lower")
    assert "; its last loss is" in found.words


def test_losses_that_are_not_positive_are_subtracted() -> None:
    plain = Side("plain", [decay(0.01) - 5] * 3)
    arm = Side("arm", [decay(0.01) - 8 - 0.01 * i for i in range(3)])
    found = judge(arm, plain, 1)
    assert found.loss is not None
    assert found.loss.neutral == 0
    assert found.loss.sign == 1
    assert "lower" in found.words


def test_diverged_runs_are_no_gain() -> None:
    arm = Side("arm", [decay(0.1), np.zeros(0), decay(0.1)])
    found = judge(arm, side("plain", 0.01, 0.01, 0.01), 1)
    assert found.kind == "unstable"
    assert found.words == "unstable: diverged for 1 of 3 seeds at the learning rate chosen"
    assert "plain diverged" in judge(side("arm", 0.01, 0.01, 0.01), Side("plain", arm.curves), 1).words


@given(st.floats(1e-5, 1e5), st.floats(1e-5, 1e5))
def test_rounding_never_claims_more(a: float, b: float) -> None:
    low, high = sorted((a, b))
    said = between(Spread(low, low, high, ())).removesuffix(" x").replace(",", "").split(" to ")
    assert float(said[0]) <= low * (1 + 1e-9)
    assert float(said[1]) >= high * (1 - 1e-9)


def test_small_differences_are_not_spoken_of() -> None:
    assert spread_of_ratios([1.01, 1.01, 1.01]).sign == 0
    assert spread_of_ratios([1.05, 1.05, 1.05]).sign == 1
    assert spread_of_ratios([0.95, 0.95, 0.95]).inverted().sign == 1


def test_times_carry_the_uncertainty_of_the_clock_and_of_the_seeds() -> None:
    speeds = [2.0, 2.2, 1.9, 2.1]
    steps = spread_of_ratios(speeds, allowance=CLOCK)
    rounds = np.exp(np.random.default_rng(0).normal(math.log(1.5), 0.3, 60))
    cost = Cost.of(rounds)
    assert cost.low < 1.5 < cost.high
    found = spread_of_times(speeds, cost)
    assert found.low == pytest.approx(steps.low / cost.high)
    assert found.high == pytest.approx(steps.high / cost.low)
    assert found.low < 2.05 / 1.5 < found.high


def test_students_interval_alone_would_not_do_for_light_tails() -> None:
    """Why it is made wider."""
    drawn = np.random.default_rng(0).uniform(-1, 1, size=(100_000, 3))
    half = stats.t.ppf((1 + LEVEL) / 2, 2) * drawn.std(axis=1, ddof=1) / math.sqrt(3)
    missed = np.mean(abs(drawn.mean(axis=1)) > half)
    assert missed == pytest.approx(0.032, abs=0.002)
