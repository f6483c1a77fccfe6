r"""How large the steps of gradient descent may be for a rate of the flow to hold, up to a factor.

Let alpha' <= lambda_min(T) at all iterates, R = 4 sqrt(gap / (alpha' pl)), and L the largest curvature of the loss of
the layers within R of the start while its gap does not increase. For a learning rate eta <= 1 / L the descent lemma
gives f(t+1) <= f(t) - eta/2 ||grad||^2, hence

    gap(t) <= (1 - eta alpha' pl / 2)^t gap(0),   sum_t eta ||grad_t|| <= R,   sum_t eta ||grad_t||^2 <= 2 gap(0):

the iterates stay within R, and every imbalance moves by eta^2 (G_l^T G_l - G_{l+1} G_{l+1}^T) a step, by at most
2 eta gap(0) altogether. A bound that holds for all imbalances that close, with the margin that the gap provides, or the
lazy certificate for paths of length R, gives alpha' and closes the circle by induction over the steps (within a step by
continuity). With M_j = ||W_j||_2 + R the curvature is at most

    L = K sum_j prod_{i != j} M_i^2 + sqrt(2 K gap(0)) lambda_max(C),   C_{jl} = prod_{i != j, l} M_i (0 for j = l).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from overdepth.theory.lazy import lazy_certificate

_BISECTIONS = 60
_SLOWEST = 1e-12  # contraction a step below which a proof is of no use


class Descent(NamedTuple):
    """A learning rate, the bound of lambda_min(T) along gradient descent with it, or why there is none (None, 0)."""

    step_size: float | None
    alpha: float
    reason: str = ""


def largest_step(
    norms: Tensor,
    bounds: dict[str, Callable[[Tensor, float], Tensor]],
    *,
    margin: Tensor,
    minimum: float,
    slack: float,
    smoothness: float,
    gap: float,
    pl: float,
) -> Descent:
    """The largest proved learning rate that keeps at least half of the best bound of the flow that is robust.

    Args:
        norms: ||W_1||_2, ..., ||W_N||_2 at the start.
        bounds: Bounds of lambda_min(T) from a margin and from how far the imbalances may move.
        margin: Of the smallest singular value of W_e.
        minimum: A proved lower bound of lambda_min(T) at the start.
        slack: How far the imbalances' eigenvalues may be off by rounding.
        smoothness: K of the loss.
        gap: f(W(0)) - f*.
        pl: gamma of the loss.
    """
    lazy = lazy_certificate(norms, minimum, gap=gap, pl=pl, reach=4.0).alpha if len(norms) > 1 else 0.0

    def along(step: float) -> float:
        return max([lazy, *(float(bound(margin, slack + 2 * step * gap)) for bound in bounds.values())])

    best = along(0.0)
    if best <= 0:
        return Descent(None, 0.0, "the bound needs imbalances, or a path, that gradient descent does not keep exactly")
    alpha = max(best / 2, lazy)
    largest = 1 / _curvature(norms + 4 * math.sqrt(gap / (alpha * pl)), smoothness, gap)
    low, high = 0.0, largest
    if along(high) >= alpha:
        low = high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if along(middle) >= alpha:
            low = middle
        else:
            high = middle
    if low * alpha * pl / 2 < _SLOWEST:
        return Descent(None, 0.0, "the curvature on the way may be so large that the proved step is useless")
    return Descent(low, alpha)


def _curvature(norms: Tensor, smoothness: float, gap: float) -> float:
    """L for factors of these spectral norms at most."""
    depth = len(norms)
    without = [[norms[[i for i in range(depth) if i not in (j, m)]].prod() for m in range(depth)] for j in range(depth)]
    table = torch.stack([torch.stack(row) for row in without])
    first = smoothness * table.diagonal().square().sum()
    table.fill_diagonal_(0.0)
    second = math.sqrt(2 * smoothness * gap) * torch.linalg.eigvalsh(table)[-1]
    return float(first + second)
