"""The class of a layer with factors: a subclass of its own class, so that ``isinstance`` and hooks see no change.

``torch.nn.utils.parametrize`` does the same with a class for every instance; when it removes a parametrization it takes
the property from a class that deep copies share, and moves the weight behind the bias. Here there is one class for each
class of layers, which also lets copies, pickles and compiled code be shared, and the weight's slot in ``_parameters``
stays where it is (None while there are factors), so that folding restores the order of ``parameters()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from torch import Tensor, nn

from overdepth.nn.factors import Factors
from overdepth.nn.layers import ChainedForward

_HELD = "_overdepth_held_weights"
Route = tuple[str, ChainedForward]  # the weight that the forward runs factor after factor, and how


def attach(module: nn.Module, name: str, factors: Factors, chained: ChainedForward | None) -> None:
    """Makes ``module.<name>`` the product of ``factors``; its slot among the parameters is kept, empty."""
    base: Any = plain_class(module)
    route = _chained(module) if chained is None else (name, chained)
    cls = _factored_class(base, (*_names(module), name), route)  # before anything changes: a class may refuse heirs
    if not is_overparameterized(module):
        module.parametrizations = nn.ModuleDict()
    held: Any = module.parametrizations
    held[name] = factors
    held.train(module.training)
    module._parameters[name] = None
    module.__class__ = cls


def detach(module: nn.Module, name: str, weight: nn.Parameter) -> None:
    """Gives a module its weight back, and with the last one its class."""
    base: Any = plain_class(module)
    held: Any = module.parametrizations
    names = tuple(n for n in _names(module) if n != name)
    route = _chained(module)
    if names:
        del held[name]
        module.__class__ = _factored_class(base, names, None if route is None or route[0] == name else route)
    else:
        del module.parametrizations
        module.__class__ = base
    module._parameters[name] = weight


def is_overparameterized(module: nn.Module) -> bool:
    """Whether the module itself (not one inside it) has factors of ours."""
    return hasattr(type(module), "_overdepth_names")


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class without factors."""
    base: type[nn.Module] = getattr(type(module), "_overdepth_base", type(module))
    return base


def factored_weights(
    module: nn.Module, *, remove_duplicate: bool = True
) -> Iterator[tuple[str, nn.Module, str, Factors]]:
    """(prefix, module, name, factors) of every weight that has factors, tied ones at each place.

    Modules that are registered twice come once, unless ``remove_duplicate`` is False.
    """
    for prefix, each in module.named_modules(remove_duplicate=remove_duplicate):
        for name in _names(each):
            yield prefix, each, name, each.parametrizations[name]


def qualified(prefix: str, name: str) -> str:
    """``prefix.name``."""
    return f"{prefix}.{name}" if prefix else name


def factor_name(prefix: str, name: str, index: int) -> str:
    """The qualified name, and key of the state_dict, of a factor of ``prefix.name``."""
    return qualified(prefix, f"parametrizations.{name}.factor{index}")


def _names(module: nn.Module) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(type(module), "_overdepth_names", ())
    return names


def _chained(module: nn.Module) -> Route | None:
    route: Route | None = getattr(type(module), "_overdepth_chained", None)
    return route


@cache
def _factored_class(base: Any, names: tuple[str, ...], route: Route | None) -> type[nn.Module]:
    members: dict[str, Any] = {
        "__doc__": base.__doc__,
        "__module__": base.__module__,
        "_overdepth_base": base,
        "_overdepth_names": names,
        "_overdepth_chained": route,
        "__reduce_ex__": _reduce(base, names, route),
        "__delattr__": _refuse_deleting(base),
        "register_parameter": _refuse_overwriting(base, names),
        "_load_from_state_dict": _explain_loading(base, names),
    }
    if route is not None:
        members["forward"] = _chained_forward(base, *route)
    elif issubclass(base, nn.MultiheadAttention):
        members["forward"] = _holding_forward(base, names)
    for name in names:
        members[name] = _weight_property(name)
    for name in ("reset_parameters", "_reset_parameters"):
        if hasattr(base, name):
            members[name] = _refuse_reset
    return type(f"Overparameterized{base.__name__}", (base,), members)


