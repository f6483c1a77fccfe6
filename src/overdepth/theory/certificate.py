"""One certificate for any factors: the best proved bound, its envelope, and what gradient descent may rely on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from overdepth._checks import check_matrix, check_nonnegative, wide_factors
from overdepth.chain import product
from overdepth.theory.descent import Descent, largest_step
from overdepth.theory.lazy import certified_minimum, lazy_certificate, spectral_norms
from overdepth.theory.margins import check_convexity, covariance_eigenvalues, margin_of_gap
from overdepth.theory.rates import (
    chain_bound,
    eigenvalues,
    single_io_bound,
    three_layer_bound,
    two_layer_bounds,
    widths,
)
from overdepth.theory.scalar_chains import homogeneous_offsets, homogeneous_slope, scalar_rate
from overdepth.transfer import transfer_operator

Bound = Callable[[Tensor, float], Tensor]
"""A proved lower bound of lambda_min(T) from margins of any shape and the imbalances' slack."""

_ROUNDING = 1e-12  # of the squared norms: what eigenvalues of the imbalances may be off
_STEPS = 4096  # of the adaptive envelope, finer where it starts
_DEPTH_OF_FALL = 60.0  # in units of log gap, over which the adaptive envelope is computed
_TINY = 1e-300


@dataclass(frozen=True)
class Certificate:
    """How fast gradient flow of the factors provably converges; made by :func:`certify`.

    Attributes:
        bound: The name of the bound that won: ``single layer``, ``two layers``, ``scalar chain``, ``homogeneous``,
            ``single input and output``, ``three layers``, ``chain`` or ``lazy``; ``none`` if no bound is positive.
        alpha: The proved lower bound of lambda_min(T(t)) for all t >= 0.
        pl: gamma = 2 mu of the loss.
        gap: f(W(0)) - f*.
        margin: The proved lower bound of sigma_min(W_e(t)).
        alphas: Every bound that applies, by name.
        refused: Why the others do not, by name.
        frozen_alpha: lambda_min(T(0)), for the frozen prediction; no bound.
        step_size: A learning rate up to which gradient descent on the factors provably falls below
            :meth:`discrete_envelope`; None where nothing is proved.
        discrete_alpha: The bound of lambda_min(T) along gradient descent of that step size; 0 where nothing is.
        explanation: A sentence for the reader.
    """

    bound: str
    alpha: float
    pl: float
    gap: float
    margin: float
    alphas: dict[str, float]
    refused: dict[str, str]
    frozen_alpha: float
    step_size: float | None
    discrete_alpha: float
    explanation: str
    _adaptive: tuple[Tensor, Tensor] = field(repr=False)

    @property
    def is_vacuous(self) -> bool:
        """Whether nothing but the start's own gap is proved."""
        return self.alpha == 0

    def envelope(self, times: Tensor) -> Tensor:
        """gap(0) exp(-alpha pl t), never below the gap of the flow; same shape as ``times``, float64."""
        return self.gap * torch.exp(-self.alpha * self.pl * _times(times))

    def adaptive_envelope(self, times: Tensor) -> Tensor:
        """The same with the margin refreshed as the gap falls: never above :meth:`envelope`."""
        given = _times(times)
        reached, logs = self._adaptive
        index = (torch.searchsorted(reached, given, right=True) - 1).clamp(0, len(reached) - 2)
        span = (reached[index + 1] - reached[index]).clamp_min(_TINY)
        falls = (logs[index] - logs[index + 1]) / span
        inside = torch.where(reached[index + 1].isinf(), 0.0, falls) * (given - reached[index])
        return torch.minimum(self.gap * torch.exp(logs[index] - inside), self.envelope(given))

    def frozen(self, times: Tensor) -> Tensor:
        """The frozen (NTK) prediction gap(0) exp(-lambda_min(T(0)) pl t): for comparison, **no bound**."""
        return self.gap * torch.exp(-self.frozen_alpha * self.pl * _times(times))

    def discrete_envelope(self, steps: Tensor) -> Tensor:
        """(1 - step_size discrete_alpha pl / 2)^t gap(0), never below the gap of gradient descent of ``step_size``.

        Raises:
            ValueError: If no step size is proved.
        """
        if self.step_size is None:
            raise ValueError("no step size is proved for these factors; see the explanation.")
        return self.gap * (1 - self.step_size * self.discrete_alpha * self.pl / 2) ** _times(steps)


