"""Initial factors of a chain, under the same five words everywhere.

=================  =====================================================================  ===============  ========
word               factors                                                                keeps a weight   balanced
=================  =====================================================================  ===============  ========
``near_zero``      i.i.d. normal entries of standard deviation ``scale``                  no               no
``near_identity``  the same plus ones on the main diagonal, square or not                 no               no
``orthogonal``     ``scale`` times a random matrix with orthonormal rows or columns       no               see below
``balanced``       the balanced split of a given weight, or of a drawn one                yes              yes
``identity``       the factor at the wide end holds the weight, the others are identities yes              no
=================  =====================================================================  ===============  ========

``orthogonal`` is balanced where the hidden width is at most min(out, in).
"""

from __future__ import annotations

import itertools
import math
from typing import Literal, get_args

import torch
from torch import Tensor

from overdepth._checks import all_finite, check_choice, check_depth, check_dtype, check_positive, check_size, shape
from overdepth.chain import check_width, product, split

Init = Literal["near_zero", "near_identity", "orthogonal", "balanced", "identity"]
INITIALIZATIONS: tuple[Init, ...] = get_args(Init)


def initial_factors(
    out_features: int,
    in_features: int,
    depth: int = 2,
    *,
    width: int | None = None,
    init: Init = "near_zero",
    scale: float = 0.01,
    weight: Tensor | None = None,
    norm: float | None = None,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> list[Tensor]:
    """Initial factors W_1, ..., W_N of a chain of shape (k, d).

    ``near_zero`` and ``near_identity`` are the paper's initializations. Random numbers are drawn in float64 and
    factor by factor from W_1 on, so that equal seeds give equal W_1 at every depth of one width.

    Args:
        out_features: k, rows of the end-to-end weight.
        in_features: d, its columns.
        depth: Number of factors N, an integer >= 1.
        width: Hidden width. Default: min(k, d), which loses no expressiveness.
        init: One of ``INITIALIZATIONS``.
        scale: Standard deviation of drawn entries; for ``orthogonal`` the singular value of every factor. Not used
            where ``weight`` is given.
        weight: The weight, shape (k, d), that ``balanced`` and ``identity`` keep. Without it, ``balanced`` splits
            the product of the ``near_zero`` factors of the same seed (so both start from one W_e), and
            ``identity`` holds a weight with i.i.d. normal entries.
        norm: If given, the factors are rescaled alike (``identity``: the one that holds the weight) so that the
            Frobenius norm of the product is this.
        generator: Source of the random numbers. Default: torch's global one.
        dtype: Of the result.
        device: Of the result; default: that of ``weight``, or the CPU, on which numbers are drawn.

    Returns:
        N factors in the order in which they act on the input.

    Raises:
        ValueError: If an argument is out of its range, ``weight`` has another shape or goes with an initialization
            that would ignore it, the width is too small to hold the weight, or a zero product cannot have ``norm``.

    Example:
        >>> import torch, overdepth as od
        >>> factors = od.initial_factors(1, 4, depth=3, norm=0.5, generator=torch.Generator().manual_seed(0))
        >>> [tuple(f.shape) for f in factors], round(float(od.product(factors).norm()), 6)
        ([(1, 4), (1, 1), (1, 1)], 0.5)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Section 8.
    """
    check_depth(depth)
    out_features = check_size(out_features, "out_features")
    in_features = check_size(in_features, "in_features")
    width = check_width(width, default=min(out_features, in_features))
    check_dtype(dtype, "the result")
    for name, value in (("scale", scale), ("norm", norm)):
        if value is not None:
            check_positive(value, name)
    check_choice(init, "init", INITIALIZATIONS)
    if weight is not None:
        check_dtype(weight.dtype, "weight")
        if tuple(weight.shape) != (out_features, in_features):
            raise ValueError(f"weight has shape {shape(weight)}, expected {(out_features, in_features)}.")
        if init not in ("balanced", "identity"):
            raise ValueError(f"init {init!r} draws its factors and would ignore weight; use 'balanced' or 'identity'.")
        if not all_finite(weight):
            raise ValueError(f"weight of shape {shape(weight)} has non-finite entries; it cannot be held by factors.")

    def normal(rows: int, columns: int) -> Tensor:
        return scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)

    dims = [in_features, *[width] * (depth - 1), out_features]
    if init == "identity":
        held_in = torch.float64 if norm else dtype
        kept = normal(out_features, in_features) if weight is None else weight.to(held_in, copy=True)
        factors, holder = _around_identity(kept, depth, width)
        return [f.to(device, dtype) for f in _rescaled(factors, norm, holder=holder)]
    if init == "balanced" and weight is not None:
        factors = split(weight, depth, width, dtype=torch.float64 if norm else dtype)
        return [f.to(device, dtype) for f in _rescaled(factors, norm)]

    factors = [normal(rows, columns) for columns, rows in itertools.pairwise(dims)]
    if init == "near_identity":
        factors = [f + torch.eye(*f.shape, dtype=f.dtype) for f in factors]
    elif init == "orthogonal":
        factors = [scale * _polar(f) for f in factors]
    elif init == "balanced":
        factors = split(product(factors), depth, width)
    return [f.to(device, dtype) for f in _rescaled(factors, norm)]


def _around_identity(weight: Tensor, depth: int, width: int) -> tuple[list[Tensor], int]:
    """Factors of which the one at the wide end holds ``weight``; its index comes along."""
    k, d = weight.shape
    if depth == 1:
        return [weight], 0
    if width < min(k, d):
        raise ValueError(
            f"width is {width}, below min(out, in) = {min(k, d)}: identities of that width cannot keep a weight of "
            f"shape {(k, d)}; use width >= {min(k, d)}."
        )
    holder = 0 if k <= d else depth - 1
    dims = [d, *[width] * (depth - 1), k]
    factors = [
        torch.eye(rows, cols, dtype=weight.dtype, device=weight.device) for cols, rows in itertools.pairwise(dims)
    ]
    factors[holder] = torch.zeros_like(factors[holder])
    factors[holder][:k, :d] = weight
    return factors, holder


def _polar(matrix: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows or columns: uniform for a normal ``matrix``."""
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    polar: Tensor = u @ vh
    return polar


def _rescaled(factors: list[Tensor], norm: float | None, *, holder: int | None = None) -> list[Tensor]:
    """Gives the product the Frobenius norm ``norm`` by one common factor, or by the ``holder``'s alone."""
    if norm is None:
        return factors
    sizes = [float(f.norm()) for f in factors]
    # Of many small factors the product underflows; of as many of norm 1 it does not.
    direction = float(product([f / max(size, 1e-300) for f, size in zip(factors, sizes, strict=True)]).norm())
    if direction == 0:
        raise ValueError(f"norm is {norm!r}, but the product of the factors is zero and cannot be rescaled to it.")
    log_ratio = math.log(norm) - math.log(direction) - sum(map(math.log, sizes))
    if holder is not None:
        return [math.exp(log_ratio) * f if j == holder else f for j, f in enumerate(factors)]
    return [math.exp(log_ratio / len(factors)) * f for f in factors]
