"""Appendix B and section 7: the plan's first-order predictions against runs on the two points."""

from __future__ import annotations

import math

import pytest
import torch

import overdepth as od
from overdepth.theory import TwoPointPlan, TwoPointRun, plan_two_point, run_two_point


def run_of(
    y1: float, eps1: float, *, y2: float = 1.0, depth: float = 2, power: int = 4, max_steps: int = 1_000_000
) -> tuple[TwoPointPlan, TwoPointRun]:
    plan = plan_two_point(y1, y2, eps1, depth=depth, power=power)
    found = run_two_point(
        plan.targets, plan.start, plan.lr_end_to_end, depth=depth, power=power, max_steps=max_steps, record=1
    )
    return plan, found


def test_the_papers_formulas() -> None:
    plan = plan_two_point(300.0, 2.0, 0.05)
    assert plan.lr_gd == pytest.approx(2 / 300**2)
    assert plan.lr_end_to_end == pytest.approx(1 / (2 * 0.05 * 300**2))
    assert plan.start == pytest.approx((0.05, 0.05 * 2 / 300))
    assert plan.first_step == pytest.approx((300.0, 2**3 / (2 * 300**2) + plan.start[1] * 300 / (2 * 0.05)))
    assert plan.effective_lr == pytest.approx(1 / (2 * 0.05 * 300))
    assert plan.ratio == pytest.approx(300 / (4 * 0.05))
    assert plan.threshold * 300 == pytest.approx(2**2 / 16)
    assert plan.paper_threshold * 300 == pytest.approx(2**2 / 4)


@pytest.mark.parametrize(("y1", "eps1"), [(1000.0, 0.05), (300.0, 0.05), (100.0, 0.5)])
def test_the_first_step_and_the_effective_rate(y1: float, eps1: float) -> None:
    plan, found = run_of(y1, eps1, max_steps=1)
    within = 3 * eps1 / y1 + 2 / y1**2  # the first order that was dropped: w_1 comes to y1 - 2 eps1
    assert found.path[1][0] == pytest.approx(plan.first_step[0], rel=within)
    assert found.path[1][0] == pytest.approx(y1 - 2 * eps1, rel=within / 10)
    assert found.path[1][1] == pytest.approx(plan.first_step[1], rel=2 * within)
    weight = torch.tensor([found.path[1]], dtype=torch.float64)
    grad = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    update = plan.lr_end_to_end * od.end_to_end_update(weight, grad, 2)
    assert float(update[0, 1]) == pytest.approx(plan.effective_lr, rel=within)


def test_the_run_is_the_rule() -> None:
    for depth, power in ((1, 4), (2, 4), (3, 6), (2.5, 4)):
        weight = torch.tensor([[0.5, 0.2]], dtype=torch.float64)
        targets = torch.tensor([[1.0, 0.6]], dtype=torch.float64)
        found = run_two_point(
            (1.0, 0.6), (0.5, 0.2), 0.1, depth=depth, power=power, max_steps=30, record=30, tolerance=1e-9
        )
        for step in range(31):
            assert found.path[step] == pytest.approx(tuple(weight[0].tolist()), rel=1e-12)
            weight = weight - 0.1 * od.end_to_end_update(weight, (weight - targets) ** (power - 1), depth)
        assert found.steps is None
        assert not found.diverged


@pytest.mark.parametrize(("y1", "eps1"), [(100.0, 0.05), (300.0, 0.05), (100.0, 0.01)])
def test_the_acceleration(y1: float, eps1: float) -> None:
    """Steps of gradient descent from w_2 = 0 are (1/(2 lr)) (1/tol^2 - 1/y2^2), to first order."""
    plan, found = run_of(y1, eps1)
    assert found.steps is not None
    assert plan.converges
    slow = (1 / (2 * 0.999 * plan.lr_gd)) * (1 / 0.05**2 - 1)
    assert slow / found.steps >= plan.ratio


def test_gradient_descent_up_to_its_largest_rate() -> None:
    plan = plan_two_point(20.0, 1.0, 0.05)
    assert run_two_point(plan.targets, plan.start, 0.99 * plan.lr_gd).steps is not None
    assert run_two_point(plan.targets, plan.start, 1.02 * plan.lr_gd).diverged
    accelerated = run_two_point(plan.targets, plan.start, plan.lr_end_to_end, depth=2)
    slow = run_two_point(plan.targets, plan.start, 0.999 * plan.lr_gd).steps
    assert accelerated.steps is not None
    assert slow is not None
    assert slow / accelerated.steps > plan.ratio


