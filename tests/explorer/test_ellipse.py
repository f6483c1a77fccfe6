"""The preconditioner's ellipses against Claim 1."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import overdepth as od
from overdepth.explorer.ellipse import CONTROLS, ellipse_of_first_output, multipliers, show, weight_of

DEFAULTS = {control.key: control.default for control in CONTROLS}


@pytest.mark.parametrize("sigma", [(1.4, 0.5), (0.5, 1.4), (1.0, 1.0)])
@pytest.mark.parametrize("depth", [1.0, 1.5, 2.0, 7.0])
def test_multipliers_are_the_rules(sigma: tuple[float, float], depth: float) -> None:
    weight = torch.diag(torch.tensor(sigma, dtype=torch.float64))
    directions = (((0, 0), 0), ((0, 1), 1), ((1, 0), 1), ((1, 1), 2))
    for (row, column), which in directions:
        grad = torch.zeros(2, 2, dtype=torch.float64)
        grad[row, column] = 1.0
        update = od.end_to_end_update(weight, grad, depth) / depth
        assert multipliers(sigma, depth)[which] == pytest.approx(float(update[row, column]), rel=1e-9)


def test_the_limits() -> None:
    assert multipliers((1.3, 0.4), 1) == pytest.approx((1.0, 1.0, 1.0))
    first, across, second = multipliers((1.3, 0.4), math.inf)
    assert (first, second) == pytest.approx((1.69, 0.16))
    assert across == pytest.approx((1.69 - 0.16) / math.log(1.69 / 0.16))  # the logarithmic mean


@pytest.mark.parametrize("depth", [1.0, 2.0, 5.0, math.inf])
def test_the_first_outputs_ellipse_has_the_right_singular_vectors_as_axes(depth: float) -> None:
    weight = weight_of((1.5, 0.4), 25, 40)
    points = ellipse_of_first_output(weight, depth)
    left, _, right = torch.linalg.svd(weight)
    first, across, second = multipliers((1.5, 0.4), depth)
    for axis, own in enumerate((first, second)):
        square = float(left[0, axis]) ** 2
        expected = square * own + (1 - square) * across
        assert np.abs(points @ right[axis].numpy()).max() == pytest.approx(expected, rel=2e-3)  # of 97 directions


def test_the_weight_has_these_singular_values() -> None:
    np.testing.assert_allclose(torch.linalg.svdvals(weight_of((1.5, 0.4), 25, 40)).numpy(), [1.5, 0.4])


@pytest.mark.parametrize(("inverse", "said"), [(1.0, "Depth **1**"), (0.5, "Depth **2**"), (0.0, "Depth **∞**")])
def test_the_view(inverse: float, said: str) -> None:
    shown = show({**DEFAULTS, "inverse_depth": inverse})
    assert said in shown.text
    assert len(shown.pictures) == 3


def test_the_picture_changes_with_the_depth_and_its_axes_do_not() -> None:
    one, other = (show({**DEFAULTS, "inverse_depth": inverse}).pictures[0].figure for inverse in (0.5, 0.2))
    assert not np.allclose(one.data[-1].y, other.data[-1].y)
    assert one.layout.xaxis.range == other.layout.xaxis.range
