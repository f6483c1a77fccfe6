"""When a catch-up says something."""

from __future__ import annotations

import math

import numpy as np
import pytest

from overdepth.paper.tuning import caught_up

STEPS = np.array([0, 10, 20, 30, 40])
FAST = np.array([1.0, 1e-3, 1e-6, 1e-9, 1e-9])
FASTER = np.array([1.0, 1e-6, 1e-9, 1e-9, 1e-8])
SLOW = np.array([1.0, 0.8, 0.6, 0.4, 0.2])


def test_two_arms_that_are_rounding_by_the_horizon_are_not_compared() -> None:
    assert math.isnan(caught_up(FASTER, FAST, STEPS))
    assert math.isnan(caught_up(FAST, FASTER, STEPS))


def test_an_arm_far_behind_a_converged_one_never_caught_up() -> None:
    assert caught_up(SLOW, FAST, STEPS) == 0.0
    assert caught_up(FAST, SLOW, STEPS) == pytest.approx(40 / (10 * math.log(1 / 0.2) / math.log(1e3)))


def test_an_arm_that_diverged_is_undefined_even_if_it_was_ahead() -> None:
    diverged = np.array([1.0, 0.1, np.nan, np.nan, np.nan])
    assert math.isnan(caught_up(diverged, SLOW, STEPS))
    assert math.isnan(caught_up(SLOW, diverged, STEPS))
