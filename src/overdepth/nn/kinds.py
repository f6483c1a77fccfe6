"""Which weights of a module can be factored, how, and why others cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from overdepth._checks import all_finite, is_sharded
from overdepth.nn import layers
from overdepth.nn.classes import is_overparameterized, plain_class

Rows = tuple[Fraction | int, Fraction | int]
Positions = Callable[[Any, str, Sequence[Any], Any], Rows]


@dataclass(frozen=True)
class Kind:
    """How weights of a kind of module are factored.

    Attributes:
        name: For tables and messages.
        chained: The forward that goes through factor after factor, or None if the module only reads its weight.
        default: Whether it is chosen when no ``select`` is given.
        possible: Whether weights of this kind can be factored at all.
        convolution: Whether the factorizations of kernels apply.
        positions: Rows (positions) in and out of a call, from the module, the weight's name, inputs and output.
        lookup: Whether rows of the weight are looked up, which takes no multiply-adds.
    """

    name: str
    chained: layers.ChainedForward | None = None
    default: bool = True
    possible: bool = True
    convolution: bool = False
    positions: Positions | None = None
    lookup: bool = False


def _rows(module: nn.Module, name: str, inputs: Sequence[Any], output: Any) -> Rows:
    rows = math.prod(inputs[0].shape[:-1])
    return rows, rows


def _convolved(module: nn.Conv2d, name: str, inputs: Sequence[Any], output: Any) -> Rows:
    axes = len(module.kernel_size)
    batch = math.prod(output.shape[: -axes - 1])
    return batch * math.prod(inputs[0].shape[-axes:]), batch * math.prod(output.shape[-axes:])


def _transposed(module: nn.ConvTranspose2d, name: str, inputs: Sequence[Any], output: Any) -> Rows:
    positions = inputs[0].numel() // module.in_channels
    return positions, positions


def _looked_up(module: nn.Module, name: str, inputs: Sequence[Any], output: Any) -> Rows:
    return inputs[0].numel(), inputs[0].numel()


def _matrix_rows(module: nn.Module, name: str, inputs: Sequence[Any], output: Any) -> Rows:
    rows, columns = getattr(module, name).shape  # stored (out, in) or (in, out)
    for tensor, wanted in ((output, rows), (output, columns), (inputs[0], columns)):
        if isinstance(tensor, Tensor) and tensor.ndim > 0 and tensor.shape[-1] == wanted:
            positions = math.prod(tensor.shape[:-1])
            return positions, positions
    return 0, 0


def _attended(module: nn.MultiheadAttention, name: str, inputs: Sequence[Any], output: Any) -> Rows:
    """Query, key and value each meet their projection; ``in_proj_weight`` is three of them in one."""
    query, key, value = (tensor.numel() // tensor.shape[-1] for tensor in inputs[:3])
    of: dict[str, Fraction | int] = {"k_proj_weight": key, "v_proj_weight": value}
    of["in_proj_weight"] = Fraction(query + key + value, 3)
    rows = of.get(name, query)
    return rows, rows


LINEAR = Kind("linear", layers.linear, positions=_rows)
CONVOLUTION = Kind("convolution", layers.convolution, convolution=True, positions=_convolved)
TRANSPOSED = Kind("transposed convolution", layers.transposed_convolution, positions=_transposed)
EMBEDDING = Kind("embedding", layers.embedding, default=False, positions=_looked_up, lookup=True)
EMBEDDING_BAG = Kind("embedding", default=False, positions=_looked_up, lookup=True)
ATTENTION = Kind("attention", positions=_attended)
READ_BY_ATTENTION = Kind("attention")
MATRIX = Kind("matrix", positions=_matrix_rows)
TIED = Kind("tied", default=False)  # held under another name

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BY_FORWARD: tuple[tuple[type[nn.Module], Kind], ...] = (
    (nn.Linear, LINEAR),
    *((known, CONVOLUTION) for known in CONVOLUTIONS),
    *((known, TRANSPOSED) for known in TRANSPOSED_CONVOLUTIONS),
    (nn.Embedding, EMBEDDING),
)
_ATTENTION_WEIGHTS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def weights_of(module: nn.Module) -> list[tuple[str, Kind]]:
    """Names and kinds of the weights of a module that ``select`` is asked about; see also :func:`obstacle`."""
    cls = plain_class(module)
    if isinstance(module, nn.MultiheadAttention):
        held: Any = module.parametrizations if is_overparameterized(module) else ()
        return [
            (name, ATTENTION) for name in _ATTENTION_WEIGHTS if module._parameters.get(name) is not None or name in held
        ]
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return [("weight", READ_BY_ATTENTION)]
    for known, kind in _BY_FORWARD:
        if issubclass(cls, known):
            same = cls.forward is known.forward
            if kind is CONVOLUTION:
                same = same and cls._conv_forward is known._conv_forward  # type: ignore[attr-defined]
            if same:
                return [("weight", kind)]
            return [("weight", replace(kind, chained=None))]  # a forward of its own, which reads the weight
    if isinstance(module, nn.EmbeddingBag):
        return [("weight", EMBEDDING_BAG)]
    if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.Bilinear):
        names = [name for name in module._parameters if name.startswith("weight")]
        return [(names[0], Kind(cls.__name__, default=False, possible=False))] if names else []
    if parametrize.is_parametrized(module, "weight"):
        return [("weight", MATRIX)]  # ours, or one of torch, which is refused
    if "Quantized" in cls.__name__ or cls.__module__.startswith("torch.ao."):  # the weight is a method
        return [("weight", Kind(cls.__name__, default=False, possible=False))]
    weight = dict(module._parameters).get("weight")  # of a scripted module it is no dict
    if weight is not None and weight.ndim >= 2:
        if "norm" in cls.__name__.lower():
            return [("weight", Kind("elementwise", default=False))]
        return [("weight", MATRIX if weight.ndim == 2 else Kind(cls.__name__, default=False, possible=False))]
    if dict(module._buffers).get("weight") is not None:
        return [("weight", Kind("buffer", default=False))]
    return []


def check_module(module: object) -> None:
    """Checks that ``module`` is one.

    Raises:
        TypeError: If it is not.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is a {type(module).__name__}, expected a torch.nn.Module.")


