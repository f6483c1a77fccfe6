"""Matrix products of a step: oneDNN's where this build of torch has it, else torch's own.

On processors that MKL does not tune for, oneDNN's float32 kernels are about twice as fast for the engine's shapes
(``benchmarks/sweep.py`` measures both peaks). torch reaches them through an operator that it keeps for its compiler;
where that is missing, or for another type or device, ``a @ b.T`` serves as well.
"""

from __future__ import annotations

import torch
from torch import Tensor

_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available() and hasattr(  # type: ignore[no-untyped-call]
    torch.ops.mkldnn, "_linear_pointwise"
)


def matmul_transposed(a: Tensor, b: Tensor) -> Tensor:
    """The product a @ b.T of matrices, in the precision of their type; not differentiable.

    Args:
        a: Shape (..., n, p).
        b: Shape (..., q, p).

    Returns:
        A new matrix, shape (..., n, q).
    """
    plain = a.dtype == b.dtype == torch.float32 and a.device.type == "cpu" and a.ndim == b.ndim == 2
    if _HAS_ONEDNN and plain and not torch.compiler.is_compiling():  # the compiler chooses for itself
        # A matrix with gaps between its rows and columns would meet a kernel that is a thousand times slower.
        a, b = (x if x.is_contiguous() or x.mT.is_contiguous() else x.contiguous() for x in (a, b))
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
        return product
    return a @ b.mT


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """The product a @ b of matrices, shapes (..., n, p) and (..., p, q); see :func:`matmul_transposed`."""
    return matmul_transposed(a, b.mT)
