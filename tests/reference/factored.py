"""Training of factors, one product and one entry-wise rule after the other, in NumPy float64.

The gradient of a factor is the literal sum-free chain rule (W_N ... W_{j+1})^T G (W_{j-1} ... W_1)^T of
``linear_algebra.layer_gradients``; the rules are the textbook's. Nothing is shared with the library or with torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from tests.reference.linear_algebra import Array, layer_gradients, product


class Rule(Protocol):
    """Something that steps a list of arrays."""

    def step(self, values: Sequence[Array], grads: Sequence[Array]) -> list[Array]:
        """The values after one step."""
        ...


@dataclass
class Sgd:
    """b <- momentum b + g + weight_decay w, b = g at first; w <- w - lr b, or with Nesterov w - lr (g + momentum b)."""

    lr: float
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    buffers: list[Array] = field(default_factory=list)

    def step(self, values: Sequence[Array], grads: Sequence[Array]) -> list[Array]:
        decayed = [g + self.weight_decay * w for w, g in zip(values, grads, strict=True)]
        if not self.buffers:
            self.buffers = [g.copy() for g in decayed]
        else:
            self.buffers = [self.momentum * b + g for b, g in zip(self.buffers, decayed, strict=True)]
        ahead = [g + self.momentum * b if self.nesterov else b for b, g in zip(self.buffers, decayed, strict=True)]
        return [w - self.lr * a for w, a in zip(values, ahead, strict=True)]


@dataclass
class AdamW:
    """w <- (1 - lr weight_decay) w - lr m_hat / (sqrt(v_hat) + eps)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    count: int = 0
    first: list[Array] = field(default_factory=list)
    second: list[Array] = field(default_factory=list)

    def step(self, values: Sequence[Array], grads: Sequence[Array]) -> list[Array]:
        if self.count == 0:
            self.first = [np.zeros_like(g) for g in grads]
            self.second = [np.zeros_like(g) for g in grads]
        self.count += 1
        result = []
        for i, (w, g) in enumerate(zip(values, grads, strict=True)):
            self.first[i] = self.betas[0] * self.first[i] + (1 - self.betas[0]) * g
            self.second[i] = self.betas[1] * self.second[i] + (1 - self.betas[1]) * g**2
            m = self.first[i] / (1 - self.betas[0] ** self.count)
            v = self.second[i] / (1 - self.betas[1] ** self.count)
            result.append((1 - self.lr * self.weight_decay) * w - self.lr * m / (np.sqrt(v) + self.eps))
        return result


def least_squares(X: Array, Y: Array) -> Callable[[Array], Array]:
    """The gradient (W X - Y) X^T / m of ||W X - Y||^2 / 2 m, with samples as columns."""
    return lambda weight: (weight @ X - Y) @ X.T / X.shape[1]


def train(factors: Sequence[Array], gradient: Callable[[Array], Array], rule: Rule, steps: int) -> list[Array]:
    """The end-to-end weight after 0, 1, ..., steps steps of the rule on the factors."""
    values = [f.copy() for f in factors]
    weights = [product(values)]
    for _ in range(steps):
        values = rule.step(values, layer_gradients(values, gradient(weights[-1])))
        weights.append(product(values))
    return weights
