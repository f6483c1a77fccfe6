"""Optimal losses against SciPy's general optimizers, closed forms, and problems solved by hand."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from numpy.typing import NDArray
from scipy.special import expit, logsumexp

import overdepth.lab.optimum
from overdepth.lab import Problem, load_problem, objective, optimal_loss
from overdepth.lab.ethanol import FILE_NAME

Array = NDArray[np.float64]


def solved(problem: Problem, name: str) -> tuple[float, bool]:
    optimum = optimal_loss(problem, objective(name))
    return optimum.value, optimum.attained


def lowest(
    value: Callable[[Array], float], gradient: Callable[[Array], Array], hessian: Callable[[Array], Array], size: int
) -> float:
    """The minimum of a convex function by a trust-region method, then refined by plain Newton steps.

    At a gradient g and a Hessian of smallest eigenvalue mu, the value is within |g|^2 / (2 mu) of the minimum (to
    first order), which is checked to be below the 1e-10 that is asked for by a wide margin.
    """
    found = scipy.optimize.minimize(
        value, np.zeros(size), jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-6, "maxiter": 5000}
    )
    w = found.x
    for _ in range(5):
        w = w - np.linalg.solve(hessian(w), gradient(w))
    slack = np.linalg.norm(gradient(w)) ** 2 / np.linalg.eigvalsh(hessian(w)).min()
    assert slack < 1e-13 * value(w)
    return value(w)


def lowest_power_loss(X: Array, y: Array, p: int) -> float:
    m = len(y)
    return lowest(
        lambda w: float(np.sum((X @ w - y) ** p) / p / m),
        lambda w: np.asarray(X.T @ (X @ w - y) ** (p - 1) / m),
        lambda w: np.asarray((p - 1) * (X.T * (X @ w - y) ** (p - 2)) @ X / m),
        X.shape[1],
    )


def lowest_logistic_loss(X: Array, signs: Array) -> float:
    A = signs[:, None] * X
    m = len(signs)

    def weight(w: Array) -> Array:
        return np.asarray(expit(A @ w) * expit(-(A @ w)))

    return lowest(
        lambda w: float(np.logaddexp(0, -A @ w).sum() / m),
        lambda w: np.asarray(-A.T @ expit(-A @ w) / m),
        lambda w: np.asarray((A.T * weight(w)) @ A / m),
        X.shape[1],
    )


def lowest_cross_entropy(X: Array, labels: NDArray[np.int64], classes: int) -> float:
    """Class 0 gets no weight of its own (adding one vector to all classes changes nothing): strictly convex then."""
    m, d = X.shape

    def logits(w: Array) -> Array:
        return np.asarray(np.hstack([np.zeros((m, 1)), X @ w.reshape(classes - 1, d).T]))

    def value(w: Array) -> float:
        z = logits(w)
        return float((logsumexp(z, axis=1) - z[np.arange(m), labels]).sum() / m)

    def probabilities(w: Array) -> Array:
        z = logits(w)
        return np.asarray(np.exp(z - logsumexp(z, axis=1, keepdims=True)))

    def gradient(w: Array) -> Array:
        error = probabilities(w) - np.eye(classes)[labels]
        return np.asarray((error[:, 1:].T @ X / m).ravel())

    def hessian(w: Array) -> Array:
        P = probabilities(w)[:, 1:]
        size = (classes - 1) * d
        total = np.zeros((size, size))
        for x, p in zip(X, P, strict=True):
            total += np.kron(np.diag(p) - np.outer(p, p), np.outer(x, x))
        return np.asarray(total / m)

    return lowest(value, gradient, hessian, (classes - 1) * d)


def data(seed: int, m: int, d: int, k: int = 1, *, noise: float = 0.5) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(m, d)) * np.geomspace(0.3, 3, d)
    return X, X @ rng.normal(size=(d, k)) + noise * rng.standard_t(3, size=(m, k))  # heavy tails are hard for l6


# --- powers


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("m", "d"), [(30, 1), (30, 5), (200, 20), (6, 5)])
def test_the_optimal_l2_loss_is_least_squares(m: int, d: int, k: int) -> None:
    X, Y = data(0, m, d, k)
    Q = np.linalg.qr(X)[0]
    expected = np.sum((Y - Q @ (Q.T @ Y)) ** 2) / 2 / m
    value, attained = solved(Problem(X, Y), "l2")
    assert value == pytest.approx(expected, rel=1e-10)
    assert attained


@pytest.mark.parametrize("p", [4, 6, 8])
@pytest.mark.parametrize(("m", "d"), [(30, 1), (30, 5), (200, 20), (7, 5)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_optimal_loss_of_higher_powers_agrees_with_scipy(p: int, m: int, d: int, seed: int) -> None:
    X, Y = data(seed, m, d)
    value, attained = solved(Problem(X, Y), f"l{p}")
    assert value == pytest.approx(lowest_power_loss(X, Y[:, 0], p), rel=1e-10)
    assert attained


@pytest.mark.parametrize("p", [2, 4, 6])
def test_outputs_add_up(p: int) -> None:
    X, Y = data(3, 40, 4, 3)
    whole = solved(Problem(X, Y), f"l{p}")[0]
    parts = sum(solved(Problem(X, column[:, None]), f"l{p}")[0] for column in Y.T)
    assert whole == pytest.approx(parts, rel=1e-12)


@pytest.mark.parametrize("p", [4, 6])
def test_the_optimal_loss_is_homogeneous_in_the_targets_and_blind_to_the_features_basis(p: int) -> None:
    X, Y = data(4, 50, 4)
    value = solved(Problem(X, Y), f"l{p}")[0]
    for scale in (1e-6, 1e6):
        assert solved(Problem(X, scale * Y), f"l{p}")[0] == pytest.approx(scale**p * value, rel=1e-10)
    mixing = np.random.default_rng(0).normal(size=(4, 4))
    assert solved(Problem(X @ mixing, Y), f"l{p}")[0] == pytest.approx(value, rel=1e-10)
    assert solved(Problem(1e4 * X, Y), f"l{p}")[0] == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize("p", [2, 4, 6])
def test_a_single_feature_is_solved_by_hand(p: int) -> None:
    # Two examples x = 1 with targets 0 and 2: the middle is best for every p, with residuals of 1.
    value, attained = solved(Problem(np.ones((2, 1)), np.array([[0.0], [2.0]])), f"l{p}")
    assert value == pytest.approx(1 / p, rel=1e-12)
    assert attained


@pytest.mark.parametrize("p", [2, 4, 6])
def test_features_without_full_rank_are_no_obstacle(p: int) -> None:
    X, Y = data(5, 40, 4)
    value = solved(Problem(X, Y), f"l{p}")[0]
    doubled = np.hstack([X, X[:, :2], X @ np.ones((4, 1)), np.zeros((40, 1))])
    got, attained = solved(Problem(doubled, Y), f"l{p}")
    assert got == pytest.approx(value, rel=1e-10)
    assert attained


@pytest.mark.parametrize("p", [2, 4, 6])
@pytest.mark.parametrize(("m", "d"), [(5, 5), (5, 9), (1, 3)])
def test_interpolated_data_have_optimum_zero(p: int, m: int, d: int) -> None:
    X, Y = data(6, m, d)
    value, attained = solved(Problem(X, Y), f"l{p}")
    assert 0 <= value < (1e-12 * np.abs(Y).max()) ** 2
    assert attained


@pytest.mark.parametrize("p", [2, 4, 6])
def test_targets_of_a_linear_model_have_optimum_zero_also_with_many_rows(p: int) -> None:
    X, Y = data(7, 60, 4, noise=0.0)
    value, attained = solved(Problem(X, Y), f"l{p}")
    assert 0 <= value < (1e-12 * np.abs(Y).max()) ** 2
    assert attained


@pytest.mark.parametrize("p", [4, 6])
def test_data_interpolated_but_for_one_example(p: int) -> None:
    # Rows 0..3 are solved exactly by some w whatever their targets; rows 4, 5 (x = e5) want 1 and -1.
    X = np.zeros((6, 5))
    X[:4, :4] = np.random.default_rng(1).normal(size=(4, 4))
    X[4:, 4] = 1.0
    Y = np.array([[3.0], [-2.0], [5.0], [1.0], [1.0], [-1.0]])
    assert solved(Problem(X, Y), f"l{p}")[0] == pytest.approx(2 / p / 6, rel=1e-10)


@pytest.mark.parametrize(("name", "p"), [("l2", 2), ("l4", 4), ("l6", 6)])
def test_targets_that_no_feature_reaches_keep_their_own_loss(name: str, p: int) -> None:
    X = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    Y = np.array([[2.0], [-2.0], [2.0], [-2.0]])  # w = 0 by symmetry
    assert solved(Problem(X, Y), name)[0] == pytest.approx(2.0**p / p, rel=1e-12)


# --- logistic


@pytest.mark.parametrize(("m", "d"), [(40, 1), (60, 4), (300, 12)])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_optimal_logistic_loss_agrees_with_scipy(m: int, d: int, seed: int) -> None:
    X, Y = data(seed, m, d, noise=2.0)
    signs = np.where(Y[:, 0] > 0, 1.0, -1.0)
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (3.0, 8.0)):
        value, attained = solved(Problem(X, np.where(Y > 0, high, low)), "logistic")
        assert attained
        assert value == pytest.approx(lowest_logistic_loss(X, signs), rel=1e-10)


def test_a_logistic_problem_solved_by_hand() -> None:
    # x = 1 for all, a of n examples positive: sigmoid(w) = a / n, the loss is the entropy of a / n.
    for a, n in ((1, 2), (1, 4), (9, 10)):
        Y = np.array([[1.0]] * a + [[0.0]] * (n - a))
        share = a / n
        entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
        value, attained = solved(Problem(np.ones((n, 1)), Y), "logistic")
        assert attained
        assert value == pytest.approx(entropy, rel=1e-10)


def test_features_without_full_rank_are_no_obstacle_for_the_logistic_loss() -> None:
    X, Y = data(2, 60, 3, noise=2.0)
    Y = np.where(Y > 0, 1.0, 0.0)
    value, attained = solved(Problem(np.hstack([X, X[:, :1], np.zeros((60, 1))]), Y), "logistic")
    assert attained
    assert value == pytest.approx(solved(Problem(X, Y), "logistic")[0], rel=1e-10)


def test_features_that_say_nothing_leave_log_2() -> None:
    X = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    Y = np.array([[1.0], [0.0], [1.0], [0.0]])
    value, attained = solved(Problem(X, Y), "logistic")
    assert attained
    assert value == pytest.approx(math.log(2), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("margin", [1.0, 1e-3])
def test_separable_classes_have_infimum_zero_which_nothing_attains(scale: float, margin: float) -> None:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(60, 3))
    normal = np.array([1.0, -2.0, 0.5])
    signs = np.sign(X @ normal)
    X += margin * np.outer(signs, normal)
    assert solved(Problem(scale * X, signs[:, None]), "logistic") == (0.0, False)


def test_quasi_separable_classes_have_a_positive_infimum_which_nothing_attains() -> None:
    # The first feature separates the first two examples and is zero for the others, of which 2 of 3 are positive.
    X = np.array([[1.0, 5.0], [-2.0, 7.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    Y = np.array([[1.0], [0.0], [1.0], [1.0], [0.0]])
    value, attained = solved(Problem(X, Y), "logistic")
    assert not attained
    assert value == pytest.approx((3 * math.log(3) - 2 * math.log(2)) / 5, rel=1e-10)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(2, 2)))[0]
    value, attained = solved(Problem(X @ rotation, Y), "logistic")  # the same, no longer aligned with the axes
    assert not attained
    assert value == pytest.approx((3 * math.log(3) - 2 * math.log(2)) / 5, rel=1e-10)


def test_an_example_on_the_boundary_of_separable_classes_keeps_log_2() -> None:
    X = np.array([[1.0], [2.0], [-1.0], [0.0]])
    Y = np.array([[1.0], [1.0], [0.0], [0.0]])
    value, attained = solved(Problem(X, Y), "logistic")
    assert not attained
    assert value == pytest.approx(math.log(2) / 4, rel=1e-10)


@pytest.mark.parametrize("short", [1e-3, 1e-6, 1e-8])
def test_a_short_example_on_the_wrong_side_makes_the_optimum_attained(short: float) -> None:
    # Positive examples 1 and -short: log(1 + e^-w) + log(1 + e^(short w)) has its minimum at a finite w.
    value, attained = solved(Problem(np.array([[1.0], [short], [-1.0]]), np.array([[1.0], [0.0], [0.0]])), "logistic")
    exact = scipy.optimize.minimize_scalar(
        lambda w: 2 * np.logaddexp(0, -w) + np.logaddexp(0, short * w), bounds=(0, 60), method="bounded",
        options={"xatol": 1e-6},
    ).fun  # fmt: skip
    assert attained
    assert value == pytest.approx(exact / 3, rel=1e-10)


# --- cross-entropy


@pytest.mark.parametrize(("m", "d", "classes"), [(60, 2, 3), (120, 5, 3), (100, 3, 5), (50, 2, 2)])
def test_the_optimal_cross_entropy_agrees_with_scipy(m: int, d: int, classes: int) -> None:
    X, scores = data(m, m, d, classes, noise=4.0)
    labels = scores.argmax(axis=1)
    assert set(labels.tolist()) == set(range(classes))
    value, attained = solved(Problem(X, np.eye(classes)[labels]), "cross_entropy")
    assert attained
    assert value == pytest.approx(lowest_cross_entropy(X, labels, classes), rel=1e-10)


def test_two_classes_are_the_logistic_loss() -> None:
    X, Y = data(9, 80, 3, noise=3.0)
    labels = (Y[:, 0] > 0).astype(int)
    softmax = solved(Problem(X, np.eye(2)[labels]), "cross_entropy")
    logistic = solved(Problem(X, labels[:, None].astype(float)), "logistic")
    assert softmax[1] is logistic[1] is True
    assert softmax[0] == pytest.approx(logistic[0], rel=1e-10)


def test_a_cross_entropy_solved_by_hand_is_the_entropy_of_the_shares() -> None:
    labels = [0] * 5 + [1] * 3 + [2] * 2
    shares = np.array([0.5, 0.3, 0.2])
    value, attained = solved(Problem(np.ones((10, 1)), np.eye(3)[labels]), "cross_entropy")
    assert attained
    assert value == pytest.approx(-float(shares @ np.log(shares)), rel=1e-10)


def test_three_separable_classes_have_infimum_zero_which_nothing_attains() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, size=60)
    X = 0.2 * rng.normal(size=(60, 3)) + 2 * np.eye(3)[labels]
    assert solved(Problem(X, np.eye(3)[labels]), "cross_entropy") == (0.0, False)


def test_one_separable_class_leaves_the_entropy_of_the_others() -> None:
    # Class 2 sits on the second axis alone; classes 0 and 1 share x = (1, 0), 3 against 1.
    X = np.array([[1.0, 0.0]] * 4 + [[0.0, 1.0]] * 2)
    labels = [0, 0, 0, 1, 2, 2]
    value, attained = solved(Problem(X, np.eye(3)[labels]), "cross_entropy")
    assert not attained
    assert value == pytest.approx((4 * math.log(4) - 3 * math.log(3)) / 6, rel=1e-10)


def test_iris_has_one_class_that_separates_and_two_that_do_not() -> None:
    from sklearn.datasets import load_iris

    bunch = load_iris()
    X, labels = np.asarray(bunch.data), np.asarray(bunch.target)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    value, attained = solved(Problem(X, np.eye(3)[labels]), "cross_entropy")
    others = labels > 0
    expected = lowest_logistic_loss(X[others], np.where(labels[others] == 1, 1.0, -1.0)) * 100 / 150
    assert not attained
    assert value == pytest.approx(expected, rel=1e-10)


def test_a_class_that_no_example_has_is_pushed_away_at_no_cost() -> None:
    X = np.ones((4, 1))
    value, attained = solved(Problem(X, np.eye(3)[[0, 0, 0, 1]]), "cross_entropy")
    assert not attained
    assert value == pytest.approx((4 * math.log(4) - 3 * math.log(3)) / 4, rel=1e-10)


# --- limits and real data


def test_a_problem_above_the_limits_is_nan_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    X, Y = data(0, 30, 2)
    problem = Problem(X, np.where(Y > 0, 1.0, 0.0))
    for limit in ("MAX_PAIRS", "MAX_UNKNOWNS"):
        caplog.clear()
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, logger="overdepth"):
            patch.setattr(overdepth.lab.optimum, limit, 1)
            value, attained = solved(problem, "logistic")
        assert math.isnan(value)
        assert not attained
        assert problem.name in caplog.text


def test_targets_that_do_not_suit_are_refused() -> None:
    X, Y = data(0, 30, 2)
    for name in ("logistic", "cross_entropy"):
        with pytest.raises(ValueError, match=name):
            solved(Problem(X, Y), name)


@pytest.mark.parametrize("scaling", ["standard", "minmax", "maxabs"])
@pytest.mark.parametrize("p", [4, 6])
def test_no_direction_leads_below_the_optimum_of_the_embedded_set(scaling: str, p: int) -> None:
    """By convexity f(w) - f* <= |grad|^2 / (2 mu) near the optimum: SciPy's point certifies the value from above."""
    problem = load_problem("breast-cancer", scaling=scaling)
    Q = np.linalg.qr(problem.X)[0] * np.sqrt(problem.m)  # the same predictions, well conditioned
    assert solved(problem, f"l{p}")[0] == pytest.approx(lowest_power_loss(Q, problem.Y[:, 0], p), rel=1e-10)


def test_scaling_rows_and_units_follow_the_homogeneity_of_the_loss() -> None:
    by_scaling = {s: load_problem("breast-cancer", scaling=s) for s in ("standard", "unit-rows", "label5")}
    for p in (2, 4):
        values = {scaling: solved(problem, f"l{p}")[0] for scaling, problem in by_scaling.items()}
        assert values["unit-rows"] == pytest.approx(values["standard"], rel=1e-10)
        assert values["label5"] == pytest.approx(5**p * values["standard"], rel=1e-10)


def test_ethanol_has_its_known_optimal_losses() -> None:
    folder = os.environ.get("OVERDEPTH_DATA")
    if not folder or not (Path(folder) / FILE_NAME).is_file():
        pytest.skip(f"OVERDEPTH_DATA names no folder with {FILE_NAME}")
    problem = load_problem("ethanol")
    assert round(solved(problem, "l2")[0], 5) == 0.04999
    assert round(solved(problem, "l4")[0], 5) == 0.05535
    Q = np.linalg.qr(problem.X)[0] * np.sqrt(problem.m)
    assert solved(problem, "l4")[0] == pytest.approx(lowest_power_loss(Q, problem.Y[:, 0], 4), rel=1e-10)
