"""How far every step moves every parameter: recorded of one arm, imposed on another."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overdepth.comparison.making import Made


class LengthRecorder:
    """Root mean square of the change of every parameter of the plain model, step by step.

    Of a product of factors it is the change of the product.
    """

    def __init__(self, made: Made) -> None:
        self._made = made
        self._old: list[Tensor] = []
        self._rows: list[Tensor] = []

    @torch.no_grad()
    def before(self) -> None:
        """Before the optimizer's step."""
        self._old = [weight.clone() for weight in self._made.weights()]

    @torch.no_grad()
    def after(self, step: int) -> None:
        """After it; ``step`` is how many steps there were before."""
        moved = torch._foreach_sub(self._made.weights(), self._old)
        self._rows.append(torch.stack([root_mean_square(m) for m in moved]))

    def table(self) -> NDArray[np.float32]:
        """All steps so far; shape (steps, parameters)."""
        if not self._rows:
            return np.zeros((0, len(self._made.names)), dtype=np.float32)
        return np.asarray(torch.stack(self._rows).cpu().numpy(), dtype=np.float32)


class LengthMatcher:
    """Gives every step of a plain model's parameters the lengths that were recorded of another arm.

    The optimizer decides the direction, its own state being what it would be; the table decides how far. The learning
    rate is then without effect, unless the optimizer decays weights by it.
    """

    def __init__(self, made: Made, table: NDArray[np.float32]) -> None:
        self._parameters = [p for p in made.model.parameters() if p.requires_grad]
        self._table = torch.from_numpy(table)
        self._columns = [i for i, p in enumerate(made.model.parameters()) if p.requires_grad]
        self._old: list[Tensor] = []

    @torch.no_grad()
    def before(self) -> None:
        """Before the optimizer's step."""
        self._old = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def after(self, step: int) -> None:
        """After it; ``step`` is how many steps there were before."""
        for p, old, column in zip(self._parameters, self._old, self._columns, strict=True):
            moved = p - old
            length = root_mean_square(moved)
            wanted = self._table[step, column].to(length)
            p.copy_(old + moved * torch.where(length > 0, wanted / length, torch.zeros_like(length)))


def root_mean_square(tensor: Tensor) -> Tensor:
    """Of the entries of a tensor, in at least float32; a scalar."""
    wide = tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
    root: Tensor = torch.linalg.vector_norm(wide) / max(wide.numel(), 1) ** 0.5
    return root