def certify(
    factors: Sequence[Tensor],
    *,
    strong_convexity: float,
    smoothness: float,
    gap: float,
    target: Tensor,
    covariance: Tensor | None = None,
) -> Certificate:
    """The best proved rate of gradient flow on the factors, for any initialization.

    Every bound that covers the factors is evaluated, with the margin that the loss provides where it takes one, and
    the largest wins. Which minimizer a flow would reach is not the question here: the loss has one.

    Args:
        factors: W_1, ..., W_N at the start, in the order in which they act on the input.
        strong_convexity: mu > 0 of the loss f(W_e).
        smoothness: K >= mu of the loss.
        gap: f(W_e(0)) - f*, >= 0.
        target: The minimizer W*, shape (k, d).
        covariance: X^T X / m, shape (d, d), if the loss is ||Y - X W^T||_F^2 / (2 m): sharpens the margin.

    Returns:
        A certificate; vacuous, and saying so, where no bound is positive.

    Raises:
        ValueError: If an argument is out of its range, or shapes do not fit.

    Example:
        >>> import torch
        >>> from overdepth.theory import certify
        >>> target = torch.diag(torch.tensor([2.0, 1.0]))  # f = ||W - target||^2 / 2
        >>> start = [3 * torch.eye(2), torch.zeros(2, 2)]  # W_e = 0, and yet no plateau
        >>> found = certify(start, strong_convexity=1.0, smoothness=1.0, gap=2.5, target=target)
        >>> found.bound, round(found.alpha, 6)
        ('two layers', 9.0)

    References:
        Min, Vidal & Mallada, ICML 2023; docs/theory/rates.md has the proofs of what goes beyond it.
    """
    wide = wide_factors(factors)
    check_convexity(strong_convexity, smoothness)
    check_nonnegative(gap, "gap")
    k, d = wide[-1].shape[0], wide[0].shape[1]
    check_matrix(target, "target")
    if tuple(target.shape) != (k, d):
        raise ValueError(f"target has shape {tuple(target.shape)}, expected ({k}, {d}), that of the product.")
    pl = 2 * strong_convexity
    slack = _ROUNDING * sum(float(f.square().sum()) for f in wide)
    operator = transfer_operator(wide)
    minimum, norms = certified_minimum(operator), spectral_norms(wide)

    margin_at = margin_of_gap(target, strong_convexity, covariance=covariance, qualified_name="target")
    if covariance is not None:
        _check_covariance(covariance, strong_convexity, smoothness)
    _check_gap(float(gap), strong_convexity, product(wide), target)
    least = margin_at(torch.tensor(gap, dtype=torch.float64))
    bounds, refused = _bounds(wide)
    alphas = {name: float(bound(least, slack).clamp_min(0.0)) for name, bound in bounds.items()}
    if len(wide) > 1:
        alphas["lazy"] = lazy_certificate(norms, minimum, gap=gap, pl=pl, reach=2.0).alpha
    best = max(alphas, key=lambda name: alphas[name])
    best = best if alphas[best] > 0 else "none"
    alpha = alphas.get(best, 0.0)
    descent = largest_step(
        norms,
        {name: bound for name, bound in bounds.items() if name in ROBUST},
        margin=least,
        minimum=minimum,
        slack=slack,
        smoothness=smoothness,
        gap=gap,
        pl=pl,
    )
    return Certificate(
        bound=best,
        alpha=alpha,
        pl=pl,
        gap=float(gap),
        margin=float(least),
        alphas=alphas,
        refused=refused,
        frozen_alpha=operator.min_eigenvalue(),
        step_size=descent.step_size,
        discrete_alpha=descent.alpha,
        explanation=_explain(best, alpha, pl, float(least), descent, refused),
        _adaptive=_adaptive(bounds, margin_at, slack, alpha, float(gap), pl),
    )


ROBUST = ("single layer", "two layers", "three layers", "chain", "single input and output")
"""Bounds that hold for all imbalances in a neighbourhood, as gradient descent needs."""


def _bounds(factors: Sequence[Tensor]) -> tuple[dict[str, Bound], dict[str, str]]:
    """The bounds that cover these factors, and why the others do not."""
    k, d, depth = factors[-1].shape[0], factors[0].shape[1], len(factors)
    if depth == 1:
        return {"single layer": lambda margin, slack: torch.ones_like(margin)}, {}
    found: dict[str, Bound] = {}
    refused = {}
    values, sizes = eigenvalues(factors), widths(factors)
    if depth == 2:
        found["two layers"] = lambda margin, slack: torch.stack(two_layer_bounds(values[0], k, d, margin, slack)).sum(0)
    if depth == 3:
        found["three layers"] = lambda margin, slack: _like(
            margin, three_layer_bound(values[1], values[0], k, d, slack)
        )
    if depth >= 3:
        found["chain"] = lambda margin, slack: _like(margin, chain_bound(values, sizes, slack))
    if k == d == 1:
        found["single input and output"] = lambda margin, slack: single_io_bound(depth, margin)
    if all(size == 1 for size in sizes):
        numbers = torch.stack([f.squeeze() for f in factors])
        found["scalar chain"] = lambda margin, slack: _less(scalar_rate(numbers.expand(*margin.shape, -1), margin))
    elif depth >= 3:
        try:
            offsets = homogeneous_offsets(factors)
            found["homogeneous"] = lambda margin, slack: _less(homogeneous_slope(offsets, margin, factors))
        except ValueError as error:
            refused["homogeneous"] = str(error)
    return found, refused


