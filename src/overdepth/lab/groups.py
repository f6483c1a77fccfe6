"""Groups: the weights of many runs of one architecture, stepped together.

A group holds the state of its runs in a few batched tensors, writes their end-to-end weights where the engine wants
them, and turns the gradients at these weights into one step of every run. Row r of every tensor belongs to run
``index[r]`` of the sweep. State in, state out: :meth:`Group.state` and the constructor's tensors are the whole of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from overdepth.lab.run import Run
from overdepth.rule import SingleOutputCoefficients, end_to_end_update, single_output_coefficients, single_output_update


class Group(ABC):
    """Runs that share their architecture and method."""

    tensors: tuple[str, ...]  # names of the attributes that hold one row a run
    index: Tensor  # (runs,), rows of the sweep's table, on the CPU

    @abstractmethod
    def write(self, out: Tensor) -> None:
        """Writes the end-to-end weights into ``out``, shape (runs, k, d). Every step needs a write before it."""

    @abstractmethod
    def step(self, grad: Tensor) -> None:
        """One step of every run; ``grad``, shape (runs, k, d), may be overwritten."""

    def keep(self, rows: Tensor) -> None:
        """Drops all runs but those at ``rows``."""
        self.index = self.index[rows]
        rows = rows.to(self.device)
        for name in self.tensors:
            setattr(self, name, getattr(self, name)[rows].contiguous())

    def state(self) -> dict[str, Tensor]:
        """The group's tensors by name, one row a run, on the CPU, wherever the group is."""
        return {"index": self.index, **{name: getattr(self, name).cpu() for name in self.tensors}}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Takes over tensors that :meth:`state` gave, and copies them to the group's device."""
        self.index = state["index"].clone()
        device = self.device
        for name in self.tensors:
            setattr(self, name, state[name].to(device, copy=True))

    @property
    def device(self) -> torch.device:
        """Where the group's tensors are; ``index`` is on the CPU always."""
        device: torch.device = getattr(self, self.tensors[0]).device
        return device

    def to(self, device: torch.device) -> None:
        """Moves the group's tensors."""
        for name in self.tensors:
            setattr(self, name, getattr(self, name).to(device))


