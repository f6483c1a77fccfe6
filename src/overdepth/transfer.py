"""The transfer operator T: how the factors pass the end-to-end gradient on to the end-to-end weight.

Under gradient flow of the factors, dW_e/dt = -T(grad f(W_e)), whatever the factors' imbalance; the end-to-end rule
is its balanced case. The smallest eigenvalue of T bounds the rate at which the loss falls.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from overdepth._checks import check_choice, check_dtype, shape, wide_factors
from overdepth.eigen import smallest_eigenvalue

DENSE_LIMIT = 4096
_BLOCK = 6


class ExtremeEigenvalue(NamedTuple):
    """An extreme eigenvalue of a transfer operator.

    Attributes:
        value: The Rayleigh quotient of the vector found: never below the smallest, never above the largest one.
        residual: ||T(Z) - value Z||_F of that vector, of norm 1; 0 where the value belongs to a direction that the
            first or last factor does not see, and comes from a Gram matrix.
        lower: A certified lower bound.
        upper: A certified upper bound.
    """

    value: float
    residual: float
    lower: float
    upper: float


class TransferOperator:
    r"""The self-adjoint, positive semidefinite map G -> T(G) of a chain of factors, on matrices of shape (k, d).

    .. math:: T(G) = \sum_j A_j G B_j, \quad A_j = (W_N \cdots W_{j+1}) (W_N \cdots W_{j+1})^T, \quad
              B_j = (W_{j-1} \cdots W_1)^T (W_{j-1} \cdots W_1)

    Made by :func:`transfer_operator`. Everything is computed in float64.

    Attributes:
        shape: (k, d), the shape of the gradients it acts on.
        depth: N, the number of factors.
    """

    def __init__(self, factors: Sequence[Tensor]) -> None:
        wide = wide_factors(factors)
        self.shape = (int(wide[-1].shape[0]), int(wide[0].shape[1]))
        self.depth = len(wide)
        self._factors = wide
        above, below = wide[:0:-1], wide[:-1]
        self._above = list(itertools.accumulate(above, torch.matmul))[::-1]  # W_N ... W_{j+1}, j = 1 .. N-1
        self._below = list(itertools.accumulate(below, lambda q, f: f @ q))  # W_{j-1} ... W_1, j = 2 .. N
        self._norms = [float(torch.linalg.matrix_norm(f)) for f in wide]
        if not math.isfinite(self.mean_eigenvalue() * (self.shape[0] * self.shape[1]) ** 2):
            raise ValueError(
                f"the factors have norms {', '.join(f'{norm:.3g}' for norm in self._norms)}: their transfer operator "
                f"overflows float64; scale them down."
            )

    @cached_property
    def _left(self) -> list[Tensor]:
        """A_1, ..., A_N."""
        return [*(p @ p.mT for p in self._above), self._identity(self.shape[0])]

    @cached_property
    def _right(self) -> list[Tensor]:
        """B_1, ..., B_N."""
        return [self._identity(self.shape[1]), *(q.mT @ q for q in self._below)]

    def _identity(self, size: int) -> Tensor:
        return torch.eye(size, dtype=torch.float64, device=self._factors[0].device)

    def __call__(self, grad: Tensor) -> Tensor:
        """T(G), for ``grad`` of shape (..., k, d); the result has the dtype of ``grad``.

        Raises:
            ValueError: If the shape does not fit.
        """
        check_dtype(grad.dtype, "grad")
        if tuple(grad.shape[-2:]) != self.shape:
            raise ValueError(f"grad has shape {shape(grad)}, expected (..., {self.shape[0]}, {self.shape[1]}).")
        wide = grad.double()
        total = torch.zeros_like(wide)
        for j in range(self.depth):
            term = wide
            if j < self.depth - 1:
                term = self._left[j] @ term
            total += term @ self._right[j] if j > 0 else term
        return total.to(grad.dtype)

    def to_dense(self) -> Tensor:
        """The matrix of T on row-major vectors, sum_j kron(A_j, B_j), shape (k d, k d), float64.

        Raises:
            ValueError: If k * d is above ``DENSE_LIMIT``.
        """
        self._refuse_large("to_dense()")
        size = self.shape[0] * self.shape[1]
        total = torch.zeros(size, size, dtype=torch.float64, device=self._factors[0].device)
        for a, b in zip(self._left, self._right, strict=True):
            total += torch.kron(a, b)
        return total

    def spectrum(self) -> Tensor:
        """All k * d eigenvalues in ascending order, float64, from the dense matrix.

        Raises:
            ValueError: If k * d is above ``DENSE_LIMIT``; ``extreme_eigenvalue`` still works.
        """
        self._refuse_large("the whole spectrum")
        values: Tensor = torch.linalg.eigvalsh(self.to_dense())
        return values.clamp_min(0.0)  # rounding may take a null eigenvalue below 0

    def min_eigenvalue(self) -> float:
        """The smallest eigenvalue.

        Exact through the factors' Gram matrices up to depth 2 and dense up to ``DENSE_LIMIT``; beyond, the value of
        :meth:`extreme_eigenvalue`, an upper bound: what is certified from below is in :meth:`eigenvalue_bounds`.
        """
        return self._extreme_eigenvalues()[0]

    def max_eigenvalue(self) -> float:
        """The largest eigenvalue; beyond ``DENSE_LIMIT`` a lower bound of it, see :meth:`min_eigenvalue`."""
        return self._extreme_eigenvalues()[1]

    def extreme_eigenvalue(self, which: Literal["smallest", "largest"] = "smallest") -> ExtremeEigenvalue:
        """The smallest or the largest eigenvalue at any size, without the dense matrix, and what is certain of it.

        In the eigenbases of A_1 and B_N the end terms are diagonal; the others are applied as products. The diagonal
        preconditions LOBPCG.

        Example:
            >>> import torch, overdepth as od
            >>> factors = od.balanced_factors(torch.diag(torch.linspace(1, 2, 100)), depth=3)
            >>> found = od.transfer_operator(factors).extreme_eigenvalue("smallest")
            >>> round(found.value, 6), found.lower <= found.value <= found.upper
            (3.0, True)
        """
        check_choice(which, "which", ("smallest", "largest"))
        lower, upper = self.eigenvalue_bounds()
        reduced, others = self._reduced()
        value, residual = TransferOperator(reduced)._iterated(which, upper)
        found = min([value, *others]) if which == "smallest" else max([value, *others])
        residual = residual if found == value else 0.0
        value = min(max(found, lower), upper)
        return ExtremeEigenvalue(value, residual, *((lower, value) if which == "smallest" else (value, upper)))

    def _reduced(self) -> tuple[list[Tensor], list[float]]:
        """A chain without the directions that W_1 or W_N does not see, and T's extreme eigenvalues on these.

        Beside the row space of W_1 only the first term is not zero, and has the eigenvalues of A_1; beside the column
        space of W_N only the last, with those of B_N; beside both T is zero.
        """
        factors, others = list(self._factors), []
        (k, d), sizes = self.shape, [f.shape[0] for f in self._factors[:-1]]
        is_wide, is_tall = bool(sizes) and d > sizes[0], bool(sizes) and k > sizes[-1]
        if is_wide:
            others += list(self._extremes[0][0][:2])
            factors[0] = torch.linalg.qr(factors[0].mT, mode="r").R.mT
        if is_tall:
            others += list(self._extremes[-1][1][:2])
            factors[-1] = torch.linalg.qr(factors[-1], mode="r").R
        return factors, [*others, 0.0] if is_wide and is_tall else others

    def _iterated(self, which: str, upper: float) -> tuple[float, float]:
        """A Ritz value and its residual."""
        (k, d), device = self.shape, self._factors[0].device
        on_left, u = torch.linalg.eigh(self._left[0])
        on_right, v = torch.linalg.eigh(self._right[-1])
        between = [(u.mT @ a @ u, v.mT @ b @ v) for a, b in zip(self._left[1:-1], self._right[1:-1], strict=True)]
        ends = on_left[:, None] + on_right[None, :] if self.depth > 1 else torch.ones_like(self._left[0][:, :1])
        diagonal = ends.expand(k, d).clone()
        for a, b in between:
            diagonal += a.diagonal()[:, None] * b.diagonal()
        shift, sign = (upper, -1.0) if which == "largest" else (0.0, 1.0)

        def apply(rows: Tensor) -> Tensor:
            matrices = rows.reshape(-1, k, d)
            total = (shift + sign * ends) * matrices
            for a, b in between:
                total += sign * (a @ matrices @ b)
            return total.reshape(len(rows), -1)

        flat = (shift + sign * diagonal).flatten()
        inverse = 1 / flat.clamp_min(1e-12 * upper)
        block = min(_BLOCK, k * d)
        start = 1e-3 * torch.randn(block, k * d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        start = (start / (k * d) ** 0.5).to(device)
        start[torch.arange(block), flat.topk(block, largest=False).indices] += 1.0
        value, residual = smallest_eigenvalue(apply, start, lambda rows: rows * inverse, scale=max(upper, 1e-300))
        return shift + sign * value, residual

    def mean_eigenvalue(self) -> float:
        """The mean of all k * d eigenvalues, at any size: sum_j tr(A_j) tr(B_j) / (k d)."""
        left = [*(float(p.square().sum()) for p in self._above), float(self.shape[0])]
        right = [float(self.shape[1]), *(float(q.square().sum()) for q in self._below)]
        return sum(a * b for a, b in zip(left, right, strict=True)) / (self.shape[0] * self.shape[1])

    def eigenvalue_bounds(self) -> tuple[float, float]:
        """Certified bounds for all eigenvalues at any size, from those of the A_j and B_j.

        Returns:
            (lower, upper): sum_j lambda_min(A_j) lambda_min(B_j) and sum_j lambda_max(A_j) lambda_max(B_j), moved
            apart by what rounding may have done. Up to depth 2 they are exact but for that.
        """
        return self._bounds(slack=8 * torch.finfo(torch.float64).eps)

    def _bounds(self, *, slack: float) -> tuple[float, float]:
        if self.depth == 1:
            return 1.0, 1.0
        lower = upper = 0.0
        for j, (left, right) in enumerate(self._extremes):
            low_a, top_a = _widened(left, slack, math.prod(self._norms[j + 1 :]), self.depth - j - 1)
            low_b, top_b = _widened(right, slack, math.prod(self._norms[:j]), j)
            lower += low_a * low_b
            upper += top_a * top_b
        return lower, upper

    @cached_property
    def _extremes(self) -> list[tuple[tuple[float, float, int], tuple[float, float, int]]]:
        """The smallest and largest eigenvalue and the size of every A_j and B_j; A_N and B_1 are identities."""
        left = [_gram_extremes(above) for above in self._above] + [(1.0, 1.0, self.shape[0])]
        right = [(1.0, 1.0, self.shape[1]), *(_gram_extremes(below.mT) for below in self._below)]
        return list(zip(left, right, strict=True))

    def _extreme_eigenvalues(self) -> tuple[float, float]:
        if self.depth <= 2:  # lambda(A_1) + lambda(B_2): the terms act on different sides and share eigenvectors
            return self._bounds(slack=0.0)
        if self.shape[0] * self.shape[1] > DENSE_LIMIT:
            return self.extreme_eigenvalue("smallest").value, self.extreme_eigenvalue("largest").value
        values = self.spectrum()
        return float(values[0]), float(values[-1])

    def _refuse_large(self, what: str) -> None:
        size = self.shape[0] * self.shape[1]
        if size > DENSE_LIMIT:
            raise ValueError(
                f"{what} of a transfer operator on {self.shape} gradients needs a dense {size} x {size} matrix, above "
                f"the limit of {DENSE_LIMIT}; use extreme_eigenvalue() or eigenvalue_bounds(), which work at any size."
            )

    def __repr__(self) -> str:
        return f"TransferOperator(shape={self.shape}, depth={self.depth})"


def _widened(extremes: tuple[float, float, int], slack: float, norm: float, count: int) -> tuple[float, float]:
    """Bounds of the eigenvalues of P P^T from the computed ones, P being a product of ``count`` factors.

    The eigenvalues are off by at most slack times size times the largest, the singular values of P by slack times the
    product of the factors' norms for every multiplication that made it.
    """
    low, top, size = extremes
    noise, shift = slack * size * top, slack * size * norm * max(count - 1, 0)
    return max(math.sqrt(max(low - noise, 0.0)) - shift, 0.0) ** 2, (math.sqrt(top + noise) + shift) ** 2


def _gram_extremes(rows: Tensor) -> tuple[float, float, int]:
    """The smallest and largest eigenvalue of P P^T, and its size, through the thinner side."""
    size, other = rows.shape
    values = torch.linalg.eigvalsh(rows @ rows.mT if size <= other else rows.mT @ rows)
    return float(values[0]) if size <= other else 0.0, float(values[-1]), size


def transfer_operator(factors: Sequence[Tensor]) -> TransferOperator:
    """The transfer operator of a chain: exact for any factors, balanced or not.

    Args:
        factors: W_1, ..., W_N in the order in which they act on the input, shapes (n_j, n_{j-1}).

    Returns:
        An operator that is callable on gradients of shape (k, d) and knows its extreme eigenvalues.

    Raises:
        ValueError: If the factors do not chain, are batched, or have non-finite entries.

    Example:
        >>> import torch, overdepth as od
        >>> operator = od.transfer_operator([torch.tensor([[0.1], [0.0]]), torch.tensor([[10.0, 0.0], [0.0, 1.0]])])
        >>> round(operator.min_eigenvalue(), 6), round(operator.max_eigenvalue(), 6)
        (1.01, 100.01)
        >>> operator(torch.tensor([[0.0], [1.0]]))
        tensor([[0.0000],
                [1.0100]])

    References:
        Min, Vidal & Mallada, ICML 2023; Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, proof of Theorem 1.
    """
    return TransferOperator(factors)
