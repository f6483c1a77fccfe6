"""What weight decay and a learning rate on the factors do to their product: the table of the documentation, by rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import linear_algebra as ref
from torch import Tensor, nn

import overdepth as od

LR, DECAY = 0.1, 0.3
LAYERS: dict[str, Callable[[], Any]] = {
    "linear": lambda: nn.Linear(5, 4, dtype=torch.float64),
    "convolution": lambda: nn.Conv1d(4, 6, 3, groups=2, dtype=torch.float64),
    "transposed": lambda: nn.ConvTranspose1d(4, 6, 3, dtype=torch.float64),
}


def factored(name: str, depth: int, **keywords: Any) -> Any:
    torch.manual_seed(0)
    return od.overparameterize_(LAYERS[name](), depth, **keywords)


def step(layer: nn.Module, loss: Callable[[], Tensor] | None, optimizer: torch.optim.Optimizer) -> None:
    """A step on the gradient of a loss, or on a gradient of zero."""
    optimizer.zero_grad()
    if loss is not None:
        loss().backward()  # type: ignore[no-untyped-call]
    for parameter in layer.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def matrices(tensor: Tensor, groups: int) -> list[ref.Array]:
    """(k, d) of every group."""
    return [ref.as_array(t).reshape(t.shape[0], -1) for t in tensor.detach().chunk(groups)]


def chains(layer: nn.Module) -> list[list[ref.Array]]:
    """The factors of every group."""
    ((_, factors),) = od.nn.named_factors(layer)
    arrays = [ref.as_array(f) for f in factors]
    return [arrays] if arrays[0].ndim == 2 else [list(chain) for chain in zip(*arrays, strict=True)]


def ratio_of_gaps(gap: Callable[[float], float]) -> float:
    """By how much a gap shrinks with a step ten times smaller: 100 if it is of second order."""
    return gap(1e-4) / gap(1e-5)


# --- decay on the factors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.AdamW])
def test_decay_of_the_factors_shrinks_the_product_once_for_each(cls: Any, name: str, depth: int) -> None:
    """Coupled (SGD) and decoupled (AdamW) are the same where the gradient is zero: (1 - lr lambda)^N."""
    layer = factored(name, depth)
    weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    optimizer = cls(layer.parameters(), lr=LR, weight_decay=DECAY)
    for k in range(1, 3):
        step(layer, None, optimizer)
        torch.testing.assert_close(layer.weight, (1 - LR * DECAY) ** (depth * k) * weight, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(layer.bias, (1 - LR * DECAY) ** k * bias, rtol=1e-12, atol=0)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_decay_is_depth_times_larger_to_first_order(depth: int) -> None:
    def gap(lr: float) -> float:
        layer = factored("linear", depth)
        weight = layer.weight.detach().clone()
        step(layer, None, torch.optim.SGD(layer.parameters(), lr=lr, weight_decay=DECAY))
        return float((layer.weight - (1 - lr * DECAY * depth) * weight).norm().detach())

    assert ratio_of_gaps(gap) == pytest.approx(100, rel=0.01)


@pytest.mark.parametrize("depth", [2, 3])
def test_gradient_and_decay_add_up_to_first_order(depth: int) -> None:
    """W+ = W - lr T(G) - lr lambda N W + O(lr^2), Theorem 1's step."""

    def gap(lr: float) -> float:
        layer = factored("linear", depth)
        x = torch.randn(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        plain, _ = od.collapse(layer)
        plain(x).pow(4).sum().backward()
        assert isinstance(plain, nn.Linear)
        weight, grad = plain.weight.detach(), plain.weight.grad
        assert grad is not None
        expected = weight - lr * od.end_to_end_update(weight, grad, depth) - lr * DECAY * depth * weight
        step(layer, lambda: layer(x).pow(4).sum(), torch.optim.SGD(layer.parameters(), lr=lr, weight_decay=DECAY))
        return float((layer.weight - expected).norm().detach())

    assert ratio_of_gaps(gap) == pytest.approx(100, rel=0.05)


# --- decay on the product --------------------------------------------------------------------------------------------


def test_the_penalty_is_half_the_squared_norm_of_all_products() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 4), nn.Conv2d(4, 6, 3, groups=2), nn.LayerNorm(3), nn.Linear(4, 3)).double()
    plain = [model.get_parameter(f"{i}.weight").detach().clone() for i in range(2)]
    od.overparameterize_(model, 3, select=lambda module, name: name in ("0", "1"))
    penalty = od.nn.end_to_end_penalty(model)
    assert penalty.shape == ()
    assert penalty.item() == pytest.approx(sum(float(w.square().sum()) for w in plain) / 2, rel=1e-12)
    penalty.backward()  # type: ignore[no-untyped-call]
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        f"{i}.parametrizations.weight.factor{j}" for i in range(2) for j in range(3)
    }


