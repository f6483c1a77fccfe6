"""Fold the factors of a model back into plain weights, and hold the folded model against the factored one."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overdepth._checks import is_sharded
from overdepth.nn.batchnorm import batchnorm_pairs, fuse
from overdepth.nn.classes import detach, factored_weights, qualified
from overdepth.nn.factors import Factors
from overdepth.nn.kinds import check_module, wrapper_of
from overdepth.nn.optimizers import State, as_list, check_state, fold_state, swap
from overdepth.nn.reports import CollapsedWeight, CollapseError, CollapseReport, compare


def collapse_(
    module: nn.Module,
    *,
    optimizer: Optimizer | Sequence[Optimizer] | None = None,
    state: State = "reset",
    fold_batchnorm: bool = False,
) -> CollapseReport:
    """Folds all factors of a model into plain weights, in place; a second call does nothing.

    Every product is accumulated in float64 and rounded once. Classes, the keys of the state_dict and the order of
    the parameters become those of the model before :func:`overdepth.overparameterize_`; tied weights stay tied.

    Args:
        module: The model, or one layer.
        optimizer: One or several whose groups get the weights in the factors' places.
        state: What becomes of the optimizer's state of the factors: ``reset`` drops it; ``project`` gives the weight
            the velocity sum_j W_N ... M_j ... W_1 of the factors' momentum buffers M_j, which is defined for
            ``torch.optim.SGD``; ``error`` refuses to fold if there is any.
        fold_batchnorm: Also fold every batch norm directly behind a convolution into it. The model must be in eval
            mode and traceable by ``torch.fx``.

    Returns:
        What was folded: the errors of rounding and what was saved.

    Raises:
        ValueError: If the optimizer's state cannot be treated as asked, factors are sharded, or batch norms cannot be
            folded; before anything was changed.

    Example:
        >>> import torch, overdepth as od
        >>> model = od.overparameterize_(torch.nn.Linear(8, 4))
        >>> report = od.collapse_(model)
        >>> list(model.state_dict()), report.parameters_saved
        (['weight', 'bias'], 16)
    """
    check_module(module)
    optimizers = as_list(optimizer)
    owners: dict[Factors, list[tuple[str, nn.Module, str]]] = {}
    for prefix, owner, name, factors in factored_weights(module):
        owners.setdefault(factors, []).append((prefix, owner, name))
    names = {factors: qualified(places[0][0], places[0][2]) for factors, places in owners.items()}
    for factors, label in names.items():
        if any(is_sharded(f) for f in factors):
            raise ValueError(f"{label!r} has sharded factors (DTensor); gather them first, or fold on a full copy.")
    wrapper = wrapper_of(module)
    if wrapper is not None and wrapper[1] != "DistributedDataParallel":
        raise ValueError(
            f"{wrapper[0] or 'the model'!r} is sharded by {wrapper[1]}, which owns its parameters; gather the "
            f"state_dict and convert it with overdepth.nn.plain_state_dict."
        )
    check_state(optimizers, names, state)
    pairs = batchnorm_pairs(module) if fold_batchnorm else []
    collapsed: list[CollapsedWeight] = []
    while owners:  # factors are let go as weights are made: never all of both in memory
        factors, places = owners.popitem()
        label = names.pop(factors)
        weight, entry = _folded(factors, label)
        collapsed.append(entry)
        fold_state(optimizers, factors, weight, label, state)
        for _, owner, name in places:
            detach(owner, name, weight)
        del factors
    for pair in pairs:
        swap(optimizers, fuse(module, *pair))
    return CollapseReport(tuple(reversed(collapsed)), batchnorms=tuple(pairs))


def collapse(module: nn.Module) -> tuple[nn.Module, CollapseReport]:
    """A folded copy of a model, and the report; the model itself stays as it is. See :func:`collapse_`.

    Example:
        >>> import torch, overdepth as od
        >>> model = od.overparameterize_(torch.nn.Linear(8, 4))
        >>> plain, report = od.collapse(model)
        >>> type(plain).__name__, type(model).__name__
        ('Linear', 'OverparameterizedLinear')
    """
    plain = copy.deepcopy(module)
    return plain, collapse_(plain)


def verify_collapse(module: nn.Module, *inputs: Any, tolerance: float | None = None, **keywords: Any) -> CollapseReport:
    """Compares the outputs of an over-parameterized model with those of a folded copy; changes nothing.

    Both run in eval mode without gradients. The error is the largest absolute difference of all output tensors over
    the largest absolute output.

    Args:
        module: The over-parameterized model.
        *inputs: Positional arguments of its forward.
        tolerance: What the error may be. Default: the square root of the dtype's machine epsilon (3.5e-4 for float32,
            1.5e-8 for float64): half the digits, which rounding does not lose in a sound model, and any real fault
            does.
        **keywords: Keyword arguments of its forward.

    Returns:
        The report, with ``output_error``.

    Raises:
        CollapseError: If the error is beyond the tolerance, or an output is not finite where the other is.
        ValueError: If the model is not over-parameterized, or its outputs hold no floating-point tensor.

    Example:
        >>> import torch, overdepth as od
        >>> model = od.overparameterize_(torch.nn.Linear(8, 4), depth=3)
        >>> od.verify_collapse(model, torch.randn(5, 8)).output_error < 1e-5
        True
    """
    if next(factored_weights(module), None) is None:
        raise ValueError("the model has no factors to verify; call verify_collapse before collapse_, or use collapse.")
    plain, report = collapse(module)
    with _eval_mode(module), _eval_mode(plain), torch.no_grad(), torch.random.fork_rng(devices=[]):
        state = torch.get_rng_state()
        expected = list(_tensors(module(*inputs, **keywords)))
        torch.set_rng_state(state)
        found = list(_tensors(plain(*inputs, **keywords)))
    if not expected:
        raise ValueError("the model's outputs hold no floating-point tensor, so there is nothing to compare.")
    entries = [t for t in expected if t.numel()]
    if entries and all(bool(t.isnan().all()) for t in entries):
        raise ValueError("the model's outputs are NaN throughout, so there is nothing to compare; give other inputs.")
    if tolerance is None:
        dtypes = [t.dtype for t in expected] + [w.dtype for w in report.weights]
        tolerance = max(torch.finfo(dtype).eps for dtype in dtypes) ** 0.5
    error = _difference(expected, found)
    report = report.with_output_error(error, tolerance)
    if not error <= tolerance:
        raise CollapseError(
            f"the folded model's outputs differ by {error:.3g} of their largest entry, beyond the tolerance of "
            f"{tolerance:.3g}; the report is in the exception's 'report'.",
            report,
        )
    return report


def _folded(factors: Factors, name: str) -> tuple[nn.Parameter, CollapsedWeight]:
    with torch.no_grad():
        weight, layout = factors.folded(), factors.layout
        saved = layout.size - layout.weight_size
        entry = compare(name, weight, factors(), parameters_saved=saved, multiply_adds_saved=factors.extra_cost(1, 1))
    return nn.Parameter(weight, requires_grad=any(f.requires_grad for f in factors)), entry


@contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in modes:
            each.training = training


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors of a nested output."""
    if isinstance(output, Tensor):
        if output.dtype.is_floating_point:
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
    elif dataclasses.is_dataclass(output):
        for entry in dataclasses.fields(output):
            yield from _tensors(getattr(output, entry.name))


def _difference(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """The largest difference over the largest entry; infinite where one is finite and the other is not."""
    largest = worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.numel() == 0:
            continue
        same = (a == b) | (a.isnan() & b.isnan())
        difference = torch.where(same, 0.0, (a.double() - b.double()).abs()).nan_to_num(nan=float("inf"))
        worst = max(worst, float(difference.max()))
        finite = a.double().abs()[a.isfinite()]
        largest = max(largest, float(finite.max()) if finite.numel() else 0.0)
    return worst / largest if largest > 0 else worst