@pytest.mark.parametrize("y2", [1.0, 2.0])
def test_the_sharp_threshold(y2: float) -> None:
    """eps1 y1 > y2^2 / 16: beside it .07 converges and .06 diverges; the paper's condition is not necessary."""
    above, good = run_of(100.0, 0.07 * y2**2 / 100, y2=y2)
    below, bad = run_of(100.0, 0.06 * y2**2 / 100, y2=y2)
    assert above.converges
    assert good.steps is not None
    assert not below.converges
    assert bad.diverged
    assert above.start[0] < above.paper_threshold


@pytest.mark.parametrize(("depth", "power"), [(2, 6), (3, 4), (4, 4), (1.5, 4), (3, 6)])
def test_the_threshold_at_other_depths_and_powers(depth: float, power: int) -> None:
    y1 = 1000.0
    threshold = plan_two_point(y1, 1.0, 1.0, depth=depth, power=power).threshold
    spread = 1.12 ** (1 / (2 - 2 / depth))  # 12% in the effective rate
    above, good = run_of(y1, threshold * spread, depth=depth, power=power, max_steps=3_000)
    below, bad = run_of(y1, threshold / spread, depth=depth, power=power, max_steps=3_000)
    assert not good.diverged
    assert bad.diverged
    assert above.converges
    assert not below.converges
    _, moved = run_of(y1, 10 * threshold, depth=depth, power=power, max_steps=1)
    expected = above.first_step
    assert moved.path[1] == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_the_iterations_of_the_spec() -> None:
    """Until w_2 is within .05; gradient descent at .999 of its largest rate."""
    plan, fast = run_of(300.0, 0.05)
    assert fast.second_steps == 5935
    slow = run_two_point(plan.targets, plan.start, 0.999 * plan.lr_gd, max_steps=10_000_000)
    assert slow.second_steps is not None
    assert slow.second_steps == pytest.approx(8_986_475, rel=1e-5)
    assert slow.second_steps / fast.second_steps > plan.ratio == pytest.approx(1500)


def test_divergence_and_overflow() -> None:
    assert run_two_point((100.0, 1.0), (0.1, 0.1), 1.0, depth=3).diverged
    assert run_two_point((1e9, 1.0), (0.1, 0.1), 1.0, power=100).diverged
    zero = run_two_point((2.0, 1.0), (0.0, 0.0), 0.1, depth=2, max_steps=10)  # the rule does not leave 0
    assert zero == (None, None, False, (0.0, 0.0), [(0.0, 0.0)])
    assert run_two_point((2.0, 1.0), (2.0, 1.0), 0.1).steps == 0


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"y2 is 5.0 and y1 is 2.0, expected 0 < y2 < y1"):
        plan_two_point(2.0, 5.0, 0.1)
    with pytest.raises(ValueError, match=r"eps1 is 3.0 and y1 is 2.0"):
        plan_two_point(2.0, 1.0, 3.0)
    with pytest.raises(ValueError, match=r"y2 is -1"):
        plan_two_point(2.0, -1.0, 0.1)
    with pytest.raises(ValueError, match=r"eps1 is 0"):
        plan_two_point(2.0, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"depth is 1, expected a finite number > 1; depth 1 is gradient descent"):
        plan_two_point(2.0, 1.0, 0.1, depth=1)
    with pytest.raises(ValueError, match=r"depth is inf"):
        plan_two_point(2.0, 1.0, 0.1, depth=math.inf)
    with pytest.raises(ValueError, match=r"depth is inf"):
        run_two_point((2.0, 1.0), (0.1, 0.1), 0.1, depth=math.inf)
    for power in (2, 3, 5, 4.0, True):
        with pytest.raises(ValueError, match=r"expected an even integer >= 4"):
            plan_two_point(2.0, 1.0, 0.1, power=power)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tolerance is 0"):
        run_two_point((2.0, 1.0), (0.1, 0.1), 0.1, tolerance=0.0)
    with pytest.raises(ValueError, match=r"max_steps is 0"):
        run_two_point((2.0, 1.0), (0.1, 0.1), 0.1, max_steps=0)
