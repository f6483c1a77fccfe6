"""Observation 1: kernels that replay recorded runs, against products and sums written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import statements
from tests.reference.linear_algebra import Array

from overdepth.theory import MomentumKernel, momentum_kernel

Record = tuple[Array, Array, Array]


def regression(rng: np.random.Generator, d: int, power: int) -> Callable[[Array], Array]:
    """The gradient of (1/m) sum (x w - y)^p / p."""
    x, y = rng.standard_normal((12, d)), rng.standard_normal(12)

    def gradient(w: Array) -> Array:
        result: Array = x.T @ (x @ w - y) ** (power - 1) / len(x)
        return result

    return gradient


def run(seed: int, *, d: int = 3, power: int = 2, lr: float = 0.02, steps: int = 40, scale: float = 0.1) -> Record:
    """A recorded run with w_1 of norm about ``scale`` and w_2 in +-[0.3, 1]."""
    rng = np.random.default_rng(seed)
    gradient = regression(rng, d, power)
    first = scale * rng.standard_normal(d) / np.sqrt(d)
    second = float(rng.choice([-1.0, 1.0]) * rng.uniform(0.3, 1.0))
    return statements.descent_on_two_factors(gradient, first, second, lr, steps)


def kernel(record: Record, lr: float = 0.02, form: str = "exact") -> MomentumKernel:
    first, second, grads = (torch.from_numpy(part) for part in record)
    return momentum_kernel(first, second, grads, lr, form=form)


RUNS = st.builds(
    run, seed=st.integers(0, 2**32 - 1), d=st.integers(1, 5), power=st.sampled_from([2, 4]), scale=st.floats(0.0, 1.0)
)


@given(record=RUNS)
def test_the_exact_form_is_the_run(record: Record) -> None:
    w1, w2, grads = record
    found = kernel(record)
    weights = found.replay(torch.from_numpy(grads)).numpy()
    expected = w2[:, None] * w1
    size = np.abs(expected).max()
    assert np.abs(weights - expected).max() <= 1e-12 * size
    change = w2[1:] - w2[:-1]
    mu = np.array([[0.02 * w2[tau] * change[t] if tau < t else 0.0 for tau in range(40)] for t in range(40)])
    np.testing.assert_allclose(found.momentum.numpy(), mu, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(change, -0.02 * (grads * w1[:-1]).sum(1), rtol=1e-9, atol=1e-12)
    literal = statements.momentum_form(expected[0], 0.02 * w2[:-1] * w2[1:], mu, -change[:, None] * w1[0], grads)
    assert np.abs(literal - expected).max() <= 1e-12 * size


@given(record=RUNS)
def test_the_first_order_form_unrolls_its_recursion(record: Record) -> None:
    w1, w2, grads = record
    if np.abs(w2).min() < 1e-2:
        return  # w_2 crossed zero: gamma is large, the recursion ill-conditioned
    found = kernel(record, form="first_order")
    rho, gamma = 0.02 * w2[:-1] ** 2, 0.02 * (grads * w1[:-1]).sum(1) / w2[:-1]
    weights = [w2[0] * w1[0]]
    for t in range(len(grads)):
        weights.append((1 - gamma[t]) * weights[-1] - rho[t] * grads[t])
    size = np.abs(weights).max()
    assert np.abs(found.replay(torch.from_numpy(grads)).numpy() - np.stack(weights)).max() <= 1e-11 * size
    mu, nu = statements.first_order_coefficients(list(rho), list(gamma))
    np.testing.assert_allclose(found.momentum.numpy(), mu, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(found.start.numpy(), nu, rtol=1e-10, atol=1e-15)
    for t in range(len(grads)):  # 1 - gamma_s is w_{2,s+1} / w_{2,s}
        telescoped = -gamma[t] * rho[:t] * w2[t] / w2[1 : t + 1]
        np.testing.assert_allclose(mu[t, :t], telescoped, rtol=1e-8, atol=1e-13)


@pytest.mark.parametrize("form", ["exact", "first_order"])
def test_the_step_is_the_sum_of_its_parts(form: str) -> None:
    record = run(0)
    found, grads = kernel(record, form=form), torch.from_numpy(record[2])
    parts = found.parts(grads)
    torch.testing.assert_close(found.replay(grads).diff(dim=0), parts.current + parts.momentum + parts.start)


@pytest.mark.parametrize("seed", range(20))
def test_momentum_is_positive_while_the_scalar_grows(seed: int) -> None:
    record = run(seed, power=4)
    w2 = record[1]
    if np.abs(w2).min() < 1e-6 or len(set(np.sign(w2))) > 1:
        return
    grows = np.abs(w2[1:]) > np.abs(w2[:-1])
    momentum = kernel(record).momentum.numpy()
    for t in range(1, len(grows)):
        assert ((momentum[t, :t] > 0) == grows[t]).all()


def test_what_the_paper_drops_vanishes_with_the_first_factor_alone() -> None:
    """It is proportional to w_{1,0}; where w_2 starts does not matter."""
    shares = []
    for scale in (0.1, 0.01, 0.0):
        largest = 0.0
        for seed in range(20):
            record = run(seed, scale=scale)
            grads = torch.from_numpy(record[2])
            found = kernel(record)
            parts = found.parts(grads)
            step = (parts.current + parts.momentum + parts.start).norm(dim=1)
            largest = max(largest, float((parts.start.norm(dim=1) / step).max()))
            if scale == 0.0:
                torch.testing.assert_close(found.replay(grads, with_start=False), found.replay(grads))
        shares.append(largest)
    assert shares[0] > 1e-3
    assert shares[1] < shares[0] / 3
    assert shares[2] == 0.0


def test_the_first_order_form_differs_by_the_square_of_the_learning_rate() -> None:
    errors = []
    for lr in (4e-3, 2e-3, 1e-3):
        w1, w2, grads = record = run(1, lr=lr, steps=10, scale=1.0)
        replayed = kernel(record, lr=lr, form="first_order").replay(torch.from_numpy(grads)).numpy()
        errors.append(np.abs(replayed - w2[:, None] * w1).max())
    assert 3.5 < errors[0] / errors[1] < 4.5
    assert 3.5 < errors[1] / errors[2] < 4.5


def test_a_run_in_float32() -> None:
    x, y = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)), torch.ones(12)
    w1, w2 = torch.full((3,), 0.1, requires_grad=True), torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.SGD([w1, w2], lr=0.05)
    firsts, seconds, grads = [w1.detach().clone()], [w2.detach().clone()], []
    for _ in range(30):
        optimizer.zero_grad()
        weight = w2 * w1
        weight.retain_grad()
        (0.5 * (x @ weight - y).square().mean()).backward()  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        grads.append(weight.grad.clone())
        optimizer.step()
        firsts.append(w1.detach().clone())
        seconds.append(w2.detach().clone())
    found = momentum_kernel(torch.stack(firsts), torch.stack(seconds), torch.stack(grads), 0.05)
    replayed = found.replay(torch.stack(grads))
    assert replayed.dtype == torch.float64
    expected = (torch.stack(seconds)[:, None] * torch.stack(firsts)).double()
    torch.testing.assert_close(replayed, expected, rtol=1e-5, atol=1e-6)


def test_refusals() -> None:
    w1, w2, g = (torch.from_numpy(part) for part in run(0))
    with pytest.raises(ValueError, match=r"no gradient descent with lr 0.03 at step 0"):
        momentum_kernel(w1, w2, g, 0.03)
    decayed = w1.clone()
    decayed[7] *= 0.999
    with pytest.raises(ValueError, match=r"at step 6.*without weight decay"):
        momentum_kernel(decayed, w2, g, 0.02)
    with pytest.raises(ValueError, match=r"form is 'second', expected one of exact, first_order"):
        momentum_kernel(w1, w2, g, 0.02, form="second")
    with pytest.raises(ValueError, match=r"lr is 0"):
        momentum_kernel(w1, w2, g, 0)
    with pytest.raises(ValueError, match=r"second has shape \(41, 1\).*reshape\(-1\)"):
        momentum_kernel(w1, w2[:, None], g, 0.02)
    with pytest.raises(ValueError, match=r"grads has shape \(41, 3\).*expected \(40, 3\)"):
        momentum_kernel(w1, w2, torch.cat([g, g[:1]]), 0.02)
    with pytest.raises(ValueError, match=r"first has shape \(41,\)"):
        momentum_kernel(w1[:, 0], w2, g, 0.02)
    with pytest.raises(ValueError, match=r"grads of shape .* non-finite"):
        momentum_kernel(w1, w2, g / 0, 0.02)
    with pytest.raises(TypeError, match=r"first is a ndarray"):
        momentum_kernel(w1.numpy(), w2, g, 0.02)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"second has dtype torch.int64"):
        momentum_kernel(w1, w2.long(), g, 0.02)
    with pytest.raises(ValueError, match=r"grads has shape \(2, 3\), expected \(40, 3\)"):
        kernel(run(0)).parts(g[:2])
    first, second, grads = torch.ones(2, 1), torch.zeros(2), torch.zeros(1, 1)
    assert float(momentum_kernel(first, second, grads, 0.1).rates) == 0.0
    with pytest.raises(ValueError, match=r"second is 0 at step 0.*form='exact'"):
        momentum_kernel(first, second, grads, 0.1, form="first_order")
