"""The end-to-end rule on batches of matrices, by several methods behind one interface.

=================  ==========================================================================================
method             how
=================  ==========================================================================================
``single_output``  Claim 2, where one side is 1; exact to rounding, no decomposition
``eigh``           the smaller side's Gram matrix in float64: a relative error below 1e-6 at any condition
``eigh_float32``   the same in float32: faster, and on devices without float64; error by the condition number,
                   from 2e-6 (10) to 3e-2 (1e6 at depth 5), as ``benchmarks/optimizers.py`` measures; not for
                   infinite depth, where what should stand still moves (an error of 0.3 at 1e6)
``tracked``        by matrix products alone in the basis of the last step, turned or decomposed anew where the error,
                   bounded at every step, would exceed 1e-2; keeps state; see :mod:`overdepth.optim.tracking`
``auto``           ``single_output`` where it applies, else ``eigh`` on the CPU and ``eigh_float32`` elsewhere
=================  ==========================================================================================
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from overdepth._checks import working_dtype
from overdepth.gemm import matmul
from overdepth.optim.tracking import by_decomposition
from overdepth.rule import (
    default_rank_rtol,
    end_to_end_update,
    in_coordinates,
    inside_and_beside,
    single_output_coefficients,
    single_output_update,
    smaller_side_svd,
)

Method = Literal["auto", "single_output", "eigh", "eigh_float32", "tracked"]
METHODS: tuple[Method, ...] = get_args(Method)
STATELESS: tuple[Method, ...] = tuple(m for m in METHODS if m != "tracked")


def choose(method: Method, shape: torch.Size, device: torch.device) -> Method:
    """What ``auto`` means for matrices of this shape (..., k, d) on this device."""
    if method != "auto":
        return method
    if min(shape[-2:]) == 1:
        return "single_output"
    return "eigh" if device.type == "cpu" else "eigh_float32"


def precondition(weight: Tensor, grad: Tensor, depth: float, method: Method = "auto") -> Tensor:
    """The end-to-end rule by a method.

    Args:
        weight: W, shape (..., k, d), finite.
        grad: The gradient, same shape.
        depth: N, real and > 1, or ``math.inf``.
        method: One of ``STATELESS``.

    Returns:
        The preconditioned gradient in the gradient's dtype.

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 1, Claims 1 and 2.
    """
    chosen = choose(method, weight.shape, weight.device)
    if chosen == "single_output":
        dtype = working_dtype(weight.dtype)
        update = single_output_update(weight.to(dtype), grad.to(dtype), single_output_coefficients(depth))
        return update.to(grad.dtype)
    if chosen == "eigh" and weight.dtype == torch.float64:
        return end_to_end_update(weight, grad, depth, check_finite=False, allow_frozen_directions=True)
    compute = _accurately if chosen == "eigh" else by_decomposition
    return compute(weight.float(), grad.float(), depth).to(grad.dtype)


def _accurately(weight: Tensor, grad: Tensor, depth: float) -> Tensor:
    """What squares the condition number in float64, the products with the gradient in float32."""
    if weight.shape[-2] > weight.shape[-1]:
        return _accurately(weight.mT, grad.mT, depth).mT
    u, singular, vh = (t.float() for t in smaller_side_svd(weight, default_rank_rtol(weight)))
    return in_coordinates(u, vh, *inside_and_beside(singular, depth), grad, matmul)
