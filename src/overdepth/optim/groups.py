"""Which parameter of a model gets which depth, as groups that print as a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from overdepth._checks import check_depth, is_sharded
from overdepth._table import text_table
from overdepth.nn.classes import qualified
from overdepth.nn.kinds import check_module, groups_of, obstacle, weights_of, wrapper_of

Depth = float | Callable[[str, nn.Parameter], float | None]


class ParamGroups(list[dict[str, Any]]):
    """Parameter groups for an optimizer, whose ``repr`` is the table of what gets which depth.

    Iterating gives copies of the groups, since optimizers write into those they are given.

    Attributes:
        reasons: Why each parameter has its depth, by name.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], reasons: dict[str, str]) -> None:
        super().__init__(groups)
        self.reasons = reasons

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return ({**group, "params": list(group["params"])} for group in super().__iter__())

    def __add__(self, other: Any) -> list[Any]:
        return [*self, *other]

    def __repr__(self) -> str:
        rows = {}
        for group in self:
            depth = f"{group['depth']:g}" + (f", {group['groups']} groups" if group["groups"] > 1 else "")
            for name, p in group["params"]:
                rows[name] = (name, " x ".join(map(str, p.shape)), depth, self.reasons[name])
        return "\n".join(text_table(["parameter", "shape", "depth", "why"], [rows[name] for name in self.reasons]))


def param_groups(
    model: nn.Module,
    *,
    depth: Depth = 2,
    exclude: Iterable[str] | str = (),
    include: Iterable[str] | str = (),
    **options: Any,
) -> ParamGroups:
    """Groups for the optimizers of :mod:`overdepth.optim`: matrices and convolutions get the depth, the rest depth 1.

    Left at depth 1 unless ``include`` names them: biases and norms' parameters (which stay so in any case), embeddings
    and what is tied to one, and the output head: what ``model.get_output_embeddings()`` returns, else the last
    linear layer, if it is not the only weight. Print the result to see what gets what, and why.

    Args:
        model: A plain model, not one of :func:`overdepth.overparameterize_`.
        depth: Of the chosen weights, or a function of name and parameter that returns one (None: as it would be).
        exclude: Names of parameters, or patterns such as ``"*.attn.*"``, that stay at depth 1.
        include: Names or patterns of weights that get the depth although they would be left out.
        **options: Put into every group, such as ``lr``.

    Returns:
        The groups, one for each depth and number of convolution groups; parameters come with their names.

    Raises:
        ValueError: If a pattern matches nothing, or a weight that cannot be a matrix is included.

    Example:
        >>> import torch, overdepth as od
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> od.optim.param_groups(model, depth=3)
        parameter  shape  depth  why
        ---------  -----  -----  ------------------------------------
        0.weight   8 x 4  3      linear
        0.bias     8      1      no matrix
        2.weight   2 x 8  1      output head: by explicit choice only
        2.bias     2      1      no matrix
        >>> optimizer = od.optim.EndToEndSGD(od.optim.param_groups(model), lr=0.1)
    """
    check_module(model)
    taken = sorted({"params", "depth", "groups", "param_names"} & options.keys())
    if taken:
        raise ValueError(f"{', '.join(taken)} is what this function finds out; other options go into every group.")
    wrapper = wrapper_of(model)
    if wrapper is not None and wrapper[1] == "FullyShardedDataParallel":
        raise ValueError("the model is sharded by FullyShardedDataParallel into flat pieces that hold no matrices.")
    excluded, included = _patterns(exclude), _patterns(include)
    parameters = dict(model.named_parameters())
    _check_patterns([*excluded, *included], parameters)
    weights = _weights(model, parameters)
    head = _head(model, weights, parameters)
    groups: dict[tuple[float, int], dict[str, Any]] = {}
    reasons: dict[str, str] = {}
    for name, parameter in parameters.items():
        each, why, conv_groups = 1.0, "no matrix", 1
        if name in weights:
            kind, by_default, conv_groups, reason = weights[name]
            asked = _matches(name, included)
            if is_sharded(parameter):
                raise ValueError(f"{name!r} is a sharded DTensor, which holds no whole matrix; make the groups before.")
            if reason is not None:
                if asked:
                    raise ValueError(f"include names {name!r}, which cannot have a depth: {reason}.")
                why = reason
            elif _matches(name, excluded):
                why = "excluded"
            elif name == head and not asked:
                why = "output head: by explicit choice only"
            elif not by_default and not asked:
                why = f"{kind}: by explicit choice only"
            else:
                chosen = depth(name, parameter) if callable(depth) else depth
                each, why = (1.0, "depth is None") if chosen is None else (chosen, kind)
                check_depth(each, qualified_name=f"depth of {name!r}", allow_real=True)
        elif parameter.ndim > 1:
            why = "not the weight of a layer that is known"
            if _matches(name, included):
                raise ValueError(f"include names {name!r}, which is {why}; make a group of it yourself.")
        elif _matches(name, included):
            raise ValueError(f"include names {name!r}, which is no matrix of a layer.")
        reasons[name] = why
        key = (each, conv_groups if each > 1 else 1)
        group = groups.setdefault(key, {"params": [], "depth": _number(each), "groups": key[1], **options})
        group["params"].append((name, parameter))
    return ParamGroups(groups.values(), reasons)


def _weights(model: nn.Module, parameters: dict[str, nn.Parameter]) -> dict[str, tuple[str, bool, int, str | None]]:
    """(kind, whether by default, convolution groups, obstacle) of every weight of a layer, by its first name."""
    names = {id(p): name for name, p in parameters.items()}
    found: dict[str, tuple[str, bool, int, str | None]] = {}
    for prefix, module in model.named_modules():
        for attribute, kind in weights_of(module):
            weight = dict(module._parameters).get(attribute)
            if weight is None or id(weight) not in names:
                continue
            name = names[id(weight)]
            reason = obstacle(module, attribute) if kind.possible else f"{kind.name} weight"
            default = kind.default and found.get(name, ("", True, 1, None))[1]
            shown = kind.name if name == qualified(prefix, attribute) else f"tied {kind.name}"
            if name not in found or not default:
                found[name] = (shown if name not in found else found[name][0], default, groups_of(module), reason)
    return found


def _head(
    model: nn.Module, weights: dict[str, tuple[str, bool, int, str | None]], parameters: dict[str, nn.Parameter]
) -> str | None:
    """The name of the output head's weight."""
    get = getattr(model, "get_output_embeddings", None)
    module = get() if callable(get) else None
    if isinstance(module, nn.Module) and getattr(module, "weight", None) is not None:
        return next((name for name, p in parameters.items() if p is module.weight), None)
    chosen = [name for name, (_, default, _, reason) in weights.items() if default and reason is None]
    linear = [name for name in chosen if weights[name][0] == "linear"]
    return linear[-1] if linear and len(chosen) > 1 else None


def _patterns(names: Iterable[str] | str) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _check_patterns(patterns: Iterable[str], parameters: dict[str, nn.Parameter]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in parameters):
            shown = ", ".join(list(parameters)[:5])
            raise ValueError(f"no parameter matches {pattern!r}; the model has {shown}, ...")


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _number(depth: float) -> float:
    """Whole depths as integers, which Factored needs."""
    return int(depth) if float(depth).is_integer() else depth
