"""Chains, the transfer operator and the end-to-end rule, written down as literally as possible.

Everything is NumPy float64 and unbatched, in the library's order of factors: ``factors[0]`` is W_1, which acts on the
input, and W_e = W_N ... W_1. Nothing here is fast, and nothing is shared with the library.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def as_array(tensor: Tensor) -> Array:
    """The exact values of a tensor of any floating-point type."""
    array: Array = tensor.detach().to(torch.float64).numpy()
    return array


def weight_with_singular_values(rng: np.random.Generator, k: int, d: int, values: Sequence[float]) -> Array:
    """A k x d matrix with random singular vectors; below float64's last digit it has exactly ``len(values)`` ranks."""
    r = len(values)
    u = np.linalg.qr(rng.standard_normal((k, k)))[0][:, :r].astype(np.longdouble)
    v = np.linalg.qr(rng.standard_normal((d, d)))[0][:, :r].astype(np.longdouble)
    weight: Array = np.einsum("ir,r,jr->ij", u, np.asarray(values, dtype=np.longdouble), v).astype(np.float64)
    return weight


def balanced_chain(rng: np.random.Generator, weight: Array, depth: int, width: int) -> list[Array]:
    """Balanced factors of a weight with dense, randomly rotated hidden layers: W_j = Q_j S^(1/N) Q_{j-1}^T."""
    u, s, vt = np.linalg.svd(weight, full_matrices=False)
    r = min(len(s), width)
    bases = [vt[:r].T]
    bases += [np.linalg.qr(rng.standard_normal((width, width)))[0][:, :r] for _ in range(depth - 1)]
    bases += [u[:, :r]]
    root = np.diag(s[:r] ** (1.0 / depth))
    return [bases[j + 1] @ root @ bases[j].T for j in range(depth)]


def product(factors: Sequence[Array]) -> Array:
    """W_N ... W_1."""
    result = factors[0]
    for factor in factors[1:]:
        result = factor @ result
    return result


def imbalance(factors: Sequence[Array]) -> list[Array]:
    """D_j = W_{j+1}^T W_{j+1} - W_j W_j^T."""
    return [factors[j + 1].T @ factors[j + 1] - factors[j] @ factors[j].T for j in range(len(factors) - 1)]


def above(factors: Sequence[Array], j: int) -> Array:
    """W_N ... W_{j+1} for j = 1 .. N; the identity of size k for j = N."""
    result = np.eye(factors[-1].shape[0])
    for factor in reversed(factors[j:]):
        result = result @ factor
    return result


def below(factors: Sequence[Array], j: int) -> Array:
    """W_{j-1} ... W_1 for j = 1 .. N; the identity of size d for j = 1."""
    result = np.eye(factors[0].shape[1])
    for factor in factors[: j - 1]:
        result = factor @ result
    return result


def layer_gradients(factors: Sequence[Array], grad: Array) -> list[Array]:
    """The chain rule: (W_N..W_{j+1})^T G (W_{j-1}..W_1)^T for every j."""
    return [above(factors, j).T @ grad @ below(factors, j).T for j in range(1, len(factors) + 1)]


def transfer(factors: Sequence[Array], grad: Array) -> Array:
    """T(G), the literal sum."""
    result = np.zeros_like(grad)
    for j in range(1, len(factors) + 1):
        result = result + above(factors, j) @ above(factors, j).T @ grad @ below(factors, j).T @ below(factors, j)
    return result


def transfer_matrix(factors: Sequence[Array]) -> Array:
    """The matrix of T on row-major vectors, one column for each basis matrix."""
    k, d = factors[-1].shape[0], factors[0].shape[1]
    matrix = np.zeros((k * d, k * d))
    for index in range(k * d):
        basis = np.zeros(k * d)
        basis[index] = 1.0
        matrix[:, index] = transfer(factors, basis.reshape(k, d)).reshape(-1)
    return matrix


def power(base: float, exponent: float) -> float:
    """A real power with 0^0 = 1."""
    if exponent == 0:
        return 1.0
    return float(base**exponent)


def singular_system(weight: Array, rtol: float) -> tuple[Array, Array, Array, Array]:
    """U (k x k), k row values, d column values, V^T (d x d); values up to rtol times the largest are 0."""
    u, s, vt = np.linalg.svd(weight, full_matrices=True)
    rows, columns = np.zeros(weight.shape[0]), np.zeros(weight.shape[1])
    for i, value in enumerate(s):
        if value > rtol * s[0]:
            rows[i] = columns[i] = value
    return u, rows, columns, vt


