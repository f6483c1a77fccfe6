"""How well the frozen (NTK) prediction describes the flow of a chain of random factors, at a given width."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch

from overdepth.chain import product
from overdepth.lab.problem import Array
from overdepth.theory.flow_fields import LayersField, array_gradient
from overdepth.theory.integration import integrate
from overdepth.theory.lazy import frozen_rate, lazy_rate
from overdepth.theory.losses import matrix_distance

SIZE = 3
"""Rows and columns of W_e."""

FALL = 1e-3
"""Of the gap: until when the flow is compared with the prediction."""

_POINTS = 400  # up to twice the time that is predicted
_CHUNK = 20  # of them integrated at once: beyond the fall there is nothing to see
_LONGEST = 100.0  # where nothing is predicted
_RTOL, _ATOL = 1e-6, 1e-9


class FrozenRun(NamedTuple):
    """A flow beside its frozen prediction.

    Attributes:
        ratio: The rate at which the flow takes the gap to a thousandth, over the predicted one.
        certified: Whether the lazy certificate, which proves the prediction up to a factor, applies.
        times: Shape (T,), in units of the predicted time of a fall by e.
        gaps: gap / first gap at these times.
    """

    ratio: float
    certified: bool
    times: Array
    gaps: Array


def frozen_run(depth: int, width: int, seed: int) -> FrozenRun:
    """A chain of factors with entries N(0, s^2) towards W* with entries N(0, 1), f(W) = ||W - W*||_F^2 / 2.

    As in the NTK parametrization, s^2 = width^(1/N - 1), so that W_e(0) has entries of variance 1 at every width.

    Args:
        depth: N.
        width: Hidden width.
        seed: Of the target and the factors.

    Raises:
        ValueError: If the depth is 1, for which nothing is frozen since nothing moves.
    """
    if depth < 2:
        raise ValueError(f"depth is {depth}, expected at least 2: the operator of a single layer does not move.")
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    loss = matrix_distance(normal(SIZE, SIZE))
    scale = width ** ((1 / depth - 1) / 2)
    sizes = [SIZE, *[width] * (depth - 1), SIZE]
    factors = [scale * normal(rows, columns) for columns, rows in itertools.pairwise(sizes)]
    weight = product(factors)
    gap = float(loss.gap(weight))
    predicted = frozen_rate(factors) * loss.pl
    horizon = -math.log(FALL) / predicted if predicted > 0 else _LONGEST
    times = np.linspace(0, 2, _POINTS + 1) * horizon
    field = LayersField(factors, array_gradient(loss, weight))
    state, gaps = field.start, [gap]
    while len(gaps) < len(times) and gaps[-1] > FALL * gap:
        part = times[len(gaps) : len(gaps) + _CHUNK] - times[len(gaps) - 1]
        states = integrate(field, state, part, method="RK45", rtol=_RTOL, atol=_ATOL).states
        found = loss.gap(torch.from_numpy(field.weight_of(states))).tolist()
        last = next((index for index, value in enumerate(found) if value <= FALL * gap), len(found) - 1)
        gaps += found[: last + 1]
        state = states[last]
    seen = times[: len(gaps)]
    return FrozenRun(
        ratio=math.log(gap / gaps[-1]) / float(seen[-1]) / predicted,
        certified=lazy_rate(factors, gap=gap, pl=loss.pl).alpha > 0,
        times=seen * predicted,
        gaps=np.array(gaps) / gap,
    )
