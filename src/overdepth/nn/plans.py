"""What an over-parameterization will do, decided and checked before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import nn

from overdepth._checks import check_depth, check_positive
from overdepth._table import text_table
from overdepth.chain import check_width
from overdepth.initialization import INITIALIZATIONS, Init
from overdepth.layouts import FACTORIZATIONS, Factorization, Layout, make_layout
from overdepth.nn.classes import qualified
from overdepth.nn.factors import EXECUTIONS, Execution
from overdepth.nn.kinds import ATTENTION, TRANSPOSED, Kind, Rows, groups_of, obstacle, weights_of, wrapper_of

Select = Callable[[nn.Module, str], "bool | Mapping[str, Any]"]


@dataclass(frozen=True)
class Choice:
    """How one layer is to be factored; ``select`` may return any of these fields as a dict."""

    depth: int = 2
    width: int | None = None
    init: Init = "balanced"
    scale: float | str = 0.01
    execution: Execution = "auto"
    factorization: Factorization = "kernel_first"

    def check(self, layer: str | None = None) -> None:
        """Checks every field.

        Raises:
            ValueError: If one is out of its range.
        """
        of = f" of {layer!r}" if layer is not None else ""
        check_depth(self.depth, qualified_name=f"depth{of}")
        check_width(self.width, default=1, qualified_name=f"width{of}")
        for name, value, allowed in (
            ("init", self.init, INITIALIZATIONS),
            ("execution", self.execution, EXECUTIONS),
            ("factorization", self.factorization, FACTORIZATIONS),
        ):
            if value not in allowed:
                raise ValueError(f"{name}{of} is {value!r}, expected one of {', '.join(allowed)}.")
        if isinstance(self.scale, str):
            if self.scale != "match":
                raise ValueError(f"scale{of} is {self.scale!r}, expected a number > 0 or 'match'.")
        else:
            check_positive(self.scale, f"scale{of}")


@dataclass(frozen=True)
class PlannedWeight:
    """A weight that will be factored, at every place that holds it.

    Attributes:
        name: Qualified name of the weight at its first place.
        kind: Of the layer there.
        weight: The Parameter.
        layout: How it becomes factors.
        choice: What was asked.
        places: (qualified module name, module, attribute, kind) of all that share the Parameter.
        calls: Rows or positions in and out of every call with the given input, None if they were not counted.
    """

    name: str
    kind: Kind
    weight: nn.Parameter
    layout: Layout
    choice: Choice
    places: tuple[tuple[str, nn.Module, str, Kind], ...]
    calls: tuple[Rows, ...] | None = None

    @property
    def cost(self) -> tuple[int, int, str] | None:
        """Forward multiply-adds before and after, and how the layer runs; None without a counted input."""
        if self.calls is None:
            return None
        before, after, routes = Fraction(0), Fraction(0), set()
        for inputs, outputs in self.calls:
            plain, chained = self._call_costs(inputs, outputs)
            folded = plain + self.layout.product_cost
            chains = self.choice.execution == "chained" or (self.choice.execution == "auto" and chained <= folded)
            chains = chains and self.kind.chained is not None
            before += plain
            after += chained if chains else folded
            routes.add("chained" if chains else "folded")
        return int(before), int(after), routes.pop() if len(routes) == 1 else "both" if routes else "not called"

    def _call_costs(self, inputs: Fraction | int, outputs: Fraction | int) -> Rows:
        """Of the plain layer, and factor after factor."""
        if self.kind.lookup:
            *others, _ = self.layout.factor_shapes
            return 0, outputs * sum(map(math.prod, others))
        per_input, per_output = self.layout.chained_cost(1, 0), self.layout.chained_cost(0, 1)
        return outputs * self.layout.weight_size, inputs * per_input + outputs * per_output


@dataclass(frozen=True)
class Plan:
    """The table of what :func:`overdepth.overparameterize_` will do; printing it shows the table.

    Attributes:
        weights: What will be factored.
        left_plain: Qualified names of weights that stay as they are, with the reason.
        impossible: Those of them that cannot be factored at all, where no ``select`` decided.
    """

    weights: tuple[PlannedWeight, ...]
    left_plain: Mapping[str, str] = field(default_factory=dict)
    impossible: tuple[str, ...] = ()

    @property
    def parameters_before(self) -> int:
        """Entries of the weights that will be factored."""
        return sum(w.layout.weight_size for w in self.weights)

    @property
    def parameters_after(self) -> int:
        """Entries of their factors."""
        return sum(w.layout.size for w in self.weights)

    def __str__(self) -> str:
        header = ["weight", "kind", "shape", "depth", "width", "init", "parameters", "multiply-adds", "runs"]
        rows = []
        for w in self.weights:
            cost = w.cost
            rows.append(
                [
                    " = ".join([w.name, *(qualified(prefix, name) for prefix, _, name, _ in w.places[1:])]),
                    w.kind.name,
                    " x ".join(map(str, w.layout.weight_shape)),
                    str(w.layout.depth),
                    str(w.layout.width),
                    w.choice.init,
                    f"{w.layout.weight_size:,} -> {w.layout.size:,}",
                    f"{cost[0]:,} -> {cost[1]:,}" if cost else "give inputs=",
                    cost[2] if cost else w.choice.execution,
                ]
            )
        lines = text_table(header, rows)
        lines.append(f"{len(self.weights)} weights: {self.parameters_before:,} -> {self.parameters_after:,} parameters")
        lines += [f"left plain: {name or 'the model itself'} ({why})" for name, why in self.left_plain.items()]
        return "\n".join(lines)


def make_plan(module: nn.Module, defaults: Choice, select: Select | None, *, allow_rank_loss: bool = False) -> Plan:
    """Decides and checks everything; touches nothing.

    Raises:
        TypeError: If ``select`` returns neither bool nor dict.
        ValueError: If a chosen weight cannot be factored, by its qualified name and with the reason.
    """
    defaults.check()
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is a {type(module).__name__}, expected a torch.nn.Module.")
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
        if select is None and any(not k.default for _, m, n in shared for at, k in weights_of(m) if at == n):
            left[label] = "tied to an embedding: by explicit choice only, select="
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
    places = []
    for at, owner, attribute in owners:
        kinds = dict(weights_of(owner))
        reason = obstacle(owner, attribute)
        if reason is not None:
            raise ValueError(f"{label!r} is tied to {qualified(at, attribute)!r}, which cannot be factored: {reason}.")
        if groups_of(owner) != groups_of(module):
            raise ValueError(f"{label!r} is tied to {qualified(at, attribute)!r}, which has other groups.")
        places.append((at, owner, attribute, kinds.get(attribute, Kind("tied", default=False))))
    factorization = choice.factorization if kind.convolution else "kernel_first"
    groups = groups_of(module)
    try:
        layout = make_layout(weight.shape, choice.depth, choice.width, groups=groups, factorization=factorization)
    except ValueError as error:
        raise ValueError(f"{label!r}: {error}") from None
    if layout.width < layout.enough_width and not allow_rank_loss:
        raise ValueError(
            f"width of {label!r} is {layout.width}, below {layout.enough_width}, from which on no expressiveness is "
            f"lost for a weight of shape {tuple(weight.shape)}; widen it, or say allow_rank_loss=True."
        )
    return PlannedWeight(label, kind, weight, layout, choice, tuple(places))
