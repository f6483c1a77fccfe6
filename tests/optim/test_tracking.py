"""Tracking: the bound against errors measured over all gradients, when it turns, when it decomposes, and its state."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od
from overdepth.optim import tracking
from overdepth.optim.rules import Method
from overdepth.optim.tracking import TOLERANCE, tracked_update
from overdepth.rule import in_coordinates

ROWS, COLUMNS = 10, 16


def gaussian() -> Tensor:
    return torch.randn(ROWS, COLUMNS) / 4


def orthogonal() -> Tensor:
    weight = torch.empty(ROWS, COLUMNS)
    nn.init.orthogonal_(weight)
    return weight


def dominated() -> Tensor:
    """Two large singular values above many small ones."""
    return 0.03 * gaussian() + torch.randn(ROWS, 2) @ torch.randn(2, COLUMNS) / 4


def ill_conditioned() -> Tensor:
    u, _, vh = torch.linalg.svd(gaussian(), full_matrices=False)
    weight: Tensor = (u * torch.logspace(0, -3, ROWS)) @ vh
    return weight


def tall() -> Tensor:
    return torch.randn(COLUMNS, ROWS) / 4


WEIGHTS: list[Callable[[], Tensor]] = [gaussian, orthogonal, dominated, ill_conditioned, tall]


def unit_gradients(like: Tensor) -> Tensor:
    """Every matrix with a single entry 1: an orthonormal basis of all gradients."""
    return torch.eye(like.numel()).reshape(-1, *like.shape)


def true_error(weight: Tensor, depth: float, basis: Tensor) -> float:
    """The relative error of the preconditioner in the Hilbert-Schmidt norm, by applying it to all gradients."""
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.mT
    gradients = unit_gradients(wide)
    here = tracking._coordinates(wide, basis, depth)
    ours = torch.stack(
        [in_coordinates(here.basis, here.right, here.inside, here.beside, g) for g in gradients]
    ).double()
    exact = od.end_to_end_update(
        wide.double().expand_as(gradients), gradients.double(), depth, allow_frozen_directions=True
    )
    return float((ours - exact).norm() / exact.norm())


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the basis was turned, and decomposed."""
    found = {"_turned": 0, "_decomposed": 0}

    def counting(name: str) -> Any:
        plain = getattr(tracking, name)

        def call(*args: Any) -> Any:
            found[name] += 1
            return plain(*args)

        return call

    for name in found:
        monkeypatch.setattr(tracking, name, counting(name))
    return found


@pytest.mark.parametrize("start", WEIGHTS)
@pytest.mark.parametrize("depth", [1.3, 1.5, 2, 2.5, 3, 5])
@pytest.mark.parametrize("speed", [1e-3, 1e-2])
def test_the_error_stays_below_its_bound_and_the_tolerance(
    start: Callable[[], Tensor], depth: float, speed: float
) -> None:
    """W moves by a fraction of its norm a step, one way and at random in turns; 1.1 for what is of second order."""
    torch.manual_seed(0)
    weight, basis = start(), None
    drift = torch.randn_like(weight)
    for step in range(30):
        grad = drift if step % 6 < 4 else torch.randn_like(weight)
        found = tracked_update(weight, grad, depth, basis)
        basis, error = found.basis, true_error(weight, depth, found.basis)
        assert error <= 1.1 * max(float(found.error), 1e-3), step
        assert error <= 1.1 * TOLERANCE, step
        weight = weight - speed * weight.norm() * found.update / found.update.norm()


@pytest.mark.parametrize("start", WEIGHTS)
@pytest.mark.parametrize("depth", [1.5, 2, 3, 5])
def test_the_bound_is_not_idle(start: Callable[[], Tensor], depth: float) -> None:
    """Of a basis that is turned by a known small angle, the bound is within a factor of 6 of the error."""
    torch.manual_seed(1)
    weight = start()
    weight = weight if weight.shape[0] <= weight.shape[1] else weight.mT
    small = torch.randn(ROWS, ROWS) * 1e-3
    u = torch.linalg.svd(weight.double(), full_matrices=False)[0]
    basis = (u @ torch.linalg.matrix_exp((small - small.mT).double())).float()
    bound = float(tracking._error(tracking._coordinates(weight, basis, depth), COLUMNS, depth)[1])
    error = true_error(weight, depth, basis)
    if start is orthogonal:  # every basis is right
        assert max(bound, error) < 1e-5
    else:
        assert error <= 1.1 * bound <= 6 * error


