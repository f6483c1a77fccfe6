"""The runs of Section 7: two points, plain against over-parameterized descent, in numbers that need no data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from overdepth.rule import end_to_end_update
from overdepth.theory.acceleration import TwoPointPlan, plan_two_point, run_two_point

if TYPE_CHECKING:
    import xarray as xr

    from overdepth.lab.problem import Array

SMALL_LABEL = 1.0  # y2
TOLERANCE = 0.05  # a label counts as fitted within this
NEAR_LARGEST = 0.999  # of the largest stable learning rate, at which plain descent runs
MUCH = 10.0  # what ">>" is taken to mean
POWERS, DEPTHS = (4, 6), (2, 3, 4)
LARGE_LABELS = (10.0, 30.0, 100.0)  # y1
ABOVE_THRESHOLD = (2.0, 10.0, 50.0, 250.0)  # eps1 over the smallest one that converges
COUNTED = 2_000_000  # so many steps of plain descent are taken; more are bounded from below
BESIDE = 1.12  # of the effective rate: how close to the threshold of convergence one looks
SHOWN = (100.0, 0.05)  # (y1, eps1) of the trajectories


class Case(NamedTuple):
    """One comparison: y1 and eps1, the loss's power and the depth."""

    y1: float
    eps1: float
    power: int
    depth: int

    def plan(self) -> TwoPointPlan:
        """The learning rates, and what they lead to."""
        return plan_two_point(self.y1, SMALL_LABEL, self.eps1, depth=self.depth, power=self.power)


def cases(*, quick: bool) -> list[Case]:
    """All cases with y1 >> y2 >> eps1 in which w_2 converges to first order."""
    found = []
    for power in POWERS:
        for depth in DEPTHS:
            for y1 in LARGE_LABELS[:1] if quick else LARGE_LABELS:
                threshold = Case(y1, SMALL_LABEL / MUCH, power, depth).plan().threshold
                factors = ABOVE_THRESHOLD[:2] if quick else ABOVE_THRESHOLD
                starts = [factor * threshold for factor in factors if factor * threshold * MUCH <= SMALL_LABEL]
                found += [Case(y1, eps1, power, depth) for eps1 in starts]
    return found


def fewest_steps(error: float, lr: float, power: int, tolerance: float = TOLERANCE) -> int:
    """No fewer steps of descent take the error of a decoupled coordinate down to the tolerance.

    In u = Delta^{-(p-2)} the step Delta <- Delta (1 - lr Delta^{p-2}) is u <- u (1 - lr / u)^{-(p-2)}: every one adds
    (p-2) lr or more, and none more than the first. The true number is larger by a share of (p-1) lr / (2 u(0)) or less.

    Raises:
        ValueError: If lr error^{p-2} is not below 1: the error would change its sign.
    """
    order = power - 2
    if not lr * error**order < 1:
        raise ValueError(f"lr is {lr!r} and error {error!r}, expected a step that does not reach beyond the label.")
    start, end = error**-order, tolerance**-order
    rise = start * math.expm1(-order * math.log1p(-lr / start))
    return max(math.ceil((end - start) / rise), 0)


def work(*, quick: bool, advance: Callable[[int, int], None]) -> xr.Dataset:
    """Everything that Section 7 is judged and drawn from.

    Args:
        quick: Whether a corner of the grid is enough.
        advance: Told the number of finished pieces and how many there are.
    """
    chosen = cases(quick=quick)
    pieces = len(chosen) + 2
    rows = []
    for i, case in enumerate(chosen):
        rows.append(_compared(case))
        advance(i + 1, pieces)
    columns: dict[str, object] = {name: ("case", [row[name] for row in rows]) for name in rows[0]}
    columns |= _beside_the_threshold()
    advance(pieces - 1, pieces)
    y1, eps1 = (LARGE_LABELS[0], SHOWN[1]) if quick else SHOWN
    columns |= _trajectories(y1, eps1)
    advance(pieces, pieces)
    import xarray as xr  # the explorer, which uses the rest of this file, should start fast

    data = xr.Dataset(columns, attrs={"y2": SMALL_LABEL, "tolerance": TOLERANCE, "quick": int(quick)})
    return data.assign_attrs(shown_y1=y1, shown_eps1=eps1)