def test_a_tied_weight_is_penalized_once() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    od.overparameterize_(model)
    assert od.nn.end_to_end_penalty(model).item() == pytest.approx(model[0].weight.square().sum().item() / 2, rel=1e-6)


def test_a_plain_model_has_no_penalty() -> None:
    with pytest.raises(ValueError, match=r"no factors.*weight_decay"):
        od.nn.end_to_end_penalty(nn.Linear(3, 3))


@pytest.mark.parametrize("init", ["balanced", "near_identity"])
@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("name", LAYERS)
def test_the_penalty_acts_on_the_product_through_the_transfer_operator(name: str, depth: int, init: str) -> None:
    """W+ = W - lr lambda T(W) + O(lr^2): directions with large multipliers decay faster, unlike by weight_decay."""
    groups = 2 if name == "convolution" else 1

    def gap(lr: float) -> float:
        layer = factored(name, depth, init=init, scale=0.3)
        before = matrices(layer.weight, groups)
        expected = [w - lr * DECAY * ref.transfer(c, w) for w, c in zip(before, chains(layer), strict=True)]
        optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
        step(layer, lambda: DECAY * od.nn.end_to_end_penalty(layer), optimizer)
        return max(float(np.linalg.norm(a - b)) for a, b in zip(matrices(layer.weight, groups), expected, strict=True))

    assert ratio_of_gaps(gap) == pytest.approx(100, rel=0.01)


# --- learning rates --------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(1, 6), st.integers(2, 5))
def test_multipliers_are_the_mean_of_the_spectrum_for_balanced_factors(seed: int, k: int, d: int, depth: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Linear(d, k, dtype=torch.float64)
    expected = float(od.end_to_end_spectrum(layer.weight.detach(), depth).mean())
    od.overparameterize_(layer, depth)
    assert od.nn.learning_rate_multipliers(layer) == {"weight": pytest.approx(expected, rel=1e-9)}


@pytest.mark.parametrize("init", ["near_zero", "near_identity", "identity"])
@pytest.mark.parametrize("name", LAYERS)
def test_multipliers_are_the_mean_eigenvalue_for_any_factors(name: str, init: str) -> None:
    """By the matrix of the literal sum; of groups the mean."""
    layer = factored(name, 3, init=init, scale=0.5)
    dense = [ref.transfer_matrix(chain) for chain in chains(layer)]
    expected = float(np.mean([np.trace(matrix) / len(matrix) for matrix in dense]))
    assert od.nn.learning_rate_multipliers(layer) == {"weight": pytest.approx(expected, rel=1e-9)}


def test_multipliers_name_every_weight_but_those_with_a_kernel_between() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4))
    chosen: dict[str, Any] = {"1": {"factorization": "kernel_between"}, "": False}
    od.overparameterize_(model, 3, select=lambda module, name: chosen.get(name, True))
    assert set(od.nn.learning_rate_multipliers(model)) == {"0.weight", "2.weight"}
    assert od.nn.learning_rate_multipliers(nn.Linear(3, 3)) == {}


@pytest.mark.parametrize("init", ["balanced", "near_identity"])
@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("name", LAYERS)
def test_a_small_step_moves_the_product_by_the_transferred_gradient(name: str, depth: int, init: str) -> None:
    """The gap to W - lr T(G) is of second order, so that lr really carries over by T's eigenvalues."""
    groups = 2 if name == "convolution" else 1

    def gap(lr: float) -> float:
        layer = factored(name, depth, init=init, scale=0.3)
        x = torch.randn(4, *((5,) if name == "linear" else (4, 7)), generator=torch.Generator().manual_seed(2)).double()
        plain: Any = od.collapse(layer)[0]
        plain(x).pow(4).mean().backward()
        moved = zip(matrices(plain.weight, groups), matrices(plain.weight.grad, groups), chains(layer), strict=True)
        expected = [w - lr * ref.transfer(chain, g) for w, g, chain in moved]
        step(layer, lambda: layer(x).pow(4).mean(), torch.optim.SGD(layer.parameters(), lr=lr))
        return max(float(np.linalg.norm(a - b)) for a, b in zip(matrices(layer.weight, groups), expected, strict=True))

    assert ratio_of_gaps(gap) == pytest.approx(100, rel=0.05)
