"""EndToEndSGD: torch's SGD at depth 1, and Theorem 1 step by step at any other."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import linear_algebra as ref
from torch import Tensor, nn

import overdepth as od

DEPTHS = [2, 3, 2.5, 1.5, math.inf]


def square_weight(seed: int, n: int = 4, dtype: torch.dtype = torch.float64) -> nn.Parameter:
    """Singular values 1 to 3."""
    rng = np.random.default_rng(seed)
    return nn.Parameter(
        torch.from_numpy(ref.weight_with_singular_values(rng, n, n, list(np.linspace(3, 1, n)))).to(dtype)
    )


def random_like(p: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype)


def train(optimizer: Any, params: Sequence[Tensor], steps: int, seed: int = 0) -> None:
    """Steps with random gradients that depend on the parameters, too."""
    for step in range(steps):
        for i, p in enumerate(params):
            p.grad = random_like(p, 100 * seed + 10 * step + i) + p.detach()
        optimizer.step()


def rule(weight: ref.Array, grad: ref.Array, depth: float) -> ref.Array:
    return grad if depth == 1 else ref.end_to_end_update(weight, grad, depth, 1e-13)


# --- depth 1 is torch.optim.SGD ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"maximize": True},
     {"momentum": 0.7, "nesterov": True, "maximize": True}],
)  # fmt: skip
def test_depth_1_is_sgd_bit_for_bit(options: dict[str, Any], dtype: torch.dtype, foreach: bool) -> None:
    shapes = [(3, 4), (5,), (), (2, 3, 3, 3), (40, 30), (3, 4), (1, 7)]
    ours = [nn.Parameter(random_like(torch.empty(s, dtype=dtype), i)) for i, s in enumerate(shapes)]
    theirs = copy.deepcopy(ours)
    train(od.optim.EndToEndSGD(ours, lr=0.037, depth=1, **options), ours, 30)
    train(torch.optim.SGD(theirs, lr=0.037, foreach=foreach, **options), theirs, 30)
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


def test_depth_1_is_sgd_bit_for_bit_over_groups_with_options_of_their_own_and_a_scheduler() -> None:
    ours = [nn.Parameter(random_like(torch.empty(4, 3), i)) for i in range(3)]
    theirs = copy.deepcopy(ours)

    def groups(params: list[nn.Parameter]) -> list[dict[str, Any]]:
        return [
            {"params": params[:1], "lr": 0.1, "momentum": 0.9},
            {"params": params[1:2], "maximize": True},
            {"params": params[2:], "momentum": 0.5, "nesterov": True},
        ]

    for params, optimizer in (
        (ours, od.optim.EndToEndSGD(groups(ours), lr=0.02, depth=1)),
        (theirs, torch.optim.SGD(groups(theirs), lr=0.02)),
    ):
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
        for step in range(10):
            train(optimizer, params, 1, step)
            scheduler.step()
    for p, q in zip(ours, theirs, strict=True):
        assert torch.equal(p, q)


def test_a_group_of_depth_1_beside_one_of_depth_2_is_plain() -> None:
    weight, bias = square_weight(0), nn.Parameter(torch.ones(4, dtype=torch.float64))
    alone = copy.deepcopy(bias)
    optimizer = od.optim.EndToEndSGD([{"params": [weight]}, {"params": [bias], "depth": 1}], lr=0.1, momentum=0.9)
    train(optimizer, [bias], 5)
    train(torch.optim.SGD([alone], lr=0.1, momentum=0.9), [alone], 5)
    assert torch.equal(bias, alone)


# --- the rule ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("maximize", [False, True])
def test_a_step_is_the_rule(depth: float, maximize: bool) -> None:
    params = [square_weight(0), nn.Parameter(random_like(torch.empty(3, 5, dtype=torch.float64), 1))]
    params += [nn.Parameter(random_like(torch.empty(s, dtype=torch.float64), 2)) for s in [(1, 6), (6, 1), (5, 3)]]
    optimizer = od.optim.EndToEndSGD(params, lr=0.05, depth=depth, maximize=maximize, allow_frozen_directions=True)
    before = [ref.as_array(p).copy() for p in params]
    train(optimizer, params, 1)
    for p, w in zip(params, before, strict=True):
        assert p.grad is not None
        step = (0.05 if maximize else -0.05) * rule(w, ref.as_array(p.grad), depth)
        np.testing.assert_allclose(ref.as_array(p), w + step, rtol=0, atol=1e-12)
        assert np.linalg.norm(step) > 1e-3


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 2.5, math.inf])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("mode", ["factors", "product"])
def test_momentum_acts_on_the_preconditioned_gradient_and_decay_is_decoupled(
    depth: float, nesterov: bool, decay: float, mode: Any
) -> None:
    p, lr, mu = square_weight(1), 0.01, 0.9
    optimizer = od.optim.EndToEndSGD(
        [p], lr, depth=depth, momentum=mu, nesterov=nesterov, weight_decay=decay, weight_decay_mode=mode
    )
    w, buffer = ref.as_array(p).copy(), np.zeros((4, 4))
    factor = (1 - lr * decay) ** (depth if mode == "factors" and math.isfinite(depth) else 1)
    for step in range(6):
        train(optimizer, [p], 1, step)
        assert p.grad is not None
        preconditioned = rule(w, ref.as_array(p.grad), depth)
        buffer = mu * buffer + preconditioned
        w = factor * w - lr * (preconditioned + mu * buffer if nesterov else buffer)
        np.testing.assert_allclose(ref.as_array(p), w, rtol=0, atol=1e-11)


@pytest.mark.parametrize("depth", [2, 3, 2.5])
def test_decay_multiplies_every_factor_and_nothing_else(depth: float) -> None:
    """W_e = (1 - lr lambda)^N W_e where the gradient is zero, also for groups of depth 1."""
    p, bias = square_weight(2), nn.Parameter(torch.ones(3, dtype=torch.float64))
    before = p.detach().clone()
    groups: Any = [{"params": [p]}, {"params": [bias], "depth": 1}]
    optimizer = od.optim.EndToEndSGD(groups, 0.1, depth=depth, weight_decay=0.5)
    for q in (p, bias):
        q.grad = torch.zeros_like(q)
    optimizer.step()
    torch.testing.assert_close(p.detach(), before * 0.95**depth, rtol=1e-14, atol=0)
    torch.testing.assert_close(bias.detach(), torch.full_like(bias, 0.95), rtol=1e-14, atol=0)


def test_a_decay_that_overshoots_zero_is_no_complex_number() -> None:
    """(1 - lr lambda)^2.5 has no real value below 0: refused, or anything but a failure deep in a step."""
    p = square_weight(2)
    try:
        optimizer = od.optim.EndToEndSGD([p], 1.0, depth=2.5, weight_decay=1.5)
    except ValueError as error:
        assert "weight_decay" in str(error)  # noqa: PT017
        return
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert bool(torch.isfinite(p).all())


# --- groups and kernels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 2.5, 3])
@pytest.mark.parametrize("shape", [(6, 4), (6, 2, 3, 3), (6, 1, 3), (6, 3)])
def test_groups_are_matrices_of_their_own(shape: tuple[int, ...], depth: float) -> None:
    groups = 6 if shape[1] == 1 else 3
    p = nn.Parameter(random_like(torch.empty(shape, dtype=torch.float64), 3))
    before = ref.as_array(p).copy().reshape(groups, 6 // groups, -1)
    optimizer = od.optim.EndToEndSGD([p], 0.05, depth=depth, groups=groups)
    train(optimizer, [p], 1)
    assert p.grad is not None
    gradients = ref.as_array(p.grad).reshape(before.shape)
    expected = [w - 0.05 * rule(w, g, depth) for w, g in zip(before, gradients, strict=True)]
    np.testing.assert_allclose(ref.as_array(p).reshape(before.shape), np.stack(expected), rtol=0, atol=1e-12)


def test_a_kernel_is_the_matrix_of_its_first_axis_against_all_others() -> None:
    kernel = nn.Parameter(random_like(torch.empty(4, 3, 2, 2), 4))
    matrix = nn.Parameter(kernel.detach().reshape(4, 12).clone())
    optimizer = od.optim.EndToEndSGD([kernel, matrix], 0.05, depth=3)
    kernel.grad = random_like(kernel, 5)
    matrix.grad = kernel.grad.reshape(4, 12).clone()
    optimizer.step()
    torch.testing.assert_close(kernel.detach().reshape(4, 12), matrix.detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("depth", [2, 2.5])
@pytest.mark.parametrize("method", ["eigh", "eigh_float32", "auto"])
def test_many_matrices_of_equal_shape_step_as_they_do_alone(depth: float, method: Any) -> None:
    """Small ones are batched; layouts that are not contiguous (channels last, transposed) are as good as any."""
    params = [nn.Parameter(random_like(torch.empty(4, 6), i)) for i in range(5)]
    params.append(nn.Parameter(random_like(torch.empty(6, 4), 9).mT))
    alone = copy.deepcopy(params)
    train(od.optim.EndToEndSGD(params, 0.05, depth=depth, method=method), params, 3)
    for i, p in enumerate(alone):
        optimizer = od.optim.EndToEndSGD([p], 0.05, depth=depth, method=method)
        for step in range(3):
            p.grad = random_like(p, 10 * step + i) + p.detach()
            optimizer.step()
        torch.testing.assert_close(params[i], p, rtol=1e-4, atol=1e-5)


def test_channels_last_kernels_step_like_contiguous_ones() -> None:
    kernel = nn.Parameter(random_like(torch.empty(4, 3, 3, 3), 4))
    last = nn.Parameter(kernel.detach().clone(memory_format=torch.channels_last))
    for p in (kernel, last):
        p.grad = random_like(kernel, 5).contiguous(memory_format=torch.preserve_format)
        od.optim.EndToEndSGD([p], 0.05, depth=3, momentum=0.9).step()
    torch.testing.assert_close(kernel.detach(), last.detach().contiguous(), rtol=1e-6, atol=1e-7)


# --- problems ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 2.5])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}])
def test_a_matrix_quadratic_converges(depth: float, options: dict[str, Any]) -> None:
    """||A W - B||^2 / 2 with A of condition 3 and a target of full rank: to the solution, in float64."""
    rng = np.random.default_rng(8)
    a = torch.from_numpy(ref.weight_with_singular_values(rng, 5, 4, [3.0, 2.0, 1.5, 1.0]))
    target = torch.from_numpy(ref.weight_with_singular_values(rng, 4, 6, [2.0, 1.5, 1.2, 1.0]))
    p = nn.Parameter(target + 0.2 * torch.from_numpy(rng.standard_normal((4, 6))))
    optimizer = od.optim.EndToEndSGD([p], 0.012, depth=depth, **options)
    for _ in range(2000):
        optimizer.zero_grad()
        loss: Any = (a @ (p - target)).square().sum() / 2
        loss.backward()
        optimizer.step()
    assert float((p.detach() - target).norm()) <= 1e-8


@pytest.mark.parametrize("depth", [1, 2, 2.5])
def test_a_valley_of_rosenbrocks_kind_leads_to_its_minimum(depth: float) -> None:
    """Sum of (a - x)^2 + 10 (y - x^2)^2 over the entries of the two halves of one matrix; the minimum has rank 2."""
    a = torch.tensor([[1.0, -0.8], [-0.6, 1.1]], dtype=torch.float64)
    minimum = torch.cat([a, a.square()])
    p = nn.Parameter(minimum + 0.3 * random_like(minimum, 6))
    start = float((p.detach() - minimum).norm())
    optimizer = od.optim.EndToEndSGD([p], 2e-3, depth=depth, momentum=0.9)
    for _ in range(3000):
        optimizer.zero_grad()
        x, y = p[:2], p[2:]
        loss: Any = ((a - x).square() + 10 * (y - x.square()).square()).sum()
        loss.backward()
        optimizer.step()
    assert start > 0.3
    assert float((p.detach() - minimum).norm()) <= 1e-6
