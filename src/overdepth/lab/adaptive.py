"""Groups of runs by methods that remember: momentum, AdaGrad, AdaDelta, RMSProp, Adam."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from overdepth.lab.groups import MatrixChain, ScalarChain
from overdepth.lab.run import Run
from overdepth.lab.update_rules import RULES, UpdateRule


class _Memory:
    """What a rule remembers of every parameter of a group, as attributes that follow the group's runs."""

    rule: UpdateRule
    time: Tensor

    def remember(self, method: str, lr: Tensor, names: Sequence[str]) -> tuple[str, ...]:
        """Makes the memory of the parameters of these names, and returns the names of its tensors."""
        self.rule = RULES[method]
        self.time = torch.zeros_like(lr)
        found = [(f"{name}_{slot}", name, start) for name in names for slot, start in self.rule.starts.items()]
        for attribute, name, start in found:
            setattr(self, attribute, torch.full_like(getattr(self, name), start))
        return ("time", *(attribute for attribute, _, _ in found))

    def move(self, name: str, grad: Tensor, lr: Tensor, decay: Tensor | None) -> None:
        """One step of the parameter of this name."""
        memory = {slot: getattr(self, f"{name}_{slot}") for slot in self.rule.starts}
        direction = self.rule.direction(grad, memory, self.time)
        parameter: Tensor = getattr(self, name)
        if decay is not None:
            parameter.mul_(decay)
        parameter.addcmul_(direction, lr, value=-1)


class AdaptiveScalarChain(ScalarChain, _Memory):
    """Single output, hidden width 1, depths mixed; one method."""

    def __init__(self, index: Tensor, runs: Sequence[Run], starts: Iterable[list[Tensor]], dtype: torch.dtype) -> None:
        super().__init__(index, runs, starts, dtype)
        self.tensors = (*self.tensors, *self.remember(runs[0].method, self.lr, ("vector", "scalars")))

    @override
    def step(self, grad: Tensor) -> None:
        g = grad[:, 0]
        inner, rest = self._inner_and_rest(g)
        decay = self.decay if self._has_decay else None
        self.time += 1
        self.move("vector", g.mul_(self._scale), self.lr, decay)
        self.move("scalars", rest * inner, self.lr, decay)
        self.scalars.masked_fill_(self.padding, 1.0)


class AdaptiveMatrixChain(MatrixChain, _Memory):
    """Factors of one depth and width, any number of outputs; one method."""

    def __init__(self, index: Tensor, runs: Sequence[Run], starts: Iterable[list[Tensor]], dtype: torch.dtype) -> None:
        super().__init__(index, runs, starts, dtype)
        names = [f"factor{j}" for j in range(self.depth)]
        self.tensors = (*self.tensors, *self.remember(runs[0].method, self.lr, names))

    @override
    def step(self, grad: Tensor) -> None:
        below = self._below(grad)
        grads = [torch.bmm(left.mT, right) for left, right in zip(self._above, below[:-1], strict=True)]
        self.time += 1
        for j, own in enumerate([*grads, below[-1]]):
            self.move(f"factor{j}", own, self.lr, self.decay if self._has_decay else None)
