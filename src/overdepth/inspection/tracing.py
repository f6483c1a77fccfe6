"""The graph of a model's forward, part by part where the whole cannot be traced."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from overdepth.inspection.matrices import is_linear


def traced_parts(model: nn.Module, failed: list[str]) -> Iterator[tuple[str, fx.Graph]]:
    """The graphs of a model and of those parts that the graph around them could not look into.

    Nothing is computed: ``torch.fx`` runs the forwards on symbols, of a copy that shares the parameters.

    Args:
        model: The model; stays as it is.
        failed: Gets the qualified names of modules whose forward cannot be followed.

    Yields:
        (qualified name of the part, its graph, whose targets are relative to it).
    """
    try:
        shared = {id(p): p for p in model.parameters()}
        model = copy.deepcopy(model, shared)  # a forward may write to what it is traced on
    except Exception:  # what a model's copying may raise has no bounds
        failed.append("")
        return
    parts: list[tuple[str, nn.Module]] = [("", model)]
    seen: set[nn.Module] = set()
    while parts:
        prefix, part = parts.pop(0)
        if part in seen or _is_leaf(part):
            continue
        seen.add(part)
        graph, opaque = _traced(part)
        if graph is None:
            if type(part).forward is not nn.Module.forward:  # a list of modules has no forward to follow
                failed.append(prefix)
            opaque = dict(part.named_children())
        else:
            yield prefix, graph
            failed.extend(f"{prefix}.{name}" if prefix else name for name in opaque)
            opaque = {f"{name}.{below}": child for name, m in opaque.items() for below, child in m.named_children()}
        parts += [(f"{prefix}.{name}" if prefix else name, child) for name, child in opaque.items()]


def _traced(part: nn.Module) -> tuple[fx.Graph | None, dict[str, nn.Module]]:
    """The graph, and what could not be followed inside it."""
    tracer = _Tracer()
    try:
        with warnings.catch_warnings(), torch.no_grad(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # of code that runs on symbols
            return tracer.trace(part, concrete_args=_defaults(part)), tracer.opaque
    except Exception:  # what a model's forward may raise under tracing has no bounds
        return None, {}


def _defaults(part: nn.Module) -> dict[str, Any] | None:
    """The optional arguments of a forward as they are if nobody gives them: the branches that are usually taken."""
    try:
        parameters = inspect.signature(part.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    plain = (type(None), bool, int, float, str)
    return {p.name: p.default for p in parameters if isinstance(p.default, plain)} or None


def _is_leaf(module: nn.Module) -> bool:
    """Layers of torch, and others that are one matrix."""
    return is_linear(module) or (
        type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential | nn.ModuleList)
    )


class _Tracer(fx.Tracer):
    """Stops at every layer of torch, and at every module whose forward it cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.opaque: dict[str, nn.Module] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or _is_leaf(m)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        before = len(self.graph.nodes)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            name = self.path_of_module(m)
            if self.is_leaf_module(m, name):
                raise
            for node in reversed(list(self.graph.nodes)[before:]):
                self.graph.erase_node(node)
            self.opaque[name] = m
            return super().call_module(m, forward, args, kwargs)