def _compared(case: Case) -> dict[str, float]:
    """Steps of both, and the first step's numbers."""
    plan = case.plan()
    deep = run_two_point(
        plan.targets,
        plan.start,
        plan.lr_end_to_end,
        depth=case.depth,
        power=case.power,
        tolerance=TOLERANCE,
        record=1,
    )
    lr = NEAR_LARGEST * plan.lr_gd
    plain: float = fewest_steps(SMALL_LABEL - plan.start[1], lr, case.power)
    is_counted = plain <= COUNTED
    if is_counted:
        run = run_two_point(plan.targets, plan.start, lr, power=case.power, tolerance=TOLERANCE, max_steps=2 * COUNTED)
        plain = math.nan if run.second_steps is None else run.second_steps
    effective = _rates([deep.path[1]], plan.lr_end_to_end, case.depth)[0, 2]
    return {
        "y1": case.y1,
        "eps1": case.eps1,
        "power": case.power,
        "depth": case.depth,
        "covered": int(case.eps1 >= plan.paper_threshold),
        "predicted": plan.ratio,
        "plain_steps": plain,
        "plain_counted": int(is_counted),
        "deep_steps": math.inf if deep.steps is None else deep.steps,  # no acceleration where it does not converge
        "first_w1": deep.path[1][0],
        "first_w2": deep.path[1][1],
        "effective_rate": effective,
        "planned_rate": plan.effective_lr,
    }


def _beside_the_threshold() -> dict[str, object]:
    """Runs a little above and below the threshold of convergence: what was predicted and what happened."""
    rows = []
    for power in POWERS:
        for depth in DEPTHS:
            threshold = Case(LARGE_LABELS[-1], SMALL_LABEL / MUCH, power, depth).plan().threshold
            spread = BESIDE ** (1.0 / (2.0 - 2.0 / depth))
            for eps1 in (threshold * spread, threshold / spread):
                plan = Case(LARGE_LABELS[-1], eps1, power, depth).plan()
                run = run_two_point(
                    plan.targets, plan.start, plan.lr_end_to_end, depth=depth, power=power, max_steps=10_000
                )
                rows.append((power, depth, int(plan.converges), int(run.steps is not None), int(run.diverged)))
    names = ("beside_power", "beside_depth", "beside_predicted", "beside_converged", "beside_diverged")
    return {name: ("trial", list(column)) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _trajectories(y1: float, eps1: float) -> dict[str, object]:
    """Plain descent (depth 1) and the rule at every depth: weights over logarithmically spaced updates, and rates."""
    plans = {depth: Case(y1, eps1, POWERS[0], depth).plan() for depth in DEPTHS}
    plain = NEAR_LARGEST * plans[DEPTHS[0]].lr_gd
    last = 2 * fewest_steps(SMALL_LABEL, plain, POWERS[0])
    steps = np.unique(np.concatenate([np.arange(40), np.geomspace(40, last, 110).astype(np.int64)]))
    lrs = {1: plain, **{depth: plan.lr_end_to_end for depth, plan in plans.items()}}
    start = plans[DEPTHS[0]].start
    paths = [_path((y1, SMALL_LABEL), start, lr, depth, steps) for depth, lr in lrs.items()]
    rates = [_rates(path, lr, depth) for path, (depth, lr) in zip(paths, lrs.items(), strict=True)]
    return {
        "arm_depth": ("arm", list(lrs)),
        "arm_lr": ("arm", list(lrs.values())),
        "update": ("point", steps),
        "path": (("arm", "point", "coordinate"), np.stack(paths)),
        "rate": (("arm", "point", "entry"), np.stack(rates)),
    }


def _path(targets: tuple[float, float], start: tuple[float, float], lr: float, depth: int, steps: np.ndarray) -> Array:
    """The weights at those steps, shape (steps, 2); NaN once both labels were fitted."""
    weights = np.full((len(steps), 2), np.nan)
    weights[0] = weight = start
    for i, count in enumerate(np.diff(steps)):
        run = run_two_point(targets, weight, lr, depth=depth, tolerance=TOLERANCE, max_steps=int(count))
        weights[i + 1] = weight = run.weight
        if run.steps is not None:
            break
    return weights


def _rates(weights: Sequence[tuple[float, float]] | Array, lr: float, depth: int) -> Array:
    """Learning rate times the preconditioner's entries (1, 1), (1, 2), (2, 2), shape (steps, 3)."""
    array = np.asarray(weights, dtype=np.float64)
    known = np.isfinite(array).all(axis=1)
    rows = torch.from_numpy(array[known])[:, None, :]
    columns = [end_to_end_update(rows, torch.eye(2, dtype=torch.float64)[i].expand_as(rows), depth) for i in (0, 1)]
    rates = np.full((len(array), 3), np.nan)
    rates[known] = lr * torch.stack([columns[0][:, 0, 0], columns[0][:, 0, 1], columns[1][:, 0, 1]], dim=1).numpy()
    return rates
