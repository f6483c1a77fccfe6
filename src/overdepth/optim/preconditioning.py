"""The end-to-end rule on a group: batches of equal shapes, the state of ``tracked``, errors with names."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from overdepth._checks import all_finite
from overdepth.optim.checks import equal_shapes, parameter_name
from overdepth.optim.rules import precondition
from overdepth.optim.tracking import tracked_update


def preconditioned(
    params: list[Tensor],
    grads: list[Tensor],
    group: dict[str, Any],
    states: list[dict[str, Any]] | None = None,
) -> list[Tensor]:
    """The rule on every gradient; small matrices of equal shape together.

    Args:
        params: Parameters of the group.
        grads: Their gradients.
        group: Depth, method and groups.
        states: Of the parameters, where the method ``tracked`` keeps its bases.

    Raises:
        RuntimeError: If a decomposition fails.
    """
    steps: list[Tensor] = list(grads)
    for indices in equal_shapes(((p.shape, p.dtype, p.device), p.numel()) for p in params):
        first, groups = params[indices[0]], group["groups"]
        many = len(indices) > 1 or groups > 1
        weight = torch.stack([params[i] for i in indices]) if many else first
        grad = torch.stack([grads[i] for i in indices]) if many else grads[indices[0]]
        leading = (len(indices), groups) if many else ()
        shape = (*leading, first.shape[0] // groups, -1)
        weight, grad = weight.reshape(shape), grad.reshape(shape)
        try:
            if states is None:
                found = precondition(weight, grad, group["depth"], group["method"])
            elif min(weight.shape[-2:]) == 1:
                found = precondition(weight, grad, group["depth"])
            else:
                found = _tracked(weight, grad, group["depth"], [states[i] for i in indices])
        except RuntimeError as error:  # of the decomposition, which has no names
            raise RuntimeError(_explain([params[i] for i in indices], group, error)) from error
        for i, step in zip(indices, found.reshape(len(indices), *first.shape).unbind(0), strict=True):
            steps[i] = step
    return steps


def _tracked(weight: Tensor, grad: Tensor, depth: float, states: list[dict[str, Any]]) -> Tensor:
    """The rule in the bases that the states keep, which it brings up to date."""
    smaller = min(weight.shape[-2:])
    basis = None
    if all("basis" in state and state["basis"].shape[-1] == smaller for state in states):
        bases = [state["basis"].to(weight.device, torch.float32) for state in states]
        basis = torch.stack(bases).reshape(*weight.shape[:-2], smaller, smaller)
    found = tracked_update(weight.float(), grad.float(), depth, basis)
    for i, state in enumerate(states):
        state["basis"] = found.basis.reshape(len(states), -1, smaller, smaller)[i].clone()
        state["error"] = found.error.reshape(len(states), -1)[i].amax()
    return found.update.to(grad.dtype)


def _explain(params: list[Tensor], group: dict[str, Any], error: RuntimeError) -> str:
    """Which parameter a decomposition failed of."""
    known = {id(p): parameter_name(group, index) for index, p in enumerate(group["params"])}
    broken = [known[id(p)] for p in params if not all_finite(p)]
    if broken:
        return f"{', '.join(broken)} has non-finite entries, where the rule has no value; lower the learning rate."
    return f"the rule failed on {', '.join(known[id(p)] for p in params)}: {error}"
