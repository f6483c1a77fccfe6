"""The imbalance of a chain: what moves it, how to take it away, and how to start with a chosen one.

Gradient flow keeps every D_j = W_{j+1}^T W_{j+1} - W_j W_j^T, weight decay shrinks it, and a step of gradient descent
changes it by a term of order lr^2. Balanced factors (D_j = 0) are those for which the end-to-end rule is exact; any
other imbalance makes the layers learn faster or slower for as long as they run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overdepth._checks import (
    all_finite,
    check_depth,
    check_matrix,
    check_nonnegative,
    check_positive,
    shape,
    wide_factors,
)
from overdepth.chain import check_width, factor_gradients, imbalance, product, split
from overdepth.theory.scalar_chains import root


def layer_gradients(factors: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    r"""The gradient of every layer from that of the end-to-end weight.

    .. math:: \nabla_{W_j} = (W_N \cdots W_{j+1})^T \, G \, (W_{j-1} \cdots W_1)^T

    Args:
        factors: W_1, ..., W_N in the order in which they act on the input, shapes (n_j, n_{j-1}).
        grad: G, the loss's gradient at W_e = W_N ... W_1, shape (k, d).

    Returns:
        N gradients in the shapes of the factors, float64.

    Raises:
        TypeError: If an argument is no tensor.
        ValueError: If the factors do not chain, the gradient has another shape than W_e, or an entry is not finite.

    Example:
        >>> import torch
        >>> from overdepth.theory.balancing import layer_gradients
        >>> layer_gradients([torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])], torch.tensor([[1.0, 1.0]]))
        [tensor([[3., 3.]], dtype=torch.float64), tensor([[3.]], dtype=torch.float64)]

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Appendix A.1.
    """
    wide = wide_factors(factors)
    return factor_gradients(wide, _gradient(grad, wide))


def imbalance_drift(factors: Sequence[Tensor], grad: Tensor, lr: float, weight_decay: float = 0.0) -> list[Tensor]:
    r"""How much one step of gradient descent on the layers changes each imbalance; exact, for a step of any size.

    .. math:: D_j^+ - D_j = \left((1 - \eta\lambda)^2 - 1\right) D_j
              + \eta^2 \left(G_{j+1}^T G_{j+1} - G_j G_j^T\right)

    The step is W_j <- (1 - lr weight_decay) W_j - lr G_j with the layers' gradients G_j. Without decay the drift is
    of order lr^2: this is what is left of the conservation law once time is discrete.

    Args:
        factors: W_1, ..., W_N, shapes (n_j, n_{j-1}).
        grad: The loss's gradient at W_e, shape (k, d), without the decay's part.
        lr: The step size, > 0.
        weight_decay: The coefficient lambda >= 0 of every layer's own decay.

    Returns:
        N - 1 symmetric matrices, shapes (n_j, n_j), float64.

    Raises:
        TypeError: If an argument is no tensor.
        ValueError: If the factors do not chain, the gradient has another shape than W_e, an entry is not finite, or
            a number is out of its range.

    Example:
        >>> import torch
        >>> from overdepth.theory.balancing import imbalance_drift
        >>> factors = [torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]])]
        >>> imbalance_drift(factors, torch.tensor([[1.0, 1.0]]), lr=0.1)  # 0.01 * (3 * 3 - 2 * 3 * 3)
        [tensor([[-0.0900]], dtype=torch.float64)]

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Equation 7 and Appendix A.1, which keep the flow's part.
    """
    check_positive(lr, "lr")
    check_nonnegative(weight_decay, "weight_decay")
    wide = wide_factors(factors)
    moved = imbalance(factor_gradients(wide, _gradient(grad, wide)))
    decay = lr * weight_decay
    return [decay * (decay - 2.0) * now + lr**2 * new for now, new in zip(imbalance(wide), moved, strict=True)]


def decayed_imbalance(factors: Sequence[Tensor], time: float, weight_decay: float, lr: float = 1.0) -> list[Tensor]:
    r"""The imbalance after gradient flow with weight decay, whatever the loss.

    .. math:: D_j(t) = e^{-2 \eta \lambda t} D_j(0)

    Args:
        factors: W_1, ..., W_N at time 0, shapes (n_j, n_{j-1}).
        time: t >= 0.
        weight_decay: The coefficient lambda >= 0 of every layer's own decay; 0 keeps the imbalance.
        lr: The factor eta > 0 of the flow dW_j/dt = -eta (G_j + lambda W_j).

    Returns:
        N - 1 symmetric matrices, shapes (n_j, n_j), float64.

    Raises:
        TypeError: If a factor is no tensor.
        ValueError: If the factors do not chain, an entry is not finite, or a number is out of its range.

    Example:
        >>> import math, torch
        >>> from overdepth.theory.balancing import decayed_imbalance
        >>> decayed_imbalance([torch.eye(1), 3 * torch.eye(1)], time=math.log(2.0), weight_decay=0.5)  # 8 / 2
        [tensor([[4.]], dtype=torch.float64)]

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Appendix A.1.
    """
    check_nonnegative(time, "time")
    check_nonnegative(weight_decay, "weight_decay")
    check_positive(lr, "lr")
    shrunk = math.exp(-2.0 * lr * weight_decay * time)
    return [shrunk * matrix for matrix in imbalance(wide_factors(factors))]


def balance(factors: Sequence[Tensor]) -> list[Tensor]:
    """Balanced factors of the same product and the same widths.

    Args:
        factors: W_1, ..., W_N, shapes (n_j, n_{j-1}); hidden widths may differ.

    Returns:
        N factors in the shapes of the given ones, float64, with the singular values of all of them the N-th roots of
        those of W_e.

    Raises:
        TypeError: If a factor is no tensor.
        ValueError: If the factors do not chain, are batched, or have non-finite entries.

    Example:
        >>> import torch, overdepth as od
        >>> from overdepth.theory.balancing import balance
        >>> balanced = balance([torch.tensor([[4.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]])])
        >>> [tuple(f.shape) for f in balanced], od.product(balanced)
        ([(2, 2), (1, 2)], tensor([[4., 0.]], dtype=torch.float64))
        >>> float(od.imbalance(balanced)[0].norm())
        0.0

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Equation 7.
    """
    wide = wide_factors(factors)
    if len(wide) == 1:
        return [wide[0].clone()]
    narrowest = min(f.shape[0] for f in wide[:-1])
    narrow = split(product(wide), len(wide), narrowest, truncate=True)  # what is cut off is rounding
    return [_padded(f, like.shape[0], like.shape[1]) for f, like in zip(narrow, wide, strict=True)]


def factors_with_imbalance(
    weight: Tensor, depth: int, imbalance: float | Sequence[float] | Tensor, width: int | None = None
) -> list[Tensor]:
    r"""Splits a weight into factors whose imbalances are chosen numbers on the weight's singular modes.

    Mode i of the layers has singular values with s_{j,i}^2 = x_i + c_j, where c_{j+1} - c_j = d_j and min c = 0, and
    x_i >= 0 solves

    .. math:: \prod_j (x_i + c_j) = \sigma_i(W)^2

    so that D_j = d_j on the first min(k, d, width) hidden coordinates and 0 on the others.

    Args:
        weight: W_e, shape (k, d).
        depth: Number of factors N, an integer >= 1.
        imbalance: d_1, ..., d_{N-1} of any sign, or one number for all of them; 0 gives balanced factors. A positive
            d_j makes W_{j+1} larger than W_j.
        width: Hidden width. Default: min(k, d), with which D_j = d_j I.

    Returns:
        N factors in the order in which they act on the input, float64, whose product is the weight up to rounding.

    Raises:
        TypeError: If the weight is no tensor.
        ValueError: If the weight is no single finite matrix, depth or width is no integer >= 1, the width is below
            the rank, or the imbalances are not finite numbers, one or N - 1.

    Example:
        >>> import torch, overdepth as od
        >>> from overdepth.theory.balancing import factors_with_imbalance
        >>> factors = factors_with_imbalance(torch.tensor([[3.0, 4.0]]), depth=2, imbalance=24.0)  # 1 and 5
        >>> float(od.imbalance(factors)[0]), bool((od.product(factors) - torch.tensor([3.0, 4.0])).norm() < 1e-12)
        (24.0, True)

    References:
        Min, Vidal & Mallada, ICML 2023 (homogeneous imbalance); for 0, Arora, Cohen & Hazan, ICML 2018, arXiv
        1802.06509, Section 5.
    """
    check_matrix(weight, "weight")
    if weight.ndim != 2:
        raise ValueError(f"weight has shape {shape(weight)}, expected a single matrix, no batch.")
    weight = weight.detach().double()
    if not all_finite(weight):
        raise ValueError(f"weight of shape {shape(weight)} has non-finite entries; it cannot be split into factors.")
    check_depth(depth)
    differences = _differences(imbalance, depth)
    k, d = weight.shape
    width = check_width(width, default=min(k, d))
    if depth == 1:
        return [weight.clone()]
    u, singular, vh = torch.linalg.svd(weight, full_matrices=False)
    singular = torch.where(singular > max(k, d) * torch.finfo(torch.float64).eps * singular[0], singular, 0.0)
    rank = int((singular > 0).sum())
    if width < rank:
        raise ValueError(
            f"width is {width}, below the rank {rank} of the weight of shape {shape(weight)}: "
            f"no product of that width equals it; use width >= {rank}."
        )
    u, singular, vh = u[:, :width], singular[:width], vh[:width]
    strengths = _strengths(singular, differences)
    first = strengths[0][:, None] * vh
    middle = [torch.diag(s) for s in strengths[1:-1]]
    last = u * strengths[-1]
    widths = [d, *[width] * (depth - 1), k]
    return [_padded(f, widths[j + 1], widths[j]) for j, f in enumerate([first, *middle, last])]


def _gradient(grad: Tensor, factors: Sequence[Tensor]) -> Tensor:
    expected = (factors[-1].shape[0], factors[0].shape[1])
    check_matrix(grad, "grad")
    if tuple(grad.shape) != expected:
        raise ValueError(f"grad has shape {shape(grad)}, expected {expected}, that of the factors' product.")
    if not all_finite(grad):
        raise ValueError(f"grad of shape {shape(grad)} has non-finite entries; look where the first of them arises.")
    return grad.detach().to(factors[0])


def _differences(imbalance: float | Sequence[float] | Tensor, depth: int) -> Tensor:
    """d_1, ..., d_{N-1} as a tensor."""
    given = torch.as_tensor(imbalance, dtype=torch.float64)
    if given.ndim == 0:
        given = given.expand(depth - 1)
    if given.shape != (depth - 1,):
        raise ValueError(
            f"imbalance has shape {shape(given)}, expected {depth - 1} numbers for depth {depth}, one for each pair of "
            f"neighbours, or one number for all."
        )
    if not bool(torch.isfinite(given).all()):
        raise ValueError(f"imbalance is {imbalance!r}, expected finite numbers.")
    return given


def _strengths(singular: Tensor, differences: Tensor) -> Tensor:
    """s_{j,i} >= 0, shape (N, r), with s_{j+1,i}^2 - s_{j,i}^2 = d_j and prod_j s_{j,i} = sigma_i."""
    offsets = torch.cat([differences.new_zeros(1), differences.cumsum(0)]).to(singular.device)
    offsets = offsets - offsets.min()
    strengths = (root(offsets.expand(len(singular), -1), singular) + offsets[:, None]).sqrt()
    # The smallest layer takes up what rounding left, so that the product is the weight.
    least = int(offsets.argmin())
    others = torch.cat([strengths[:least], strengths[least + 1 :]]).prod(0)
    strengths[least] = torch.where(singular > 0, singular / torch.where(others > 0, others, 1.0), 0.0)
    return strengths


def _padded(matrix: Tensor, rows: int, columns: int) -> Tensor:
    """The matrix in the upper left corner of zeros."""
    return torch.nn.functional.pad(matrix, (0, columns - matrix.shape[1], 0, rows - matrix.shape[0]))
