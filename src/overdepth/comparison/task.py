"""What is trained: the user's model, loss, data and optimizer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overdepth._checks import check_positive, check_size

Base = type[Optimizer] | functools.partial[Optimizer]
Select = Callable[[nn.Module, str], bool]


@dataclass(frozen=True)
class Task:
    """What is trained, the same in every arm.

    Attributes:
        build: Makes the model; called under ``torch.manual_seed(seed)``, so that a seed fixes the start.
        loss_step: The loss of a model on a batch, a scalar tensor.
        data: Tensors with one first axis (one, or a tuple of them); or what can be iterated again and again, such as
            a ``DataLoader``; or a function of the seed that returns either of the latter or an endless iterator.
        base: An optimizer class, or ``functools.partial`` of one with its options; an ``lr`` among them is where the
            search begins, and what the untuned comparison uses.
        batch_size: Rows of a batch, where data are tensors; None: all of them at every step.
        schedule: Makes a learning-rate scheduler of an optimizer; its ``step`` is called after every step.
        select: ``select(layer, qualified_name)``: which layers are over-parameterized; None: all that form 1 takes.
        arms: What the command line compares if it is not told.
        lrs: Its learning rates; None searches them.
        steps: Its steps.
        seeds: Its seeds.
        trials: Its learning rates tried for each arm and seed.
    """

    build: Callable[[], nn.Module]
    loss_step: Callable[[nn.Module, Any], Tensor]
    data: Any
    base: Base = torch.optim.SGD
    batch_size: int | None = None
    schedule: Callable[[Optimizer], Any] | None = None
    select: Select | None = None
    arms: Sequence[Any] = ("plain", "form1:2")
    lrs: Sequence[float] | None = None
    steps: int | None = None
    seeds: int = 3
    trials: int = 9

    def __post_init__(self) -> None:
        for name in ("build", "loss_step"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} is a {type(getattr(self, name)).__name__}, expected a function.")
        for name in ("schedule", "select"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} is a {type(getattr(self, name)).__name__}, expected a function or None.")
        made = self.base.func if isinstance(self.base, functools.partial) else self.base
        if not (isinstance(made, type) and issubclass(made, Optimizer)):
            raise TypeError(
                f"base is {self.base!r}, expected an optimizer class such as torch.optim.SGD, or functools.partial of "
                f"one with its options."
            )
        if issubclass(made, torch.optim.LBFGS):
            raise ValueError("base is LBFGS, which needs a closure and chooses its own steps; use another optimizer.")
        if isinstance(self.base, functools.partial) and self.base.args:
            raise ValueError("base has positional arguments, expected options by name, as in partial(SGD, lr=0.1).")
        if "lr" in self.options:
            check_positive(self.options["lr"], "lr of base")
        self._check_data()

    @staticmethod
    def of(given: object) -> Task:
        """A task from a task, or from a dictionary of its fields.

        Raises:
            TypeError: If it is neither, or a field is missing or unknown.
        """
        if isinstance(given, Task):
            return given
        if not isinstance(given, Mapping):
            raise TypeError(f"the function returned a {type(given).__name__}, expected an overdepth Task or a dict.")
        known = [field.name for field in fields(Task)]
        for name in ("build", "loss_step", "data"):
            if name not in given:
                raise TypeError(f"the dict has no {name!r}, expected at least build, loss_step and data.")
        for name in given:
            if name not in known:
                raise TypeError(f"the dict has the key {name!r}, expected some of {', '.join(known)}.")
        return Task(**given)

    @property
    def base_class(self) -> type[Optimizer]:
        """The optimizer class."""
        made: Any = self.base.func if isinstance(self.base, functools.partial) else self.base
        found: type[Optimizer] = made
        return found

    @property
    def options(self) -> dict[str, Any]:
        """Its options, ``lr`` among them if it was given."""
        return dict(self.base.keywords) if isinstance(self.base, functools.partial) else {}

    @property
    def base_lr(self) -> float | None:
        """The learning rate that was given with the base, or None."""
        return float(self.options["lr"]) if "lr" in self.options else None

    @property
    def first_lr(self) -> float:
        """Where a search begins: the given learning rate, or the default of the class."""
        if self.base_lr is not None:
            return self.base_lr
        made: Any = self.base_class
        default = made([torch.zeros(1)], **self.options).defaults.get("lr", 1e-3)
        return float(default)

    @property
    def tensors(self) -> tuple[Tensor, ...] | None:
        """The data, if they are tensors."""
        if isinstance(self.data, Tensor):
            return (self.data,)
        if isinstance(self.data, tuple | list) and self.data and all(isinstance(t, Tensor) for t in self.data):
            return tuple(self.data)
        return None

    @property
    def is_full_batch(self) -> bool:
        """Whether every step sees all the data, so that a loss is no matter of which batch it was."""
        return self.tensors is not None and self.batch_size in (None, len(self.tensors[0]))

    def describe_base(self) -> str:
        """``SGD(momentum=0.9)``."""
        options = ", ".join(f"{name}={value!r}" for name, value in self.options.items() if name != "lr")
        return f"{self.base_class.__name__}({options})"

    def _check_data(self) -> None:
        tensors = self.tensors
        if tensors is not None:
            rows = {len(t) if t.ndim else 0 for t in tensors}
            if len(rows) != 1 or 0 in rows:
                shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
                raise ValueError(
                    f"data has tensors of shapes {shapes}, expected the same number of rows, at least one."
                )
            if self.batch_size is not None and check_size(self.batch_size, "batch_size") > len(tensors[0]):
                raise ValueError(
                    f"batch_size is {self.batch_size}, but data has {len(tensors[0])} rows; expected at most as many."
                )
            return
        if isinstance(self.data, torch.utils.data.Dataset):
            raise TypeError("data is a Dataset of single examples; wrap it: torch.utils.data.DataLoader(data, ...).")
        if not callable(self.data) and not hasattr(self.data, "__iter__"):
            raise TypeError(
                f"data is a {type(self.data).__name__}, expected tensors, a loader, or a function of the seed."
            )
        if not callable(self.data) and hasattr(self.data, "__next__"):
            raise TypeError(
                "data is an iterator, which can be read only once; give a list, a loader, or a function of the seed."
            )
        if self.batch_size is not None:
            raise ValueError("batch_size is for data that are tensors; a loader has its own, so leave it out.")
