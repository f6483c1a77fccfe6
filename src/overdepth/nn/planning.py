"""Decide and check everything about an over-parameterization before anything is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from overdepth.layouts import MatrixLayout, Start, make_layout
from overdepth.nn.classes import qualified
from overdepth.nn.kinds import (
    ATTENTION,
    TIED,
    TRANSPOSED,
    Kind,
    Rows,
    check_module,
    groups_of,
    obstacle,
    weights_of,
    wrapper_of,
)
from overdepth.nn.plans import Choice, Plan, PlannedWeight, Select


def make_plan(module: nn.Module, defaults: Choice, select: Select | None, *, allow_rank_loss: bool = False) -> Plan:
    """Decides and checks everything; touches nothing.

    Raises:
        TypeError: If ``select`` returns neither bool nor dict.
        ValueError: If a chosen weight cannot be factored, by its qualified name and with the reason.
    """
    defaults.check()
    check_module(module)
    if select is not None and not callable(select):
        raise TypeError(f"select is {select!r}, expected a function of a module and its qualified name.")
    owners: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for prefix, each in module.named_modules():
        for name, parameter in each._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((prefix, each, name))
    found: dict[int, PlannedWeight] = {}
    left: dict[str, str] = {}
    impossible = []
    for prefix, each, name, kind in _candidates(module):
        label = qualified(prefix, name)
        choice = _chosen(each, prefix, label, kind, defaults, select)
        if choice is None or choice.depth == 1:
            left[label] = "not chosen" if choice is None else "depth 1"
            if choice is None and select is None:
                left[label] = "by explicit choice only: select=" if kind.possible else f"{obstacle(each, name)}"
                impossible += [] if kind.possible else [label]
            continue
        shared = owners.get(id(dict(each._parameters).get(name)), ())
        elsewhere = _chosen_explicitly_only(shared) if select is None else None
        if elsewhere is not None:
            left[label] = f"tied to {elsewhere}: by explicit choice only, select="
            continue
        reason = obstacle(each, name)
        if reason is not None:
            raise ValueError(f"{label!r} cannot be over-parameterized: {reason}.")
        planned = _planned(each, prefix, name, kind, choice, shared, allow_rank_loss)
        earlier = found.get(id(planned.weight))
        if earlier is not None and (earlier.layout, earlier.choice) != (planned.layout, planned.choice):
            raise ValueError(f"{label!r} is tied to {earlier.name!r} but was chosen differently; choose them alike.")
        found.setdefault(id(planned.weight), planned)
    wrapper = wrapper_of(module)
    if found and wrapper is not None:
        raise ValueError(
            f"{wrapper[0] or 'the model'!r} is wrapped in {wrapper[1]}, which took its parameters when it was built; "
            f"over-parameterize first, then wrap or shard."
        )
    for planned in found.values():
        for at, _, name, _ in planned.places:
            left.pop(qualified(at, name), None)  # tied to what was chosen, it goes along
    return Plan(tuple(found.values()), left, tuple(impossible))


def count_positions(module: nn.Module, plan: Plan, inputs: Sequence[Any]) -> Plan:
    """The plan with the rows and positions that a forward pass of ``inputs`` brings to each layer."""
    counted: dict[int, list[Rows]] = {}
    attention = {id(m.out_proj): m for m in module.modules() if isinstance(m, nn.MultiheadAttention)}
    handles = []
    for planned in plan.weights:
        for _, each, name, kind in planned.places:
            host = attention.get(id(each), each)  # whose output projection is never called
            counting = _counting(counted.setdefault(id(planned.weight), []), name, kind if host is each else ATTENTION)
            handles.append(host.register_forward_hook(counting, with_kwargs=True))
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for name, buffer in module.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])
    return replace(plan, weights=tuple(replace(w, calls=tuple(counted[id(w.weight)])) for w in plan.weights))


def _counting(calls: list[Rows], name: str, kind: Kind) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        inputs = [value for value in (*args, *keywords.values()) if isinstance(value, torch.Tensor)]
        if inputs and kind.positions is not None:
            calls.append(kind.positions(layer, name, inputs, output))

    return hook


def _candidates(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Kind]]:
    for prefix, each in module.named_modules():
        for name, kind in weights_of(each):
            yield prefix, each, name, kind


def _chosen_explicitly_only(owners: Sequence[tuple[str, nn.Module, str]]) -> str | None:
    """The first place of a tied weight that no default chooses, such as an embedding."""
    for at, owner, name in owners:
        kind = dict(weights_of(owner)).get(name)
        if kind is None or not kind.default:
            return qualified(at, name)
    return None


def _chosen(
    module: nn.Module, prefix: str, label: str, kind: Kind, defaults: Choice, select: Select | None
) -> Choice | None:
    if select is None:
        return defaults if kind.default and kind.possible else None
    answer = select(module, prefix)
    if isinstance(answer, bool):
        return defaults if answer else None
    if not isinstance(answer, Mapping):
        raise TypeError(f"select returned {answer!r} for {prefix!r}, expected a bool or a dict of {_fields()}.")
    unknown = [str(key) for key in answer if key not in Choice.__dataclass_fields__]
    if unknown:
        raise ValueError(f"select returned {', '.join(unknown)} for {prefix!r}, expected some of {_fields()}.")
    choice = replace(defaults, **answer)
    choice.check(label)
    return choice


def _fields() -> str:
    return ", ".join(Choice.__dataclass_fields__)


def _planned(
    module: nn.Module,
    prefix: str,
    name: str,
    kind: Kind,
    choice: Choice,
    owners: Sequence[tuple[str, nn.Module, str]],
    allow_rank_loss: bool,
) -> PlannedWeight:
    label = qualified(prefix, name)
    weight = getattr(module, name)
    if choice.execution == "chained" and kind.chained is None:
        raise ValueError(
            f"{label!r} cannot be chained: {type(module).__name__} reads its weight as a whole; use execution='auto'."
        )
    if choice.factorization != "kernel_first" and kind is TRANSPOSED:
        raise ValueError(
            f"{label!r} cannot be factored as {choice.factorization!r}: transposed convolutions have 'kernel_first' "
            f"alone."
        )
    groups = groups_of(module)
    factorization = choice.factorization if kind.convolution else "kernel_first"
    try:
        layout = make_layout(weight.shape, choice.depth, choice.width, groups=groups, factorization=factorization)
    except ValueError as error:
        raise ValueError(f"{label!r}: {error}") from None
    places = []
    for at, owner, attribute in owners:
        there = dict(weights_of(owner)).get(attribute, TIED)
        reason = obstacle(owner, attribute)
        if reason is not None:
            raise ValueError(f"{label!r} is tied to {qualified(at, attribute)!r}, which cannot be factored: {reason}.")
        if groups_of(owner) != groups:
            raise ValueError(f"{label!r} is tied to {qualified(at, attribute)!r}, which has other groups.")
        if not isinstance(layout, MatrixLayout) and not there.convolution:
            there = replace(there, chained=None)  # such factors are those of a convolution
        places.append((at, owner, attribute, there))
    layout.check_width(repr(label), allow_rank_loss=allow_rank_loss)
    try:
        layout.check(Start(choice.init, choice.scale))
    except ValueError as error:
        raise ValueError(f"{label!r}: {error}") from None
    return PlannedWeight(label, kind, weight, layout, choice, tuple(places))
