"""The flow of the layers, followed for as long as there is something to see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from overdepth.chain import product
from overdepth.lab.problem import Array
from overdepth.theory.gradient_flow import flow
from overdepth.theory.losses import Loss
from overdepth.transfer import transfer_operator

FALL = 1e-10
"""Of the gap: how far it is followed down by default."""

_ROUNDING = 1e-14  # of the gap: below it the flow is rounding, however long a time was asked for
_RTOL, _ATOL = 1e-11, 1e-13
_ERROR = 100  # integration errors a step that may have added up
_LOOKS = 16
_DOUBLINGS = 40
_REFINEMENTS = 2
_MOST_EVALUATIONS = 60_000  # of the search for a horizon
_MOST_ENTRIES = 5_000_000  # of states held at once


class Horizon(NamedTuple):
    """The last time of the curves, until when the flow was followed, and whether the gap fell by ``FALL``."""

    time: float
    followed: float
    converged: bool


class FlowPath:
    """The flow of the layers from a start.

    Attributes:
        gap: f - f* at the start.
        error: Of the integrator, in sqrt(f - f*): what a comparison with a bound has to allow.
    """

    def __init__(self, factors: Sequence[Tensor], loss: Loss) -> None:
        self._start = [factor.detach().double() for factor in factors]
        self._loss = loss
        self.gap = float(loss.gap(product(self._start)))
        size = math.sqrt(max(sum(float(f.square().sum()) for f in self._start), self._scale() ** 2))
        self.error = _ERROR * math.sqrt(loss.smoothness / 2) * (_ATOL + _RTOL * size * self._sensitivity())

    def horizon(self, time: float | None) -> Horizon:
        """Until when to follow: ``time``, or until the gap has fallen by ``FALL``; never into rounding."""
        goal = (FALL if time is None else _ROUNDING) * self.gap
        factors, reached, evaluations = self._start, 0.0, 0
        chunk = 1 / (self._loss.smoothness * self._fastest())
        for _ in range(_DOUBLINGS):
            if time is not None:
                chunk = min(chunk, time - reached)
            looks = np.linspace(0, chunk, _LOOKS + 1)
            path = self._flow(factors, looks)
            gaps = path["gap"].values
            low = np.flatnonzero(gaps <= goal)
            if len(low):
                followed = reached + self._crossing(path, int(low[0]), goal)
                return Horizon(followed if time is None else time, followed, converged=True)
            reached, factors = reached + chunk, _factors(path)
            evaluations += int(path.attrs["evaluations"])
            if (time is not None and reached >= time) or (time is None and evaluations > _MOST_EVALUATIONS):
                break
            chunk = reached
        return Horizon(time or reached, min(time or reached, reached), converged=bool(gaps[-1] <= FALL * self.gap))

    def gaps(self, times: Array) -> Array:
        """The gap f - f* at increasing times from 0 on, in parts that fit into memory."""
        entries = sum(factor.numel() for factor in self._start) + self._loss.minimizer.numel()
        part = max(_MOST_ENTRIES // entries, 1)
        found, factors, now = [], self._start, 0.0
        for first in range(0, len(times), part):
            path = self._flow(factors, times[first : first + part] - now)
            found.append(path["gap"].values)
            factors, now = _factors(path), float(times[min(first + part, len(times)) - 1])
        return np.concatenate(found)

    def _crossing(self, path: xr.Dataset, index: int, goal: float) -> float:
        """When the gap falls below ``goal``, which it has at ``index`` of a path: a plateau is long beside a fall."""
        begin = 0.0
        for _ in range(_REFINEMENTS):
            if index == 0:
                break
            times = path["time"].values
            begin, span = begin + float(times[index - 1]), float(times[index] - times[index - 1])
            path = self._flow(_factors(path, index - 1), np.linspace(0, span, _LOOKS + 1))
            low = np.flatnonzero(path["gap"].values <= goal)
            index = int(low[0]) if len(low) else _LOOKS
        return begin + float(path["time"].values[index])

    def _flow(self, factors: Sequence[Tensor], times: Array) -> xr.Dataset:
        return flow(factors, self._loss, times, rtol=_RTOL, atol=_ATOL)

    def _scale(self) -> float:
        return float(torch.linalg.matrix_norm(self._loss.minimizer, 2))

    def _sensitivity(self) -> float:
        """How far the product moves with the factors, at the start or at the minimizer."""
        return math.sqrt(self._fastest())

    def _fastest(self) -> float:
        """The largest eigenvalue of T at the start or, balanced, at the minimizer."""
        depth = len(self._start)
        _, now = transfer_operator(self._start).eigenvalue_bounds()
        return max(now, depth * math.pow(self._scale(), 2 - 2 / depth), 1e-12)


def _factors(path: xr.Dataset, index: int = -1) -> list[Tensor]:
    depth = sum(str(name).startswith("factor_") for name in path)
    return [torch.from_numpy(path[f"factor_{j}"].values[index].copy()) for j in range(1, depth + 1)]
