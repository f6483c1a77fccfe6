r"""Lower bounds of the transfer operator's smallest eigenvalue from the imbalances, which the flow keeps.

While lambda_min(T) >= alpha, ``gap(t) <= exp(-alpha pl t) gap(0)`` for a loss that satisfies
||grad f||_F^2 >= pl (f - f*). The imbalances do not change under gradient flow, and a margin bounds the singular values
of W_e from below, so that a bound from these alone holds for all time.

Every bound takes a ``slack`` inside this package: how far the spectral norm of every imbalance may have moved, from
rounding or from the steps of gradient descent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overdepth._checks import wide_factors
from overdepth.chain import imbalance, product
from overdepth.theory.arguments import check_margin


def two_layer_rate(factors: Sequence[Tensor], margin: float | None = None) -> float:
    """A lower bound of lambda_min(T) for two factors of any sizes and any imbalance; attained by some.

    Args:
        factors: W_1 (h, d) and W_2 (k, h).
        margin: A lower bound of sigma_min(W_e), the min(k, d)-th singular value, for all time; the current one by
            default.

    Returns:
        The sum of :func:`two_layer_rates`. Balanced factors: sigma_k + sigma_d. It is 0 for h < min(k, d).

    Raises:
        ValueError: If there are not two factors that chain, or they are not finite.

    Example:
        >>> import torch
        >>> from overdepth.theory import two_layer_rate
        >>> round(two_layer_rate([torch.diag(torch.tensor([10.0, 1.0])), torch.tensor([[0.1, 0.0]])]), 9)
        1.01

    References:
        Min, Vidal & Mallada, ICML 2023, with the pairing of imbalance and singular value as it has to be for k != d.
    """
    return sum(two_layer_rates(factors, margin))


def two_layer_rates(factors: Sequence[Tensor], margin: float | None = None) -> tuple[float, float]:
    """Lower bounds of lambda_min(W_2 W_2^T) and lambda_min(W_1^T W_1), the two summands of lambda_min(T).

    Arguments, errors and references as :func:`two_layer_rate`.
    """
    lower, upper = _chain_of(factors, 2)
    k, d = upper.shape[0], lower.shape[1]
    current = torch.linalg.svdvals(upper @ lower)[min(k, d) - 1]
    found = two_layer_bounds(eigenvalues([lower, upper])[0], k, d, check_margin(margin, current))
    return float(found[0]), float(found[1])


def three_layer_rate(factors: Sequence[Tensor]) -> float:
    """A lower bound of lambda_min(T) for three factors of any sizes and any imbalance, without a margin.

    Exact, over all factors with these imbalances, for k = d = 1. Zero where the imbalances say nothing, as for
    balanced factors.

    Raises:
        ValueError: If there are not three factors that chain, or they are not finite.

    Example:
        >>> import torch
        >>> from overdepth.theory import three_layer_rate
        >>> three_layer_rate([torch.tensor([[2.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])])  # 4 * 1
        4.0

    References:
        Min, Vidal & Mallada, ICML 2023, announce such a bound; the proof of this one is in docs/theory/rates.md.
    """
    first, second, third = _chain_of(factors, 3)
    towards_input, towards_output = eigenvalues([first, second, third])
    return float(three_layer_bound(towards_output, towards_input, third.shape[0], first.shape[1]))


def chain_rate(factors: Sequence[Tensor]) -> float:
    """A lower bound of lambda_min(T) for any number of factors from their imbalances alone.

    Zero where the imbalances say nothing; for three factors never above :func:`three_layer_rate`.

    Raises:
        ValueError: If the factors do not chain or are not finite.

    Example:
        >>> import torch
        >>> from overdepth.theory import chain_rate
        >>> chain_rate([torch.tensor([[2.0]]), torch.tensor([[0.0]]), torch.tensor([[1.0]])])
        4.0
    """
    wide = wide_factors(factors)
    return float(chain_bound(eigenvalues(wide), widths(wide)))


def single_io_rate(factors: Sequence[Tensor], margin: float | None = None) -> float:
    """N |w|^{2 - 2/N}, a lower bound of T for one input and one output, whatever the widths and imbalances between.

    Args:
        factors: W_1 (n_1, 1), ..., W_N (1, n_{N-1}).
        margin: A lower bound of ``|w|`` for all time; the current one by default.

    Raises:
        ValueError: If k or d is above 1, or the factors do not chain or are not finite.

    Example:
        >>> import torch
        >>> from overdepth.theory import single_io_rate
        >>> single_io_rate([torch.ones(4, 1), torch.ones(1, 4)])  # 2 * 4
        8.0
    """
    wide = wide_factors(factors)
    _check_single(wide)
    return float(single_io_bound(len(wide), check_margin(margin, product(wide).abs().squeeze())))


def supported_single_io_rate(factors: Sequence[Tensor], margin: float | None = None) -> float:
    """sqrt(r^2 + (N |w|^{2 - 2/N})^2) with r of three_layer_rate or chain_rate: no violation known, **no proof**.

    Arguments and errors as :func:`single_io_rate`. Twenty thousand random chains and direct maximization found no
    counterexample; :func:`overdepth.theory.certify` never uses it. It is false for k = d >= 2.
    """
    wide = wide_factors(factors)
    proved = torch.tensor(single_io_rate(wide, margin), dtype=torch.float64)
    rest = three_layer_rate(wide) if len(wide) == 3 else chain_rate(wide)
    return float(torch.hypot(proved, torch.tensor(rest, dtype=torch.float64)))


def eigenvalues(factors: Sequence[Tensor]) -> list[Tensor]:
    """The eigenvalues of D_1, ..., D_{N-1}, each in descending order."""
    return [torch.linalg.eigvalsh(matrix).flip(0) for matrix in imbalance(factors)]


def widths(factors: Sequence[Tensor]) -> list[int]:
    """n_0 = d, n_1, ..., n_N = k."""
    return [factors[0].shape[1], *(f.shape[0] for f in factors)]


def two_layer_bounds(values: Tensor, k: int, d: int, margin: Tensor, slack: float = 0.0) -> tuple[Tensor, Tensor]:
    """:func:`two_layer_rates` from the eigenvalues of D_1, for margins of any shape."""
    most_up = _positive(_nth(values, 1) + slack)
    least_up = _positive(_nth(values, k) - slack)
    most_down = _positive(_nth(-values.flip(0), 1) + slack)
    least_down = _positive(_nth(-values.flip(0), d) - slack)
    for_output = margin if k <= d else torch.zeros_like(margin)
    for_input = margin if d <= k else torch.zeros_like(margin)
    return _larger_root(least_up, most_down, for_output), _larger_root(least_down, most_up, for_input)


def three_layer_bound(output: Tensor, inputs: Tensor, k: int, d: int, slack: float = 0.0) -> Tensor:
    """:func:`three_layer_rate` from the eigenvalues of D_2 and D_1.

    With D = -D_2 on the output's side and D_1 on the input's, s_i bounds the eigenvalues of the middle factor's Gram
    matrix, and b_i those of it without what a single output (input) adds.
    """
    up, down = -output.flip(0), inputs
    sides = []
    for values, rank in ((up, k), (down, d)):
        terms = []
        for i in range(1, len(values) + 1):
            s = _positive(torch.maximum(_nth(up, i), _nth(down, i)) - slack)
            j = i + 1 - rank
            b = s if j <= 0 else torch.minimum(s, _nth(values, j) + slack)
            terms.append((s, b))
        s, b = (torch.stack(t) for t in zip(*terms, strict=True))
        sides.append(((s - b).sum(), (s.square() - b.square()).sum()))
    (first, first_squares), (second, second_squares) = sides
    return _positive((first_squares + first**2) / 2 + first * second + (second_squares + second**2) / 2)


def chain_bound(values: Sequence[Tensor], sizes: Sequence[int], slack: float = 0.0) -> Tensor:
    """:func:`chain_rate` from the eigenvalues of D_1, ..., D_{N-1} and the widths n_0, ..., n_N.

    Bounds of lambda_min(W_j W_j^T) grow from the input on, those of lambda_min(W_j^T W_j) from the output on.
    """
    depth, zero = len(sizes) - 1, torch.zeros((), dtype=torch.float64)
    rows, columns = [zero], [zero]  # of factors 1, 2, ...; of factors N, N-1, ...
    for j in range(1, depth):
        wide = sizes[j + 1] <= sizes[j]
        rows.append(_positive(rows[-1] + _nth(values[j - 1], sizes[j + 1]) - slack) if wide else zero)
    for j in range(depth - 1, 0, -1):
        tall = sizes[j - 1] <= sizes[j]
        below = -values[j - 1].flip(0)
        columns.append(_positive(columns[-1] + _nth(below, sizes[j - 1]) - slack) if tall else zero)
    columns.reverse()
    total = zero
    for j in range(depth):
        above = torch.stack([zero + 1, *rows[j + 1 :]]).prod()
        total = total + above * torch.stack([zero + 1, *columns[:j]]).prod()
    return total


def single_io_bound(depth: int, margin: Tensor) -> Tensor:
    """:func:`single_io_rate` for margins of any shape."""
    return depth * margin ** (2 - 2 / depth)


def _larger_root(low: Tensor, high: Tensor, margin: Tensor) -> Tensor:
    """The larger root a of (a - low)(a + high) = margin^2, without cancellation."""
    root = torch.hypot((low + high).expand_as(margin), 2 * margin)
    difference = low - high
    product_form = 2 * (low * high + margin.square()) / (root - difference).clamp_min(torch.finfo(root.dtype).tiny)
    return torch.where(difference >= 0, (difference + root) / 2, product_form)


def _nth(values: Tensor, n: int) -> Tensor:
    """The n-th of descending eigenvalues, n >= 1; minus infinity where there are fewer."""
    return values[n - 1] if n <= len(values) else values.new_tensor(-torch.inf)


def _positive(value: Tensor) -> Tensor:
    return value.clamp_min(0.0)


def _chain_of(factors: Sequence[Tensor], depth: int) -> list[Tensor]:
    wide = wide_factors(factors)
    if len(wide) != depth:
        raise ValueError(f"factors has {len(wide)} matrices, expected {depth}; certify takes any number.")
    return wide


def _check_single(factors: Sequence[Tensor]) -> None:
    k, d = factors[-1].shape[0], factors[0].shape[1]
    if k > 1 or d > 1:
        raise ValueError(
            f"the end-to-end weight has shape ({k}, {d}), expected one input and one output; certify covers any shape."
        )