class ScalarChain(Group):
    """Gradient descent, single output, hidden width 1: a vector times scalars.

    Depths are mixed in one group: a shallower run is padded with scalars that are set to 1 after every step. W_e = c v
    with c the product of the scalars s_j, so that with q = <v, G> the gradients are c G and q prod_{i != j} s_i.
    """

    tensors: tuple[str, ...] = ("vector", "scalars", "padding", "lr", "decay")

    def __init__(self, index: Tensor, runs: Sequence[Run], starts: Iterable[list[Tensor]], dtype: torch.dtype) -> None:
        self.index = index
        extra = max(int(run.depth) for run in runs) - 1
        self.scalars = torch.ones(len(runs), extra, dtype=dtype)
        self.padding = torch.ones(len(runs), extra, dtype=torch.bool)
        self.lr = column([run.lr for run in runs], dtype)
        self.decay = column([1 - run.lr * run.weight_decay for run in runs], dtype)
        for r, (first, *others) in enumerate(starts):
            if r == 0:
                self.vector = torch.empty(len(runs), first.shape[1], dtype=dtype)
            self.vector[r] = first[0]
            for j, factor in enumerate(others):
                self.scalars[r, j] = factor[0, 0]
                self.padding[r, j] = False
        self._has_decay = any(run.weight_decay for run in runs)
        rest = [[i for i in range(extra) if i != j] for j in range(extra)]
        self._others = torch.tensor(rest, dtype=torch.long).reshape(extra, max(extra - 1, 0))
        self._scale = torch.empty(0, dtype=dtype)

    @override
    def to(self, device: torch.device) -> None:
        super().to(device)
        self._others = self._others.to(device)

    @override
    def write(self, out: Tensor) -> None:
        self._scale = self.scalars.prod(dim=1, keepdim=True)
        torch.mul(self.vector, self._scale, out=out[:, 0])

    @override
    def step(self, grad: Tensor) -> None:
        g, scalars = grad[:, 0], self.scalars
        inner, rest = self._inner_and_rest(g)
        if self._has_decay:
            self.vector.mul_(self.decay)
            scalars.mul_(self.decay)
        self.vector.addcmul_(g, self._scale.mul_(self.lr), value=-1)
        scalars.addcmul_(rest, inner.mul_(self.lr), value=-1)
        scalars.masked_fill_(self.padding, 1.0)

    def _inner_and_rest(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """Q = <v, G>, and for every scalar the product of the others, whose product with q is its gradient."""
        inner = torch.bmm(self.vector[:, None], g[:, :, None])[:, 0]
        # Of two, each is the other's; an empty product is 1.
        rest = self.scalars.flip(1) if self.scalars.shape[1] == 2 else self.scalars[:, self._others].prod(dim=2)
        return inner, rest


class MatrixChain(Group):
    """Gradient descent on factors of one depth and width, any number of outputs, as batched matrix products.

    With L_j = W_N ... W_{j+1} and R_1 = G, R_{j+1} = R_j W_j^T, the gradient of W_j is L_j^T R_j: every intermediate
    has k rows, so that wide hidden layers cost little where outputs are few.
    """

    def __init__(self, index: Tensor, runs: Sequence[Run], starts: Iterable[list[Tensor]], dtype: torch.dtype) -> None:
        self.index = index
        self.depth = int(runs[0].depth)
        self.tensors = ("lr", "decay", *(f"factor{j}" for j in range(self.depth)))
        self._above: list[Tensor] = []
        for r, factors in enumerate(starts):
            for j, factor in enumerate(factors):
                if r == 0:
                    setattr(self, f"factor{j}", torch.empty(len(runs), *factor.shape, dtype=dtype))
                getattr(self, f"factor{j}")[r] = factor
        self.lr = column([run.lr for run in runs], dtype)[:, :, None]
        self.decay = column([1 - run.lr * run.weight_decay for run in runs], dtype)[:, :, None]
        self._has_decay = any(run.weight_decay for run in runs)

    @property
    def factors(self) -> list[Tensor]:
        """W_1, ..., W_N of all runs, shapes (runs, n_j, n_{j-1})."""
        return [getattr(self, f"factor{j}") for j in range(self.depth)]

    @override
    def write(self, out: Tensor) -> None:
        *lower, last = self.factors
        above = [last] if lower else []
        for factor in reversed(lower[1:]):
            above.append(torch.bmm(above[-1], factor))
        self._above = above[::-1]  # L_1, ..., L_{N-1}; the next step needs them too
        if lower:
            torch.bmm(self._above[0], lower[0], out=out)
        else:
            out.copy_(last)

    @override
    def step(self, grad: Tensor) -> None:
        factors, above = self.factors, self._above
        below = self._below(grad.mul_(-self.lr))
        if self._has_decay:  # the gradients are those of the old factors, one of which `above` ends with
            above = [left.clone() for left in above]
            for factor in factors:
                factor.mul_(self.decay)
        for factor, left, right in zip(factors[:-1], above, below[:-1], strict=True):
            factor.baddbmm_(left.mT, right)
        factors[-1].add_(below[-1])

    def _below(self, grad: Tensor) -> list[Tensor]:
        """R_1, ..., R_N."""
        below = [grad]
        for factor in self.factors[:-1]:
            below.append(torch.bmm(below[-1], factor.mT))
        return below


class EndToEnd(Group):
    """The end-to-end rule on single layers: Claim 2 (one output, any mix of depths) or Theorem 1 (one depth)."""

    tensors = ("weight", "lr", "decay", "power", "across", "along")

    def __init__(self, index: Tensor, runs: Sequence[Run], weights: Iterable[Tensor], dtype: torch.dtype) -> None:
        self.index = index
        self.depth = runs[0].depth
        self.weight = torch.stack([weight.to(dtype) for weight in weights])
        self.lr = column([run.lr for run in runs], dtype)[:, :, None]
        times = [1.0 if run.depth == float("inf") else run.depth for run in runs]
        decay = [(1 - run.lr * run.weight_decay) ** n for run, n in zip(runs, times, strict=True)]
        self.decay = column(decay, dtype)[:, :, None]
        self._has_decay = any(run.weight_decay for run in runs)
        coefficients = [single_output_coefficients(run.depth) for run in runs]
        self.power, self.across, self.along = (
            column([float(c[i]) for c in coefficients], dtype)[:, :, None] for i in range(3)
        )

    @override
    def write(self, out: Tensor) -> None:
        out.copy_(self.weight)

    @override
    def step(self, grad: Tensor) -> None:
        if min(grad.shape[-2:]) == 1:
            coefficients = SingleOutputCoefficients(self.power, self.across, self.along)
            update = single_output_update(self.weight, grad, coefficients)
        else:
            update = _update_matrices(self.weight, grad, self.depth)
        if self._has_decay:
            self.weight.mul_(self.decay)
        self.weight.addcmul_(update, self.lr, value=-1)


def _update_matrices(weight: Tensor, grad: Tensor, depth: float) -> Tensor:
    """The rule for a batch in which runs may just have diverged: these stay so, the decomposition never sees them."""
    finite = (torch.isfinite(weight) & torch.isfinite(grad)).all(dim=-1).all(dim=-1)[:, None, None]
    safe_weight, safe_grad = torch.where(finite, weight, 0.0), torch.where(finite, grad, 0.0)
    update = end_to_end_update(safe_weight, safe_grad, depth, check_finite=False, allow_frozen_directions=True)
    return torch.where(finite, update, torch.nan)


def column(values: Sequence[float], dtype: torch.dtype) -> Tensor:
    """One number a run, shape (runs, 1)."""
    return torch.tensor(values, dtype=dtype)[:, None]
