"""Imbalance, norm and learning-rate multiplier of every over-parameterized weight, for any logger that takes a dict."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from overdepth._checks import check_size, working_dtype
from overdepth.inspection.measures import imbalance_norms
from overdepth.layouts import MatrixLayout
from overdepth.nn.factors import Factors
from overdepth.nn.kinds import check_module
from overdepth.nn.penalty import mean_multiplier, named_factors

Sink = Callable[[dict[str, float]], Any]
PREFIX = "overdepth"


def product_metrics(model: nn.Module) -> dict[str, float]:
    """What there is to log of a model with factors, as plain numbers.

    Keys are ``overdepth/<weight>/norm`` (the Frobenius norm of the product), ``overdepth/<weight>/imbalance`` (the
    largest ||D_j|| over the norms of its two Gram matrices, 0 for balanced factors, at most 1) and
    ``overdepth/<weight>/multiplier`` (the mean learning-rate multiplier, of
    :func:`overdepth.nn.learning_rate_multipliers`). Kernels that are not factored ``kernel_first`` have the norm alone;
    of grouped convolutions the worst group's imbalance is taken. Once training has diverged, what is no longer defined
    is NaN.

    Raises:
        TypeError: If it is no module.
        ValueError: If the model has no factors.

    Example:
        >>> import torch, overdepth as od
        >>> model = torch.nn.Linear(2, 2, bias=False)
        >>> _ = torch.nn.init.eye_(model.weight)
        >>> metrics = od.integrations.product_metrics(od.overparameterize_(model))
        >>> {name: round(value, 6) for name, value in metrics.items()}
        {'overdepth/weight/norm': 1.414214, 'overdepth/weight/imbalance': 0.0, 'overdepth/weight/multiplier': 2.0}
    """
    check_module(model)
    found: dict[str, float] = {}
    for name, factors in named_factors(model):
        found |= {f"{PREFIX}/{name}/{key}": value for key, value in _metrics(factors).items()}
    if not found:
        raise ValueError(f"{type(model).__name__} has no factors to log; overdepth.overparameterize_ it first.")
    return found


def log_products(model: nn.Module, sink: Sink, *, step: int | None = None) -> dict[str, float]:
    """Hands :func:`product_metrics` to a logger, once.

    Args:
        model: A model with factors.
        sink: Any callable that takes a dict, such as ``wandb.log`` or ``mlflow.log_metrics``.
        step: Put into the dict under ``step``, if given.

    Returns:
        The dict.

    Raises:
        TypeError: If ``sink`` cannot be called.
        ValueError: If the model has no factors.

    Example:
        >>> import torch, overdepth as od
        >>> model, kept = od.overparameterize_(torch.nn.Linear(8, 4)), []
        >>> _ = od.integrations.log_products(model, kept.append, step=10)
        >>> sorted(kept[0])
        ['overdepth/weight/imbalance', 'overdepth/weight/multiplier', 'overdepth/weight/norm', 'step']
    """
    if not callable(sink):
        raise TypeError(f"sink is a {type(sink).__name__}, expected a callable that takes a dict, such as print.")
    metrics = product_metrics(model)
    if step is not None:
        metrics = {"step": step, **metrics}
    sink(metrics)
    return metrics


def watch_products(
    model: nn.Module, sink: Sink, optimizer: torch.optim.Optimizer, *, every: int = 100
) -> RemovableHandle:
    """Calls :func:`log_products` now and after every so many steps of an optimizer, until the handle is removed.

    Steps are counted from this call on. Once the model is folded there is nothing left to log, and nothing is called.

    Args:
        model: A model with factors.
        sink: Any callable that takes a dict; each has the number of the step under ``step``.
        optimizer: The one whose steps count.
        every: How many steps lie between.

    Returns:
        A handle; ``.remove()`` ends it.

    Raises:
        TypeError: If ``sink`` cannot be called.
        ValueError: If the model has no factors, or ``every`` is no integer >= 1.

    Example:
        >>> import torch, overdepth as od
        >>> model, steps = od.overparameterize_(torch.nn.Linear(8, 4)), []
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> handle = od.integrations.watch_products(model, lambda m: steps.append(m["step"]), optimizer, every=2)
        >>> for _ in range(5):
        ...     optimizer.step()
        >>> steps
        [0, 2, 4]
    """
    check_size(every, "every")
    log_products(model, sink, step=0)
    taken = 0

    def after_step(*_: object) -> None:
        nonlocal taken
        taken += 1
        if taken % every == 0 and next(named_factors(model), None) is not None:
            log_products(model, sink, step=taken)

    return optimizer.register_step_post_hook(after_step)


def check_held(model: nn.Module, optimizers: Iterable[torch.optim.Optimizer], where: str) -> None:
    """Checks that optimizers hold the factors, and not the weights from before.

    Args:
        model: A model with factors.
        optimizers: All that train it.
        where: Who built them, for the message.

    Raises:
        ValueError: If the factors of a weight are in no group.
    """
    held = {id(p) for each in optimizers for group in each.param_groups for p in group["params"]}
    missing = [name for name, factors in named_factors(model) if not any(id(f) in held for f in factors)]
    if missing:
        raise ValueError(
            f"{where} holds no factors of {', '.join(map(repr, missing))}, so that these would not be trained; build "
            f"it after the over-parameterization, from the model's parameters, or leave the layers out by select=."
        )


def _metrics(factors: Factors) -> dict[str, float]:
    wide = [f.detach().to(working_dtype(f.dtype)) for f in factors]
    metrics = {"norm": float(factors.layout.product(wide).double().norm())}
    if isinstance(factors.layout, MatrixLayout):
        metrics |= {"imbalance": math.nan, "multiplier": math.nan}
        if math.isfinite(metrics["norm"]):
            chains = zip(*(f.reshape(-1, *f.shape[-2:]) for f in wide), strict=True)
            metrics["imbalance"] = max(imbalance_norms(chain)[1] for chain in chains)
            with contextlib.suppress(ValueError):  # it overflows long before the product does
                metrics["multiplier"] = mean_multiplier(factors)
    return metrics
