"""Certificates where rounding or a slip of the user's could make them false."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

import overdepth as od
from overdepth.theory import Certificate, certify, homogeneous_rate, scalar_rate

EYE = torch.eye(2, dtype=torch.float64)


def near(factors: Sequence[Tensor], **changes: Any) -> Certificate:
    """A certificate for half the squared distance to 0, or to another target."""
    target = changes.pop("target", torch.zeros(2, 2, dtype=torch.float64))
    gap = float((od.product(factors) - target).square().sum() / 2)
    return certify(factors, **{"strong_convexity": 1.0, "smoothness": 1.0, "gap": gap, "target": target, **changes})


def diagonal(*entries: float) -> Tensor:
    return torch.diag(torch.tensor(entries, dtype=torch.float64))


@pytest.mark.parametrize(
    "factors",
    [
        [1e3 * EYE, 1e-2 * EYE, diagonal(1e-2, 3e-2)],
        [10 * EYE, 1e-3 * EYE, diagonal(1e-3, 1.01e-3)],
        [diagonal(1e-3, 1.01e-3), 10 * EYE, 1e-3 * EYE],
    ],
)
def test_an_imbalance_between_small_factors_is_no_rounding_beside_a_large_one(factors: list[Tensor]) -> None:
    """One mode has two equal small factors: its transfer operator tends to 0, and nothing may be certified."""
    found = near(factors)
    assert found.alpha == 0
    assert "no multiple of the identity" in found.refused["homogeneous"]
    with pytest.raises(ValueError, match="no multiple of the identity"):
        homogeneous_rate(factors)


def test_homogeneous_chains_are_still_certified_beside_a_large_factor() -> None:
    factors = [1e3 * EYE, 2e-2 * EYE, 1e-2 * EYE]
    found = near(factors)
    exact = float(scalar_rate(torch.tensor([1e3, 2e-2, 1e-2]), margin=0.0))
    assert 0.99 * exact < found.alpha <= exact * (1 + 1e-12)


def exact_slope(weights: Sequence[float]) -> float:
    """p'(0) of a chain, that is prod over the others of w_j^2 - min w^2, in fractions."""
    squares = sorted(Fraction(w) ** 2 for w in weights)
    found = Fraction(1)
    for square in squares[1:]:
        found *= square - squares[0]
    return float(found)


@pytest.mark.parametrize(
    "weights",
    [
        [7945.011289912758, 1.6642663155649213, 1.6642663155649482],
        [3.0, 0.5341211418343554, 0.5341211428294237],
        [2.0, 1.0, 1.0 + 1e-15],
    ],
)
def test_the_exact_scalar_rate_is_exact_for_nearly_equal_numbers(weights: list[float]) -> None:
    rate = float(scalar_rate(torch.tensor(weights, dtype=torch.float64), margin=0.0))
    assert rate == pytest.approx(exact_slope(weights), rel=1e-9)
    chain = [torch.tensor([[w]], dtype=torch.float64) for w in weights]
    found = near(chain, target=torch.zeros(1, 1, dtype=torch.float64))
    assert found.alphas["scalar chain"] <= exact_slope(weights)


def test_a_gap_that_contradicts_the_target_is_refused() -> None:
    with pytest.raises(ValueError, match="gap is 1e-09, but a loss with strong convexity 1 is at least 1e-06 above"):
        near([1e-50 * EYE] * 2, target=1e-3 * EYE, gap=1e-9)
    near([EYE, EYE], target=2 * EYE, gap=1.0)
    near([EYE, EYE], target=2 * EYE, gap=1.0 - 1e-6)  # a loss in float32


@pytest.mark.parametrize(
    ("covariance", "expected"),
    [
        (torch.zeros(2, 2), "expected >= 0, not all 0"),
        (-EYE, "expected >= 0, not all 0"),
        (torch.full((2, 2), torch.nan), "not finite and symmetric"),
        (torch.tensor([[1.0, 5.0], [0.0, 1.0]]), "not finite and symmetric"),
        (1e6 * EYE, r"outside \[strong_convexity, smoothness\] = \[1, 1\]"),
        (torch.eye(3), r"covariance has shape \(3, 3\)"),
    ],
)
def test_a_covariance_that_cannot_be_the_losss_is_refused(covariance: Tensor, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        near([EYE, EYE], covariance=covariance)


@pytest.mark.parametrize("name", ["covariance", "target"])
def test_lists_are_no_tensors(name: str) -> None:
    arguments: dict[str, Any] = {"strong_convexity": 1.0, "smoothness": 1.0, "gap": 1.0, "target": EYE}
    with pytest.raises(TypeError, match=f"{name} is a list"):
        certify([EYE, EYE], **{**arguments, name: [[1.0, 0.0], [0.0, 1.0]]})


@pytest.mark.parametrize("factors", [[1e160 * EYE] * 2, [1e100 * EYE] * 3, [1e160 * EYE, 1e-160 * EYE]])
def test_an_operator_beyond_float64_is_refused(factors: list[Tensor]) -> None:
    with pytest.raises(ValueError, match="overflows float64"):
        od.transfer_operator(factors)
    assert od.transfer_operator([1e100 * EYE, 1e-100 * EYE]).max_eigenvalue() == pytest.approx(1e200)


@pytest.mark.parametrize("convexity", [3e-21, 1e-20, 1e-3, 1e3])
def test_the_adaptive_envelope_goes_on_at_its_last_rate(convexity: float) -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    found = certify([one], strong_convexity=convexity, smoothness=max(convexity, 1.0), gap=convexity, target=0 * one)
    times = torch.tensor([1.0, 59.0, 61.0, 80.0, 120.0, 500.0], dtype=torch.float64) / found.pl
    torch.testing.assert_close(found.adaptive_envelope(times), found.envelope(times), rtol=1e-9, atol=0.0)


def test_infinite_times_are_refused() -> None:
    with pytest.raises(ValueError, match="infinity"):
        near([EYE, EYE]).envelope(torch.tensor([1.0, torch.inf]))


def test_lower_bounds_stay_below_what_cancels_in_the_products() -> None:
    """W_2 W_1 and W_3 W_2 vanish but for rounding, which no bound may take for an eigenvalue."""
    a, b = 0.3, 0.7
    factors = [
        torch.tensor([[1e-30]], dtype=torch.float64),
        torch.tensor([[b / 3], [-a / 3]], dtype=torch.float64),
        torch.tensor([[a, b]], dtype=torch.float64),
    ]
    lower, upper = od.transfer_operator(factors).eigenvalue_bounds()
    exact = Fraction(a) * Fraction(b / 3) + Fraction(b) * Fraction(-a / 3)
    others = (Fraction(b / 3) ** 2 + Fraction(-a / 3) ** 2) * Fraction(1e-30) ** 2
    first, last = exact**2, others
    middle = (Fraction(a) ** 2 + Fraction(b) ** 2) * Fraction(1e-30) ** 2
    assert lower <= float(first + middle + last) <= upper
