r"""The Riemannian metric of depth, and the implicit regularizer of weight decay.

With A_N(G) = sum_j [W W^T]^{(N-j)/N} G [W^T W]^{(j-1)/N}, the end-to-end rule, the flow of balanced factors is the
gradient flow of the same loss in the metric g_N(Z_1, Z_2) = Tr(Z_1^T A_N^{-1}(Z_2)): dW/dt = -A_N(grad f(W)), and
d f(W)/dt = -g_N(A_N grad f, A_N grad f). A_N is positive definite if and only if W has rank min(k, d); at infinite
depth only if W is also square.

**Weight decay.** Decay of the factors adds -lambda N W to the flow, and because A_N(sum_i sigma_i^{2/N-1} u_i v_i^T)
= N W this is the Riemannian gradient of (lambda N / 2) sum_i sigma_i^{2/N}, a Schatten (quasi-)norm: of the Frobenius
norm at N = 1, the nuclear norm at N = 2, not convex beyond.

**Infinite depth** means A_N / N with N to infinity, as in :func:`overdepth.end_to_end_update`; the metric is then the
limit of N g_N and invariant under W -> c W, Z -> c Z: the flow of a scalar weight is that of log |w|.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from overdepth._checks import all_finite, check_depth, check_matrix, shape
from overdepth.rule import (
    default_rank_rtol,
    end_to_end_update,
    in_coordinates,
    inside_and_beside,
    smaller_side_svd,
    without_noise,
)


def riemannian_inner(
    weight: Tensor, first: Tensor, second: Tensor, depth: float, *, rank_rtol: float | None = None
) -> Tensor:
    r"""The inner product g_N(Z_1, Z_2) = Tr(Z_1^T A_N^{-1}(Z_2)) of two directions at a weight.

    Args:
        weight: W, shape (..., k, d), of rank min(k, d).
        first: Z_1, shape of the weight.
        second: Z_2, shape of the weight.
        depth: N, any real number >= 1; 1 gives Tr(Z_1^T Z_2). ``math.inf`` is the limit of N g_N.
        rank_rtol: As in :func:`overdepth.end_to_end_update`.

    Returns:
        The inner products, shape (...), float64.

    Raises:
        ValueError: If shapes do not fit, an entry is not finite, depth < 1, or the metric does not exist at the weight:
            it has not rank min(k, d), or the depth is infinite and the weight not square.

    Example:
        >>> import torch
        >>> from overdepth.theory import riemannian_inner
        >>> eye = torch.eye(2)
        >>> riemannian_inner(torch.diag(torch.tensor([2.0, 1.0])), eye, eye, depth=2)  # 1/4 + 1/2
        tensor(0.7500, dtype=torch.float64)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Section 6 and Theorem 1 (the operator).
    """
    check_depth(depth, allow_real=True)
    for tensor, name in ((weight, "weight"), (first, "first"), (second, "second")):
        check_matrix(tensor, name)
        if tensor.shape != weight.shape:
            raise ValueError(
                f"{name} has shape {shape(tensor)} and weight has shape {shape(weight)}; a direction has the shape of "
                f"the weight."
            )
        if not all_finite(tensor):
            raise ValueError(f"{name} of shape {shape(tensor)} has non-finite entries, expected finite ones.")
    one, two = first.double(), second.double()
    if depth == 1:
        return (one * two).sum(dim=(-2, -1))
    if weight.shape[-2] > weight.shape[-1]:
        weight, one, two = weight.mT, one.mT, two.mT
    u, singular, vh = smaller_side_svd(weight, default_rank_rtol(weight, rank_rtol))
    _refuse_degenerate(weight, singular, depth)
    inside, beside = inside_and_beside(singular, depth)
    if weight.shape[-2] == weight.shape[-1]:
        beside = torch.ones_like(beside)  # nothing lies beside a square weight; at infinite depth it would be 1 / 0
    return (one * in_coordinates(u, vh, 1.0 / inside, 1.0 / beside, two)).sum(dim=(-2, -1))


def riemannian_gradient(weight: Tensor, grad: Tensor, depth: float, *, rank_rtol: float | None = None) -> Tensor:
    r"""The gradient in the metric g_N: A_N(grad), the end-to-end rule applied to the ordinary gradient.

    It is the Z with g_N(Z, Y) = <grad, Y> for every Y. The formula needs no inverse, so that it is defined at every
    weight, also where the metric is not.

    Args:
        weight: W, shape (..., k, d).
        grad: The loss's gradient at W, same shape.
        depth: N, any real number >= 1, or ``math.inf`` for the limit of A_N / N.
        rank_rtol: As in :func:`overdepth.end_to_end_update`.

    Returns:
        The Riemannian gradient, shape (..., k, d), float64.

    Raises:
        ValueError: As :func:`overdepth.end_to_end_update` with ``allow_frozen_directions=True``.

    Example:
        >>> import torch
        >>> from overdepth.theory import riemannian_gradient
        >>> riemannian_gradient(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]]), depth=2)
        tensor([[6.8000, 2.4000]], dtype=torch.float64)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 1.
    """
    check_matrix(weight, "weight")
    check_matrix(grad, "grad")
    rtol = default_rank_rtol(weight, rank_rtol)  # of the type in which the weight came
    return end_to_end_update(weight.double(), grad.double(), depth, rank_rtol=rtol, allow_frozen_directions=True)


def decay_potential(weight: Tensor, depth: float, weight_decay: float) -> Tensor:
    r"""The implicit regularizer of weight decay on the factors: (lambda N / 2) sum_i sigma_i^{2/N}.

    It equals (lambda / 2) sum_j ||W_j||_F^2 of balanced factors, and no factors of the same product have a smaller sum.

    Args:
        weight: W, shape (..., k, d).
        depth: N, any real number >= 1. ``math.inf`` gives lambda sum_i log sigma_i over the min(k, d) singular values,
            the limit once the constant lambda N min(k, d) / 2 is taken off; -inf where one of them is 0.
        weight_decay: lambda, a finite number >= 0.

    Returns:
        The potential, shape (...), float64.

    Raises:
        ValueError: If the weight is no matrix or not finite, depth < 1, or the decay is negative.

    Example:
        >>> import torch
        >>> from overdepth.theory import decay_potential
        >>> weight = torch.diag(torch.tensor([3.0, 1.0]))
        >>> [round(float(decay_potential(weight, depth, 0.5)), 4) for depth in (1, 2, 3)]  # 1 + 9, 3 + 1, 9^(1/3) + 1
        [2.5, 2.0, 2.3101]

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 1 (its decay term -lambda N W).
    """
    _check_decay(weight, depth, weight_decay)
    singular = torch.linalg.svdvals(weight.double())
    singular = without_noise(singular, default_rank_rtol(weight))
    if math.isinf(depth):
        return weight_decay * torch.log(singular).sum(-1) if weight_decay else singular.new_zeros(singular.shape[:-1])
    return 0.5 * weight_decay * depth * (singular ** (2.0 / depth)).sum(-1)


def decay_gradient(weight: Tensor, depth: float, weight_decay: float) -> Tensor:
    r"""The ordinary gradient of :func:`decay_potential`: lambda sum_i sigma_i^{2/N-1} u_i v_i^T.

    Its Riemannian gradient is lambda N W (lambda W at infinite depth): Theorem 1's decay term. From depth 2 on the
    potential has a kink where a singular value is 0; such directions get no component here, which is what the flow
    does with them.

    Args:
        weight: W, shape (..., k, d).
        depth: N, any real number >= 1, or ``math.inf``.
        weight_decay: lambda, a finite number >= 0.

    Returns:
        The gradient, shape (..., k, d), float64.

    Raises:
        ValueError: As :func:`decay_potential`.

    Example:
        >>> import torch
        >>> from overdepth.theory import decay_gradient, riemannian_gradient
        >>> weight = torch.diag(torch.tensor([3.0, 1.0]))
        >>> riemannian_gradient(weight, decay_gradient(weight, 3, 0.5), 3)  # 0.5 * 3 * W
        tensor([[4.5000, 0.0000],
                [0.0000, 1.5000]], dtype=torch.float64)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 1 (its decay term -lambda N W).
    """
    _check_decay(weight, depth, weight_decay)
    u, singular, vh = torch.linalg.svd(weight.double(), full_matrices=False)
    singular = without_noise(singular, default_rank_rtol(weight))
    exponent = 2.0 / depth - 1.0  # 2 / inf is 0
    scale = torch.where(singular > 0, torch.where(singular > 0, singular, 1.0) ** exponent, 0.0)
    gradient: Tensor = weight_decay * (u * scale[..., None, :]) @ vh
    return gradient


def _check_decay(weight: Tensor, depth: float, weight_decay: float) -> None:
    check_depth(depth, allow_real=True)
    check_matrix(weight, "weight")
    if not all_finite(weight):
        raise ValueError(f"weight of shape {shape(weight)} has non-finite entries, expected finite ones.")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay is {weight_decay!r}, expected a finite number >= 0; 0 is no decay.")


def _refuse_degenerate(weight: Tensor, singular: Tensor, depth: float) -> None:
    if not bool((singular > 0).all()):
        raise ValueError(
            f"weight of shape {shape(weight)} has rank below {min(weight.shape[-2:])}, expected full rank: the metric "
            f"of depth {depth} does not exist there; riemannian_gradient, which needs no inverse, does."
        )
    if math.isinf(depth) and weight.shape[-2] != weight.shape[-1]:
        raise ValueError(
            f"depth is infinite and weight has shape {shape(weight)}, expected a square one: the metric does not "
            f"exist there, since directions beside the weight do not move; use a finite depth."
        )
