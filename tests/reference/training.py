"""Slow, obvious training of one linear network in float64, against which the sweep engine is held.

Gradient descent is PyTorch autograd on a list of leaf tensors; the end-to-end rule is Theorem 1's sum of literal
fractional matrix powers in NumPy. Nothing of the library is used but the start factors, which the caller passes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Rows = Callable[[int], NDArray[np.int64]]

RANK_RTOL = 1e-14
"""Singular values below this fraction of the largest are noise: x -> x^{1/N} is only Hoelder continuous at 0."""


@dataclass(frozen=True)
class Trajectory:
    """What happened to one run.

    Attributes:
        losses: Full-data loss after 0, 1, ..., T steps.
        weights: End-to-end weight after 0, 1, ..., T steps, shape (T + 1, k, d).
    """

    losses: Array
    weights: Array

    @property
    def diverged_at(self) -> int | None:
        """The first step after which the weight is not finite."""
        bad = ~np.isfinite(self.weights).all(axis=(1, 2))
        return int(bad.argmax()) if bad.any() else None


def data_tensors(objective: str, X: Array, Y: Array) -> tuple[Tensor, Tensor]:
    """X and Y; for the logistic loss Y becomes 1 where it has its larger value, -1 elsewhere."""
    if objective == "logistic":
        Y = np.where(Y == Y.max(), 1.0, -1.0)
    return torch.from_numpy(X), torch.from_numpy(Y)


def loss(objective: str, W: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """(1/m) sum_i phi(W x_i, y_i), as the definitions of the objectives read; X, Y as ``data_tensors`` gives them."""
    predictions = X @ W.T
    m = X.shape[0]
    if objective == "logistic":
        return torch.logaddexp(torch.zeros_like(predictions), -Y * predictions).sum() / m
    if objective == "cross_entropy":
        return torch.nn.functional.cross_entropy(predictions, Y.argmax(dim=1), reduction="sum") / m
    p = int(objective.removeprefix("l"))
    return ((predictions - Y) ** p).sum() / p / m


def gradient(objective: str, W: Array, X: Tensor, Y: Tensor) -> Array:
    """The gradient of the loss at a single layer's weight."""
    leaf = torch.tensor(W, requires_grad=True)
    (grad,) = torch.autograd.grad(loss(objective, leaf, X, Y), [leaf])
    return np.asarray(grad.numpy())


def train_factors(
    X: Array,
    Y: Array,
    start: Sequence[Tensor],
    *,
    objective: str,
    lr: float,
    weight_decay: float = 0.0,
    steps: int,
    rows: Rows | None = None,
) -> Trajectory:
    """Gradient descent on the factors W_1, ..., W_N: W_j <- (1 - lr weight_decay) W_j - lr grad_j."""
    data, targets = data_tensors(objective, X, Y)
    factors = [f.detach().clone().double().requires_grad_() for f in start]
    losses, weights = [], []

    def end_to_end() -> Tensor:
        result = factors[0]
        for factor in factors[1:]:
            result = factor @ result
        return result

    def record() -> None:
        with torch.no_grad():
            W = end_to_end()
            losses.append(float(loss(objective, W, data, targets)))
            weights.append(W.numpy().copy())

    record()
    for step in range(steps):
        chosen = slice(None) if rows is None else torch.from_numpy(rows(step))
        value = loss(objective, end_to_end(), data[chosen], targets[chosen])
        grads = torch.autograd.grad(value, factors)
        with torch.no_grad():
            for factor, grad in zip(factors, grads, strict=True):
                factor.copy_((1 - lr * weight_decay) * factor - lr * grad)
        record()
    return Trajectory(np.array(losses), np.array(weights))


def train_end_to_end(
    X: Array,
    Y: Array,
    start: Array,
    *,
    depth: float,
    objective: str,
    lr: float,
    weight_decay: float = 0.0,
    steps: int,
    rows: Rows | None = None,
) -> Trajectory:
    """A single layer by the end-to-end rule; decay (1 - lr weight_decay)^N, at infinite depth to the power 1."""
    data, targets = data_tensors(objective, X, Y)
    W = np.array(start, dtype=np.float64)
    decay = (1 - lr * weight_decay) ** (1 if math.isinf(depth) else depth)
    losses, weights = [], []
    for step in range(steps + 1):
        losses.append(float(loss(objective, torch.from_numpy(W), data, targets)))
        weights.append(W)
        if step < steps:
            chosen = slice(None) if rows is None else torch.from_numpy(rows(step))
            G = gradient(objective, W, data[chosen], targets[chosen])
            if np.isfinite(W).all() and np.isfinite(G).all():
                with np.errstate(over="ignore", invalid="ignore"):
                    W = decay * W - lr * theorem_1(W, G, depth)
            else:
                W = np.full_like(W, np.nan)
    return Trajectory(np.array(losses), np.array(weights))


def theorem_1(W: Array, G: Array, depth: float) -> Array:
    """sum_{j=1}^N [W W^T]^{(N-j)/N} G [W^T W]^{(j-1)/N}; for real N and the limit / N at infinity its eigenvalues."""
    U, S, Vt = np.linalg.svd(W, full_matrices=True)
    S = np.where(RANK_RTOL * S.max() < S, S, 0.0)
    left, right = np.zeros(W.shape[0]), np.zeros(W.shape[1])
    left[: len(S)] = right[: len(S)] = S**2
    if float(depth).is_integer():
        N = int(depth)
        total = np.zeros_like(G)
        for j in range(1, N + 1):
            WWt_power = U @ np.diag(left ** ((N - j) / N)) @ U.T  # NumPy's 0^0 is 1, as it has to be
            WtW_power = Vt.T @ np.diag(right ** ((j - 1) / N)) @ Vt
            total = total + WWt_power @ G @ WtW_power
        return total
    multipliers = np.array([[closed_form(a, b, depth) for b in right] for a in left])
    return np.asarray(U @ (multipliers * (U.T @ G @ Vt.T)) @ Vt)


def closed_form(a: float, b: float, depth: float) -> float:
    """(a - b) / (a^{1/N} - b^{1/N}), at N = inf the logarithmic mean, with limits; 50 digits hide cancellation."""
    infinite = math.isinf(depth)
    if a == b:
        return a if infinite else depth * a ** (1 - 1 / depth)
    if min(a, b) == 0.0:
        return 0.0 if infinite else max(a, b) ** (1 - 1 / depth)
    with localcontext() as context:
        context.prec = 50
        x, y = Decimal(a), Decimal(b)
        if infinite:
            return float((x - y) / (x.ln() - y.ln()))
        root = 1 / Decimal(depth)
        return float((x - y) / (x**root - y**root))