def _like(margin: Tensor, value: Tensor) -> Tensor:
    return value.expand_as(margin)


def _less(rate: Tensor) -> Tensor:
    """Less what the rounding of the offsets may have done."""
    return rate * (1 - 1e-9)


def _adaptive(
    bounds: dict[str, Bound],
    margin_at: Callable[[Tensor], Tensor],
    slack: float,
    alpha: float,
    gap: float,
    pl: float,
) -> tuple[Tensor, Tensor]:
    """Times and logarithms of gap / gap(0) of a curve that falls, from each to the next, at the former's rate.

    The rate does not decrease along it, so that the curve lies above the solution of G' = -pl alpha(G) G.
    """
    logs = -_DEPTH_OF_FALL * torch.linspace(0, 1, _STEPS, dtype=torch.float64).square()
    margin = margin_at(gap * logs.exp())
    rates = torch.stack([bound(margin, slack) for bound in bounds.values()]).amax(0).clamp_min(alpha)
    spans = (logs[:-1] - logs[1:]) / (pl * rates[:-1])
    times = torch.cat([torch.zeros(1, dtype=torch.float64), spans.cumsum(0)])
    last = logs[-1] - times[-1] * (pl * rates[-1])  # for twice as long, and then on, at the last rate
    last = torch.where(times[-1].isinf(), logs[-1], last)
    return torch.cat([times, 2 * times[-1:]]), torch.cat([logs, last[None]])


def _times(times: Tensor) -> Tensor:
    given = torch.as_tensor(times, dtype=torch.float64)
    if not bool(((given >= 0) & given.isfinite()).all()):
        raise ValueError("times has negative entries, infinity or NaN, expected finite t >= 0.")
    return given


def _check_gap(gap: float, strong_convexity: float, weight: Tensor, target: Tensor) -> None:
    """Refuses a gap that no loss with this minimizer can have; float32 losses are forgiven their rounding."""
    distance = weight - target.detach().to(weight)
    least = strong_convexity / 2 * float(distance.square().sum())
    size = float(weight.square().sum()) + float(target.detach().double().square().sum())
    if gap < least * (1 - 1e-5) - 1e-13 * strong_convexity * size:
        raise ValueError(
            f"gap is {gap:.6g}, but a loss with strong convexity {strong_convexity:.6g} is at least {least:.6g} above "
            f"its minimum, the target; the three must be of one loss."
        )


def _check_covariance(covariance: Tensor, strong_convexity: float, smoothness: float) -> None:
    """Refuses a covariance whose eigenvalues are not those of the loss, all in [mu, K]."""
    values = covariance_eigenvalues(covariance)[0]
    if values[0] < strong_convexity * (1 - 1e-6) or values[-1] > smoothness * (1 + 1e-6):
        raise ValueError(
            f"covariance has eigenvalues from {float(values[0]):.6g} to {float(values[-1]):.6g}, outside "
            f"[strong_convexity, smoothness] = [{strong_convexity:.6g}, {smoothness:.6g}]."
        )


def _explain(best: str, alpha: float, pl: float, margin: float, descent: Descent, refused: dict[str, str]) -> str:
    if alpha == 0:
        why = "the imbalances say nothing" + ("" if margin > 0 else " and the margin is 0")
        more = f" ({'; '.join(refused.values())})" if refused and margin > 0 else ""
        return (
            f"Vacuous: no proved bound is positive, since {why}{more}; start closer to the minimizer, or with "
            f"imbalance (factors_with_imbalance)."
        )
    with_margin = f", with a margin of {margin:.3g} for the smallest singular value" if margin > 0 else ""
    steps = (
        f"gradient descent with a learning rate up to {descent.step_size:.3g} follows at least at the rate "
        f"{descent.alpha * pl / 2:.3g}"
        if descent.step_size is not None
        else f"no step size of gradient descent is proved: {descent.reason}"
    )
    return (
        f"The bound '{best}' proves lambda_min(T) >= {alpha:.3g} for all time{with_margin}: the gap falls at least "
        f"as exp(-{alpha * pl:.3g} t), and {steps}."
    )
