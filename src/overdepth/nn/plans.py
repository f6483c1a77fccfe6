"""What an over-parameterization will do: the choice for each layer, and the table of them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from torch import nn

from overdepth._checks import check_choice, check_depth
from overdepth._table import text_table
from overdepth.chain import check_width
from overdepth.initialization import Init
from overdepth.layouts import FACTORIZATIONS, Factorization, Layout, Start
from overdepth.nn.classes import qualified
from overdepth.nn.factors import EXECUTIONS, Execution
from overdepth.nn.kinds import Kind, Rows

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
        Start(self.init, self.scale).check(of)
        check_choice(self.execution, f"execution{of}", EXECUTIONS)
        check_choice(self.factorization, f"factorization{of}", FACTORIZATIONS)


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
