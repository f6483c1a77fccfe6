"""Weights as matrices (out, in) that act on what comes in, with the names by which a user finds them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from overdepth._checks import all_finite, is_sharded
from overdepth.layouts import MatrixLayout
from overdepth.nn.classes import factor_name, is_overparameterized, plain_class, qualified


class LeftOutError(Exception):
    """Something looks like a factor of a product, but cannot be read as a matrix; the message says why."""


@dataclass(frozen=True)
class Matrix:
    """A parameter, or a block of it, as one factor.

    Attributes:
        parameter: Its qualified name.
        stored: The parameter, or the block of it.
        turned: Whether it is stored (in, out).
        block: Where the block lies: start and stop of its rows and of its columns, None for all.
        remark: What else was done to it.
        trainable: Whether the parameter takes gradients.
    """

    parameter: str
    stored: Tensor = field(repr=False)
    turned: bool = False
    block: tuple[tuple[int, int] | None, tuple[int, int] | None] = (None, None)
    remark: str = ""
    trainable: bool = True

    @property
    def label(self) -> str:
        """An expression that gives the factor, such as ``attn.q_proj.weight[0:64].T``."""
        rows, columns = ("" if cut is None else f"{cut[0]}:{cut[1]}" for cut in self.block)
        part = f"[{rows or ':'}, {columns}]" if columns else f"[{rows}]" if rows else ""
        return f"{self.parameter}{part}{'.T' if self.turned else ''}{self.remark}"

    @property
    def value(self) -> Tensor:
        """Shape (out, in)."""
        return self.stored.mT if self.turned else self.stored

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        rows, columns = self.value.shape
        return int(rows), int(columns)

    def rows(self, start: int, stop: int) -> Matrix:
        """The block of these outputs."""
        return self._cut(1 if self.turned else 0, start, stop)

    def columns(self, start: int, stop: int) -> Matrix:
        """The block of these inputs."""
        return self._cut(0 if self.turned else 1, start, stop)

    def transposed(self) -> Matrix:
        """The matrix (in, out)."""
        return replace(self, turned=not self.turned)

    def transposed_heads(self, heads: int) -> Matrix:
        """Each head's rows transposed, one below the other: (heads * width, in) becomes (heads * in, width)."""
        if heads == 1:
            return self.transposed()
        rows, into = self.shape
        stacked = self.value.reshape(heads, rows // heads, into).mT.reshape(heads * into, rows // heads)
        return self._stacked(stacked, "" if self.turned else ".T", heads)

    def stacked_heads(self, heads: int) -> Matrix:
        """Each head's columns one below the other: (out, heads * width) becomes (heads * out, width)."""
        if heads == 1:
            return self
        out, columns = self.shape
        stacked = self.value.reshape(out, heads, columns // heads).movedim(1, 0).reshape(-1, columns // heads)
        return self._stacked(stacked, ".T" if self.turned else "", heads)

    def _stacked(self, stacked: Tensor, turned: str, heads: int) -> Matrix:
        return replace(self, stored=stacked, turned=False, remark=f"{turned} of {heads} heads, stacked")

    def _cut(self, axis: int, start: int, stop: int) -> Matrix:
        before = self.block[axis]
        offset = 0 if before is None else before[0]
        cut = (offset + start, offset + stop)
        block = (cut, self.block[1]) if axis == 0 else (self.block[0], cut)
        return replace(self, stored=self.stored.narrow(axis, start, stop - start), block=block)


def checked(name: str, tensor: object) -> Tensor:
    """The tensor, if it has numbers that can be read.

    Raises:
        LeftOutError: If it is no plain matrix in memory.
        ValueError: If it has no numbers at all (meta device), or numbers that are not finite.
    """
    if not isinstance(tensor, Tensor):
        raise LeftOutError(f"{name!r} is a {type(tensor).__name__}, no tensor")
    if isinstance(tensor, nn.parameter.UninitializedParameter):
        raise LeftOutError(f"{name!r} has no shape yet; run one forward pass of the lazy module first")
    if is_sharded(tensor):
        raise LeftOutError(f"{name!r} is sharded; inspect the model before it is sharded, or one gathered state_dict")
    if not tensor.dtype.is_floating_point:
        raise LeftOutError(f"{name!r} is {tensor.dtype}, no real floating-point matrix")
    if tensor.is_meta:
        raise ValueError(
            f"{name!r} is on the meta device and has no numbers to inspect; load the model's weights first."
        )
    if not all_finite(tensor.detach()):
        raise ValueError(
            f"{name!r} of shape {tuple(tensor.shape)} has non-finite entries; inspect the model before it diverges."
        )
    return tensor.detach()


def matrix(name: str, tensor: object, *, turned: bool = False) -> Matrix:
    """A parameter as a factor; kernels and their like are no matrices.

    Raises:
        LeftOutError: If it is no plain matrix in memory.
        ValueError: If it has no finite numbers.
    """
    values = checked(name, tensor)
    if values.ndim != 2 or values.numel() == 0:
        raise LeftOutError(f"{name!r} has shape {tuple(values.shape)}, no matrix")
    return Matrix(name, values, turned=turned, trainable=bool(getattr(tensor, "requires_grad", False)))


def linear_factors(prefix: str, module: nn.Module) -> list[Matrix]:
    """The factors of a linear layer, the one that acts first in front: one matrix, or those of its product.

    Raises:
        LeftOutError: If the module is no linear layer that can be read.
        ValueError: If a parameter has no finite numbers.
    """
    name = qualified(prefix, "weight")
    if not is_linear(module):
        raise LeftOutError(f"{prefix or 'the model'!r} is a {plain_class(module).__name__}, no linear layer")
    turned = is_transposed(module)
    if is_overparameterized(module):
        factors: Any = module.parametrizations["weight"]  # type: ignore[index]
        if not isinstance(factors.layout, MatrixLayout) or factors.layout.groups > 1:
            raise LeftOutError(f"the factors of {name!r} are no chain of matrices")
        labels = [factor_name(prefix, "weight", j) for j in range(len(factors))]
        found = [matrix(label, f) for label, f in zip(labels, factors, strict=True)]
        return [f.transposed() for f in reversed(found)] if turned else found
    if "weight" not in module._parameters:
        raise LeftOutError(f"{name!r} is no parameter of its own: the layer carries a parametrization")
    return [matrix(name, module._parameters["weight"], turned=turned)]


def single_matrix(prefix: str, module: nn.Module) -> Matrix:
    """The one matrix of a linear layer.

    Raises:
        LeftOutError: If it has several, being a product itself, or none.
        ValueError: If a parameter has no finite numbers.
    """
    found = linear_factors(prefix, module)
    if len(found) > 1:
        raise LeftOutError(
            f"{prefix!r} is over-parameterized itself, and its factors are shared by all heads; fold a copy with "
            f"overdepth.collapse to see the heads"
        )
    return found[0]


def is_linear(module: nn.Module) -> bool:
    """Whether a module multiplies its input by one 2-D weight, and adds at most a bias."""
    cls = plain_class(module)
    return (issubclass(cls, nn.Linear) and cls.forward is nn.Linear.forward) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether it is the ``Conv1D`` of GPT-2: a linear layer whose weight is stored (in, out)."""
    return plain_class(module).__name__ == "Conv1D" and hasattr(module, "nf")


def has_bias(module: nn.Module) -> bool:
    """Whether a layer adds a bias."""
    return getattr(module, "bias", None) is not None
