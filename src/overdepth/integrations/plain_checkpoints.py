"""While a model has factors, its state_dict is that of the plain model: what others save and load fits both forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from overdepth.nn.checkpoints import factored_state_dict, plain_state_dict
from overdepth.nn.classes import factor_name, factored_weights
from overdepth.nn.kinds import check_module


class PlainStateDicts:
    """What :func:`plain_state_dicts` put on a model; ``remove()`` takes it off again, as does leaving a ``with``."""

    def __init__(self, model: nn.Module) -> None:
        hooked: Any = model  # torch has no types for these two
        self._handles = [
            hooked.register_state_dict_post_hook(_as_plain),
            hooked.register_load_state_dict_pre_hook(_as_factored),
        ]

    def remove(self) -> None:
        """The model's state_dict is again that of its factors, if it has any."""
        for handle in self._handles:
            handle.remove()

    def __enter__(self) -> PlainStateDicts:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def plain_state_dicts(model: nn.Module) -> PlainStateDicts:
    """Makes ``model.state_dict()`` that of the plain model, and ``load_state_dict`` take it.

    For tools that save a model themselves: what they write loads into the plain model, and into the over-parameterized
    one as well, whose factors then start balanced (with the model's own ``init`` if that keeps weights). Factored
    checkpoints still load. The factors themselves are not in such a checkpoint; keep :func:`factors_of` beside it where
    training is to go on exactly. A folded model is left alone.

    Args:
        model: The whole model, with factors or still without.

    Returns:
        A handle with ``remove()``, which is a context manager too.

    Raises:
        TypeError: If it is no module.

    Example:
        >>> import torch, overdepth as od
        >>> model = od.overparameterize_(torch.nn.Linear(8, 4))
        >>> with od.integrations.plain_state_dicts(model):
        ...     list(model.state_dict())
        ['weight', 'bias']
        >>> list(model.state_dict())
        ['bias', 'parametrizations.weight.factor0', 'parametrizations.weight.factor1']
    """
    check_module(model)
    return PlainStateDicts(model)


def factors_of(model: nn.Module) -> dict[str, Tensor]:
    """The factors themselves, by the keys that they have in a factored state_dict."""
    return {
        factor_name(prefix, name, j): factor.detach()
        for prefix, _, name, factors in factored_weights(model)
        for j, factor in enumerate(factors)
    }


def restore_factors(model: nn.Module, factors: Mapping[str, Tensor], source: str, *, same_product: bool) -> None:
    """Writes saved factors into a model.

    Args:
        model: Over-parameterized as the saved one was.
        factors: From :func:`factors_of`.
        source: Where they come from, for messages.
        same_product: Check that they have the product that the model has now, to half the digits of their type.

    Raises:
        ValueError: If they are of other weights or shapes, or of another product; before anything was changed.
    """
    here = factors_of(model)
    if here.keys() != factors.keys():
        odd = sorted(here.keys() ^ factors.keys())
        raise ValueError(
            f"{source} and the model have factors of different weights ({', '.join(odd[:3])}, ...); over-parameterize "
            f"with the same depth and select as then."
        )
    for key, value in here.items():
        if value.shape != factors[key].shape:
            raise ValueError(
                f"{key!r} has shape {tuple(factors[key].shape)} in {source}, and {tuple(value.shape)} in the model; "
                f"over-parameterize with the same width as then."
            )
    if same_product:
        _check_products(model, factors, source)
    with torch.no_grad():
        for key, value in here.items():
            value.copy_(factors[key])


def _check_products(model: nn.Module, factors: Mapping[str, Tensor], source: str) -> None:
    plain = plain_state_dict(dict(factors), model)
    for prefix, _, name, held in factored_weights(model):
        key = f"{prefix}.{name}" if prefix else name
        found, expected = plain[key].double(), held.folded().double().to(plain[key].device)
        tolerance = torch.finfo(held[0].dtype).eps ** 0.5
        if not bool((found - expected).norm() <= tolerance * expected.norm()):
            raise ValueError(
                f"the factors in {source} have another product than {key!r} in the checkpoint that was loaded; they "
                f"belong to another checkpoint."
            )


def _as_plain(module: nn.Module, state_dict: Any, prefix: str, local_metadata: Any) -> None:
    """A post-hook of ``state_dict``: products in the places of factors."""
    del local_metadata
    if next(factored_weights(module), None) is None:
        return
    inside = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    plain = plain_state_dict(inside, module)
    for key in inside:
        del state_dict[prefix + key]
    for key, value in plain.items():
        state_dict[prefix + key] = value


def _as_factored(module: nn.Module, state_dict: Any, prefix: str, *_: object) -> None:
    """A pre-hook of ``load_state_dict``: factors in the places of weights."""
    if next(factored_weights(module), None) is None:
        return
    inside = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    factored = factored_state_dict(inside, module)
    for key in inside:
        del state_dict[prefix + key]
    for key, value in factored.items():
        state_dict[prefix + key] = value
