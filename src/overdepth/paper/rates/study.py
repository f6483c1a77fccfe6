"""The flow from every start, until almost nothing of the gap is left, beside its certificate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from overdepth.chain import imbalance, product
from overdepth.lab.problem import Array
from overdepth.paper.rates.objective import Objective
from overdepth.paper.rates.path import FALL, FlowPath, Horizon
from overdepth.paper.rates.starts import Start, cannot_arrive
from overdepth.theory.certificate import Certificate, certify
from overdepth.theory.losses import Loss

POINTS = 120
_APART = 1e-9  # relative distance of times that are told apart
CURVES = {
    "gap": "gap of the flow",
    "envelope": "certified envelope",
    "adaptive_envelope": "certified envelope, margin refreshed",
    "frozen": "frozen prediction (NTK), no bound",
}


@dataclass(frozen=True)
class Result:
    """A start with its certificate and what the flow did.

    Attributes:
        start: The factors and their name.
        minimizer: W*.
        certificate: What is proved.
        horizon: How far the flow was followed.
        times: Shape (T,), the same for all starts of a study.
        curves: By name as in ``CURVES``, shape (T,); ``gap`` is NaN where the flow was not followed any more.
        violations: Points where the flow lies above the certified envelope, or the adaptive one, by more than the
            integrator's error.
        above_frozen: Points where it lies above the frozen prediction, which no theorem forbids.
    """

    start: Start
    minimizer: Tensor
    certificate: Certificate
    horizon: Horizon
    times: Array
    curves: dict[str, Array]
    violations: int
    above_frozen: int

    @property
    def certified_rate(self) -> float:
        """The proved rate alpha gamma: the gap falls at least as exp(-this t)."""
        return self.certificate.alpha * self.certificate.pl

    @property
    def mean_rate(self) -> float:
        """log(gap(0) / gap(t)) / t when the gap has fallen by 1e-10, or else at the end."""
        gap = self.curves["gap"]
        fallen = np.flatnonzero(gap <= FALL * gap[0])
        last = int(fallen[0]) if len(fallen) else int(np.flatnonzero(np.isfinite(gap))[-1])
        return float(np.log(gap[0] / gap[last]) / self.times[last])

    @property
    def note(self) -> str:
        """What a reader must know of the flow besides."""
        factors = self.start.factors
        size = sum(float(factor.square().sum()) for factor in factors)
        balanced = all(float(matrix.norm()) <= 1e-12 * size for matrix in imbalance(factors))
        if balanced and len(factors) > 1 and cannot_arrive(product(factors), self.minimizer):
            return (
                "These factors are balanced, and their product's determinant has the other sign than that of W*: the "
                "flow itself ends on a saddle, and whatever leads away from it here is rounding."
            )
        return ""

    def to_json(self, objective: Objective) -> dict[str, Any]:
        """The certificate and the figures as plain JSON values."""
        found = self.certificate
        return {
            "start": self.start.name,
            "shapes": [list(factor.shape) for factor in self.start.factors],
            "loss": objective.name,
            "target": objective.target,
            "bound": found.bound,
            "vacuous": found.is_vacuous,
            "alpha": found.alpha,
            "alphas": found.alphas,
            "not_covered": found.refused,
            "pl": found.pl,
            "gap": found.gap,
            "margin": found.margin,
            "certified_rate": self.certified_rate,
            "mean_rate": self.mean_rate,
            "frozen_alpha": found.frozen_alpha,
            "step_size": found.step_size,
            "discrete_alpha": found.discrete_alpha,
            "time": self.horizon.time,
            "converged": self.horizon.converged,
            "violations": self.violations,
            "points": int(np.isfinite(self.curves["gap"]).sum()),
            "above_frozen": self.above_frozen,
            "explanation": found.explanation,
            "note": self.note,
        }


def study(
    starts: Sequence[Start],
    objective: Objective,
    *,
    time: float | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[Result]:
    """Follows the flow of the layers from every start and compares it with its certificate.

    Args:
        starts: Of the objective's shape.
        objective: What is descended.
        time: How far, > 0; by default until the gap is 1e-10 of the first one.
        report: Told the name of the start at work.

    Raises:
        ValueError: If a start has another shape than the minimizer or is a minimizer, or ``time`` is not above 0.
        RuntimeError: If the integrator gives up.
    """
    if time is not None and not 0 < time < math.inf:
        raise ValueError(f"--time is {time:g}, expected a finite number > 0.")
    paths, horizons = [], []
    for start in starts:
        report(f"how long: {start.name}")
        paths.append(_path(start, objective.loss))
        horizons.append(paths[-1].horizon(time))
    times = _times(horizons)
    results = []
    for start, path, horizon in zip(starts, paths, horizons, strict=True):
        report(f"the flow: {start.name}")
        results.append(_follow(start, objective, path, horizon, times))
    return results


def curves_of(results: Sequence[Result], objective: Objective) -> xr.Dataset:
    """All curves over ``start`` and ``time``; the flow's gap is NaN beyond the time to which it was followed."""
    data = xr.Dataset(coords={"start": [result.start.name for result in results], "time": results[0].times})
    for name, meaning in CURVES.items():
        table = np.stack([result.curves[name] for result in results])
        data[name] = (("start", "time"), table, {"long_name": meaning})
    data.attrs |= {"loss": objective.name, "target": objective.target}
    return data


def _path(start: Start, loss: Loss) -> FlowPath:
    weight = product(start.factors)
    if tuple(weight.shape) != loss.shape:
        raise ValueError(
            f"the product of the start '{start.name}' has shape {tuple(weight.shape)}, the minimizer {loss.shape}; "
            f"give a chain and a target (or data) that fit."
        )
    path = FlowPath(start.factors, loss)
    if path.gap == 0:
        raise ValueError(f"the start '{start.name}' is a minimizer already; give another target.")
    return path


def _follow(start: Start, objective: Objective, path: FlowPath, horizon: Horizon, times: Array) -> Result:
    certificate = certify(
        start.factors,
        strong_convexity=objective.strong_convexity,
        smoothness=objective.loss.smoothness,
        gap=path.gap,
        target=objective.loss.minimizer,
        covariance=objective.loss.covariance,
    )
    gaps = path.gaps(times[times <= horizon.followed * (1 + 2 * _APART)])
    curves = {name: getattr(certificate, name)(torch.from_numpy(times)).numpy() for name in CURVES if name != "gap"}
    curves["gap"] = np.concatenate([gaps, np.full(len(times) - len(gaps), np.nan)])

    def above(curve: Array) -> int:
        return int((np.sqrt(gaps) > np.sqrt(curve[: len(gaps)]) * (1 + 1e-8) + path.error).sum())

    return Result(
        start=start,
        minimizer=objective.loss.minimizer,
        certificate=certificate,
        horizon=horizon,
        times=times,
        curves=curves,
        violations=above(np.minimum(curves["envelope"], curves["adaptive_envelope"])),
        above_frozen=above(curves["frozen"]),
    )


def _times(horizons: Sequence[Horizon]) -> Array:
    """Common times, dense for every start as long as it is followed, in a linear and in a logarithmic view."""
    parts = []
    for seen in {horizon.followed for horizon in horizons}:
        parts += [np.linspace(0, seen, POINTS), np.geomspace(1e-4 * seen, seen, POINTS // 3)]
        parts += [np.linspace(seen, horizon.time, POINTS // 3) for horizon in horizons if horizon.time > seen]
    times: Array = np.unique(np.concatenate(parts))
    return times[np.diff(times, prepend=-1.0) > _APART * times]