def _weight_property(name: str) -> property:
    def get(self: nn.Module) -> Tensor:
        held: dict[str, Tensor] = self.__dict__.get(_HELD) or {}
        if name in held:
            return held[name]
        given = self._parameters[name]
        if given is not None:  # torch.func.functional_call puts a weight there
            return given
        held_factors: Any = self.parametrizations
        try:
            weight: Tensor = held_factors[name]()
        except AttributeError as error:  # which torch would answer with the empty slot
            raise RuntimeError(f"the factors of {name!r} are damaged: {error}") from error
        return weight

    def refuse(self: nn.Module, value: object) -> None:
        raise AttributeError(_ASSIGNED.format(name))

    return property(get, refuse, doc=f"The product of the factors in ``parametrizations.{name}``.")


_ASSIGNED = (
    "'{0}' is the product of the factors in 'parametrizations.{0}' and cannot be assigned; write to the factors, or "
    "fold with overdepth.collapse_(model) first."
)


def _refuse_overwriting(base: type[nn.Module], names: tuple[str, ...]) -> Callable[..., None]:
    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if name in names:
            raise AttributeError(_ASSIGNED.format(name))
        base.register_parameter(self, name, param)

    return register_parameter


def _refuse_deleting(base: type[nn.Module]) -> Callable[..., None]:
    """``register_parametrization`` of another tensor would begin by deleting it, and end in a class that many share."""

    def __delattr__(self: nn.Module, name: str) -> None:  # noqa: N807 - becomes a method
        if self._parameters.get(name) is not None or name in _names(self):
            raise RuntimeError(
                f"{name!r} cannot be deleted or parametrized while the layer is over-parameterized; fold it with "
                f"overdepth.collapse_(model) first."
            )
        base.__delattr__(self, name)

    return __delattr__


def _refuse_reset(self: nn.Module) -> None:
    raise RuntimeError(
        f"reset_parameters of {plain_class(self).__name__} would write into a product, which is lost; initialize the "
        f"factors (overdepth.nn.named_factors), or reset before overdepth.overparameterize_."
    )


def _chained_forward(base: type[nn.Module], name: str, chained: ChainedForward) -> Callable[..., Any]:
    plain = base.forward

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self._parameters[name] is not None:  # given by torch.func.functional_call
            return plain(self, *args, **kwargs)
        return chained(self, self.parametrizations[name], plain, *args, **kwargs)

    return forward


def _holding_forward(base: type[nn.Module], names: tuple[str, ...]) -> Callable[..., Any]:
    """For a forward that reads its weights several times: each product is made once a call."""
    plain = base.forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.__dict__[_HELD] = {name: getattr(self, name) for name in names}
        try:
            return plain(self, *args, **kwargs)
        finally:
            self.__dict__.pop(_HELD, None)

    return forward


def _explain_loading(base: type[nn.Module], names: tuple[str, ...]) -> Callable[..., None]:
    """``load_state_dict`` of a plain checkpoint says which conversion is missing."""

    def _load_from_state_dict(
        self: nn.Module,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        base._load_from_state_dict(
            self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        error_msgs.extend(
            f"'{prefix}{name}' is a plain weight, but here it is a product of factors: convert the checkpoint with "
            f"overdepth.nn.factored_state_dict(state_dict, model), or load it before overparameterize_."
            for name in names
            if prefix + name in state_dict
        )

    return _load_from_state_dict


def _reduce(base: type[nn.Module], names: tuple[str, ...], route: Route | None) -> Callable[..., Any]:
    def __reduce_ex__(self: nn.Module, protocol: object) -> tuple[Any, ...]:  # noqa: N807 - becomes a method
        return _rebuild, (base, names, route), self.__getstate__()  # type: ignore[no-untyped-call]

    return __reduce_ex__


def _rebuild(base: Any, names: tuple[str, ...], route: Route | None) -> nn.Module:
    cls = _factored_class(base, names, route)
    module: nn.Module = cls.__new__(cls)
    return module
