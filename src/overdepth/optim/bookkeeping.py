"""What :class:`overdepth.optim.Factored` keeps straight: the base's groups, loaded states, weights others wrote to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from overdepth._checks import check_choice
from overdepth.chain import check_width, multiply
from overdepth.gemm import matmul
from overdepth.layouts import MatrixLayout, Start
from overdepth.optim.checks import check_base, check_group

OnChange = Literal["error", "split"]
ON_CHANGE: tuple[OnChange, ...] = get_args(OnChange)

OWN = ("depth", "width", "init", "scale", "groups", "on_change", "allow_rank_loss")  # options that are not the base's


def base_defaults(base: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the base with their defaults, as the base itself fills them in."""
    of_one = "Factored gives dense gradients of one evaluation."
    check_base(
        base,
        {
            torch.optim.LBFGS: f"evaluates the loss many times a step; {of_one}",
            torch.optim.SparseAdam: f"needs sparse gradients; {of_one}",
        },
    )
    made: Any = base
    defaults: dict[str, Any] = made([torch.zeros(1, 1)], **options).defaults
    return defaults


def group_for_base(group: Mapping[str, Any], made: Mapping[Tensor, list[Tensor]]) -> dict[str, Any]:
    """The group of the base: factors in the places of their weights."""
    held = [f for p in group["params"] for f in made.get(p, [p])]
    return {"params": held, **{k: v for k, v in group.items() if k not in ("params", "param_names", *OWN)}}


def check_options(group: dict[str, Any]) -> None:
    """Checks the options of a group that are ours.

    Raises:
        TypeError: If a parameter is sparse or sharded.
        ValueError: If an option is out of its range, or a parameter of depth above 1 is no matrix or not finite.
    """
    check_group(group, allow_real=False)
    check_width(group["width"], default=1)
    Start(group["init"], group["scale"]).check()
    check_choice(group["on_change"], "on_change", ON_CHANGE)


def layout_of(p: Tensor, group: dict[str, Any]) -> MatrixLayout:
    """How a weight of a group is a product."""
    return MatrixLayout(tuple(p.shape), group["depth"], group["width"], group["groups"])


def check_saved(state_dict: Mapping[str, Any]) -> None:
    """Checks that a state_dict has factors wherever it has a depth above 1.

    Raises:
        ValueError: If it was saved by another optimizer.
    """
    for group in state_dict["param_groups"]:
        if "depth" not in group:
            raise ValueError("the state_dict has no depths and no factors: it was not saved by Factored.")
        for key in group["params"]:
            if group["depth"] > 1 and "factors" not in state_dict["state"].get(key, {}):
                raise ValueError(f"the state_dict has no factors of parameter {key}, whose depth is {group['depth']}.")


def copy_options(source: Mapping[str, Any], target: dict[str, Any]) -> None:
    """Learning rates and the like, and what either side has added; never the parameters."""
    target.update({k: v for k, v in source.items() if k not in ("params", "param_names", *OWN)})


def fingerprint(p: Tensor) -> tuple[Any, ...]:
    """Changes whenever somebody writes other numbers to a tensor, through ``.data`` too; at times also without."""
    matrix = p.detach().reshape(p.shape[0], -1)
    rows, columns = matrix.sum(1, dtype=torch.float32), matrix.sum(0, dtype=torch.float32)
    weighted = [v @ torch.arange(1, len(v) + 1, dtype=v.dtype, device=v.device).sqrt() for v in (rows, columns)]
    return p.data_ptr(), p.dtype, tuple(map(repr, torch.stack(weighted).tolist()))


def is_product(p: Tensor, factors: Sequence[Tensor]) -> bool:
    """Whether a weight is the product of its factors to the rounding of either's type, and at most of float32's."""
    product = multiply(factors, matmul).reshape(p.shape)
    eps = max(torch.finfo(dtype).eps for dtype in (p.dtype, product.dtype, torch.float32))
    product = product.to(p.device, torch.float64 if p.dtype == torch.float64 else torch.float32)
    finite = product[product.isfinite()]
    tolerance = 32 * eps * float(finite.abs().max()) if finite.numel() else 0.0
    return torch.allclose(product, p.detach().to(product.dtype), rtol=0, atol=tolerance, equal_nan=True)
