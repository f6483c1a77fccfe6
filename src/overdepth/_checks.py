"""Checks of arguments that every floor shares: one sentence, what came, what was expected."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor


def check_depth(depth: object, *, qualified_name: str = "depth", allow_real: bool = False) -> None:
    """Checks that ``depth`` is an integer >= 1, or (``allow_real``) any real >= 1 or ``math.inf``.

    Raises:
        ValueError: If it is not.
    """
    kind = Real if allow_real else Integral
    if not isinstance(depth, bool) and isinstance(depth, kind) and float(depth) >= 1:  # NaN is not >= 1
        return
    wanted = "a real number >= 1 or math.inf" if allow_real else "an integer >= 1"
    raise ValueError(f"{qualified_name} is {depth!r}, expected {wanted}; depth 1 is the plain model.")


def check_matrix(tensor: Tensor, name: str) -> None:
    """Checks that ``tensor`` is a floating-point matrix (or a batch of them).

    Raises:
        ValueError: If it is not.
    """
    if tensor.ndim < 2:
        raise ValueError(
            f"{name} has shape {shape(tensor)}, expected (..., out, in); give a vector as one row, {name}.unsqueeze(0)."
        )
    if not tensor.is_floating_point():
        raise ValueError(
            f"{name} has dtype {tensor.dtype}, expected a real floating-point type; convert it with {name}.float()."
        )


def check_factors(factors: Sequence[Tensor]) -> None:
    """Checks that ``factors`` are matrices that chain in the library's order.

    Raises:
        ValueError: If the list is empty or two neighbours do not fit.
    """
    if len(factors) == 0:
        raise ValueError("factors is empty, expected at least one matrix.")
    for j, factor in enumerate(factors):
        check_matrix(factor, f"factors[{j}]")
    for j in range(len(factors) - 1):
        lower, upper = factors[j], factors[j + 1]
        if upper.shape[-1] != lower.shape[-2]:
            raise ValueError(
                f"factors[{j + 1}] of shape {shape(upper)} cannot act on the output of factors[{j}] of shape "
                f"{shape(lower)}; factors are listed in the order in which they act on the input, (out, in) each."
            )
        if upper.dtype != lower.dtype:
            raise ValueError(
                f"factors[{j + 1}] is {upper.dtype} and factors[{j}] is {lower.dtype}; convert them to one dtype."
            )


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which elementary mathematics runs: at least float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def shape(tensor: Tensor) -> str:
    """``(2, 3)`` instead of ``torch.Size([2, 3])``, for messages."""
    return str(tuple(tensor.shape))
