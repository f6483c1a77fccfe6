"""The end-to-end rule on batches of matrices, by several methods behind one interface.

=================  ==========================================================================================
method             how
=================  ==========================================================================================
``single_output``  Claim 2, where one side is 1; exact to rounding, no decomposition
``eigh``           the smaller side's Gram matrix in float64: a relative error below 1e-6 at any condition
``eigh_float32``   the same in float32: faster, and on devices without float64; error by the condition number,
                   from 2e-6 (10) to 3e-2 (1e6 at depth 5), as ``benchmarks/optimizers.py`` measures; not for
                   infinite depth, where what should stand still moves (an error of 0.3 at 1e6)
``auto``           ``single_output`` where it applies, else ``eigh`` on the CPU and ``eigh_float32`` elsewhere
=================  ==========================================================================================
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from overdepth._checks import working_dtype
from overdepth.gemm import matmul, matmul_transposed
from overdepth.rule import (
    end_to_end_update,
    multipliers,
    single_output_coefficients,
    single_output_update,
    without_noise,
)

Method = Literal["auto", "single_output", "eigh", "eigh_float32"]
METHODS: tuple[Method, ...] = get_args(Method)


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
        method: One of ``METHODS``.

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
    if chosen == "eigh":
        return end_to_end_update(weight, grad, depth, check_finite=False, allow_frozen_directions=True)
    return _float32(weight.float(), grad.float(), depth).to(grad.dtype)


def _float32(weight: Tensor, grad: Tensor, depth: float) -> Tensor:
    """Through the eigenvectors U of W W^T; the rows of U^T W have the singular values for norms."""
    if weight.shape[-2] > weight.shape[-1]:
        return _float32(weight.mT, grad.mT, depth).mT
    u = torch.linalg.eigh(matmul_transposed(weight, weight)).eigenvectors
    rows = matmul(u.mT, weight)
    singular = without_noise(rows.norm(dim=-1), 4 * torch.finfo(torch.float32).eps)
    right = torch.where(singular > 0, 1 / singular, 0.0)[..., :, None] * rows
    inside = multipliers(singular[..., :, None], singular[..., None, :], depth)
    beside = multipliers(singular[..., :, None], torch.zeros_like(singular[..., :, None]), depth)
    rotated = matmul(u.mT, grad)
    coordinates = matmul_transposed(rotated, right)
    return matmul(u, beside * rotated + matmul((inside - beside) * coordinates, right))
