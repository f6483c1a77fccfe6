"""Which weights of a module can be factored, how, and why others cannot."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from overdepth._checks import all_finite
from overdepth.nn import layers
from overdepth.nn.classes import is_overparameterized, plain_class

Positions = Callable[[Any, Tensor, Any], tuple[int, int]]


@dataclass(frozen=True)
class Kind:
    """How weights of a kind of module are factored.

    Attributes:
        name: For tables and messages.
        chained: The forward that goes through factor after factor, or None if the module only reads its weight.
        default: Whether it is chosen when no ``select`` is given.
        possible: Whether weights of this kind can be factored at all.
        convolution: Whether the factorizations of kernels apply.
        positions: Rows (positions) in and out, from the module, its first input and its output.
    """

    name: str
    chained: layers.ChainedForward | None = None
    default: bool = True
    possible: bool = True
    convolution: bool = False
    positions: Positions | None = None


def _rows(module: nn.Linear, x: Tensor, output: Any) -> tuple[int, int]:
    rows = math.prod(x.shape[:-1])
    return rows, rows


def _convolved(module: nn.Conv2d, x: Tensor, output: Any) -> tuple[int, int]:
    axes = len(module.kernel_size)
    batch = math.prod(x.shape[: -axes - 1])
    return batch * math.prod(x.shape[-axes:]), batch * math.prod(output.shape[-axes:])


def _transposed(module: nn.ConvTranspose2d, x: Tensor, output: Any) -> tuple[int, int]:
    inputs = x.numel() // module.in_channels
    return inputs, inputs


def _matrix_rows(module: Any, x: Tensor, output: Any) -> tuple[int, int]:
    weight = module.weight
    for tensor, columns in ((output, weight.shape[0]), (output, weight.shape[1]), (x, weight.shape[1])):
        if isinstance(tensor, Tensor) and tensor.ndim > 0 and tensor.shape[-1] == columns:
            rows = math.prod(tensor.shape[:-1])
            return rows, rows
    return 0, 0


LINEAR = Kind("linear", layers.linear, positions=_rows)
CONVOLUTION = Kind("convolution", layers.convolution, convolution=True, positions=_convolved)
TRANSPOSED = Kind("transposed convolution", layers.transposed_convolution, positions=_transposed)
EMBEDDING = Kind("embedding", layers.embedding, default=False)
ATTENTION = Kind("attention", positions=lambda module, x, output: (x.numel() // x.shape[-1],) * 2)
READ_BY_ATTENTION = Kind("attention")
MATRIX = Kind("matrix", positions=_matrix_rows)

_BY_FORWARD: tuple[tuple[type[nn.Module], Kind], ...] = (
    (nn.Linear, LINEAR),
    (nn.Conv1d, CONVOLUTION),
    (nn.Conv2d, CONVOLUTION),
    (nn.Conv3d, CONVOLUTION),
    (nn.ConvTranspose1d, TRANSPOSED),
    (nn.ConvTranspose2d, TRANSPOSED),
    (nn.ConvTranspose3d, TRANSPOSED),
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
            reads = Kind(kind.name, default=kind.default, positions=kind.positions)
            return [("weight", reads)]  # a forward of its own, which reads the weight
    if isinstance(module, nn.EmbeddingBag):
        return [("weight", Kind("embedding", default=False))]
    if isinstance(module, nn.RNNBase | nn.RNNCellBase | nn.Bilinear):
        return [("weight", Kind(cls.__name__, default=False, possible=False))]
    weight = getattr(module, "weight", None)
    if callable(weight):  # quantized layers have a method
        return [("weight", Kind(cls.__name__, default=False, possible=False))]
    if isinstance(weight, Tensor) and weight.ndim >= 2:
        if "norm" in cls.__name__.lower():
            return [("weight", Kind("elementwise", default=False))]
        return [("weight", MATRIX if weight.ndim == 2 else Kind(cls.__name__, default=False, possible=False))]
    return []


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
        return "it has non-finite entries"
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
    known = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return module.groups if isinstance(module, known) else 1


def first_tensor(values: Sequence[Any]) -> Tensor | None:
    """The first tensor among a module's arguments."""
    return next((v for v in values if isinstance(v, Tensor)), None)


def is_sharded(weight: Tensor) -> bool:
    """Whether a tensor is a part of one that lives on several processes."""
    return any(cls.__name__ in ("DTensor", "ShardedTensor", "FlatParameter") for cls in type(weight).__mro__)
