"""Fold batch norms into the convolutions in front of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from overdepth.nn.classes import is_overparameterized
from overdepth.nn.kinds import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from overdepth.nn.optimizers import Replacement

_CONVOLUTIONS = CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def batchnorm_pairs(module: nn.Module) -> list[tuple[str, str]]:
    """(convolution, batch norm) of every batch norm whose only input is a convolution that feeds nothing else.

    Raises:
        ValueError: If a batch norm is not in eval mode, or the model cannot be traced.
    """
    training = [name for name, m in module.named_modules() if isinstance(m, _NORMS) and m.training]
    if training:
        raise ValueError(
            f"fold_batchnorm: {training[0]!r} is in training mode, in which it normalises by the batch; call "
            f"model.eval() first."
        )
    graph = _graph(module)
    modules = dict(module.named_modules())
    calls = Counter(id(modules[str(n.target)]) for n in graph.nodes if n.op == "call_module")
    reads = [str(n.target) for n in graph.nodes if n.op == "get_attr"]  # parameters that the forward uses by itself
    owners = Counter(id(weight) for m in modules.values() for weight in _weights(m))
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        if not isinstance(convolution, _CONVOLUTIONS) or not isinstance(norm, _NORMS) or norm.running_mean is None:
            continue
        if parametrize.is_parametrized(convolution) and not is_overparameterized(convolution):
            continue
        if any(m._forward_hooks or m._forward_pre_hooks for m in (convolution, norm)):
            continue  # what they do between the two is not known
        if any(read.startswith((f"{before.target}.", f"{node.target}.")) for read in reads):
            continue
        tied = any(owners[id(weight)] > 1 for weight in _weights(convolution))
        if calls[id(convolution)] == calls[id(norm)] == 1 and not tied:
            pairs.append((str(before.target), str(node.target)))
    return pairs


def fuse(module: nn.Module, convolution_name: str, norm_name: str) -> dict[nn.Parameter, Replacement]:
    """Folds the batch norm into the convolution, whose weight stays the same Parameter, and leaves an identity.

    Returns:
        What takes the places of the norm's parameters in an optimizer: the convolution's bias, if it is new.
    """
    convolution: Any = module.get_submodule(convolution_name)
    norm: Any = module.get_submodule(norm_name)
    weight = convolution.weight.detach().double()
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    scale = scale if norm.weight is None else scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    shift = shift if norm.bias is None else shift + norm.bias.detach().double()
    if isinstance(convolution, TRANSPOSED_CONVOLUTIONS):
        # (in, out / groups, ...): the outputs of a group lie side by side
        grouped = weight.reshape(convolution.groups, -1, *weight.shape[1:])
        each = scale.reshape(convolution.groups, 1, -1, *[1] * (weight.ndim - 2))
        fused = (grouped * each).reshape(weight.shape)
    else:
        fused = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    replacements: dict[nn.Parameter, Replacement] = {p: ("", []) for p in norm.parameters()}
    with torch.no_grad():
        convolution.weight.copy_(fused)
        if convolution.bias is not None:
            convolution.bias.copy_(convolution.bias.double() * scale + shift)
        else:
            trainable = any(p.requires_grad for p in norm.parameters())
            convolution.bias = nn.Parameter(shift.to(weight.device, convolution.weight.dtype), trainable)
            if norm.bias is not None:
                replacements[norm.bias] = (f"{norm_name}.bias", [(f"{convolution_name}.bias", convolution.bias)])
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is norm:
                parent._modules[name] = nn.Identity().eval()
    return replacements


def _weights(module: nn.Module) -> Iterable[Tensor | nn.Module]:
    """What two tied layers would share: the weight, or its factors."""
    if is_overparameterized(module):
        held: Any = module.parametrizations
        yield from held.values()
    yield from (p for p in module._parameters.values() if p is not None)


class _Tracer(fx.Tracer):
    """Stops at every layer of torch, with factors or without."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential | nn.ModuleList)


def _graph(module: nn.Module) -> fx.Graph:
    before = set(module.__dict__)
    try:
        return _Tracer().trace(module)
    except Exception as error:  # what a model's forward may raise under tracing has no bounds
        raise ValueError(
            f"fold_batchnorm: torch.fx cannot trace {type(module).__name__} to see which batch norm follows which "
            f"convolution ({error}); fold with fold_batchnorm=False."
        ) from error
    finally:
        for name in set(module.__dict__) - before:  # the tracer leaves constants on what it traces
            del module.__dict__[name]
