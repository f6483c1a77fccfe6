r"""Observation 1: gradient descent on w = w_2 w_1 is descent on w with varying step sizes and momentum coefficients.

For a single output at depth 2, a scalar w_2 after a row w_1, let g_t be the gradient at w and eta the learning rate.
One step of gradient descent on both factors is, **exactly and with nothing dropped**,

    w_{t+1} = w_t - eta w_{2,t} w_{2,t+1} g_t - sum_{tau<t} mu_{t,tau} g_tau + Delta_t w_{1,0},
    mu_{t,tau} = eta w_{2,tau} Delta_t,  Delta_t = w_{2,t+1} - w_{2,t} = -eta <g_t, w_{1,t}>.

All past gradients come back with a sign that is positive (momentum) while |w_2| grows and negative while it shrinks.
The paper's form drops a term of order eta^2 and starts from

    w_{t+1} = (1 - gamma_t) w_t - rho_t g_t,  rho_t = eta w_{2,t}^2,  gamma_t = eta <g_t, w_{1,t}> / w_{2,t};

unrolled, with mu_{t,tau} = -gamma_t rho_tau prod_{tau<s<t} (1 - gamma_s) and nu_t = gamma_t prod_{s<t} (1 - gamma_s),

    w_{t+1} = w_t - rho_t g_t - sum_{tau<t} mu_{t,tau} g_tau - nu_t w_0.

What the paper leaves out on top of it is the last term. It is Delta_t w_{1,0} in the exact form: small if w_1 starts
near 0, whatever w_2 starts at.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from overdepth._checks import all_finite, check_choice, check_dtype, check_positive, shape

FORMS = ("exact", "first_order")


class StepParts(NamedTuple):
    """The summands of every step w_{t+1} - w_t, each of shape (T, d).

    Attributes:
        current: From the current gradient, -rates_t g_t.
        momentum: From the past ones, -sum_{tau<t} momentum_{t,tau} g_tau.
        start: What the paper drops, -start_t times the origin.
    """

    current: Tensor
    momentum: Tensor
    start: Tensor


@dataclass(frozen=True)
class MomentumKernel:
    """The coefficients of a run: w_{t+1} = w_t - rates_t g_t - sum_{tau<t} momentum_{t,tau} g_tau - start_t origin.

    Attributes:
        rates: Step size of the current gradient, shape (T,).
        momentum: Coefficients of the past gradients, shape (T, T), zero on and above the diagonal.
        start: Coefficients of the starting vector, shape (T,).
        origin: The starting vector, (d,): w_{1,0} in the exact form, w_0 in the first-order form.
        initial_weight: w_0, (d,).
    """

    rates: Tensor
    momentum: Tensor
    start: Tensor
    origin: Tensor
    initial_weight: Tensor

    def parts(self, grads: Tensor) -> StepParts:
        """The summands of every step, for the gradients (T, d) of the run.

        Raises:
            ValueError: If the shape does not fit.
        """
        expected = (len(self.rates), len(self.origin))
        if tuple(grads.shape) != expected:
            raise ValueError(f"grads has shape {shape(grads)}, expected {expected}, those of the recorded run.")
        wide = grads.detach().double()
        return StepParts(
            current=-self.rates[:, None] * wide,
            momentum=-self.momentum @ wide,
            start=-self.start[:, None] * self.origin,
        )

    def replay(self, grads: Tensor, *, with_start: bool = True) -> Tensor:
        """The run's end-to-end weights w_0, ..., w_T, shape (T + 1, d), from its gradients alone.

        Args:
            grads: The gradients (T, d) of the run.
            with_start: False drops the term of the starting vector, as the paper does.

        Raises:
            ValueError: If the shape does not fit.
        """
        current, momentum, start = self.parts(grads)
        steps = current + momentum + (start if with_start else 0.0)
        return torch.cat([self.initial_weight[None, :], steps]).cumsum(0)


def momentum_kernel(first: Tensor, second: Tensor, grads: Tensor, lr: float, *, form: str = "exact") -> MomentumKernel:
    r"""The adaptive learning rates and momentum coefficients of a recorded run of gradient descent at depth 2.

    Args:
        first: w_{1,0}, ..., w_{1,T}: the rows of the factor that acts on the input, shape (T + 1, d).
        second: w_{2,0}, ..., w_{2,T}: the scalar after it, shape (T + 1,).
        grads: The loss's gradient at w_t = w_{2,t} w_{1,t} for t < T, shape (T, d).
        lr: eta, as in torch.optim; the run has no weight decay and no momentum of its own.
        form: ``"exact"`` or ``"first_order"`` (the paper's).

    Returns:
        The kernel, float64. The exact form replays the run to rounding; the first-order form replays the recursion that
        it unrolls, and the run up to O(eta^2) a step. The matrix of coefficients takes 8 T^2 bytes.

    Raises:
        TypeError: If a record is no tensor.
        ValueError: If shapes do not fit, an entry is not finite, the records are no gradient descent at this learning
            rate, or w_2 is 0 at some time and the form ``"first_order"``.

    Example:
        >>> import torch
        >>> from overdepth.theory import momentum_kernel
        >>> first, second = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.5, 0.0]]), torch.tensor([1.0, 1.0, 1.5])
        >>> grads = torch.tensor([[-2.0, 0.0], [-1.0, 0.0]])
        >>> kernel = momentum_kernel(first, second, grads, lr=0.5)
        >>> kernel.rates, kernel.momentum[1, 0]  # w_2 grows: momentum
        (tensor([0.5000, 0.7500], dtype=torch.float64), tensor(0.2500, dtype=torch.float64))
        >>> kernel.replay(grads)[:, 0]
        tensor([0.0000, 1.0000, 2.2500], dtype=torch.float64)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Section 3, Observation 1 (first order, last term dropped).
    """
    check_choice(form, "form", FORMS)
    check_positive(lr, "lr")
    w1, w2, g = _check_records(first, second, grads)
    _check_descent(first, second, grads, lr)
    steps = len(g)
    origin_weight = w2[0] * w1[0]
    if form == "exact":
        change = w2[1:] - w2[:-1]
        momentum = torch.tril(lr * change[:, None] * w2[None, :steps], diagonal=-1)
        return MomentumKernel(lr * w2[:-1] * w2[1:], momentum, -change, w1[0], origin_weight)
    if bool((w2[:-1] == 0).any()):
        at = int((w2[:-1] == 0).nonzero()[0])
        raise ValueError(
            f"second is 0 at step {at}, expected no zero: the first-order form divides by it; use form='exact'."
        )
    rho = lr * w2[:-1] ** 2
    gamma = lr * (g * w1[:-1]).sum(-1) / w2[:-1]
    momentum, survived = torch.zeros(steps, steps, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    start, row = torch.zeros(steps, dtype=torch.float64), torch.zeros(steps, dtype=torch.float64)
    for t in range(steps):  # row: rho_tau prod_{tau<s<t} (1 - gamma_s); survived: prod_{s<t} (1 - gamma_s)
        momentum[t] = -gamma[t] * row
        start[t] = gamma[t] * survived
        survived = survived * (1.0 - gamma[t])
        row = row * (1.0 - gamma[t])
        row[t] = rho[t]
    return MomentumKernel(rho, momentum, start, origin_weight, origin_weight)


def _check_records(first: Tensor, second: Tensor, grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    for name, record in (("first", first), ("second", second), ("grads", grads)):
        if not isinstance(record, Tensor):
            raise TypeError(
                f"{name} is a {type(record).__name__}, expected a torch.Tensor; use torch.as_tensor({name})."
            )
        check_dtype(record.dtype, name)
    if first.ndim != 2 or 0 in first.shape or len(first) < 2:
        raise ValueError(f"first has shape {shape(first)}, expected (T + 1, d): w_1 at every step, T >= 1 of them.")
    if tuple(second.shape) != (len(first),):
        raise ValueError(
            f"second has shape {shape(second)} and first has shape {shape(first)}, expected ({len(first)},): "
            f"the scalar w_2 at the same steps; use second.reshape(-1)."
        )
    if tuple(grads.shape) != (len(first) - 1, first.shape[1]):
        raise ValueError(
            f"grads has shape {shape(grads)} and first has shape {shape(first)}, expected "
            f"({len(first) - 1}, {first.shape[1]}): the gradient at every step but the last."
        )
    for name, record in (("first", first), ("second", second), ("grads", grads)):
        if not all_finite(record):
            raise ValueError(f"{name} of shape {shape(record)} has non-finite entries; cut the run before they arise.")
    return first.detach().double(), second.detach().double(), grads.detach().double()


def _check_descent(first: Tensor, second: Tensor, grads: Tensor, lr: float) -> None:
    """Refuses a record whose steps are not -lr times the factors' gradients, beyond the rounding of its type."""
    eps = max(torch.finfo(record.dtype).eps for record in (first, second, grads))
    w1, w2, g = first.detach().double(), second.detach().double(), grads.detach().double()
    inner = (g * w1[:-1]).sum(-1)
    expected_1, expected_2 = w1[:-1] - lr * w2[:-1, None] * g, w2[:-1] - lr * inner
    size_1 = w1[:-1].abs() + lr * (w2[:-1, None] * g).abs()
    size_2 = w2[:-1].abs() + lr * (g * w1[:-1]).abs().sum(-1)
    rounding = (8 + w1.shape[1]) * eps
    wrong = ((w1[1:] - expected_1).abs() > rounding * size_1).any(-1) | (
        (w2[1:] - expected_2).abs() > rounding * size_2
    )
    if bool(wrong.any()):
        raise ValueError(
            f"the records are no gradient descent with lr {lr!r} at step {int(wrong.nonzero()[0])}, expected "
            f"w_1 - lr w_2 g and w_2 - lr <g, w_1>; give the gradient with respect to w = w_2 w_1, of a run without "
            f"weight decay or momentum."
        )
