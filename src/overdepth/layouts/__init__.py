"""Layouts: how a weight tensor of any shape is a product of factors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from overdepth.layouts.base import Layout, Start, null_remark
from overdepth.layouts.composed import ComposedLayout
from overdepth.layouts.kernel import KernelLayout
from overdepth.layouts.matrix import MatrixLayout

Factorization = Literal["kernel_first", "kernel_between", "composed"]
FACTORIZATIONS: tuple[Factorization, ...] = get_args(Factorization)

_LAYOUTS: dict[Factorization, type[MatrixLayout] | type[KernelLayout] | type[ComposedLayout]] = {
    "kernel_first": MatrixLayout,
    "kernel_between": KernelLayout,
    "composed": ComposedLayout,
}

__all__ = [
    "FACTORIZATIONS",
    "ComposedLayout",
    "Factorization",
    "KernelLayout",
    "Layout",
    "MatrixLayout",
    "Start",
    "find_layout",
    "make_layout",
    "null_remark",
]


def make_layout(
    weight_shape: Sequence[int],
    depth: int,
    width: int | None = None,
    *,
    groups: int = 1,
    factorization: Factorization = "kernel_first",
) -> Layout:
    """The layout of a weight; all but ``kernel_first`` are for convolutions alone."""
    return _LAYOUTS[factorization](tuple(weight_shape), depth, width, groups)


def find_layout(weight_shape: Sequence[int], factor_shapes: Sequence[Sequence[int]], groups: int = 1) -> Layout:
    """The layout that has these shapes, as found in a state_dict.

    Raises:
        ValueError: If there is none.
    """
    wanted = tuple(map(tuple, factor_shapes))
    matrix_axes = 2 if groups == 1 else 3
    first = wanted[0] if wanted else ()
    # The hidden width of a matrix, and of a convolution's weight.
    read = [*first[matrix_axes - 2 : matrix_axes - 1], *(rows // groups for rows in first[:1])]
    widths = [None, *(width for width in read if width > 0)]
    for factorization in FACTORIZATIONS if len(weight_shape) > 2 else FACTORIZATIONS[:1]:
        if factorization == "kernel_between" and len(wanted) < 3:
            continue
        for tried in widths:
            layout = make_layout(weight_shape, len(wanted), tried, groups=groups, factorization=factorization)
            if layout.factor_shapes == wanted:
                return layout
    raise ValueError(f"factors of shapes {wanted} are no factorization of a weight of shape {tuple(weight_shape)}.")
