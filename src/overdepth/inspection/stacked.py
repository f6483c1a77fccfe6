"""Linear layers that follow each other without anything between: products that a model holds without saying so.

Neighbours in ``nn.Sequential`` are found always, others where ``torch.fx`` can follow the forward. A chain ends at a
layer whose output or weight is used a second time, or that carries hooks.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from torch import fx, nn

from overdepth.inspection.chains import Chain, Findings
from overdepth.inspection.matrices import LeftOutError, Matrix, has_bias, is_linear, linear_factors, matrix
from overdepth.inspection.tracing import traced_parts
from overdepth.nn.classes import is_overparameterized, qualified

SHOWN = 3


def find_stacked(model: nn.Module, findings: Findings) -> None:
    """Adds every chain of linear layers; call it last, since it leaves out what others have found."""
    modules = dict(model.named_modules())
    uses = _uses(model)
    failed: list[str] = []
    runs = list(_runs_in_sequentials(model))
    for prefix, graph in traced_parts(model, failed):
        runs += [[qualified(prefix, name) for name in run] for run in _runs_in_graph(graph, prefix, modules)]
    known = [frozenset(f.parameter for f in chain.factors) for chain in findings.chains]
    taken: set[str] = set()
    for run in sorted(runs, key=len, reverse=True):  # the graph may see more of a chain than nn.Sequential does
        for names in _unbroken(run, modules, uses):
            if not taken.isdisjoint(names):
                continue
            chain = _chain(names, modules, findings)
            if chain is None or any(known_one >= {f.parameter for f in chain.factors} for known_one in known):
                continue
            taken.update(names)
            findings.chains.append(chain)
    if failed:
        shown = ", ".join(name or "the model itself" for name in failed[:SHOWN])
        more = f" and {len(failed) - SHOWN} more" if len(failed) > SHOWN else ""
        findings.remarks.append(
            f"torch.fx cannot follow the forward of {shown}{more}: linear layers that meet there and not in an "
            f"nn.Sequential were not seen"
        )


def _runs_in_sequentials(model: nn.Module) -> Iterator[list[str]]:
    """The modules of each outermost nn.Sequential in their order, nested ones unrolled."""
    inside: set[nn.Module] = set()
    for prefix, module in model.named_modules():
        if module not in inside and _is_sequential(module):
            inside.update(m for m in module.modules() if m is not module)
            yield [name for name, _ in _unrolled(prefix, module)]


def _unrolled(prefix: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if _is_sequential(module) and not _has_hooks(module):
        for name, child in module.named_children():
            yield from _unrolled(qualified(prefix, name), child)
    else:
        yield prefix, module


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _runs_in_graph(graph: fx.Graph, prefix: str, modules: dict[str, nn.Module]) -> Iterator[list[str]]:
    """Chains of module calls in which each feeds the next alone."""
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")

    def follows(node: fx.Node) -> fx.Node | None:
        """The only user of a layer's output, if it is a layer that takes nothing else."""
        if len(node.users) != 1:
            return None
        after = next(iter(node.users))
        simple = after.op == "call_module" and after.args == (node,) and not after.kwargs
        return after if simple and calls[str(after.target)] == 1 else None

    def is_layer(node: fx.Node) -> bool:
        return node.op == "call_module" and qualified(prefix, str(node.target)) in modules

    followers = {after for node in graph.nodes if is_layer(node) and (after := follows(node)) is not None}
    for node in graph.nodes:
        if not is_layer(node) or node in followers or calls[str(node.target)] > 1:
            continue
        run, current = [str(node.target)], node
        while (after := follows(current)) is not None:
            run.append(str(after.target))
            current = after
        yield run


def _unbroken(run: Sequence[str], modules: dict[str, nn.Module], uses: Counter[int]) -> Iterator[list[str]]:
    """The stretches of at least two linear layers."""
    stretch: list[str] = []
    for name in run:
        module = modules[name]
        if _passes(module):
            continue
        alone = not _has_hooks(module) and not any(uses[id(p)] > 1 for p in module.parameters())
        if alone and is_linear(module):
            stretch.append(name)
            continue
        if len(stretch) > 1:
            yield stretch
        stretch = [name] if alone and _is_lookup(module) else []
    if len(stretch) > 1:
        yield stretch


def _passes(module: nn.Module) -> bool:
    """Whether a module hands on what it gets, in training too."""
    is_idle_dropout = isinstance(module, nn.Dropout) and module.p == 0
    return (isinstance(module, nn.Identity) or is_idle_dropout) and not _has_hooks(module)


def _is_lookup(module: nn.Module) -> bool:
    """Whether a module looks up rows, which is a matrix on one-hot vectors."""
    return isinstance(module, nn.Embedding) and not is_overparameterized(module) and module.max_norm is None


def _chain(names: Sequence[str], modules: dict[str, nn.Module], findings: Findings) -> Chain | None:
    factors: list[Matrix] = []
    try:
        for name in names:
            module = modules[name]
            if isinstance(module, nn.Embedding):
                factors.append(matrix(qualified(name, "weight"), module._parameters["weight"]).transposed())
            else:
                factors += linear_factors(name, module)
    except LeftOutError as error:
        findings.left_out[" -> ".join(names)] = str(error)
        return None
    pairs = itertools.pairwise(factors)
    if any(upper.shape[1] != lower.shape[0] or upper.stored.dtype != lower.stored.dtype for lower, upper in pairs):
        return None  # a forward that could not run
    notes = []
    if any(has_bias(modules[name]) for name in names[:-1]):
        notes.append("biases lie between; the imbalance that flow keeps has them as one more input column")
    if isinstance(modules[names[0]], nn.Embedding):
        notes.append("the first factor acts on one-hot tokens")
    return Chain(" -> ".join(names), "stacked", tuple(factors), notes=tuple(notes))


def _uses(model: nn.Module) -> Counter[int]:
    """How many places hold each parameter."""
    return Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)


def _has_hooks(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
