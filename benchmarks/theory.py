"""The theory's speed targets: large transfer operators, certificates, scalar chains in a batch, a flow.

    python benchmarks/theory.py

Every row prints what was asked and what came; the last line is one line of JSON. The operators have depth 4 and
256 x 256 gradients: balanced (Claim 1 gives their eigenvalues) at condition numbers 1e2 to 1e8, with shared singular
vectors but no balance (analytic too), and general ones, whose answer is judged by its residual over the largest
eigenvalue. Up to 40 x 40 the matrix-free answer is held against the dense one.
"""

from __future__ import annotations

import json
import math

import torch
from torch import Tensor

import overdepth as od
from measure import fastest, machine, timed
from overdepth import theory

SIZE, DEPTH = 256, 4


def main() -> None:
    """Runs the benchmark and prints its figures."""
    torch.manual_seed(0)
    figures: dict[str, object] = {"benchmark": "theory", **machine()}
    figures["transfer_operator"] = _operators()
    figures["equal_to_dense"] = _dense()
    figures["two_layer_certificate_2048_seconds"] = _certificate()
    weights, margins = torch.randn(10_000, 8), torch.rand(10_000)
    figures["scalar_rates_10000_seconds"] = round(fastest(lambda: theory.scalar_rate(weights, margins)), 4)
    print(f"10,000 scalar rates of depth 8: {figures['scalar_rates_10000_seconds']} s")
    figures["flow"] = _flow()
    print(json.dumps(figures))


def _operators() -> dict[str, dict[str, float]]:
    found = {}
    for exponent in (2, 4, 6, 8):
        singular = torch.logspace(0, -exponent / (2 - 2 / DEPTH), SIZE, dtype=torch.float64)
        factors = od.balanced_factors(_orthogonal(SIZE) * singular @ _orthogonal(SIZE), DEPTH)
        exact = DEPTH * float(singular[-1]) ** (2 - 2 / DEPTH)
        found[f"balanced_1e{exponent}"] = _judged(factors, exact)
    factors, exact = _shared_vectors(SIZE)
    found["shared_vectors"] = _judged(factors, exact)
    for spread in (0.1, 0.3):
        noisy = [
            f @ (torch.eye(SIZE).double() + spread * _gaussian(SIZE))
            for f in od.balanced_factors(
                _orthogonal(SIZE) * torch.logspace(0, -8 / 1.5, SIZE, dtype=torch.float64) @ _orthogonal(SIZE), DEPTH
            )
        ]
        found[f"unbalanced_{spread:g}"] = _judged(noisy, None)
    found["around_identity"] = _judged([torch.eye(SIZE).double() + 0.3 * _gaussian(SIZE) for _ in range(DEPTH)], None)
    return found


def _judged(factors: list[Tensor], exact: float | None) -> dict[str, float]:
    operator = od.transfer_operator(factors)
    smallest, seconds = timed(lambda: operator.extreme_eigenvalue("smallest"))
    largest, more = timed(lambda: operator.extreme_eigenvalue("largest"))
    figures = {
        "seconds": round(seconds, 2),
        "seconds_largest": round(more, 2),
        "condition": float(f"{largest.value / smallest.value:.1e}"),
        "relative_residual": float(f"{smallest.residual / largest.value:.1e}"),
        "certified_over_value": round(smallest.lower / smallest.value, 4),
    }
    if exact is not None:
        figures["relative_error"] = float(f"{abs(smallest.value / exact - 1):.1e}")
    print(f"smallest eigenvalue, depth {DEPTH}, {SIZE} x {SIZE}: {figures}")
    return figures


def _shared_vectors(size: int) -> tuple[list[Tensor], float]:
    """Factors with the singular vectors of their neighbours, no balance, and the smallest eigenvalue."""
    strengths = 0.05 + torch.rand(DEPTH, size, dtype=torch.float64)
    bases = [_orthogonal(size) for _ in range(DEPTH + 1)]
    factors = [bases[j + 1] * strengths[j] @ bases[j].mT for j in range(DEPTH)]
    squares = strengths.square()
    total = torch.zeros(size, size, dtype=torch.float64)
    for j in range(DEPTH):
        total += squares[j + 1 :].prod(0)[:, None] * squares[:j].prod(0)[None, :]
    return factors, float(total.min())


def _dense() -> float:
    """The largest relative difference between matrix-free and dense smallest eigenvalues, up to 40 x 40."""
    worst = 0.0
    for size in (5, 12, 24, 40):
        operator = od.transfer_operator([torch.eye(size).double() + 0.5 * _gaussian(size) for _ in range(DEPTH)])
        exact = float(operator.spectrum()[0])
        worst = max(worst, abs(operator.extreme_eigenvalue("smallest").value / exact - 1))
    print(f"matrix-free against dense up to 40 x 40: relative difference {worst:.1e}")
    return float(f"{worst:.1e}")


def _certificate() -> float:
    size = 2048
    target = torch.eye(size).double()
    factors = [2 * torch.eye(size).double() + 0.1 * _gaussian(size), 0.5 * torch.eye(size).double()]
    gap = float((od.product(factors) - target).square().sum() / 2)
    found, seconds = timed(
        lambda: theory.certify(factors, strong_convexity=1.0, smoothness=1.0, gap=gap, target=target)
    )
    print(f"two-layer certificate, {size} x {size}: {seconds:.1f} s ({found.bound}, alpha {found.alpha:.3g})")
    return round(seconds, 2)


def _flow() -> dict[str, float]:
    """Three layers 20 x 20 from balanced factors of norm 0.3 to a gap of 1e-10 on a whitened regression."""
    X = theory.whiten(torch.randn(200, 20, dtype=torch.float64)).data
    loss = theory.least_squares(X, X @ _orthogonal(20) + 0.1 * torch.randn(200, 20, dtype=torch.float64))
    weight = torch.randn(20, 20, dtype=torch.float64)
    if torch.linalg.det(weight) * torch.linalg.det(loss.minimizer) < 0:  # which balanced factors keep
        weight[0] *= -1
    factors = od.balanced_factors(0.3 * weight / weight.norm(), 3)
    times = torch.linspace(0, 200, 41, dtype=torch.float64)
    data, seconds = timed(lambda: theory.flow(factors, loss, times, rtol=1e-10))
    gap = float(data["gap"][-1])
    figures = {
        "seconds": round(seconds, 2),
        "gap": float(f"{gap:.1e}"),
        "conserved_to": float(f"{float(data['imbalance_error'].max()):.1e}"),
    }
    print(f"flow of a 3-layer 20 x 20 net to time {float(times[-1]):g}: {figures}")
    return figures


def _orthogonal(size: int) -> Tensor:
    basis: Tensor = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64)).Q
    return basis


def _gaussian(size: int) -> Tensor:
    return torch.randn(size, size, dtype=torch.float64) / math.sqrt(size)


if __name__ == "__main__":
    main()
