r"""Section 7 and appendix B: two points on which depth is faster by any factor.

The data are ([1, 0], y_1) and ([0, 1], y_2) with y_1 >> y_2 > 0 and the loss (1/p) sum_i (w_i - y_i)^p, p >= 4 even.
The coordinates do not meet: gradient descent from near 0 moves each as Delta <- Delta (1 - eta Delta^{p-2}), so that
the large one forces eta_GD < 2 / y_1^{p-2}, at which the small one crawls.

The end-to-end rule at depth N, started at (eps_1, eps_2) with eps_2 / eps_1 = y_2 / y_1, can take

    eta = 1 / (N eps_1^{2-2/N} y_1^{p-2}):

its first step brings w_1 to y_1, and w_2 to y_2 (N-1)/N; from then on ||w|| = y_1, and w_2 does gradient descent with
eta_OP = eta y_1^{2-2/N}. This is larger than any step size of gradient descent by at least

    eta_OP / eta_GD > (y_1 / eps_1)^{2-2/N} / (2 N).

**The true condition.** After the first step w_2 is y_2 / N away, and descent converges from there if and only if
eta_OP (y_2 / N)^{p-2} < 2. For the paper's N = 2, p = 4: ratio y_1 / (4 eps_1), and convergence for

    eps_1 y_1 > y_2^2 / 16.

The paper's test eta_OP < 2 / y_2^2 asks for y_2^2 / 4, and its assumption eps_1 y_1 >> 1 is another one; both suffice.
All of this is to first order in eps_1 / y_1 and (y_2 / y_1)^2. At p = 2 gradient descent does not crawl: left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import NamedTuple

from overdepth._checks import check_depth, check_positive, check_size


@dataclass(frozen=True)
class TwoPointPlan:
    """Learning rates for the two points, and what they lead to, to first order.

    Attributes:
        targets: (y_1, y_2).
        start: (eps_1, eps_2), eps_2 = eps_1 y_2 / y_1.
        depth: N.
        power: p.
        lr_gd: 2 / y_1^{p-2}; gradient descent from near 0 needs less.
        lr_end_to_end: eta, the learning rate of the end-to-end rule.
        first_step: Where its first step leads, (w_1, w_2).
        effective_lr: eta_OP, the step size of w_2 from then on.
        ratio: eta_OP / lr_gd; the acceleration is larger.
        threshold: The smallest eps_1 with which w_2 converges.
        paper_threshold: The smallest eps_1 by the paper's test eta_OP < 2 / y_2^{p-2}.
    """

    targets: tuple[float, float]
    start: tuple[float, float]
    depth: float
    power: int
    lr_gd: float
    lr_end_to_end: float
    first_step: tuple[float, float]
    effective_lr: float
    ratio: float
    threshold: float
    paper_threshold: float

    @property
    def converges(self) -> bool:
        """Whether w_2 converges: eps_1 is above the threshold."""
        return self.start[0] > self.threshold


class TwoPointRun(NamedTuple):
    """A run on the two points.

    Attributes:
        steps: Steps until both coordinates were within the tolerance, or None.
        second_steps: Steps until w_2, the one that crawls, first was, or None.
        diverged: Whether an error grew beyond a thousand times what it was at first.
        weight: The last weight.
        path: The first weights, the start included.
    """

    steps: int | None
    second_steps: int | None
    diverged: bool
    weight: tuple[float, float]
    path: list[tuple[float, float]]


def plan_two_point(y1: float, y2: float, eps1: float, *, depth: float = 2, power: int = 4) -> TwoPointPlan:
    """Appendix B: the learning rates of gradient descent and of the end-to-end rule, and the acceleration.

    Args:
        y1: The large label.
        y2: The small label, 0 < y2 < y1.
        eps1: w_1 at the start, 0 < eps1 < y1.
        depth: N > 1, any real number; the paper has 2.
        power: p, an even integer >= 4; the paper has 4.

    Returns:
        The plan; first order in eps1 / y1 and (y2 / y1)^2.

    Raises:
        ValueError: If a number is not as above.

    Example:
        >>> from overdepth.theory import plan_two_point
        >>> plan = plan_two_point(300.0, 1.0, 0.05)
        >>> round(plan.ratio), plan.converges, round(plan.threshold * 300, 6)  # y2^2 / 16
        (1500, True, 0.0625)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Section 7 and Appendix B (N = 2, p = 4; other N and p, and
        the threshold, by the same argument).
    """
    _check_problem(y1, y2, power)
    check_positive(eps1, "eps1")
    check_depth(depth, allow_real=True)
    if not y2 < y1:
        raise ValueError(f"y2 is {y2!r} and y1 is {y1!r}, expected 0 < y2 < y1; exchange the two points.")
    if not eps1 < y1:
        raise ValueError(f"eps1 is {eps1!r} and y1 is {y1!r}, expected a start near 0, far below y1.")
    if not 1 < depth < math.inf:
        raise ValueError(f"depth is {depth!r}, expected a finite number > 1; depth 1 is gradient descent itself.")
    growth = 2.0 - 2.0 / depth  # of the rule, ||w||^growth
    lr_gd = 2.0 / y1 ** (power - 2)
    lr = 1.0 / (depth * eps1**growth * y1 ** (power - 2))
    effective = lr * y1**growth
    first_2 = y2 ** (power - 1) / (depth * y1 ** (power - 2)) + y2 * (depth - 1.0) / depth
    return TwoPointPlan(
        targets=(y1, y2),
        start=(eps1, eps1 * y2 / y1),
        depth=depth,
        power=power,
        lr_gd=lr_gd,
        lr_end_to_end=lr,
        first_step=(y1, first_2),
        effective_lr=effective,
        ratio=effective / lr_gd,
        threshold=_smallest_start(y1, y2 / depth, depth, power),
        paper_threshold=_smallest_start(y1, y2, depth, power),
    )


def run_two_point(
    targets: Sequence[float],
    start: Sequence[float],
    lr: float,
    *,
    depth: float = 1,
    power: int = 4,
    tolerance: float = 0.05,
    max_steps: int = 1_000_000,
    record: int = 0,
) -> TwoPointRun:
    """Runs the end-to-end rule (depth 1: gradient descent) on the two points until both labels are fitted.

    Args:
        targets: (y_1, y_2).
        start: (w_1, w_2) at the start.
        lr: Learning rate.
        depth: N, any real number >= 1, finite.
        power: p, an even integer >= 4.
        tolerance: How close both coordinates have to come.
        max_steps: Where to stop.
        record: How many steps to keep in ``path``.

    Raises:
        ValueError: If a number is not as above.

    Example:
        >>> from overdepth.theory import plan_two_point, run_two_point
        >>> plan = plan_two_point(100.0, 1.0, 0.05)
        >>> run = run_two_point(plan.targets, plan.start, plan.lr_end_to_end, depth=2)
        >>> run.steps < 2500  # gradient descent takes about 500 times as many
        True

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Section 7 and Claim 2.
    """
    y1, y2 = targets
    _check_problem(y1, y2, power)
    check_positive(lr, "lr")
    check_positive(tolerance, "tolerance")
    check_size(max_steps, "max_steps")
    check_depth(depth, allow_real=True)
    if not math.isfinite(depth):
        raise ValueError(f"depth is {depth!r}, expected a finite number: infinite depth would never turn the weight.")
    w1, w2 = map(float, start)
    bound = 1e3 * max(abs(w1 - y1), abs(w2 - y2), y1, y2)
    path = [(w1, w2)]
    order, growth = power - 1, 2.0 - 2.0 / depth
    second: int | None = None
    for step in range(max_steps + 1):
        e1, e2 = w1 - y1, w2 - y2
        if abs(e2) <= tolerance:
            second = step if second is None else second
            if abs(e1) <= tolerance:
                return TwoPointRun(step, second, False, (w1, w2), path)
        if not (abs(e1) <= bound and abs(e2) <= bound):
            return TwoPointRun(None, second, True, (w1, w2), path)
        if step == max_steps:
            break
        try:
            g1, g2 = e1**order, e2**order
        except OverflowError:
            return TwoPointRun(None, second, True, (w1, w2), path)
        if depth != 1:  # plain floats: this runs for millions of steps
            square = w1 * w1 + w2 * w2
            scale = square ** (growth / 2.0)
            along = (depth - 1.0) * (g1 * w1 + g2 * w2) / square if square > 0 else 0.0
            g1, g2 = scale * (g1 + along * w1), scale * (g2 + along * w2)
        w1, w2 = w1 - lr * g1, w2 - lr * g2
        if step < record:
            path.append((w1, w2))
    return TwoPointRun(None, second, False, (w1, w2), path)


def _smallest_start(y1: float, error: float, depth: float, power: int) -> float:
    """The eps_1 at which eta_OP error^{p-2} = 2, with eta_OP = (y_1 / eps_1)^{2-2/N} / (N y_1^{p-2})."""
    return float(y1 * ((error / y1) ** (power - 2) / (2.0 * depth)) ** (1.0 / (2.0 - 2.0 / depth)))


def _check_problem(y1: float, y2: float, power: object) -> None:
    check_positive(y1, "y1")
    check_positive(y2, "y2")
    if isinstance(power, bool) or not isinstance(power, Integral) or int(power) < 4 or int(power) % 2 != 0:
        raise ValueError(
            f"power is {power!r}, expected an even integer >= 4; with the square loss both coordinates of gradient "
            f"descent are equally fast, and there is nothing to accelerate."
        )
