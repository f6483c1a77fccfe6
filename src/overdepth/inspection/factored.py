"""The weights that overdepth itself made products, one for each group of a convolution."""

from __future__ import annotations

from torch import nn

from overdepth.inspection.chains import Chain, Findings
from overdepth.inspection.matrices import LeftOutError, Matrix, checked
from overdepth.layouts import MatrixLayout
from overdepth.nn.classes import factor_name, factored_weights, qualified
from overdepth.nn.factors import Factors


def find_factored(model: nn.Module, findings: Findings) -> None:
    """Adds every over-parameterized weight, tied ones once."""
    places: dict[Factors, list[tuple[str, str]]] = {}
    for prefix, _, name, factors in factored_weights(model):
        places.setdefault(factors, []).append((prefix, name))
    for factors, held in places.items():
        prefix, name = held[0]
        label = qualified(prefix, name)
        layout = factors.layout
        if not isinstance(layout, MatrixLayout):
            findings.left_out[label] = "its factors are kernels on both sides of each other, no chain of matrices"
            continue
        labels = [factor_name(prefix, name, j) for j in range(len(factors))]
        try:
            tensors = [checked(of, f) for of, f in zip(labels, factors, strict=True)]
        except LeftOutError as error:
            findings.left_out[label] = str(error)
            continue
        notes = tuple(f"tied to {qualified(*place)!r}" for place in held[1:])
        if len(layout.weight_shape) > 2:
            notes = (f"a kernel of shape {' x '.join(map(str, layout.weight_shape))}, by its first axis", *notes)
        for group in range(layout.groups):
            chain = tuple(
                Matrix(of, t if layout.groups == 1 else t[group], trainable=f.requires_grad, remark=_of(group, layout))
                for of, t, f in zip(labels, tensors, factors, strict=True)
            )
            part = "" if layout.groups == 1 else f"group {group}"
            findings.chains.append(Chain(label, "over-parameterized", chain, part, notes=notes))


def _of(group: int, layout: MatrixLayout) -> str:
    return "" if layout.groups == 1 else f"[{group}]"
