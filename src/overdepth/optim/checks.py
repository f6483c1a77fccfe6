"""What the optimizers check of parameters at construction, and of gradients at a step."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from overdepth._checks import all_finite, check_depth, check_size, is_sharded, with_float64
from overdepth.rule import default_rank_rtol, without_noise

_SMALL = 65536  # entries up to which matrices of equal shape are computed together


def parameter_name(group: dict[str, Any], index: int) -> str:
    """The name of a parameter if the group has names, else what it looks like."""
    names: Sequence[str] | None = group.get("param_names")
    if names is not None:
        return repr(names[index])
    return f"parameter {index} of shape {tuple(group['params'][index].shape)}"


def check_group(group: dict[str, Any], *, allow_real: bool) -> None:
    """Checks depth, groups and parameters of a group.

    Raises:
        TypeError: If a parameter is no plain dense tensor.
        ValueError: If it cannot be preconditioned: not of a real floating-point type, a vector, not finite, or its
            rows do not divide into the groups.
    """
    check_depth(group["depth"], allow_real=allow_real)
    check_size(group["groups"], "groups")
    if group["depth"] == 1:
        return
    for index, p in enumerate(group["params"]):
        name = parameter_name(group, index)
        if is_sharded(p):
            raise TypeError(
                f"{name} is a sharded {type(p).__name__}, and the rule needs whole matrices; give it a depth of 1, or "
                f"train it unsharded."
            )
        if p.layout != torch.strided:
            raise TypeError(f"{name} is sparse ({p.layout}), expected a dense tensor.")
        if not p.dtype.is_floating_point:
            raise ValueError(f"{name} has dtype {p.dtype}, expected a real floating-point type.")
        if p.ndim < 2 or p.numel() == 0:
            raise ValueError(
                f"{name} is no matrix: give biases and other vectors a group of depth 1 "
                f"(overdepth.optim.param_groups(model) does), or a weight vector as one row, (1, d)."
            )
        if p.shape[0] % group["groups"]:
            raise ValueError(f"{name} has {p.shape[0]} rows, which do not divide into groups={group['groups']}.")
        if not p.is_meta and not all_finite(p.detach()):
            raise ValueError(f"{name} has non-finite entries; look where the first NaN or infinity arises.")


def check_base(base: object, refused: dict[type[Optimizer], str]) -> None:
    """Checks that ``base`` is an optimizer class, and none of those that are refused for a reason.

    Raises:
        TypeError: If it is no optimizer class.
        ValueError: If it is refused.
    """
    if not isinstance(base, type) or not issubclass(base, Optimizer):
        raise TypeError(f"base is {base!r}, expected an optimizer class such as torch.optim.AdamW.")
    for cls, why in refused.items():
        if issubclass(base, cls):
            raise ValueError(f"base is {base.__name__}, which {why}")


def with_gradients(group: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The parameters of a group that have a gradient, with it.

    Raises:
        RuntimeError: If a gradient is sparse or complex.
    """
    held = []
    for index, p in enumerate(group["params"]):
        if p.grad is not None:
            check_gradient(p.grad, group, index)
            held.append((p, p.grad))
    return held


def equal_shapes(keys: Iterable[tuple[Hashable, int]]) -> list[list[int]]:
    """Indices of small matrices that are worth computing in one batch; large ones each by itself.

    Args:
        keys: What has to be equal, and the number of entries, of each.
    """
    together: dict[Hashable, list[int]] = defaultdict(list)
    for i, (key, size) in enumerate(keys):
        together[key, i if size > _SMALL else -1].append(i)
    return list(together.values())


def check_gradient(grad: Tensor, group: dict[str, Any], index: int) -> None:
    """Checks that a gradient is dense and real.

    Raises:
        RuntimeError: If it is not, as torch's own optimizers do.
    """
    what = "sparse" if grad.layout != torch.strided else "complex" if grad.is_complex() else None
    if what is not None:
        name = parameter_name(group, index)
        raise RuntimeError(f"the gradient of {name} is {what}; this optimizer needs dense, real gradients.")


def warn_user(message: str) -> None:
    """Warns at the first line that is neither ours nor torch's."""
    folders = Path(__file__).parent.parent, Path(torch.__file__).parent
    inside = tuple(f"{folder}{os.sep}" for folder in folders)
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(inside):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def as_matrices(tensor: Tensor, groups: int) -> Tensor:
    """The matrix of each group, shape (groups, k, d): the first axis against all others."""
    return tensor.reshape(groups, tensor.shape[0] // groups, -1)


def null_directions(weight: Tensor) -> int:
    """How many pairs of singular vectors of (g, k, d) matrices are null on both sides: no rule moves them."""
    k, d = weight.shape[-2:]
    wide = with_float64(weight.detach()).double()
    if weight.dtype == torch.float64:
        values = torch.linalg.svdvals(wide)
    else:
        values = torch.linalg.eigvalsh(wide @ wide.mT if k <= d else wide.mT @ wide).clamp_min(0).sqrt()
    rank = (without_noise(values, default_rank_rtol(weight)) > 0).sum(-1)
    return int(((k - rank) * (d - rank)).sum())


def check_movable(group: dict[str, Any]) -> None:
    """Refuses what infinite depth or a method cannot do, and warns of directions that cannot move.

    Raises:
        ValueError: If it is refused.
    """
    for index, p in enumerate(group["params"]):
        name = parameter_name(group, index)
        matrices = as_matrices(p, group["groups"])
        k, d = matrices.shape[-2:]
        if group["method"] == "single_output" and min(k, d) > 1:
            raise ValueError(f"method is 'single_output', but {name} is a matrix of {k} x {d}; use 'auto'.")
        if p.is_meta:
            continue
        zero, null = not bool(p.any()), null_directions(matrices)
        if math.isinf(group["depth"]) and not group["allow_frozen_directions"] and (k != d or null):
            raise ValueError(
                f"depth is infinite and {name} is not square of full rank, so that directions with one null side "
                f"cannot move; use a finite depth, or allow_frozen_directions=True."
            )
        if zero or null:
            what = "zero, which is" if zero else f"rank-deficient: {null} of its directions are null on both sides,"
            warn_user(
                f"{name} is {what} a fixed point of the rule at depth {group['depth']}; start it otherwise, or use "
                f"overdepth.optim.Factored with init='identity'."
            )
