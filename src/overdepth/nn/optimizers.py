"""Optimizers that were built before: factors take the places of weights in their groups, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overdepth.nn.factors import Factors

State = Literal["reset", "project", "error"]
STATES: tuple[State, ...] = get_args(State)


def as_list(optimizer: Optimizer | Sequence[Optimizer] | None) -> list[Optimizer]:
    """The optimizers as a list.

    Raises:
        TypeError: If one is no optimizer.
    """
    optimizers = [] if optimizer is None else [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)
    for each in optimizers:
        if not isinstance(each, Optimizer):
            raise TypeError(f"optimizer is a {type(each).__name__}, expected a torch.optim.Optimizer or several.")
    return optimizers


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


def swap(
    optimizers: Iterable[Optimizer],
    replacements: Mapping[nn.Parameter, Sequence[nn.Parameter]],
    prefixes: Mapping[nn.Parameter, str] | None = None,
) -> None:
    """Puts the factors where the weights were, group by group; what was remembered of the weights is dropped."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            params: list[nn.Parameter] = []
            names: list[str] = []
            for j, old in enumerate(group["params"]):
                new = replacements.get(old)
                params += [old] if new is None else new
                if "param_names" in group:
                    kept = group["param_names"][j]
                    prefix = (prefixes or {}).get(old, kept)
                    names += [kept] if new is None else [f"{prefix}.factor{i}" for i in range(len(new))]
            group["params"] = params
            if "param_names" in group:
                group["param_names"] = names
        for old in replacements:
            optimizer.state.pop(old, None)


def fold_state(
    optimizers: Sequence[Optimizer], factors: Factors, weight: nn.Parameter, name: str, state: State
) -> None:
    """Puts a folded weight where its factors were, and their state as asked.

    Call :func:`check_state` first; then nothing fails here.
    """
    first, *others = factors
    gone = {id(f) for f in others}
    for optimizer in optimizers:
        buffer = _projected_momentum(optimizer, factors) if state == "project" else None
        for group in optimizer.param_groups:
            kept = [j for j, p in enumerate(group["params"]) if id(p) not in gone]
            if "param_names" in group:
                group["param_names"] = [name if group["params"][j] is first else group["param_names"][j] for j in kept]
            group["params"] = [weight if group["params"][j] is first else group["params"][j] for j in kept]
        for factor in factors:
            optimizer.state.pop(factor, None)
        if buffer is not None:
            optimizer.state[weight]["momentum_buffer"] = buffer


def check_state(optimizers: Sequence[Optimizer], folded: Mapping[Factors, str], state: State) -> None:
    """Checks that folding can treat the optimizers' state as asked.

    Raises:
        ValueError: If the word is unknown, ``error`` was asked and there is state, ``project`` was asked and is not
            defined, or the factors of one weight are in several groups.
    """
    if state not in STATES:
        raise ValueError(f"state is {state!r}, expected one of {', '.join(STATES)}.")
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
    values = tuple(f.detach().double() for f in factors)
    tangents = tuple(torch.zeros_like(v) if b is None else b.double() for v, b in zip(values, buffers, strict=True))
    velocity: Tensor = torch.func.jvp(lambda *w: factors.layout.product(w), values, tangents)[1]
    return velocity.to(factors[0].dtype)
