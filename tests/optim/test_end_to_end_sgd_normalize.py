"""Normalized steps of EndToEndSGD: their definitions, and that their size depends on neither depth nor width."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import linear_algebra as ref
from torch import Tensor, nn

import overdepth as od


def random(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def one_step(weight: Tensor, grad: Tensor, **options: Any) -> Tensor:
    """What a step of learning rate 1 takes away."""
    p = nn.Parameter(weight.clone())
    p.grad = grad
    od.optim.EndToEndSGD([p], 1.0, **options).step()
    return (weight.double() - p.detach().double()).to(weight.dtype)


def rms(step: Tensor) -> float:
    return float(step.double().square().mean().sqrt())


def spectral(step: Tensor) -> float:
    return float(torch.linalg.matrix_norm(step.double(), 2))


@pytest.mark.parametrize("depth", [1, 2, 2.5, math.inf])
@pytest.mark.parametrize("shape", [(6, 6), (3, 8), (8, 3), (1, 5), (5, 1)])
def test_definitions(shape: tuple[int, int], depth: float) -> None:
    weight, grad = random(shape), random(shape, 1)
    w, g = ref.as_array(weight), ref.as_array(grad)
    plain = g if depth == 1 else ref.end_to_end_update(w, g, depth, 1e-13)
    options: dict[str, Any] = {"depth": depth, "allow_frozen_directions": True}
    for name, size in (
        ("none", 1.0),
        ("rms", math.sqrt(np.mean(plain**2))),
        ("spectral", np.linalg.norm(plain, 2) / math.sqrt(shape[0] / shape[1])),
    ):
        actual = one_step(weight, grad, normalize=name, **options)
        assert ref.relative_error(actual, plain / size) <= 1e-6, name


@pytest.mark.parametrize("depth", [1, 2, 5, 3.5])
@pytest.mark.parametrize("width", [4, 16, 64])
def test_the_size_of_a_step_depends_on_neither_depth_nor_width_nor_the_gradients_scale(
    depth: float, width: int
) -> None:
    weight = random((width, 2 * width), dtype=torch.float32) / width
    for scale in (1e-6, 1.0, 1e6):
        grad = scale * random((width, 2 * width), 1, torch.float32)
        assert rms(one_step(weight, grad, depth=depth, normalize="rms")) == pytest.approx(1, rel=1e-5)
        found = spectral(one_step(weight, grad, depth=depth, normalize="spectral"))
        assert found == pytest.approx(math.sqrt(0.5), rel=1e-5)


@pytest.mark.parametrize("normalize", ["rms", "spectral"])
def test_float64_steps_are_normalized_in_float64(normalize: Any) -> None:
    step = one_step(random((5, 4)), random((5, 4), 1), normalize=normalize)
    size = rms(step) if normalize == "rms" else spectral(step) / math.sqrt(5 / 4)
    assert size == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("normalize", ["rms", "spectral"])
def test_groups_are_normalized_one_by_one(normalize: Any) -> None:
    weight, grad = random((6, 2, 3)), random((6, 2, 3), 1)
    step = one_step(weight, grad, normalize=normalize, groups=3)
    for rows in range(0, 6, 2):
        alone = one_step(weight[rows : rows + 2], grad[rows : rows + 2], normalize=normalize)
        torch.testing.assert_close(step[rows : rows + 2], alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("normalize", ["rms", "spectral"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_vectors_of_depth_1_get_a_root_mean_square_of_1_and_zero_gradients_no_step(
    normalize: Any, dtype: torch.dtype
) -> None:
    step = one_step(torch.zeros(7, dtype=dtype), random((7,), 1, dtype), depth=1, normalize=normalize)
    assert rms(step) == pytest.approx(1, rel=2 * torch.finfo(dtype).eps + 1e-6)
    for shape in ((7,), (3, 4), (3, 2, 2)):
        nothing = one_step(
            torch.ones(shape, dtype=dtype), torch.zeros(shape, dtype=dtype), depth=1, normalize=normalize
        )
        assert not bool(nothing.any()), shape
    weight = torch.eye(3, 4).to(dtype)
    assert not bool(one_step(weight, torch.zeros(3, 4, dtype=dtype), normalize=normalize).any())


@pytest.mark.parametrize("normalize", ["rms", "spectral"])
@pytest.mark.parametrize("scale", [1e-18, 1e-21, 1e-24, 1e-28, 1e18, 1e21, 1e25])
def test_gradients_whose_squares_leave_float32_never_make_a_step_larger_than_normalized(
    normalize: Any, scale: float
) -> None:
    weight = torch.eye(4) + 0.1 * random((4, 4), 0, torch.float32)
    step = one_step(weight, scale * random((4, 4), 1, torch.float32), normalize=normalize)
    assert bool(torch.isfinite(step).all())
    assert rms(step) <= 1.01
    assert rms(step) > 0.1


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_comes_before_and_the_learning_rate_after(nesterov: bool) -> None:
    p = nn.Parameter(random((4, 4)))
    optimizer = od.optim.EndToEndSGD([p], 0.1, depth=2, momentum=0.9, nesterov=nesterov, normalize="rms")
    buffer = np.zeros((4, 4))
    for step in range(4):
        w, grad = ref.as_array(p).copy(), random((4, 4), 10 + step)
        p.grad = grad
        optimizer.step()
        rule = ref.end_to_end_update(w, ref.as_array(grad), 2, 1e-13)
        buffer = 0.9 * buffer + rule
        moved = rule + 0.9 * buffer if nesterov else buffer
        np.testing.assert_allclose(ref.as_array(p), w - 0.1 * moved / math.sqrt(np.mean(moved**2)), rtol=0, atol=1e-6)


def test_weight_decay_is_not_normalized() -> None:
    p = nn.Parameter(random((4, 4)))
    before, grad = p.detach().clone(), random((4, 4), 1)
    p.grad = grad
    od.optim.EndToEndSGD([p], 0.1, depth=2, weight_decay=0.5, normalize="rms").step()
    step = one_step(before, grad, normalize="rms")
    torch.testing.assert_close(p.detach(), before * 0.95**2 - 0.1 * step, rtol=1e-6, atol=1e-6)


def test_a_depth_1_matrix_ignores_groups_that_do_not_divide_its_rows() -> None:
    """``groups`` is not checked at depth 1, and must not matter there."""
    for shape in ((3, 4), (5, 3)):
        grad = random(shape, 1)
        actual = one_step(random(shape), grad, depth=1, groups=2, normalize="rms")
        torch.testing.assert_close(actual, grad / rms(grad), rtol=1e-6, atol=1e-6)
