"""Form 1: replace weights of a model by products of factors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from overdepth.initialization import Init
from overdepth.layouts import Factorization, Start, null_remark
from overdepth.nn.classes import attach, detach, factor_name
from overdepth.nn.factors import Execution, Factors, keep_padding
from overdepth.nn.optimizers import Replacement, as_list, check_holds, swap
from overdepth.nn.planning import count_positions, make_plan
from overdepth.nn.plans import Choice, Plan, PlannedWeight, Select


def overparameterize_(
    module: nn.Module,
    depth: int = 2,
    *,
    width: int | None = None,
    init: Init = "balanced",
    select: Select | None = None,
    execution: Execution = "auto",
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    factorization: Factorization = "kernel_first",
    scale: float | str = 0.01,
    allow_rank_loss: bool = False,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Replaces weights W by products W_N ... W_1 of trainable factors, in place.

    Chosen without ``select``: linear layers, (transposed) convolutions, the projections of
    ``torch.nn.MultiheadAttention``, and other modules that hold a 2-D ``weight``; not embeddings, not weights tied to
    one, not normalisation. Layers keep their class to ``isinstance``; ``layer.weight`` is the product. An optimizer
    that was built before holds the old weights and would train nothing: hand it over, or build it afterwards.

    Args:
        module: The model, or one layer.
        depth: Number of factors N; 1 leaves a layer plain.
        width: Hidden width. Default: min(k, d) of each weight (k, d), which loses no expressiveness; other
            factorizations than ``kernel_first`` have their own.
        init: ``balanced`` and ``identity`` keep the function, so they suit pretrained weights; ``near_zero``,
            ``near_identity`` and ``orthogonal`` draw new factors, for training from scratch.
        select: ``select(layer, qualified_name)`` returns whether a layer is factored, or a dict that overrides
            depth, width, init, scale, execution or factorization for it.
        execution: ``chained`` runs a layer factor after factor, ``folded`` multiplies the factors first, ``auto``
            takes what costs fewer multiply-adds for the input that arrives. The numbers agree up to rounding.
        optimizer: One or several built before the call, whose groups get the factors in the weights' places.
        factorization: Of convolutions: ``kernel_first`` (spatial kernel, then 1 x 1s), ``kernel_between`` (1 x 1,
            kernel, 1 x 1; depth >= 3), or ``composed`` (a large kernel as smaller ones; from scratch only).
        scale: Of drawn factors: the standard deviation (``orthogonal``: the singular values) of each, or "match":
            the product has the norm of the weight it replaces.
        allow_rank_loss: Allow a width below min(k, d); ``balanced`` then keeps the nearest weight of that rank.
        generator: Source of the random numbers.

    Returns:
        The module itself.

    Raises:
        TypeError: If ``select`` returns neither bool nor dict.
        ValueError: If an argument is out of its range, there is nothing to factor, or a chosen weight cannot be
            factored (frozen, not finite, already parametrized, sparse, quantized, sharded, ...): with its qualified
            name and the reason, before anything was changed.

    Example:
        >>> import torch, overdepth as od
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
        >>> model = od.overparameterize_(model, depth=2)
        >>> [name for name, _ in model[0].named_parameters()]
        ['bias', 'parametrizations.weight.factor0', 'parametrizations.weight.factor1']

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509.
    """
    choice = Choice(depth, width, init, scale, execution, factorization)
    plan = make_plan(module, choice, select, allow_rank_loss=allow_rank_loss)
    if not plan.weights:
        if "depth 1" in plan.left_plain.values():
            return module
        raise ValueError(_nothing_to_factor(module, plan))
    optimizers = as_list(optimizer)
    check_holds(optimizers, {w.name: w.weight for w in plan.weights})
    remarks: list[str] = []
    if plan.impossible:
        kept = ", ".join(f"{name!r} ({plan.left_plain[name]})" for name in plan.impossible)
        remarks.append(f"left plain: {kept}; say select= to choose layers yourself.")
    made = [(planned, _factors(planned, allow_rank_loss, generator, remarks)) for planned in plan.weights]
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    _attach_all(made)
    swap(optimizers, {planned.weight: _replacement(planned, factors) for planned, factors in made})
    return module


