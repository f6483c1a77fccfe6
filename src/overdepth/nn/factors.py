"""The factors of one weight, as a module that others hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NoReturn, get_args

from torch import Tensor, nn

from overdepth._checks import with_float64
from overdepth.initialization import Init
from overdepth.layouts import Layout

Execution = Literal["auto", "chained", "folded"]
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)


class Factors(nn.Module):
    """The factors W_1, ..., W_N of one weight; calling it gives the weight, differentiably.

    It stands where ``torch.nn.utils.parametrize`` keeps its own: ``layer.parametrizations.weight``, so that
    ``torch.nn.utils.parametrize.is_parametrized(layer, "weight")`` is true. Its parameters are ``factor0`` (W_1) to
    ``factor<N-1>`` (W_N); these names are part of the state_dict and stable.

    Attributes:
        layout: How the weight is made of the factors.
        init: How the factors began.
        execution: Whether a layer runs ``chained``, ``folded``, or what is cheaper for its input (``auto``).
    """

    def __init__(self, layout: Layout, factors: Sequence[Tensor], *, init: Init, execution: Execution = "auto") -> None:
        super().__init__()
        self.layout = layout
        self.init = init
        self.execution = execution
        self._extra_per_input = layout.chained_cost(1, 0) - layout.plain_cost(1, 0)
        self._extra_per_output = layout.chained_cost(0, 1) - layout.plain_cost(0, 1)
        self._product_cost = layout.product_cost
        for j, factor in enumerate(factors):
            self.register_parameter(f"factor{j}", nn.Parameter(factor))

    def forward(self) -> Tensor:
        """The weight, in its own shape and, also under autocast, its own dtype."""
        return self.layout.product(list(self)).to(self[0].dtype)

    def folded(self) -> Tensor:
        """The weight, accumulated in float64 and rounded once; no gradient."""
        factors = [with_float64(f.detach()) for f in self]
        return self.layout.folded(factors).contiguous().to(self[0].device)

    def extra_cost(self, inputs: int, outputs: int) -> int:
        """Multiply-adds of a chained forward above those of the plain layer, for so many rows (positions)."""
        return self._extra_per_input * inputs + self._extra_per_output * outputs

    def runs_chained(self, extra_cost: int) -> bool:
        """Whether the layer goes through factor after factor: as asked, or if that costs less than one product."""
        if self.execution != "auto":
            return self.execution == "chained"
        return extra_cost <= self._product_cost  # a backward pass triples both sides

    def __len__(self) -> int:
        return self.layout.depth

    def __getitem__(self, index: int) -> nn.Parameter:
        factor: nn.Parameter = getattr(self, f"factor{range(len(self))[index]}")
        return factor

    def __iter__(self) -> Iterator[nn.Parameter]:
        return (self[j] for j in range(len(self)))

    def extra_repr(self) -> str:
        """Shapes, as the layer prints them."""
        shapes = ", ".join(str(tuple(f.shape)) for f in self)
        return f"{shapes}, init={self.init!r}, execution={self.execution!r}"

    @property
    def is_tensor(self) -> NoReturn:
        """Asked for by ``torch.nn.utils.parametrize.remove_parametrizations``, which would leave half a module."""
        raise RuntimeError("This weight is over-parameterized; fold it with overdepth.collapse_(model).")

    def append(self, parametrization: object) -> NoReturn:
        """Asked for by ``torch.nn.utils.parametrize.register_parametrization``."""
        raise RuntimeError(
            f"This weight is over-parameterized and takes no further parametrization "
            f"({type(parametrization).__name__}); fold it with overdepth.collapse_(model) first."
        )


def keep_padding(owner: nn.Module, weight: Tensor, factors: Sequence[Tensor]) -> bool | None:
    """Keeps an embedding's padding row that is zero exactly zero in its factors.

    Returns:
        Whether it was zero; None if there is none.
    """
    index = owner.padding_idx if isinstance(owner, nn.Embedding | nn.EmbeddingBag) else None
    if index is None or weight.is_meta:
        return None
    if bool(weight[index].any()):
        return False
    factors[-1][index] = 0
    return True
