"""A run: one row of settings. A sweep is a list of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from overdepth._checks import check_depth, check_nonnegative, check_positive, check_size
from overdepth.initialization import INITIALIZATIONS, Init, initial_factors

Method = Literal[
    "gd",
    "end_to_end",
    "momentum",
    "nesterov",
    "adagrad",
    "adadelta",
    "rmsprop",
    "adam",
    "momentum_tf1",
    "nesterov_tf1",
    "adagrad_tf1",
    "adadelta_tf1",
    "rmsprop_tf1",
    "adam_tf1",
]
METHODS: tuple[Method, ...] = get_args(Method)


@dataclass(frozen=True)
class Run:
    """Settings of one training run of a linear network.

    Attributes:
        depth: Number of factors; for ``end_to_end`` any real number >= 1, or ``math.inf``.
        width: Hidden width; 1 is enough for a single output.
        init: One of ``overdepth.initialization.INITIALIZATIONS``.
        scale: Standard deviation of the initial entries, as in :func:`overdepth.initial_factors`.
        seed: Of the initial factors. Equal depth, width, init, scale and seed mean equal factors.
        method: ``gd``: gradient descent on the factors. ``end_to_end``: a single layer trained by the end-to-end
            rule, from the product of the factors that ``gd`` would start from (at a depth that is no integer: from
            the single layer's own draw). The others act on the factors as torch.optim does with its defaults, with
            the suffix ``_tf1`` as TensorFlow 1 does; :mod:`overdepth.lab.update_rules` has their definitions.
        lr: Learning rate.
        weight_decay: Of every factor, decoupled from the gradient; the end-to-end rule decays its weight as N factors
            would, by (1 - lr * weight_decay)^N, at infinite depth by (1 - lr * weight_decay).
        norm: If given, the initial factors are rescaled alike so that W_e has this Frobenius norm.

    Raises:
        ValueError: If a setting is out of its range.

    Example:
        >>> from overdepth.lab import Run
        >>> Run(depth=2, lr=1e-2)
        Run(depth=2, width=1, init='near_zero', scale=0.01, seed=0, method='gd', lr=0.01, weight_decay=0.0, norm=None)
    """

    depth: float = 1
    width: int = 1
    init: Init = "near_zero"
    scale: float = 0.01
    seed: int = 0
    method: Method = "gd"
    lr: float = 1e-3
    weight_decay: float = 0.0
    norm: float | None = None

    def __post_init__(self) -> None:
        check_depth(self.depth, qualified_name="Run.depth", allow_real=self.method == "end_to_end")
        check_size(self.width, "Run.width")
        for name, value, allowed in (("init", self.init, INITIALIZATIONS), ("method", self.method, METHODS)):
            if value not in allowed:
                raise ValueError(f"Run.{name} is {value!r}, expected one of {', '.join(allowed)}.")
        for name, number in (("lr", self.lr), ("scale", self.scale), ("norm", self.norm)):
            if number is not None or name != "norm":
                check_positive(number, f"Run.{name}")
        check_nonnegative(self.weight_decay, "Run.weight_decay")
        if self.method == "end_to_end" and self.lr * self.weight_decay > 1:
            raise ValueError(
                f"Run.lr * Run.weight_decay is {self.lr * self.weight_decay!r}, expected at most 1 with the end-to-end "
                f"rule: (1 - lr * weight_decay)^depth has no real value below."
            )
        seed: object = self.seed
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**32:
            raise ValueError(f"Run.seed is {self.seed!r}, expected an integer from 0 to 2**32 - 1.")
        for field in fields(self):  # NumPy's numbers become Python's, so that equal settings look alike everywhere
            value = getattr(self, field.name)
            if isinstance(value, np.generic):
                object.__setattr__(self, field.name, value.item())

    def start(self, out_features: int, in_features: int) -> list[Tensor]:
        """The factors that the run starts from, float64; for ``end_to_end`` their product is what matters."""
        depth = int(self.depth) if math.isfinite(self.depth) and self.depth == int(self.depth) else 1
        return initial_factors(
            out_features,
            in_features,
            depth,
            width=self.width,
            init=self.init,
            scale=self.scale,
            norm=self.norm,
            generator=torch.Generator().manual_seed(self.seed),
            dtype=torch.float64,
        )


RUN_FIELDS: tuple[str, ...] = tuple(f.name for f in fields(Run))


def grid(**lists: Iterable[Any] | Any) -> list[Run]:
    """All combinations of the given settings, the last one varying fastest.

    Args:
        lists: For every field of :class:`Run` a list of values, or a single one.

    Returns:
        The runs.

    Raises:
        ValueError: If a name is no field of ``Run``, or a value is out of its range.

    Example:
        >>> from overdepth.lab import grid
        >>> [(run.depth, run.lr) for run in grid(depth=[1, 2], lr=[0.1, 0.5])]
        [(1, 0.1), (1, 0.5), (2, 0.1), (2, 0.5)]
    """
    unknown = [name for name in lists if name not in RUN_FIELDS]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no field of Run, expected some of {', '.join(RUN_FIELDS)}.")
    values = [
        list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
        for value in lists.values()
    ]
    return [Run(**dict(zip(lists, combination, strict=True))) for combination in itertools.product(*values)]