@pytest.mark.parametrize("depth", [2, 2.5, 3])
def test_small_steps_take_matrix_products_alone(counts: dict[str, int], depth: float) -> None:
    torch.manual_seed(2)
    p = nn.Parameter(torch.randn(24, 40) / 6)
    optimizer = od.optim.EndToEndSGD([p], 1.0, depth=depth, method="tracked", normalize="rms")
    optimizer.param_groups[0]["lr"] = 1e-3 * float(p.detach().square().mean().sqrt())
    target = torch.randn_like(p)
    for _ in range(60):
        p.grad = p.detach() - target
        optimizer.step()
    assert counts["_decomposed"] == 1
    assert 1 <= counts["_turned"] <= 30
    assert float(optimizer.state[p]["error"]) <= TOLERANCE


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_trains_as_the_decomposition_does(momentum: float) -> None:
    torch.manual_seed(3)
    start, target = torch.randn(12, 20) / 4, torch.randn(12, 20) / 4
    ends = []
    methods: tuple[Method, ...] = ("eigh", "tracked")
    for method in methods:
        p = nn.Parameter(start.clone())
        optimizer = od.optim.EndToEndSGD([p], 0.002, depth=3, momentum=momentum, method=method)
        for _ in range(200):
            p.grad = p.detach() - target
            optimizer.step()
        ends.append(p.detach())
    moved = (ends[0] - start).norm()
    assert moved > 0.1 * start.norm()
    assert float((ends[1] - ends[0]).norm() / moved) < TOLERANCE


@pytest.mark.parametrize("shape", [(8, 12), (12, 8)])
def test_a_weight_that_somebody_replaced_is_decomposed_anew(counts: dict[str, int], shape: tuple[int, int]) -> None:
    torch.manual_seed(4)
    first, second = torch.randn(shape), torch.randn(shape)
    basis = tracked_update(first, torch.randn(shape), 3, None).basis
    found = tracked_update(second, grad := torch.randn(shape), 3, basis)
    assert counts["_decomposed"] == 2
    exact = od.end_to_end_update(second, grad, 3)
    assert float((found.update - exact).norm() / exact.norm()) < 1e-3


def test_a_turned_basis_is_orthonormal_however_far_it_wants_to_turn() -> None:
    torch.manual_seed(5)
    for scale in (1e-3, 0.1, 10.0):
        basis = torch.linalg.qr(torch.randn(16, 16))[0]
        weight = torch.randn(16, 30) * torch.logspace(0, -2, 16)[:, None] * scale
        here = tracking._coordinates(weight, basis, 3)
        turned = tracking._turned(here, tracking._error(here, 30, 3)[0])
        torch.testing.assert_close(turned.mT @ turned, torch.eye(16), rtol=0, atol=1e-4)


