"""An arm's model and optimizer at their start."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overdepth.comparison.arms import IN_MODEL, IN_OPTIMIZER, PLAIN, Arm
from overdepth.comparison.task import Task
from overdepth.nn import overparameterize_, plan
from overdepth.optim import EndToEndSGD, Factored, end_to_end, param_groups

_OF_THE_RULE = {"lr", "momentum", "nesterov", "weight_decay", "maximize"}
"""Options of ``torch.optim.SGD`` that :class:`overdepth.optim.EndToEndSGD` has too."""


@dataclass(frozen=True)
class Made:
    """A model and its optimizer, before the first step.

    Attributes:
        model: In training mode.
        optimizer: Of its parameters, or of its factors.
        names: Of the parameters that the plain model has.
    """

    model: nn.Module
    optimizer: Optimizer
    names: tuple[str, ...]

    def weights(self) -> list[Tensor]:
        """The parameters that the plain model has; a product of factors is multiplied out."""
        return [operator.attrgetter(name)(self.model).detach() for name in self.names]


def make(task: Task, arm: Arm, lr: float, seed: int) -> Made:
    """The model and the optimizer of an arm; leaves torch's random numbers where training begins.

    Raises:
        ValueError: If the arm cannot be made of this model and optimizer, with the arm's name.
    """
    with named(arm):
        torch.manual_seed(seed)
        model = task.build()
        if not isinstance(model, nn.Module):
            raise TypeError(f"build returned a {type(model).__name__}, expected a torch.nn.Module")
        model.train()
        names = tuple(name for name, _ in model.named_parameters())
        with warnings.catch_warnings():  # a drawn start was asked for, and so was what stays plain
            warnings.simplefilter("ignore", UserWarning)
            made = Made(model, _optimizer(task, arm, model, lr * arm.lr_factor, seed), names)
        torch.manual_seed(seed + 1)  # the same for all arms, however much their starts have drawn
        return made


def _optimizer(task: Task, arm: Arm, model: nn.Module, lr: float, seed: int) -> Optimizer:
    options: dict[str, Any] = {**task.options, "lr": lr}
    base: Any = task.base_class
    make_base: Callable[..., Optimizer] = base
    if arm.form == PLAIN:
        return make_base(model.parameters(), **options)
    generator = torch.Generator().manual_seed(seed)
    if arm.form == IN_MODEL:
        overparameterize_(
            model, int(arm.depth), init=arm.init, scale=arm.scale, select=task.select, generator=generator
        )
        return make_base(model.parameters(), **options)
    chosen = {weight.name for weight in plan(model, select=task.select).weights}
    groups = param_groups(model, depth=lambda name, _: arm.depth if name in chosen else None, include=sorted(chosen))
    if arm.form == IN_OPTIMIZER:
        return Factored(groups, base, init=arm.init, scale=arm.scale, generator=generator, **options)
    frozen = math.isinf(arm.depth)  # said by the depth itself
    if base is torch.optim.SGD and options.keys() <= _OF_THE_RULE:
        return EndToEndSGD(groups, allow_frozen_directions=frozen, **options)
    return end_to_end(groups, base, allow_frozen_directions=frozen, **options)


@contextmanager
def named(arm: Arm, during: str = "", remedy: str = "") -> Iterator[None]:
    """Puts the arm's name in front of what goes wrong, if it is not there yet.

    Raises:
        ValueError: Instead of a TypeError or ValueError.
        RuntimeError: Instead of anything else.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if str(error).startswith("arm "):
            raise
        is_argument = isinstance(error, TypeError | ValueError)
        kind = "" if is_argument and not during else f" ({type(error).__name__})"
        said = " ".join(str(error).split()).rstrip(".") or "no reason given"
        message = f"arm {arm.name!r}: {during}{said}{kind}{remedy}."
        raise (ValueError if is_argument else RuntimeError)(message) from error
