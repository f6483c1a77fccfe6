"""The lowest value of an objective on data that are read in blocks of rows: the Newton steps of ``optimum``, summed.

Every evaluation is one pass over the file. The steps of an l_p loss are weighted least-squares problems, solved through
the triangular factor of all rows; those of the classification losses go through the Hessian.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
import scipy.linalg
from scipy.special import logsumexp

from overdepth.lab.problem import Array
from overdepth.lab.rows import RowProblem
from overdepth.lab.triangular import stacked_triangle

RELATIVE_ACCURACY = 1e-12
MAX_NEWTON_STEPS = 500

SMALLEST_CURVATURE = 1e-8
"""Below this curvature in some direction, relative to its data, classes may be separable in it."""

_log = logging.getLogger(__name__)


def streamed_power_optimum(problem: RowProblem, p: int) -> float:
    """The minimum of the l_p loss, summed over outputs and examples."""
    triangle = None
    for X, Y in problem.row_blocks():
        triangle = stacked_triangle(triangle, np.hstack([X, Y]))
    if triangle is None:
        return 0.0
    weights = np.linalg.lstsq(triangle[:, : problem.d], triangle[:, problem.d :], rcond=None)[0]
    residual = triangle[:, problem.d :] - triangle[:, : problem.d] @ weights
    squares, largest = np.sum(residual**2, axis=0), np.sum(triangle[:, problem.d :] ** 2, axis=0)
    if p == 2:
        return float(squares.sum()) / 2
    total = 0.0
    for output in range(problem.k):
        if squares[output] > 1e-24 * largest[output]:  # else the data are interpolated, which is optimal for every p
            total += _power_newton(problem, output, np.asarray(weights[:, output], dtype=np.float64), p)
    return total


class _PowerPoint(NamedTuple):
    """What one pass finds of an l_p loss at a weight: sums of r^p / scale^p and its gradient, and the Newton step."""

    value: float
    gradient: Array
    triangle: Array  # of the rows [r^{(p-2)/2} x, -r^{p/2} / (p - 1)]


def _power_newton(problem: RowProblem, output: int, w: Array, p: int) -> float:
    scale = max(float(np.abs(X @ w - Y[:, output]).max()) for X, Y in problem.row_blocks())

    def evaluate(w: Array) -> _PowerPoint:
        value, gradient, triangle = 0.0, np.zeros_like(w), None
        for X, Y in problem.row_blocks():
            residual = (X @ w - Y[:, output]) / scale
            with np.errstate(over="ignore"):  # a trial step may go too far, and is then shortened
                value += float(np.sum(residual**p))
                root = np.abs(residual) ** ((p - 2) / 2)
                gradient += p / scale * (X.T @ residual ** (p - 1))
            if np.isfinite(value):
                rows = np.column_stack([root[:, None] * X, -root * residual * scale / (p - 1)])
                triangle = stacked_triangle(triangle, rows)
        return _PowerPoint(value, gradient, np.empty((0, len(w) + 1)) if triangle is None else triangle)

    point = evaluate(w)
    for _ in range(MAX_NEWTON_STEPS):
        step = np.linalg.lstsq(point.triangle[:, :-1], point.triangle[:, -1], rcond=None)[0]
        predicted = -float(point.gradient @ step)
        if predicted <= RELATIVE_ACCURACY * point.value:
            return point.value * scale**p / p
        length = 1.0
        while not (trial := evaluate(w + length * step)).value <= point.value - 0.25 * length * predicted:
            length /= 2
            if length < 1e-12:
                return point.value * scale**p / p  # no decrease within rounding
        w, point = w + length * step, trial
    _log.warning(
        "The optimal l%d loss is not known: no convergence of Newton's method in %d steps.", p, MAX_NEWTON_STEPS
    )
    return float("nan")


def streamed_softmax_optimum(problem: RowProblem, classes: int) -> float | None:
    """The minimum of the logistic (two classes, one target) or softmax cross-entropy, summed over examples.

    Class 0 has no weight of its own: to add one vector to the weights of all classes changes nothing. The linear
    program that tells which classes can be separated needs all examples at once; instead, the curvature at the
    minimum that Newton's method finds is compared with that of the data. A direction that separates has next to none.

    Returns:
        The value; None if classes are separable or so close to it that they cannot be told from it here.
    """
    free, d = classes - 1, problem.d
    low = min(float(Y.min()) for _, Y in problem.row_blocks())

    def evaluate(w: Array) -> tuple[float, Array, Array]:
        value, gradient, hessian = 0.0, np.zeros((free, d)), np.zeros((free, d, free, d))
        for X, Y in problem.row_blocks():
            labels = Y[:, 1:] if problem.k > 1 else (low < Y).astype(np.float64)
            logits = np.hstack([np.zeros((len(X), 1)), X @ w.reshape(free, d).T])
            normalizer = logsumexp(logits, axis=1)
            value += float(np.sum(normalizer - np.sum(labels * logits[:, 1:], axis=1)))
            probability = np.exp(logits[:, 1:] - normalizer[:, None])
            gradient += (probability - labels).T @ X
            for a in range(free):
                for b in range(a + 1):
                    weight = probability[:, a] * ((a == b) - probability[:, b])
                    hessian[a, :, b, :] += (X.T * weight) @ X
        for a in range(free):
            for b in range(a):
                hessian[b, :, a, :] = hessian[a, :, b, :].T
        return value, gradient.ravel(), hessian.reshape(free * d, free * d)

    basis = _whitening(sum((X.T @ X for X, _ in problem.row_blocks()), np.zeros((d, d))))
    w = np.zeros(free * d)
    value, gradient, hessian = evaluate(w)
    for _ in range(MAX_NEWTON_STEPS):
        if _smallest_curvature(hessian, basis) < SMALLEST_CURVATURE:
            return None
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
        value, gradient, hessian = trial
    return None


def _whitening(gram: Array) -> Array:
    """B, shape (d, rank), with B^T gram B = I, over the directions in which the data are not zero."""
    size = np.sqrt(np.diag(gram))
    size[size == 0] = 1.0  # a feature that is zero throughout
    values, vectors = np.linalg.eigh(gram / np.outer(size, size))
    kept = values > len(values) * np.finfo(np.float64).eps * values[-1]
    return np.asarray(vectors[:, kept] / np.sqrt(values[kept]) / size[:, None])


def _smallest_curvature(hessian: Array, basis: Array) -> float:
    """The least of u^T H u / |X u|^2 over all directions u in which the data are not zero."""
    d, rank = basis.shape
    free = len(hessian) // d
    reduced = np.einsum("di,adbe,ej->aibj", basis, hessian.reshape(free, d, free, d), basis, optimize=True)
    if not rank:
        return 1.0
    return float(scipy.linalg.eigvalsh(reduced.reshape(free * rank, free * rank), subset_by_index=[0, 0])[0])
