"""The lowest value an objective can take on a problem, to 1e-10 relative, or its infimum where none is attained."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import scipy.optimize
import scipy.sparse
from scipy.special import logsumexp

from overdepth.lab.objectives import CrossEntropy, Logistic, Objective, PowerLoss
from overdepth.lab.objectives import objective as objective_by_name
from overdepth.lab.problem import Array, Problem
from overdepth.lab.rows import RowProblem
from overdepth.lab.streamed_optimum import (
    MAX_NEWTON_STEPS,
    RELATIVE_ACCURACY,
    streamed_power_optimum,
    streamed_softmax_optimum,
)

MAX_PAIRS, MAX_UNKNOWNS = 200_000, 3_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Optimum:
    """The optimal value of a convex objective.

    Attributes:
        value: The minimum, or the infimum; NaN if the problem is too large for the method, or so close to separable
            that the method does not converge (a warning says so).
        attained: Whether some weight has this value. Separable classes are the case where none has.
    """

    value: float
    attained: bool


def optimal_loss(problem: Problem | RowProblem, objective: Objective | str) -> Optimum:
    """The optimal value of ``objective`` for a linear model without bias.

    l_p losses are solved output by output: l2 by least squares, the others by Newton's method, whose steps are
    weighted least-squares problems. For the classification losses a linear program first finds which pairs of
    example and wrong class some direction separates: scaled up, it makes their losses vanish, so the infimum is that
    of the other pairs alone, and it is attained only if there are no such pairs (Albert & Anderson, 1984). That program
    needs all examples at once: of data that are read in blocks, separable classes are only found, and NaN is returned.

    Args:
        problem: Any. One that is read in blocks takes a pass over the file a Newton step.
        objective: Its name, or what :func:`overdepth.lab.objective` gives.

    Returns:
        The value, accurate to 1e-10 relative, or NaN after a warning.

    Raises:
        ValueError: If the targets do not suit the objective.
        RuntimeError: If the linear program fails.
    """
    if isinstance(objective, str):
        objective = objective_by_name(objective)
    objective.design_rows(problem)  # checks the targets
    if isinstance(problem, RowProblem):
        return _streamed(problem, objective)
    if isinstance(objective, PowerLoss):
        total = sum(_power_optimum(problem.X, column, objective.p) for column in problem.Y.T)
        return Optimum(total / problem.m, attained=True)
    if isinstance(objective, Logistic):
        positive = problem.Y[:, 0] == problem.Y.max()
        labels, classes = positive.astype(np.intp), 2
    elif isinstance(objective, CrossEntropy):
        labels, classes = problem.Y.argmax(axis=1), problem.k
    else:
        raise TypeError(f"objective is a {type(objective).__name__}, for which no optimum is known.")
    reference = isinstance(objective, Logistic)  # class 0 of the logistic loss has no weight of its own
    unknowns, pairs = problem.d * (classes - reference), problem.m * (classes - 1)
    if pairs > MAX_PAIRS or unknowns > MAX_UNKNOWNS:
        _log.warning(
            "The optimal %s loss of %s is not computed: %d pairs and %d unknowns are above the limits of %d and %d.",
            objective.name, problem.name, pairs, unknowns, MAX_PAIRS, MAX_UNKNOWNS,
        )  # fmt: skip
        return Optimum(float("nan"), attained=False)
    margins = _margins(problem.X, labels, classes, reference=reference)
    kept = ~_separable_pairs(margins)
    value = _softmax_optimum(margins, kept.reshape(problem.m, classes - 1)) / problem.m
    return Optimum(value, attained=bool(kept.all()))


def _streamed(problem: RowProblem, objective: Objective) -> Optimum:
    if isinstance(objective, PowerLoss):
        return Optimum(streamed_power_optimum(problem, objective.p) / problem.m, attained=True)
    classes = max(problem.k, 2)
    unknowns = problem.d * (classes - 1)
    if unknowns > MAX_UNKNOWNS:
        _log.warning(
            "The optimal %s loss of %s is not computed: %d unknowns are above the limit of %d.",
            objective.name, problem.name, unknowns, MAX_UNKNOWNS,
        )  # fmt: skip
        return Optimum(float("nan"), attained=False)
    value = streamed_softmax_optimum(problem, classes)
    if value is None:
        _log.warning(
            "The optimal %s loss of %s is not known: its classes are separable or close to it, and to tell which "
            "examples that concerns, all of them are needed in memory (load_problem).",
            objective.name, problem.name,
        )  # fmt: skip
        return Optimum(float("nan"), attained=False)
    return Optimum(value / problem.m, attained=True)


def _power_optimum(X: Array, y: Array, p: int) -> float:
    """The minimum over w of sum_i (x_i w - y_i)^p / p."""
    w = np.linalg.lstsq(X, y, rcond=None)[0]
    residual = X @ w - y
    if p == 2:
        return float(residual @ residual) / 2
    if residual @ residual <= 1e-24 * (y @ y):
        return 0.0  # the data are interpolated, which is optimal for every p
    scale = np.abs(residual).max()
    value = np.sum((residual / scale) ** p)
    for _ in range(MAX_NEWTON_STEPS):
        # With weights q = r^{p-2}, the Newton step solves (p-1) X^T q X s = -X^T q r: weighted least squares.
        root = np.abs(residual / scale) ** ((p - 2) / 2)
        step = np.linalg.lstsq(root[:, None] * X, -root * residual / (p - 1), rcond=None)[0]
        moved = X @ step
        predicted = -p * np.sum((residual / scale) ** (p - 1) * (moved / scale))  # minus the slope along the step
        if predicted <= RELATIVE_ACCURACY * value:
            return float(value * scale**p / p)
        length = 1.0
        while (trial := np.sum(((residual + length * moved) / scale) ** p)) > value - 0.25 * length * predicted:
            length /= 2
            if length < 1e-12:
                return float(value * scale**p / p)  # no decrease within rounding
        w += length * step
        residual = X @ w - y
        value = trial
    _log.warning(
        "The optimal l%d loss is not known: Newton's method did not converge in %d steps.", p, MAX_NEWTON_STEPS
    )
    return float("nan")


def _margins(X: Array, labels: np.ndarray, classes: int, *, reference: bool) -> Array:
    """Rows a with margin(example i, wrong class c) = a . vec(W), shape (m (classes - 1), unknowns)."""
    m, d = X.shape
    weights = 1 if reference else classes
    rows = np.zeros((m, classes - 1, weights, d))
    wrong = np.array([[c for c in range(classes) if c != label] for label in range(classes)])[labels]
    if reference:
        rows[:, 0, 0] = np.where(labels == 1, 1.0, -1.0)[:, None] * X
    else:
        examples = np.arange(m)
        for j in range(classes - 1):
            rows[examples, j, labels] += X
            rows[examples, j, wrong[:, j]] -= X
    return rows.reshape(m * (classes - 1), weights * d)


def _separable_pairs(margins: Array) -> np.ndarray:
    """Pairs with a positive margin under some weight that gives no pair a negative one."""
    pairs, unknowns = margins.shape
    scale = np.abs(margins).max() or 1.0
    constraint = scipy.sparse.hstack([-scipy.sparse.csr_array(margins / scale), scipy.sparse.eye_array(pairs)])
    cost = np.concatenate([np.zeros(unknowns), -np.ones(pairs)])
    bounds = [(None, None)] * unknowns + [(0.0, 1.0)] * pairs
    solution = scipy.optimize.linprog(cost, A_ub=constraint.tocsr(), b_ub=np.zeros(pairs), bounds=bounds)
    if solution.x is None:
        raise RuntimeError(f"the linear program for separability failed: {solution.message}")
    return np.asarray(solution.x[unknowns:] > 0.5)


def _softmax_optimum(margins: Array, kept: np.ndarray) -> float:
    """The minimum over w of sum_i log(1 + sum over kept wrong classes of exp(-margin)), by Newton's method."""
    m, others = kept.shape
    if not kept.any():
        return 0.0
    w = np.zeros(margins.shape[1])

    def evaluate(w: Array) -> tuple[float, Array]:
        logits = np.where(kept, -(margins @ w).reshape(m, others), -np.inf)
        with_zero = np.concatenate([np.zeros((m, 1)), logits], axis=1)
        normalizer = logsumexp(with_zero, axis=1)
        return float(normalizer.sum()), np.exp(logits - normalizer[:, None])

    value, probability = evaluate(w)
    for _ in range(MAX_NEWTON_STEPS):
        gradient = -margins.T @ probability.ravel()
        weighted = probability.ravel()[:, None] * margins
        mean = weighted.reshape(m, others, -1).sum(axis=1)
        hessian = margins.T @ weighted - mean.T @ mean
        step = -np.linalg.lstsq(hessian, gradient, rcond=1e-14)[0]
        predicted = -float(gradient @ step)
        if predicted <= RELATIVE_ACCURACY * value:
            return value
        length = 1.0
        while (trial := evaluate(w + length * step))[0] > value - 0.25 * length * predicted:
            length /= 2
            if length < 1e-12:
                return value
        w = w + length * step
        value, probability = trial
    _log.warning("The optimal loss is not known: Newton's method did not converge in %d steps.", MAX_NEWTON_STEPS)
    return float("nan")