def plan(
    module: nn.Module,
    depth: int = 2,
    *,
    inputs: Sequence[Any] | None = None,
    width: int | None = None,
    init: Init = "balanced",
    select: Select | None = None,
    execution: Execution = "auto",
    factorization: Factorization = "kernel_first",
    allow_rank_loss: bool = False,
) -> Plan:
    """What :func:`overdepth.overparameterize_` would do: the table of layers; changes nothing.

    It checks all that can be checked without looking at the factors' numbers.

    Args:
        module: The model, or one layer.
        depth: As there, like all that are not listed here.
        inputs: Positional arguments of a forward pass, run once without gradients (in the model's present mode), from
            which the forward multiply-adds before and after are counted.
        width: See there.
        init: See there.
        select: See there.
        execution: See there.
        factorization: See there.
        allow_rank_loss: See there.

    Returns:
        The plan; print it.

    Raises:
        TypeError: As :func:`overdepth.overparameterize_`.
        ValueError: As there.

    Example:
        >>> import torch, overdepth as od
        >>> print(od.nn.plan(torch.nn.Linear(64, 32), inputs=[torch.zeros(8, 64)]))
        weight  kind    shape    depth  width  init      parameters      multiply-adds     runs
        ------  ------  -------  -----  -----  --------  --------------  ----------------  -------
        weight  linear  32 x 64  2      32     balanced  2,048 -> 3,072  16,384 -> 24,576  chained
        1 weights: 2,048 -> 3,072 parameters
    """
    choice = Choice(depth, width, init, "match", execution, factorization)
    made = make_plan(module, choice, select, allow_rank_loss=allow_rank_loss)
    if not made.weights and "depth 1" not in made.left_plain.values():
        raise ValueError(_nothing_to_factor(module, made))
    return made if inputs is None else count_positions(module, made, inputs)


def _factors(
    planned: PlannedWeight, allow_rank_loss: bool, generator: torch.Generator | None, remarks: list[str]
) -> Factors:
    weight, layout, choice = planned.weight, planned.layout, planned.choice
    if weight.is_meta:
        tensors = [torch.empty(s, dtype=weight.dtype, device="meta") for s in layout.factor_shapes]
        return Factors(layout, tensors, init=choice.init, execution=choice.execution)
    start = Start(choice.init, choice.scale, truncate=allow_rank_loss, generator=generator)
    tensors = layout.started(weight, start, repr(planned.name))
    padding = _keep_padding(planned, tensors, remarks)
    # A padding row is meant to have no gradient; if rows are the smaller side, it is one null direction.
    expected = padding if layout.weight_shape[0] <= layout.weight_size // layout.weight_shape[0] else 0
    lost = layout.null_directions(tensors) - expected if choice.init == "balanced" else 0
    if lost > 0:
        remarks.append(null_remark(f"{planned.name!r} of shape {tuple(weight.shape)}", weight, lost))
    return Factors(layout, tensors, init=choice.init, execution=choice.execution)


def _keep_padding(planned: PlannedWeight, factors: list[Tensor], remarks: list[str]) -> int:
    """Keeps zero padding rows zero; returns the number of such rows."""
    rows = set()
    for prefix, owner, _, _ in planned.places:
        kept = keep_padding(owner, planned.weight, factors)
        if kept is False:
            remarks.append(
                f"the padding row of {prefix!r} is not zero: it gets no gradient of its own, but moves with the "
                f"factors that all rows share."
            )
        elif kept:
            rows.add(owner.padding_idx)
    return len(rows)


def _attach_all(made: Sequence[tuple[PlannedWeight, Factors]]) -> None:
    """Attaches all factors, or none."""
    done: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for planned, factors in made:
            for _, owner, name, kind in planned.places:
                attach(owner, name, factors, kind.chained)
                done.append((owner, name, planned.weight))
    except Exception:
        for owner, name, weight in reversed(done):
            detach(owner, name, weight)
        raise


def _replacement(planned: PlannedWeight, factors: Factors) -> Replacement:
    """The factors under the names by which the model knows them."""
    prefix, _, name, _ = planned.places[0]
    return planned.name, [(factor_name(prefix, name, j), factor) for j, factor in enumerate(factors)]


def _nothing_to_factor(module: nn.Module, plan: Plan) -> str:
    kept = [f"{name!r} ({why})" for name, why in plan.left_plain.items()]
    shown = ", ".join(kept[:5]) + (f", and {len(kept) - 5} more" if len(kept) > 5 else "")
    found = f"left plain: {shown}" if kept else "it holds no linear layer, convolution or 2-D weight"
    return f"nothing to over-parameterize in {type(module).__name__}; {found}."
