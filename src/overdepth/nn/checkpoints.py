"""state_dicts both ways: of the plain model into the over-parameterized one, and back.

The keys of the factored form are stable: a weight ``<prefix>.<name>`` becomes
``<prefix>.parametrizations.<name>.factor<j>``, j = 0 (W_1) to N - 1 (W_N). Values are plain tensors, which
``torch.load(weights_only=True)`` and safetensors take.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from overdepth._checks import is_sharded
from overdepth.initialization import Init
from overdepth.layouts import ComposedLayout, Layout, Start, find_layout
from overdepth.nn.classes import factor_name, factored_weights, qualified
from overdepth.nn.factors import Factors, keep_padding
from overdepth.nn.kinds import groups_of

_FACTOR = re.compile(r"(?P<prefix>(?:.*\.)?)parametrizations\.(?P<name>\w+)\.factor(?P<index>\d+)$")


def factored_state_dict(
    state_dict: Mapping[str, Tensor], module: nn.Module, *, init: Init | None = None
) -> dict[str, Tensor]:
    """A plain checkpoint as one of the over-parameterized model.

    Args:
        state_dict: Of the plain model, also of a part or without some keys.
        module: The over-parameterized model, which says how each weight is factored; may be on the meta device.
        init: ``balanced`` or ``identity``; default: that of each layer, ``balanced`` where it draws its factors.

    Returns:
        What ``module.load_state_dict`` takes; keys without factors are passed on as they are.

    Raises:
        ValueError: If a weight has another shape, or cannot be such a product.

    Example:
        >>> import torch, overdepth as od
        >>> plain, model = torch.nn.Linear(8, 4), od.overparameterize_(torch.nn.Linear(8, 4))
        >>> model.load_state_dict(od.nn.factored_state_dict(plain.state_dict(), model))
        <All keys matched successfully>

    """
    if init is not None and not Start(init).keeps_the_weight:
        raise ValueError(f"init is {init!r}, expected 'balanced' or 'identity', which keep the weights.")
    places = {qualified(prefix, name): (prefix, owner, name, f) for prefix, owner, name, f in _all_places(module)}
    if not places:
        raise ValueError(f"{type(module).__name__} has no factors; overparameterize_ it first, or load it as it is.")
    if not {*places, *module.state_dict()} & state_dict.keys():
        raise ValueError(
            f"the state_dict has none of the model's weights ({', '.join(list(places)[:3])}, ...), but "
            f"{', '.join(list(state_dict)[:3])}, ...; strip or add the prefix of its keys."
        )
    made: dict[tuple[Factors, int], list[Tensor]] = {}
    result: dict[str, Tensor] = {}
    for key, value in state_dict.items():
        if key not in places:
            result[key] = value
            continue
        prefix, owner, name, factors = places[key]
        same = (factors, value.data_ptr())  # tied weights come with one memory at several keys
        if same not in made:
            made[same] = _split(key, value, owner, factors, init)
        for j, factor in enumerate(made[same]):
            result[factor_name(prefix, name, j)] = factor
    return result


def plain_state_dict(state_dict: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """A checkpoint of the over-parameterized model as one of the plain model: products, accumulated in float64.

    Args:
        state_dict: Of the over-parameterized model.
        module: The over-parameterized model or the plain one; may be on the meta device.

    Returns:
        What ``load_state_dict`` of the plain model takes.

    Raises:
        ValueError: If factors are missing, or are no factorization of the module's weight.

    Example:
        >>> import torch, overdepth as od
        >>> model = od.overparameterize_(torch.nn.Linear(8, 4))
        >>> list(od.nn.plain_state_dict(model.state_dict(), model))
        ['weight', 'bias']
    """
    places = {qualified(prefix, name): f.layout for prefix, _, name, f in _all_places(module)}
    chains: dict[str, dict[int, Tensor]] = {}
    order: dict[str, None] = {}
    for key, value in state_dict.items():
        match = _FACTOR.fullmatch(key)
        if match is None:
            order[key] = None
        else:
            weight = match["prefix"] + match["name"]
            chains.setdefault(weight, {})[int(match["index"])] = value
    for weight in chains:
        order[weight] = None
    for key, chain in chains.items():
        _refuse_shards(key, chain.values())
    layouts = {key: places.get(key) or _inferred(key, chain, module) for key, chain in chains.items()}
    folded: dict[tuple[int, ...], Tensor] = {}
    result: dict[str, Tensor] = {}
    for key in _as_in(module, order):
        if key not in chains:
            result[key] = state_dict[key]
            continue
        layout, chain = layouts[key], chains[key]
        factors = [factor for _, factor in sorted(chain.items())]
        if sorted(chain) != list(range(layout.depth)) or tuple(tuple(f.shape) for f in factors) != layout.factor_shapes:
            raise ValueError(
                f"{key!r} should come as factors of shapes {layout.factor_shapes}, got "
                f"{tuple(tuple(f.shape) for f in factors)}."
            )
        memory = tuple(f.data_ptr() for f in factors)
        if memory not in folded or 0 in memory:
            folded[memory] = layout.folded([f.detach() for f in factors]).contiguous()
        result[key] = folded[memory]
    return result


def _split(key: str, value: Tensor, owner: nn.Module, factors: Factors, init: Init | None) -> list[Tensor]:
    layout = factors.layout
    _refuse_shards(key, [value])
    if tuple(value.shape) != layout.weight_shape:
        raise ValueError(f"{key!r} has shape {tuple(value.shape)}, the model's is {layout.weight_shape}.")
    chosen = init or factors.init
    start = Start(chosen if Start(chosen).keeps_the_weight else "balanced")
    if isinstance(layout, ComposedLayout):
        raise ValueError(
            f"{key!r} is a composition of smaller kernels in the model, which a given kernel in general is not."
        )
    try:
        made = layout.initial(value.detach().to(factors[0].dtype), start)
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}") from None
    keep_padding(owner, value, made)
    return made


def _refuse_shards(key: str, values: Iterable[Tensor]) -> None:
    if any(is_sharded(value) for value in values):
        raise ValueError(
            f"{key!r} is sharded (DTensor); gather the state_dict first, for instance by "
            f"torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True."
        )


def _inferred(key: str, chain: Mapping[int, Tensor], module: nn.Module) -> Layout:
    prefix, _, name = key.rpartition(".")
    owner = dict(module.named_modules(remove_duplicate=False)).get(prefix)
    weight = getattr(owner, name, None)
    if owner is None or not isinstance(weight, Tensor):
        raise ValueError(f"the state_dict has factors of {key!r}, which {type(module).__name__} does not hold.")
    try:
        return find_layout(weight.shape, [tuple(f.shape) for _, f in sorted(chain.items())], groups_of(owner))
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}") from None


def _all_places(module: nn.Module) -> list[tuple[str, nn.Module, str, Factors]]:
    """Every place, also of modules that are registered twice, as a state_dict lists them."""
    return list(factored_weights(module, remove_duplicate=False))


def _as_in(module: nn.Module, keys: Mapping[str, None]) -> list[str]:
    """The keys in the order of the module's own state_dict, weights before biases; unknown ones behind."""
    rank: dict[str, int] = {}
    for prefix, each in module.named_modules(remove_duplicate=False):
        for name in [*each._parameters, *each._buffers]:
            rank.setdefault(qualified(prefix, name), len(rank))
    return sorted(keys, key=lambda key: rank.get(key, len(rank)))
