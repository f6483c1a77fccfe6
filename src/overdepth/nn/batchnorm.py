"""Fold batch norms into the convolutions in front of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import fusion

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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
    try:
        graph = _Tracer().trace(module)
    except Exception as error:  # what a model's forward may raise under tracing has no bounds
        raise ValueError(
            f"fold_batchnorm: torch.fx cannot trace {type(module).__name__} to see which batch norm follows which "
            f"convolution ({error}); fold with fold_batchnorm=False."
        ) from error
    modules = dict(module.named_modules())
    calls = Counter(id(modules[str(n.target)]) for n in graph.nodes if n.op == "call_module")
    pairs = []
    for node in graph.nodes:
        before = node.args[0] if node.op == "call_module" and node.args else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution, norm = modules[str(before.target)], modules[str(node.target)]
        if not isinstance(convolution, _CONVOLUTIONS) or not isinstance(norm, _NORMS) or norm.running_mean is None:
            continue
        if calls[id(convolution)] == calls[id(norm)] == 1:
            pairs.append((str(before.target), str(node.target)))
    return pairs


def fuse(module: nn.Module, convolution_name: str, norm_name: str) -> None:
    """Folds the batch norm into the convolution, and puts an identity in its place."""
    convolution: Any = module.get_submodule(convolution_name)
    norm: Any = module.get_submodule(norm_name)
    transposed = isinstance(convolution, _CONVOLUTIONS[3:])
    weight, bias = fusion.fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
        transpose=transposed,
    )  # fmt: skip
    convolution.weight, convolution.bias = weight, bias
    parent, _, name = norm_name.rpartition(".")
    setattr(module.get_submodule(parent), name, nn.Identity())


class _Tracer(fx.Tracer):
    """Stops at every layer of torch, with factors or without."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m.__module__.startswith("torch.nn") and not isinstance(m, nn.Sequential | torch.nn.ModuleList)
