r"""The two points of Section 7 as runs of a few hundred updates: plain descent, the end-to-end rule, and a network.

The rule takes Appendix B's learning rate, with which its first step reaches the large label. The factors of a network
cannot take that step, which is no small one: their descent follows the rule only at small learning rates, and has its
own here, half of what is stable where the weight's curvature on its way from 0 to y_1 is largest.

A single output needs hidden width 1 alone: the network is a row v after which scalars a_2, ..., a_N follow, and its
weight is w = A v with A = a_2 ... a_N. One step of gradient descent with the gradient g at w is, to first order,

    w <- w - eta (A^2 g + b <g, v> v),  b = sum_j (A / a_j)^2,

so that eta (A^2 + b v_i^2) is the effective learning rate of coordinate i, the first term an adaptive learning rate and
the second, along the weight, what acts as momentum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from overdepth.chain import balanced_factors, product
from overdepth.initialization import INITIALIZATIONS, initial_factors
from overdepth.theory.acceleration import TwoPointPlan, plan_two_point, run_two_point
from overdepth.theory.balancing import factors_with_imbalance
from overdepth.theory.momentum import momentum_kernel

if TYPE_CHECKING:
    from overdepth.lab.problem import Array

TOWARDS = "towards"
STARTS = (TOWARDS, *INITIALIZATIONS)
CLOSE = 0.05
"""Of the small label: a label counts as fitted within this."""
NEAR_LARGEST = 0.999
"""Of its largest stable learning rate: where plain descent runs, but for the square loss, which one step minimizes."""
KERNEL_STEPS = 200
"""So many steps are told apart into current and past gradients: the kernel is a square matrix."""


@dataclass(frozen=True)
class Setting:
    """What is set.

    Attributes:
        power: p of the loss (1/p) sum_i (w_i - y_i)^p, even.
        depth: N, an integer.
        y1: The large label.
        y2: The small one, below it.
        eps: w_1 at the start, or the start's norm where its direction is drawn.
        lr: The rule's learning rate over Appendix B's.
        network_lr: The network's over :func:`network_rate`.
        init: One of ``STARTS``; ``towards``: balanced, eps_2 / eps_1 = y_2 / y_1, as in Appendix B.
        imbalance: Between neighbouring layers, in units of ||w||^{2/N} at the start, a balanced layer's square; 0
            leaves the start as it is.
        seed: Of what is drawn.
        steps: Updates.
    """

    power: int = 4
    depth: int = 2
    y1: float = 30.0
    y2: float = 1.0
    eps: float = 0.01
    lr: float = 1.0
    network_lr: float = 1.0
    init: str = TOWARDS
    imbalance: float = 0.0
    seed: int = 0
    steps: int = 300


@dataclass(frozen=True)
class Path:
    """A run.

    Attributes:
        weights: w_0, w_1, ..., shape (T + 1, 2), until the labels were fitted, it diverged, or the updates were over.
        rates: Effective learning rates of both coordinates, shape (T + 1, 2).
        fitted: The update after which both labels were fitted, or None.
        diverged: Whether it left the picture for good.
        adaptive: Norm of every step's part along the gradient, shape (T,).
        momentum: Norm of every step's part from past gradients (depth 2, exactly) or along the weight, shape (T,).
        dropped: Norm of what the start adds, which the paper's Observation 1 drops; empty but for depth 2.
    """

    weights: Array
    rates: Array
    fitted: int | None
    diverged: bool
    adaptive: Array
    momentum: Array
    dropped: Array


@dataclass(frozen=True)
class TwoPoints:
    """The runs of a setting.

    Attributes:
        setting: What was set.
        plan: Appendix B's; None for depth 1 or the square loss, where it has nothing to say.
        plain_lr: Of plain descent.
        network_lr: Of the network.
        plain: Gradient descent on w.
        network: Gradient descent on the factors.
        rule: The end-to-end rule; None for the square loss and depth 1.
    """

    setting: Setting
    plan: TwoPointPlan | None
    plain_lr: float
    network_lr: float
    plain: Path
    network: Path
    rule: Path | None


def run(setting: Setting) -> TwoPoints:
    """Runs all three.

    Raises:
        ValueError: If y2 is not below y1, or eps not below y1.
    """
    if not setting.eps < setting.y1 or not setting.y2 < setting.y1:
        raise ValueError(
            f"y1 is {setting.y1:g}, y2 is {setting.y2:g} and eps is {setting.eps:g}, expected y2 < y1 and eps < y1; "
            f"raise y1."
        )
    plan = _plan(setting)
    factors = start(setting)
    weight = product(factors)[0].tolist()
    plain_lr = NEAR_LARGEST * 2.0 / setting.y1 ** (setting.power - 2) if setting.power > 2 else 1.0
    network_lr = setting.network_lr * network_rate(setting)
    plain = descend([torch.tensor([weight], dtype=torch.float64)], plain_lr, setting)
    rule = None if plan is None else follow_rule(weight, setting.lr * plan.lr_end_to_end, setting)
    return TwoPoints(setting, plan, plain_lr, network_lr, plain, descend(factors, network_lr, setting), rule)


def network_rate(setting: Setting) -> float:
    """Half of what is stable where the curvature along the weight is largest, on the way of w_1 from 0 to y_1.

    Balanced, that curvature is N w^q (p-1) (y_1-w)^{p-2} with q = 2 - 2/N, and largest at w = y_1 q / (q+p-2).
    """
    growth, order = 2.0 - 2.0 / setting.depth, setting.power - 2
    at = setting.y1 * growth / (growth + order) if growth + order > 0 else 0.0
    curvature = setting.depth * at**growth * (setting.power - 1) * (setting.y1 - at) ** order
    return float(1.0 / curvature)


def follow_rule(weight: list[float], lr: float, setting: Setting) -> Path:
    """The end-to-end rule: its preconditioner is ||w||^{2-2/N} (I + (N-1) u u^T) with u = w / ||w|| (Claim 2)."""
    found = run_two_point(
        (setting.y1, setting.y2),
        weight,
        lr,
        depth=setting.depth,
        power=setting.power,
        tolerance=CLOSE * setting.y2,
        max_steps=setting.steps,
        record=setting.steps,
    )
    weights = np.asarray(found.path)
    squares = weights**2
    norm = squares.sum(axis=1, keepdims=True)
    scale = lr * norm ** (1.0 - 1.0 / setting.depth)
    inside = np.divide(squares, norm, out=np.zeros_like(squares), where=norm > 0)
    grads = (weights - np.array([setting.y1, setting.y2])) ** (setting.power - 1)
    along = (grads * weights).sum(axis=1, keepdims=True) * weights
    along = (setting.depth - 1) * np.divide(along, norm, out=np.zeros_like(along), where=norm > 0)
    adaptive, momentum = (np.linalg.norm((scale * part)[:-1], axis=1) for part in (grads, along))
    rates = scale * (1.0 + (setting.depth - 1) * inside)
    return Path(weights, rates, found.steps, found.diverged, adaptive, momentum, np.zeros(0))


def start(setting: Setting) -> list[Tensor]:
    """The factors at the start: a row (1, 2), then N - 1 numbers (1, 1)."""
    towards = torch.tensor([[setting.eps, setting.eps * setting.y2 / setting.y1]], dtype=torch.float64)
    if setting.init == TOWARDS:
        factors = balanced_factors(towards, setting.depth)
    else:
        keeps_its_size = setting.init in ("near_identity", "identity")
        factors = initial_factors(
            1,
            2,
            setting.depth,
            width=1,
            init=setting.init,  # type: ignore[arg-type]
            scale=setting.eps,
            norm=None if keeps_its_size else float(towards.norm()),
            generator=torch.Generator().manual_seed(setting.seed),
            dtype=torch.float64,
        )
    if setting.imbalance == 0 or setting.depth == 1:
        return factors
    weight = product(factors)
    unit = float(weight.norm()) ** (2.0 / setting.depth)
    return factors_with_imbalance(weight, setting.depth, setting.imbalance * unit)


def descend(factors: list[Tensor], lr: float, setting: Setting) -> Path:
    """Gradient descent on a row and the numbers after it; on the row alone it is plain descent.

    Plain floats: a step of a few numbers is a hundred times faster so than with tensors.
    """
    v1, v2 = factors[0][0].tolist()
    after = [float(factor) for factor in factors[1:]]
    y1, y2, order = setting.y1, setting.y2, setting.power - 1
    close, far = CLOSE * y2, 1e3 * max(y1, abs(v1), abs(v2), *map(abs, after))
    rows = []
    fitted, diverged = None, False
    for step in range(setting.steps + 1):
        others = _others(after)
        scale = others[0]  # A
        w1, w2 = scale * v1, scale * v2
        e1, e2 = w1 - y1, w2 - y2
        if not (abs(e1) <= far and abs(e2) <= far):
            diverged = True
            break
        g1, g2 = e1**order, e2**order
        squares = sum(other * other for other in others[1:])  # b
        rows.append((v1, v2, scale, squares, g1, g2))
        if abs(e1) <= close and abs(e2) <= close:
            fitted = step
            break
        along = g1 * v1 + g2 * v2
        v1, v2 = v1 - lr * scale * g1, v2 - lr * scale * g2
        after = [a - lr * other * along for a, other in zip(after, others[1:], strict=True)]
    return _path(np.asarray(rows), lr, len(factors), fitted, diverged)


def _others(numbers: list[float]) -> list[float]:
    """The product of all numbers, then that of all but each, without a division."""
    before, after = [1.0], [1.0]
    for number in numbers:
        before.append(before[-1] * number)
    for number in reversed(numbers):
        after.append(after[-1] * number)
    count = len(numbers)
    return [before[-1], *(before[i] * after[count - 1 - i] for i in range(count))]


def _path(rows: Array, lr: float, depth: int, fitted: int | None, diverged: bool) -> Path:
    """A run from v, A, b and g at every step."""
    v, scale, squares, grads = rows[:, :2], rows[:, 2], rows[:, 3], rows[:, 4:]
    rates = lr * (scale[:, None] ** 2 + squares[:, None] * v**2)
    count = len(rows) - 1
    if depth == 2 and count > 0:
        kept = min(count, KERNEL_STEPS)
        rows_of_v, numbers, g = (
            torch.from_numpy(np.ascontiguousarray(part)) for part in (v[: kept + 1], scale[: kept + 1], grads[:kept])
        )
        parts = momentum_kernel(rows_of_v, numbers, g, lr).parts(g)
        adaptive, momentum, dropped = (np.linalg.norm(part.numpy(), axis=1) for part in parts)
    else:
        along = (grads * v).sum(axis=1)[:count, None] * v[:count]
        adaptive = np.linalg.norm(lr * scale[:count, None] ** 2 * grads[:count], axis=1)
        momentum = np.linalg.norm(lr * squares[:count, None] * along, axis=1)
        dropped = np.zeros(0)
    return Path(scale[:, None] * v, rates, fitted, diverged, adaptive, momentum, dropped)


def _plan(setting: Setting) -> TwoPointPlan | None:
    if setting.depth == 1 or setting.power == 2:
        return None
    return plan_two_point(setting.y1, setting.y2, setting.eps, depth=setting.depth, power=setting.power)


def losses(weights: Array, setting: Setting) -> Array:
    """(1/p) sum_i (w_i - y_i)^p for weights (..., 2)."""
    errors = np.asarray(weights) - np.array([setting.y1, setting.y2])
    total: Array = (errors**setting.power).sum(axis=-1) / setting.power
    return total
