"""LoRA pairs: a frozen weight plus s B A, recognised by their names and shapes, whatever package made them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from torch import Tensor, nn

from overdepth.inspection.chains import Chain, Findings
from overdepth.inspection.matrices import LeftOutError, Matrix, checked
from overdepth.nn.classes import qualified

_PAIRS = (("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"), ("lora_a", "lora_b"))


def find_adapters(model: nn.Module, findings: Findings) -> None:
    """Adds the pair s B A of every adapter of every module: factors A, B, in this order."""
    for prefix, module in model.named_modules():
        for first, second in _PAIRS:
            down, up = _held(module, first), _held(module, second)
            for adapter in down.keys() & up.keys():
                name = f"{prefix}, adapter {adapter}" if adapter else prefix or type(module).__name__
                try:
                    a = _factor(prefix, first, adapter, down[adapter])
                    b = _factor(prefix, second, adapter, up[adapter])
                    if b.shape[1] != a.shape[0]:
                        raise LeftOutError(f"{b.label!r} does not fit on {a.label!r}")
                except LeftOutError as error:
                    findings.left_out[name] = str(error)
                    continue
                scale = _scale(module, adapter)
                notes = ("its scale is not known and taken as 1",) if scale is None else ()
                findings.chains.append(Chain(name, "LoRA", (a, b), scale=1.0 if scale is None else scale, notes=notes))


def _held(module: nn.Module, name: str) -> dict[str, Any]:
    """What stands under a name, by adapter: layers or parameters, and a single one under the empty name."""
    found = module._modules.get(name, module._parameters.get(name))
    if isinstance(found, nn.ModuleDict | nn.ParameterDict):
        return dict(found.items())
    return {} if found is None else {"": found}


def _factor(prefix: str, name: str, adapter: str, held: nn.Module | Tensor) -> Matrix:
    """A layer's weight, or a parameter, as a matrix: a kernel by its outputs."""
    label = qualified(qualified(prefix, name), adapter) if adapter else qualified(prefix, name)
    tensor: object = held
    if isinstance(held, nn.Module):
        label, tensor = f"{label}.weight", getattr(held, "weight", None)
    values = checked(label, tensor)
    if values.ndim < 2 or values.numel() == 0:
        raise LeftOutError(f"{label!r} has shape {tuple(values.shape)}, no matrix")
    trainable = bool(getattr(tensor, "requires_grad", False))
    return Matrix(label, values.reshape(len(values), -1), trainable=trainable)


def _scale(module: Any, adapter: str) -> float | None:
    """What is in front of B A, as the module says."""
    scaling = getattr(module, "scaling", None)
    if isinstance(scaling, Mapping):
        scaling = scaling.get(adapter)
    if isinstance(scaling, Real):
        return float(scaling)
    alpha, rank = getattr(module, "alpha", None), getattr(module, "rank", None)
    if isinstance(alpha, Real) and isinstance(rank, Real) and rank:
        return float(alpha) / float(rank)
    return None
