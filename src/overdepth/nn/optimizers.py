"""Optimizers that were built before: factors take the places of weights in their groups, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overdepth._checks import check_choice, with_float64
from overdepth.nn.classes import factor_name
from overdepth.nn.factors import Factors

State = Literal["reset", "project", "error"]
STATES: tuple[State, ...] = get_args(State)


def as_list(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    """The optimizers as a list.

    Raises:
        TypeError: If one is no optimizer.
    """
    if optimizer is None:
        return []
    several: list[Any] = list(optimizer) if isinstance(optimizer, list | tuple) else [optimizer]
    for each in several:
        if not isinstance(each, Optimizer):
            raise TypeError(f"optimizer is {each!r}, expected a torch.optim.Optimizer or a list of them.")
    return several


def check_holds(optimizers: Sequence[Optimizer], weights: Mapping[str, nn.Parameter]) -> None:
    """Checks that the optimizers hold every weight that will be factored.

    Raises:
        ValueError: If one is in no group: its factors would never be trained.
    """
    if not optimizers:
        return
    held = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
    missing = [name for name, weight in weights.items() if id(weight) not in held]
    if missing:
        raise ValueError(
            f"optimizer holds no {', '.join(map(repr, missing))}, so that the factors would not be trained; hand over "
            f"every optimizer of the model, or leave these layers out by select=."
        )


Replacement = tuple[str, Sequence[tuple[str, nn.Parameter]]]  # the old name, and new names and parameters


def swap(optimizers: Iterable[Optimizer], replacements: Mapping[nn.Parameter, Replacement]) -> None:
    """Puts new parameters where the old ones were, group by group, and drops what was remembered of these.

    Where groups have names, a prefix that the optimizer knows beyond those given here is kept.
    """
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            names = group.get("param_names")
            params: list[nn.Parameter] = []
            new_names: list[str] = []
            for j, old in enumerate(group["params"]):
                known = "" if names is None else names[j]
                old_name, pairs = replacements.get(old, (known, [(known, old)]))
                prefix = known.removesuffix(old_name)
                params += [parameter for _, parameter in pairs]
                new_names += [prefix + name for name, _ in pairs]
            group["params"][:] = params  # in place: LBFGS keeps the list itself
            if names is not None:
                group["param_names"] = new_names
        for old in replacements:
            optimizer.state.pop(old, None)
        if isinstance(optimizer, torch.optim.LBFGS):  # it remembers all parameters as one vector
            optimizer.state.clear()
            optimizer._numel_cache = None


def fold_state(
    optimizers: Sequence[Optimizer], factors: Factors, weight: nn.Parameter, name: str, state: State
) -> None:
    """Puts a folded weight where its factors were, and their state as asked.

    Call :func:`check_state` first; then nothing fails here.
    """
    prefix, _, attribute = name.rpartition(".")
    old_name = factor_name(prefix, attribute, 0)
    first, *others = factors
    replacements: dict[nn.Parameter, Replacement] = {first: (old_name, [(name, weight)])}
    replacements |= {factor: ("", []) for factor in others}
    for optimizer in optimizers:
        buffer = _projected_momentum(optimizer, factors) if state == "project" else None
        swap([optimizer], replacements)
        if buffer is not None:
            optimizer.state[weight]["momentum_buffer"] = buffer


def check_state(optimizers: Sequence[Optimizer], folded: Mapping[Factors, str], state: State) -> None:
    """Checks that folding can treat the optimizers' state as asked.

    Raises:
        ValueError: If the word is unknown, ``error`` was asked and there is state, ``project`` was asked and is not
            defined, no given optimizer holds the factors of a weight, or they are in several groups.
    """
    check_choice(state, "state", STATES)
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    missing = [repr(name) for factors, name in folded.items() if not any(id(f) in held for f in factors)]
    if optimizers and missing:
        raise ValueError(
            f"optimizer holds no factors of {', '.join(missing)}, so that the folded weights would not be trained; "
            f"hand over every optimizer of the model, or none."
        )
    for optimizer in optimizers:
        group_of = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
        for factors, name in folded.items():
            groups = {group_of.get(id(f)) for f in factors}
            if len(groups) > 1:
                raise ValueError(
                    f"the factors of {name!r} are in different groups of the optimizer, so that the folded weight "
                    f"belongs to none; fold without optimizer= and build a new one."
                )
            remembered = [f for f in factors if optimizer.state.get(f)]
            if not remembered or state == "reset":
                continue
            if state == "error":
                raise ValueError(
                    f"the optimizer remembers something of the factors of {name!r} that folding would lose; use "
                    f"state='reset', or 'project' for the momentum of SGD."
                )
            if type(optimizer) is not torch.optim.SGD:
                raise ValueError(
                    f"state='project' is defined for the momentum of torch.optim.SGD, not for "
                    f"{type(optimizer).__name__}: second moments of factors say nothing of those of their product; "
                    f"use state='reset'."
                )


def _projected_momentum(optimizer: Optimizer, factors: Factors) -> Tensor | None:
    """The velocity of the product: sum_j W_N ... M_j ... W_1 for the factors' momentum buffers M_j."""
    buffers: list[Any] = [optimizer.state.get(f, {}).get("momentum_buffer") for f in factors]
    if all(b is None for b in buffers):
        return None
    values = [with_float64(f.detach()).double() for f in factors]
    velocity = torch.zeros(factors.layout.weight_shape, dtype=torch.float64, device=values[0].device)
    for j, momentum in enumerate(buffers):
        if momentum is not None:  # the product is linear in every factor
            velocity += factors.layout.product([*values[:j], with_float64(momentum).double(), *values[j + 1 :]])
    return velocity.to(factors[0].device, factors[0].dtype)
