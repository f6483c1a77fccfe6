r"""The vector field that the end-to-end rule makes of a loss's gradient, for a single output.

    F(w) = ||w||^{2-2/N} (g(w) + (N-1) <g(w), u> u),  u = w / ||w||,  F(0) = 0

**The exception N = 2.** A linear loss <u, w> has the potential ||w|| <u, w> there, :func:`two_layer_potential`; other
losses need not have one: :func:`field_curl`, wherever it is not zero, refutes every potential, at any depth.

A weight is a row (1, d), as everywhere in this library, and a gradient a function from a weight to such a row.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from overdepth._checks import all_finite, check_depth, check_matrix, shape
from overdepth.rule import single_output_coefficients, single_output_update

Gradient = Callable[[Tensor], Tensor]


def vector_field(weight: Tensor, gradient: Gradient, depth: float) -> Tensor:
    r"""F(w): what the end-to-end rule makes of a loss's gradient, for single-output weights.

    Args:
        weight: One or more weights, shape (..., 1, d).
        gradient: From a weight (1, d) in float64 to the loss's gradient there, (1, d).
        depth: N, any real number >= 1, or ``math.inf`` for the limit of F / N.

    Returns:
        F at every weight, shape (..., 1, d), float64; 0 at w = 0 for N > 1.

    Raises:
        ValueError: If a weight or a gradient has no such shape, is not finite, or depth < 1.

    Example:
        >>> import torch
        >>> from overdepth.theory import vector_field
        >>> vector_field(torch.tensor([[3.0, 4.0]]), lambda w: torch.tensor([[1.0, 0.0]]), depth=3)
        tensor([[14.7058,  8.2079]], dtype=torch.float64)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Equation 14 (Theorem 2) and Claim 2.
    """
    check_depth(depth, allow_real=True)
    wide = check_rows(weight, "weight")
    rows = wide.reshape(-1, 1, wide.shape[-1])
    grads = torch.stack([evaluate(gradient, row) for row in rows])
    return field_of(rows, grads, depth).reshape(wide.shape)


def two_layer_potential(weight: Tensor, direction: Tensor) -> Tensor:
    """The exception N = 2: ||w|| <u, w>, whose gradient is the rule's field of a linear loss <u, w>.

    Args:
        weight: w, shape (..., 1, d).
        direction: u, the loss's gradient, shape (1, d).

    Returns:
        The potential, shape (...), float64.

    Raises:
        ValueError: If one is no row, or their lengths differ.

    Example:
        >>> import torch
        >>> from overdepth.theory import two_layer_potential, vector_field
        >>> w, u = torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        >>> torch.func.grad(lambda v: two_layer_potential(v, u))(w)
        tensor([[6.8000, 2.4000]], dtype=torch.float64)
        >>> vector_field(w, lambda v: u, depth=2)
        tensor([[6.8000, 2.4000]], dtype=torch.float64)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 2 (which excludes N = 2).
    """
    for tensor, name in ((weight, "weight"), (direction, "direction")):
        _check_row_shape(tensor, name)
    if weight.shape[-1] != direction.shape[-1]:
        raise ValueError(
            f"direction has shape {shape(direction)} and weight has shape {shape(weight)}; they must be equally long."
        )
    wide = weight.double()
    potential: Tensor = torch.linalg.vector_norm(wide, dim=(-2, -1)) * (wide * direction.double()).sum(dim=(-2, -1))
    return potential


def field_curl(weight: Tensor, gradient: Gradient, depth: float) -> Tensor:
    """How far the field's Jacobian is from symmetric at a weight, by central differences: dF_i/dw_j - dF_j/dw_i.

    Args:
        weight: w, shape (1, d), not zero.
        gradient: From a weight (1, d) in float64 to the loss's gradient there, (1, d), twice differentiable at w.
        depth: N, any real number >= 1, or ``math.inf`` for the limit of F / N.

    Returns:
        An antisymmetric matrix (d, d), good to about 1e-9 of the field over ||w||; a gradient's is zero.

    Raises:
        ValueError: As :func:`vector_field`, and if the weight is zero or a batch.

    Example:
        >>> import torch
        >>> from overdepth.theory import field_curl
        >>> w = torch.tensor([[1.0, 1.0]])
        >>> curl = field_curl(w, lambda v: v * torch.tensor([[1.0, 3.0]]), depth=2)  # a quadratic loss, no exception
        >>> round(float(curl[0, 1]), 6)
        1.414214
    """
    wide = check_rows(weight, "weight")
    norm = float(torch.linalg.vector_norm(wide))
    if wide.ndim != 2 or norm == 0:
        raise ValueError(f"weight has shape {shape(weight)} and norm {norm:g}, expected one row (1, d) that is not 0.")
    step = norm * torch.finfo(torch.float64).eps ** (1 / 3)
    moves = step * torch.eye(wide.shape[-1], dtype=torch.float64)[:, None, :]
    change = vector_field(wide + moves, gradient, depth) - vector_field(wide - moves, gradient, depth)
    jacobian = change[:, 0, :].mT / (2.0 * step)
    curl: Tensor = jacobian - jacobian.mT
    return curl


def field_of(weight: Tensor, grad: Tensor, depth: float) -> Tensor:
    """F from weights and gradients (..., 1, d), unchecked."""
    if depth == 1:
        return grad
    return single_output_update(weight, grad, single_output_coefficients(depth))


def evaluate(gradient: Gradient, weight: Tensor) -> Tensor:
    """The gradient at a weight, checked, in float64."""
    value: object = gradient(weight)
    if not isinstance(value, Tensor) or value.shape != weight.shape:
        came = shape(value) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"gradient returned {came} for a weight of shape {shape(weight)}, expected a tensor of the weight's shape."
        )
    if not all_finite(value):
        raise ValueError(f"gradient returned non-finite entries at the weight {weight.tolist()}.")
    return value.detach().double()


def _check_row_shape(tensor: Tensor, name: str) -> None:
    check_matrix(tensor, name)
    if tensor.shape[-2] != 1:
        raise ValueError(
            f"{name} has shape {shape(tensor)}, expected (..., 1, d): Theorem 2 is about a single output, whose weight "
            f"is one row."
        )


def check_rows(tensor: Tensor, name: str) -> Tensor:
    """The rows (..., 1, d) in float64, checked."""
    _check_row_shape(tensor, name)
    if not all_finite(tensor):
        raise ValueError(f"{name} of shape {shape(tensor)} has non-finite entries, expected finite ones.")
    return tensor.detach().double()


def unit_row(tensor: Tensor, name: str) -> Tensor:
    """One row (1, d) over its norm, checked."""
    wide = check_rows(tensor, name)
    norm = float(torch.linalg.vector_norm(wide))
    if wide.ndim != 2 or norm == 0:
        raise ValueError(f"{name} has shape {shape(tensor)} and norm {norm:g}, expected one row (1, d) that is not 0.")
    return wide / norm