def gram_powers(weight: Array, exponent: float, rtol: float) -> tuple[Array, Array]:
    """[W W^T]^exponent and [W^T W]^exponent, with 0^0 = 1 on null directions."""
    u, rows, columns, vt = singular_system(weight, rtol)
    left = u @ np.diag([power(value**2, exponent) for value in rows]) @ u.T
    right = vt.T @ np.diag([power(value**2, exponent) for value in columns]) @ vt
    return left, right


def theorem_1(weight: Array, grad: Array, depth: int, rtol: float) -> Array:
    """sum_j [W W^T]^((N-j)/N) G [W^T W]^((j-1)/N) by matrix powers, integer N."""
    powers = [gram_powers(weight, j / depth, rtol) for j in range(depth)]
    result = np.zeros_like(grad)
    for j in range(1, depth + 1):
        result = result + powers[depth - j][0] @ grad @ powers[j - 1][1]
    return result


def claim_1_matrix(weight: Array, depth: int, rtol: float) -> Array:
    """P = sum_j kron([W^T W]^((N-j)/N), [W W^T]^((j-1)/N)), column-major."""
    k, d = weight.shape
    powers = [gram_powers(weight, j / depth, rtol) for j in range(depth)]
    matrix = np.zeros((k * d, k * d))
    for j in range(1, depth + 1):
        matrix = matrix + np.kron(powers[depth - j][1], powers[j - 1][0])
    return matrix


def multiplier_of_sum(left: float, right: float, depth: int) -> float:
    """sum_j sigma_r^(2(N-j)/N) sigma_r'^(2(j-1)/N), 0^0 = 1."""
    return sum(power(left, 2 * (depth - j) / depth) * power(right, 2 * (j - 1) / depth) for j in range(1, depth + 1))


def multiplier_of_quotient(left: float, right: float, depth: float) -> float:
    """(a - b) / (a^(1/N) - b^(1/N)) with a = sigma_r^2, b = sigma_r'^2; at infinity the logarithmic mean.

    In 60 decimal digits, so that the cancellation near a = b costs nothing; the limits are written out.
    """
    with localcontext() as context:
        context.prec = 60
        a, b = Decimal(left) ** 2, Decimal(right) ** 2
        if math.isinf(depth):
            if a == 0 or b == 0:
                return 0.0
            return float(a) if a == b else float((a - b) / (a.ln() - b.ln()))
        if depth == 1:
            return 1.0
        root = 1 / Decimal(depth)
        if a == b:
            return float(Decimal(depth) * a ** (1 - root)) if a else 0.0
        return float((a - b) / ((a**root if a else a) - (b**root if b else b)))


def spectrum(weight: Array, depth: float, rtol: float) -> Array:
    """Claim 1's eigenvalues, entry (r, r'), by loops."""
    _, rows, columns, _ = singular_system(weight, rtol)
    result = np.zeros(weight.shape)
    for r, left in enumerate(rows):
        for s, right in enumerate(columns):
            result[r, s] = multiplier_of_quotient(float(left), float(right), depth)
    return result


def end_to_end_update(weight: Array, grad: Array, depth: float, rtol: float) -> Array:
    """The rule at any real or infinite depth, one eigenvector u_r v_r'^T of Claim 1 after the other."""
    u, _, _, vt = singular_system(weight, rtol)
    eigenvalues = spectrum(weight, depth, rtol)
    result = np.zeros_like(grad)
    for r in range(weight.shape[0]):
        for s in range(weight.shape[1]):
            direction = np.outer(u[:, r], vt[s])
            result = result + eigenvalues[r, s] * float(np.sum(direction * grad)) * direction
    return result


def claim_2(weight: Array, grad: Array, depth: float) -> Array:
    """||w||^(2-2/N) (g + (N-1) <g, u> u), u = w / ||w||, for one row or column; 0 at w = 0 for N > 1."""
    norm = float(np.sqrt(np.sum(weight**2)))
    if norm == 0:
        return grad if depth == 1 else np.zeros_like(grad)
    direction = weight / norm
    along = float(np.sum(grad * direction)) * direction
    if math.isinf(depth):
        return norm**2 * along
    return float(norm ** (2 - 2 / depth)) * (grad + (depth - 1) * along)


def relative_error(actual: Tensor, expected: Array) -> float:
    """Frobenius error relative to the expected norm; the error itself where nothing but zero is expected."""
    scale = float(np.linalg.norm(expected))
    error = float(np.linalg.norm(as_array(actual) - expected))
    return error / scale if scale > 0 else error
