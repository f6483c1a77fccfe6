"""What folding did, and what it changed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from overdepth._table import text_table


class CollapseError(RuntimeError):
    """Folding changed the function by more than rounding explains; ``report`` has the figures."""

    def __init__(self, message: str, report: CollapseReport) -> None:
        super().__init__(message)
        self.report = report


@dataclass(frozen=True)
class CollapsedWeight:
    """One folded weight against the product that the model multiplied in its own dtype.

    Attributes:
        name: Qualified name of the weight.
        shape: Its shape.
        dtype: Its dtype.
        max_abs_error: Largest absolute difference of an entry.
        max_rel_error: The same, over the largest absolute entry.
        error_in_eps: ``max_rel_error`` in units of the dtype's machine epsilon.
        parameters_saved: Entries of the factors minus those of the weight.
        multiply_adds_saved: For a row (a position) through all factors, minus those through the weight.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    max_abs_error: float
    max_rel_error: float
    error_in_eps: float
    parameters_saved: int
    multiply_adds_saved: int


@dataclass(frozen=True)
class CollapseReport:
    """What folding did; printing it shows a table.

    Attributes:
        weights: The folded weights; empty if there was nothing to fold.
        output_error: Largest absolute difference of an output over the largest absolute output, where outputs were
            compared (:func:`overdepth.verify_collapse`).
        tolerance: What ``output_error`` was held against.
        batchnorms: (convolution, batch norm) pairs that were folded into one.
    """

    weights: tuple[CollapsedWeight, ...] = ()
    output_error: float | None = None
    tolerance: float | None = None
    batchnorms: tuple[tuple[str, str], ...] = ()

    @property
    def parameters_saved(self) -> int:
        """Parameters that the model has fewer."""
        return sum(w.parameters_saved for w in self.weights)

    @property
    def multiply_adds_saved(self) -> int:
        """Multiply-adds that one row (position) through every chained layer saves."""
        return sum(w.multiply_adds_saved for w in self.weights)

    def with_output_error(self, error: float, tolerance: float) -> CollapseReport:
        """The report with what a comparison of outputs found."""
        return replace(self, output_error=error, tolerance=tolerance)

    def __str__(self) -> str:
        if not self.weights and not self.batchnorms:
            return "nothing to fold: no weight is over-parameterized"
        header = ["weight", "shape", "largest error", "relative", "in eps", "parameters saved"]
        rows = [
            [
                w.name,
                " x ".join(map(str, w.shape)),
                f"{w.max_abs_error:.2e}",
                f"{w.max_rel_error:.2e}",
                f"{w.error_in_eps:.2g}",
                f"{w.parameters_saved:,}",
            ]
            for w in self.weights
        ]
        lines = text_table(header, rows)
        folded = "1 weight" if len(self.weights) == 1 else f"{len(self.weights)} weights"
        lines.append(f"{folded} folded, {self.parameters_saved:,} parameters saved")
        lines += [f"{norm} folded into {convolution}" for convolution, norm in self.batchnorms]
        if self.output_error is not None:
            lines.append(f"outputs agree within {self.output_error:.2e} (tolerance {self.tolerance:.2e})")
        return "\n".join(lines)


def compare(
    name: str, folded: Tensor, multiplied: Tensor, *, parameters_saved: int, multiply_adds_saved: int
) -> CollapsedWeight:
    """The differences of a folded weight and the product in the model's own arithmetic, which is overwritten."""
    if folded.is_meta:
        largest = error = float("nan")
    else:
        largest = _largest(folded)
        error = _largest(multiplied.sub_(folded))
    relative = error / largest if largest != 0 else error
    return CollapsedWeight(
        name=name,
        shape=tuple(folded.shape),
        dtype=folded.dtype,
        max_abs_error=error,
        max_rel_error=relative,
        error_in_eps=relative / torch.finfo(folded.dtype).eps,
        parameters_saved=parameters_saved,
        multiply_adds_saved=multiply_adds_saved,
    )


def _largest(tensor: Tensor) -> float:
    smallest, largest = tensor.aminmax()
    return max(abs(float(smallest)), abs(float(largest)))
