"""Modes by quadrature against the library's closed forms and integrators, and what the views say of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from overdepth.explorer import certified, plateaus
from overdepth.explorer.mode_times import mode_path, offsets, rate
from overdepth.theory import balanced_hitting_time, deep_mode, flow, homogeneous_rate, matrix_distance, two_layer_mode
from overdepth.theory.balancing import factors_with_imbalance


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 6])
@pytest.mark.parametrize(("start", "target"), [(1e-6, 2.0), (0.01, 0.7), (0.6, 1.0)])
def test_balanced_modes_arrive_when_the_closed_form_says(depth: int, start: float, target: float) -> None:
    times, levels = mode_path(offsets([0.0] * (depth - 1)), start, target)
    for i in range(5, len(times) - 30, 7):
        exact = balanced_hitting_time(start, float(levels[i]), target, depth)
        assert times[i] == pytest.approx(exact, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("imbalance", [0.05, 1.0, -2.0])
@pytest.mark.parametrize(("start", "target"), [(1e-4, 2.0), (1.5, 1.0)])
def test_two_layers_with_imbalance_follow_the_closed_form(imbalance: float, start: float, target: float) -> None:
    times, levels = mode_path(offsets([imbalance]), start, target)
    square = (imbalance + np.hypot(imbalance, 2 * start)) / 2  # the second layer's, from a b = start
    second = np.sqrt(square)
    exact = two_layer_mode(times, start / second, second, target).numpy()
    np.testing.assert_allclose(levels, exact, rtol=1e-6)


def test_three_layers_with_imbalance_follow_the_ode() -> None:
    factors = factors_with_imbalance(torch.tensor([[0.01]]), 3, 0.3)
    times, levels = mode_path(offsets([0.3, 0.3]), 0.01, 1.5)
    chosen = slice(10, 80, 10)
    exact = deep_mode(times[chosen], [float(f) for f in factors], 1.5).numpy()
    np.testing.assert_allclose(levels[chosen], exact, rtol=1e-6)


@pytest.mark.parametrize(("start", "target"), [(0.0, 1.0), (1.0, 1.0), (1.0, -1.0)])
def test_a_mode_that_cannot_move_is_refused(start: float, target: float) -> None:
    with pytest.raises(ValueError, match="two different numbers > 0"):
        mode_path(offsets([0.0]), start, target)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("fraction", [0.01, 0.8, 1.1])
def test_the_curve_of_rates_is_the_homogeneous_rate(depth: int, fraction: float) -> None:
    sigma = (2.0, 1.0)
    alphas = certified.certified_alphas(depth, fraction, sigma)
    target = torch.diag(torch.tensor(sigma, dtype=torch.float64))
    for i in (1, 20, 40):
        factors = factors_with_imbalance(fraction * target, depth, certified.CURVE[i])
        exact = homogeneous_rate(factors, certified.margin_of(fraction, sigma))
        assert alphas[i] == pytest.approx(exact, rel=1e-6, abs=1e-9)
        found = certified.certificate(depth, certified.CURVE[i], fraction, sigma)
        assert found.alpha >= alphas[i] * (1 - 1e-6)
        assert found.margin == pytest.approx(certified.margin_of(fraction, sigma), abs=1e-9)


@pytest.mark.parametrize(("depth", "imbalance", "fraction"), [(2, 2.0, 0.01), (3, 0.5, 0.3), (2, 0.0, 1.1)])
def test_the_gap_is_that_of_the_flow_and_below_its_envelope(depth: int, imbalance: float, fraction: float) -> None:
    sigma = (2.0, 1.0)
    times, gap = certified.flow_gap(depth, imbalance, fraction, sigma)
    target = torch.diag(torch.tensor(sigma, dtype=torch.float64))
    factors = factors_with_imbalance(fraction * target, depth, imbalance)
    chosen = times[1 : len(times) // 2 : 12]
    followed = flow(factors, matrix_distance(target), chosen)
    np.testing.assert_allclose(np.interp(chosen, times, gap), followed["loss"].values, rtol=1e-4)
    envelope = certified.certificate(depth, imbalance, fraction, sigma).envelope(torch.from_numpy(times)).numpy()
    assert (gap <= envelope * (1 + 1e-6)).all()


def test_more_imbalance_is_a_faster_certified_rate() -> None:
    alphas = certified.certified_alphas(3, 0.01, (2.0, 1.0))
    assert (np.diff(alphas) >= 0).all()
    assert alphas[0] == 0
    assert alphas[5] == pytest.approx(2.0)  # (N-1)! at imbalance 1


def test_rates_grow_with_size() -> None:
    assert rate(offsets([0.0]), np.array([1.0, 2.0])) == pytest.approx([2.0, 4.0])


DEFAULTS = {module: {c.key: c.default for c in module.CONTROLS} for module in (plateaus, certified)}


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize("imbalance", [0, 0.1])
def test_the_view_of_modes(depth: int, imbalance: float) -> None:
    shown = plateaus.show({**DEFAULTS[plateaus], "depth": depth, "imbalance": imbalance})
    assert f"{depth} " in shown.text
    assert len(shown.pictures[0].figure.data) == plateaus.MODES * (2 if imbalance and depth > 1 else 1)
    loss = np.asarray(shown.pictures[1].figure.data[-1].y)
    assert (np.diff(loss[np.isfinite(loss)]) <= 1e-6).all()


def test_a_start_beyond_the_half_of_a_small_target_is_no_error() -> None:
    shown = plateaus.show({**DEFAULTS[plateaus], "start": 0.1, "largest": 0.5, "ratio": 0.2})
    assert len(shown.pictures) == 3


def test_larger_modes_are_learned_first_and_imbalance_shortens_the_wait() -> None:
    waits = [plateaus.time_to_learn(3, 1e-3, s, 0.0) for s in (2.0, 1.0, 0.5)]
    assert waits == sorted(waits)
    assert plateaus.time_to_learn(3, 1e-3, 1.0, 0.1) < waits[1]


@pytest.mark.parametrize(("settings", "said"), [({}, "falls at least as exp(-4 t)"), ({"imbalance": 0}, "Nothing is")])
def test_the_view_of_rates(settings: dict[str, float], said: str) -> None:
    shown = certified.show({**DEFAULTS[certified], **settings})
    assert said in shown.text
    assert len(shown.pictures) == 2