def test_one_turn_repairs_a_small_angle_to_second_order() -> None:
    torch.manual_seed(6)
    weight = torch.randn(12, 30)
    u = torch.linalg.svd(weight, full_matrices=False)[0]
    left = []
    for angle in (4e-3, 1e-3):
        small = torch.randn(12, 12, generator=torch.Generator().manual_seed(0)) * angle
        here = tracking._coordinates(weight, u @ torch.linalg.matrix_exp(small - small.mT), 3)
        before, after = tracking._error(here, 30, 3), None
        turned = tracking._coordinates(weight, tracking._turned(here, before[0]), 3)
        after = float(tracking._error(turned, 30, 3)[1])
        assert after < 0.2 * float(before[1])
        left.append(after)
    assert left[1] < left[0] / 8  # 16 where nothing but the second order were left


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_saved_state_continues_bit_for_bit(dtype: torch.dtype) -> None:
    torch.manual_seed(7)
    params = [nn.Parameter(torch.randn(s, dtype=dtype)) for s in ((8, 12), (8, 12), (12, 5), (1, 7))]

    def train(params: list[nn.Parameter], optimizer: od.optim.EndToEndSGD, first: int) -> None:
        for step in range(first, first + 4):
            generator = torch.Generator().manual_seed(step)
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            optimizer.step()

    optimizer = od.optim.EndToEndSGD(params, 0.01, depth=2.5, method="tracked", momentum=0.5)
    train(params, optimizer, 0)
    assert optimizer.state[params[0]]["basis"].dtype == torch.float32
    assert "basis" not in optimizer.state[params[3]]
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    copies = copy.deepcopy(params)
    resumed = od.optim.EndToEndSGD(copies, 0.01, depth=2.5, method="tracked", momentum=0.5)
    resumed.load_state_dict(torch.load(file))
    assert resumed.state[copies[0]]["basis"].dtype == torch.float32
    for held, opt in ((params, optimizer), (copies, resumed)):
        train(held, opt, 4)
    for p, q in zip(params, copies, strict=True):
        assert torch.equal(p, q)


def test_equal_shapes_and_groups_step_as_they_do_alone() -> None:
    torch.manual_seed(8)
    grouped = nn.Parameter(torch.randn(8, 3, 2, 2))
    halves = [nn.Parameter(half.detach().clone()) for half in grouped.chunk(2)]
    together = od.optim.EndToEndSGD([grouped], 0.01, depth=3, method="tracked", groups=2)
    batched = od.optim.EndToEndSGD(halves, 0.01, depth=3, method="tracked")
    alone = copy.deepcopy(halves)
    optimizers = [od.optim.EndToEndSGD([p], 0.01, depth=3, method="tracked") for p in alone]
    for step in range(4):
        grouped.grad = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(step))
        for p, q, half in zip(halves, alone, grouped.grad.chunk(2), strict=True):
            p.grad, q.grad = half.clone(), half.clone()
        for optimizer in (together, batched, *optimizers):
            optimizer.step()
    assert together.state[grouped]["basis"].shape == (2, 4, 4)
    assert batched.state[halves[0]]["basis"].shape == optimizers[0].state[alone[0]]["basis"].shape == (1, 4, 4)
    for p, q, half in zip(halves, alone, grouped.chunk(2), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(p, half, rtol=1e-4, atol=1e-5)


def test_a_zero_weight_stands_still_and_has_no_error() -> None:
    found = tracked_update(torch.zeros(3, 4), torch.ones(3, 4), 2, torch.eye(3))
    assert not found.update.any()
    assert float(found.error) == 0


def test_infinite_depth_is_tracked_too() -> None:
    torch.manual_seed(9)
    weight, basis = torch.eye(6) + 0.1 * torch.randn(6, 6), None
    for _ in range(5):
        grad = torch.randn(6, 6)
        found = tracked_update(weight, grad, math.inf, basis)
        exact = od.end_to_end_update(weight, grad, math.inf)
        assert float((found.update - exact).norm() / exact.norm()) < 2 * TOLERANCE
        weight, basis = weight - 1e-3 * found.update, found.basis


def test_a_weight_that_is_not_finite_is_named() -> None:
    p = nn.Parameter(torch.randn(4, 5))
    optimizer = od.optim.EndToEndSGD([("head.weight", p)], 0.1, depth=3, method="tracked")
    p.grad = torch.randn(4, 5)
    optimizer.step()
    p.data[0, 0] = math.nan
    with pytest.raises(RuntimeError, match=r"'head\.weight' has non-finite entries"):
        optimizer.step()


def test_in_front_of_another_base_it_is_refused() -> None:
    with pytest.raises(ValueError, match="'tracked' keeps a basis in the state"):
        od.optim.end_to_end([nn.Parameter(torch.eye(3))], torch.optim.Adam, method="tracked", lr=0.1)
