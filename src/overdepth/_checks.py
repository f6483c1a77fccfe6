"""Checks of arguments that every floor shares: one sentence, what came, what was expected."""

from __future__ import annotations

import contextlib
import math
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
    if not isinstance(depth, bool) and isinstance(depth, kind):
        with contextlib.suppress(OverflowError):  # an integer beyond all floats is no depth either
            if float(depth) >= 1:  # NaN is not
                return
    wanted = "a real number >= 1 or math.inf" if allow_real else "an integer >= 1"
    raise ValueError(f"{qualified_name} is {depth!r}, expected {wanted}; depth 1 is the plain model.")


def check_size(size: object, qualified_name: str, *, remedy: str = "") -> int:
    """Returns ``size`` if it is an integer >= 1.

    Raises:
        ValueError: If it is not.
    """
    if not isinstance(size, bool) and isinstance(size, Integral) and int(size) >= 1:
        return int(size)
    raise ValueError(f"{qualified_name} is {size!r}, expected an integer >= 1{remedy}.")


def check_positive(number: object, qualified_name: str) -> None:
    """Checks that a number is real, finite and above 0.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(number, bool) or not isinstance(number, Real) or not 0 < float(number) < math.inf:
        raise ValueError(f"{qualified_name} is {number!r}, expected a finite number > 0.")


def check_nonnegative(number: object, qualified_name: str) -> None:
    """Checks that a number is real, finite and at least 0.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(number, bool) or not isinstance(number, Real) or not 0 <= float(number) < math.inf:
        raise ValueError(f"{qualified_name} is {number!r}, expected a finite number >= 0.")


def check_rank_rtol(rank_rtol: float | None) -> None:
    """Checks a rank tolerance.

    Raises:
        ValueError: If it is neither None nor in [0, 1).
    """
    if rank_rtol is not None and not 0 <= rank_rtol < 1:
        raise ValueError(f"rank_rtol is {rank_rtol!r}, expected a number in [0, 1), or None for the default.")


def check_choice(value: object, qualified_name: str, allowed: Sequence[object]) -> None:
    """Checks that a word is one of those that are known.

    Raises:
        ValueError: If it is not.
    """
    if value not in allowed:
        raise ValueError(f"{qualified_name} is {value!r}, expected one of {', '.join(map(str, allowed))}.")


def check_dtype(dtype: torch.dtype, name: str) -> None:
    """Checks that ``dtype`` is a real floating-point type.

    Raises:
        ValueError: If it is not.
    """
    if not dtype.is_floating_point:
        raise ValueError(f"{name} has dtype {dtype}, expected a real floating-point type such as torch.float32.")


def check_matrix(tensor: object, name: str) -> None:
    """Checks that ``tensor`` is a floating-point matrix (or a batch of them), not an empty one.

    Raises:
        TypeError: If it is no tensor.
        ValueError: If it is not.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}, expected a torch.Tensor; use torch.as_tensor({name}).")
    if tensor.ndim >= 2 and 0 in tensor.shape[-2:]:
        raise ValueError(f"{name} has shape {shape(tensor)}, expected at least one row and one column.")
    if tensor.ndim < 2:
        raise ValueError(
            f"{name} has shape {shape(tensor)}, expected (..., out, in); give a vector as one row, {name}.unsqueeze(0)."
        )
    check_dtype(tensor.dtype, name)


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
        batches = zip(reversed(lower.shape[:-2]), reversed(upper.shape[:-2]), strict=False)
        if any(a != b and 1 not in (a, b) for a, b in batches):
            raise ValueError(
                f"factors[{j + 1}] of shape {shape(upper)} and factors[{j}] of shape {shape(lower)} have leading "
                f"(batch) dimensions that do not broadcast."
            )


def wide_factors(factors: Sequence[Tensor]) -> list[Tensor]:
    """The factors in float64, checked to be finite single matrices that chain.

    Raises:
        ValueError: If they are not.
    """
    check_factors(factors)
    for j, factor in enumerate(factors):
        if factor.ndim != 2:
            raise ValueError(f"factors[{j}] has shape {shape(factor)}, expected a single matrix, no batch.")
        if not bool(torch.isfinite(factor).all()):
            raise ValueError(f"factors[{j}] of shape {shape(factor)} has non-finite entries.")
    return [f.detach().double() for f in factors]


def all_finite(tensor: Tensor) -> bool:
    """Whether every entry is finite, without a temporary of the tensor's size."""
    return bool(torch.isfinite(torch.stack(tensor.aminmax())).all())


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a part of one that lives on several processes."""
    return any(cls.__name__ in ("DTensor", "ShardedTensor", "FlatParameter") for cls in type(tensor).__mro__)


def rounding(dtype: torch.dtype) -> float:
    """The machine epsilon by which rank is told: of float32 and below that of float32.

    Lower precision is taken at its word: what is small beside its rounding still counts.
    """
    return min(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps)


def with_float64(tensor: Tensor) -> Tensor:
    """The tensor, on the CPU if its device has no float64."""
    return tensor.cpu() if tensor.device.type == "mps" else tensor


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which elementary mathematics runs: at least float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def shape(tensor: Tensor) -> str:
    """``(2, 3)`` instead of ``torch.Size([2, 3])``, for messages."""
    return str(tuple(tensor.shape))
