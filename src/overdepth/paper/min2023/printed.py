"""The rates as the poster prints them, in the library's order of factors: to see that a wrong rate is found out.

docs/theory/errata.md has what is wrong with each and a counterexample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overdepth.theory.rates import eigenvalues
from overdepth.theory.scalar_chains import homogeneous_offsets


def printed_rate(bound: str, factors: Sequence[Tensor], margin: float) -> float:
    """The printed lower bound of lambda_min(T) of a family; NaN where the poster prints none that could be read.

    Args:
        bound: The name of the bound in :class:`overdepth.theory.Certificate`.
        factors: W_1, ..., W_N.
        margin: The lower bound of sigma_min(W_e).
    """
    depth = len(factors)
    if bound == "two layers":
        return _two_layers(factors, margin)
    if bound == "scalar chain":  # the exponent 2 - 2/N on N too
        return math.hypot(_cumulative(factors), (depth * margin) ** (2 - 2 / depth))
    if bound == "homogeneous":  # the factor N for all k and d
        return math.hypot(_cumulative(factors), depth * margin ** (2 - 2 / depth))
    return math.nan


def _cumulative(factors: Sequence[Tensor]) -> float:
    offsets = homogeneous_offsets([factor.double() for factor in factors])
    return float(offsets.sort().values[1:].prod())


def _two_layers(factors: Sequence[Tensor], margin: float) -> float:
    """-Delta_+ + sqrt((Delta_+ + Delta_-)^2 + 4 margin^2)."""
    lower, upper = factors
    (values,) = eigenvalues([lower.double(), upper.double()])
    spread = []
    for descending, n in ((values, upper.shape[0]), (-values.flip(0), lower.shape[1])):
        positive = torch.cat([descending, descending.new_zeros(n)]).clamp_min(0.0)
        spread.append(float(positive[0] - positive[n - 1]))
    plus, minus = spread
    return -plus + math.hypot(plus + minus, 2 * margin)