def obstacle(module: nn.Module, name: str) -> str | None:
    """Why this weight cannot be factored, or None."""
    if is_overparameterized(module) and name in module.parametrizations:  # type: ignore[operator]
        return "it is over-parameterized already; fold it with overdepth.collapse_ first"
    if parametrize.is_parametrized(module) and not is_overparameterized(module):
        return "the module carries a parametrization of torch.nn.utils.parametrize; remove it first"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return (
            f"{plain_class(module).__name__} weights are packed for fused kernels that read them behind our back; "
            f"leave it plain"
        )
    if isinstance(module, torch.jit.ScriptModule):
        return "a scripted module cannot change its class; over-parameterize before scripting"
    weight = getattr(module, name, None)
    if callable(weight) or type(weight).__name__ == "PackedParams":
        return "it is quantized; over-parameterize before quantizing"
    if name not in module._parameters or not isinstance(weight, Tensor):
        return f"its {name!r} is no Parameter of the module (a {type(weight).__name__})"
    return tensor_obstacle(weight) or _option_obstacle(module)


def tensor_obstacle(weight: Tensor) -> str | None:
    """Why a tensor cannot be replaced by factors, whatever holds it."""
    if isinstance(weight, nn.parameter.UninitializedParameter):
        return "it has no shape yet; run one forward pass of the lazy module first"
    if is_sharded(weight):
        return (
            "it is a sharded DTensor, and factors of a shard are not shards of the factors; over-parameterize before "
            "fully_shard or distribute_tensor"
        )
    if weight.layout != torch.strided:
        return f"it is sparse ({weight.layout}), and factors are dense"
    if type(weight) not in (Tensor, nn.Parameter):
        return f"it is a {type(weight).__name__}, and factors are plain tensors"
    if not weight.dtype.is_floating_point:
        return f"its dtype is {weight.dtype}, expected a real floating-point type"
    if weight.dtype.itemsize < 2:
        return f"its dtype is {weight.dtype}, in which a product has no digits left"
    if weight.ndim < 2 or weight.numel() == 0:
        return f"its shape is {tuple(weight.shape)}, expected a matrix or a kernel that is not empty"
    if not weight.requires_grad:
        return "it is frozen (requires_grad is False); leave it out by select=, or unfreeze it first"
    if not weight.is_meta and not all_finite(weight):
        return "it has non-finite entries; look where the first NaN or infinity arises"
    return None


def _option_obstacle(module: nn.Module) -> str | None:
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        if module.max_norm is not None:
            return "max_norm writes to the rows that were looked up, which a product cannot take"
        if module.sparse:
            return "sparse=True asks for sparse gradients, and those of factors are dense"
    if isinstance(module, nn.Bilinear):
        return "a bilinear weight is no chain of matrices"
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim > 2 and not isinstance(module, nn.modules.conv._ConvNd):
        return f"it has {weight.ndim} axes, and how a {type(module).__name__} uses them is not known"
    return None


def groups_of(module: nn.Module) -> int:
    """The groups of a convolution, 1 of everything else."""
    return module.groups if isinstance(module, CONVOLUTIONS + TRANSPOSED_CONVOLUTIONS) else 1


_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule")


def wrapper_of(module: nn.Module) -> tuple[str, str] | None:
    """Qualified name and kind of the first wrapper of several processes inside a module, which own its parameters."""
    for name, each in module.named_modules():
        for cls in type(each).__mro__:
            if cls.__name__ in _WRAPPERS:
                return name, cls.__name__
    return None
