"""``Factored`` against NumPy float64: the factors' gradients, their steps, and what construction does."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.optim import problems
from tests.optim.problems import gap, identical, make, train, weights
from tests.reference import factored as ref
from tests.reference.linear_algebra import as_array, layer_gradients
from torch import Tensor, nn

import overdepth as od
from overdepth.optim.chain_rule import chain_rule

RULES: dict[str, tuple[Any, dict[str, Any], ref.Rule]] = {
    "sgd": (torch.optim.SGD, {"lr": 0.05}, ref.Sgd(0.05)),
    "decay": (torch.optim.SGD, {"lr": 0.05, "weight_decay": 0.3}, ref.Sgd(0.05, weight_decay=0.3)),
    "momentum": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9}, ref.Sgd(0.02, 0.9)),
    "nesterov": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "nesterov": True}, ref.Sgd(0.02, 0.9, True)),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.2}, ref.AdamW(0.01, weight_decay=0.2)),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("name", list(RULES))
@pytest.mark.parametrize("init", ["balanced", "identity"])
@pytest.mark.parametrize(("k", "d", "depth"), [(3, 5, 2), (5, 3, 3), (1, 4, 4), (4, 4, 5)])
def test_the_trajectory_is_the_references(name: str, init: Any, k: int, d: int, depth: int) -> None:
    base, options, rule = RULES[name]
    rule = copy.deepcopy(rule)
    weight = nn.Parameter(drawn(k, d))
    X, Y = drawn(d, 7, seed=1), drawn(k, 7, seed=2)
    optimizer = od.optim.Factored([weight], base, depth=depth, init=init, **options)
    start = [as_array(f).copy() for f in optimizer.factors(weight)]
    expected = ref.train(start, ref.least_squares(as_array(X), as_array(Y)), rule, 8)
    for wanted in expected[1:]:
        optimizer.zero_grad()
        ((weight @ X - Y).square().sum() / 14).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        np.testing.assert_allclose(as_array(weight), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max())
    assert np.abs(expected[-1] - expected[0]).max() > 1e-2


@given(
    shapes=st.lists(st.tuples(*[st.integers(1, 4)] * 4), min_size=1, max_size=4),
    repeats=st.integers(1, 3),
    depth=st.integers(2, 5),
    seed=st.integers(0, 99),
)
def test_the_chain_rule_is_the_references(
    shapes: list[tuple[int, int, int, int]], repeats: int, depth: int, seed: int
) -> None:
    """Of any mixture of shapes, equal ones together, some in groups."""
    rng = np.random.default_rng(seed)
    chains = []
    for k, d, h, groups in shapes * repeats:
        dims = [d, *[h] * (depth - 1), k]
        leading = (groups,) if groups > 1 else ()
        factors = [torch.from_numpy(rng.standard_normal((*leading, dims[j + 1], dims[j]))) for j in range(depth)]
        chains.append((torch.from_numpy(rng.standard_normal((groups * k, d))), factors, groups))
    for (grad, factors, groups), found in zip(chains, chain_rule(chains), strict=True):
        assert [g.shape for g in found] == [f.shape for f in factors]
        blocks = as_array(grad).reshape(groups, -1, grad.shape[1])
        for i in range(groups):
            wanted = layer_gradients([as_array(f if groups == 1 else f[i]) for f in factors], blocks[i])
            for g, w in zip(found, wanted, strict=True):
                np.testing.assert_allclose(as_array(g if groups == 1 else g[i]), w, rtol=1e-10, atol=1e-11)


def test_a_model_at_depth_1_goes_to_the_base_bit_for_bit() -> None:
    cases: list[tuple[Any, dict[str, Any]]] = [(torch.optim.SGD, {"momentum": 0.9}), (torch.optim.AdamW, {})]
    for base, options in cases:
        model, x = make(problems.convolutional_network)
        plain = copy.deepcopy(model)
        optimizer = od.optim.Factored(model.parameters(), base, depth=1, lr=0.02, **options)
        train(model, x, optimizer, 4)
        train(plain, x, base(plain.parameters(), lr=0.02, **options), 4)
        assert identical(weights(model), weights(plain))


def test_biases_get_what_the_base_gives_them() -> None:
    """One step: their gradients are those of the plain model."""
    model, x = make(problems.convolutional_network)
    plain = copy.deepcopy(model)
    train(model, x, od.optim.Factored(od.optim.param_groups(model), torch.optim.AdamW, lr=0.02))
    train(plain, x, torch.optim.AdamW(plain.parameters(), lr=0.02))
    for name, p in plain.named_parameters():
        assert torch.equal(model.get_parameter(name), p) == (name.endswith("bias") or name == "5.weight")


def test_groups_have_their_own_depth_width_init_and_options() -> None:
    model, x = make(problems.relu_network)
    p, b, q, c = model.parameters()
    groups: list[dict[str, Any]] = [
        {"params": [p], "depth": 4, "width": 9, "init": "identity", "lr": 0.0},
        {"params": [b, c], "depth": 1, "lr": 0.1},
        {"params": [q]},
    ]
    optimizer = od.optim.Factored(groups, torch.optim.SGD, depth=2, lr=0.05)
    assert [tuple(f.shape) for f in optimizer.factors(p)] == [(9, 6), (9, 9), (9, 9), (8, 9)]
    assert torch.equal(optimizer.factors(p)[1], torch.eye(9, dtype=torch.float64))
    assert [tuple(f.shape) for f in optimizer.factors(q)] == [(3, 8), (3, 3)]
    assert optimizer.factors(b)[0] is b
    before = weights(model)
    train(model, x, optimizer)
    moved = {name for name, value in weights(model).items() if not torch.equal(value, before[name])}
    assert gap({"w": weights(model)["0.weight"]}, {"w": before["0.weight"]}) < 1e-15
    assert moved >= {"0.bias", "2.weight", "2.bias"}
    with pytest.raises(KeyError, match=r"no parameter of shape \(2, 2\)"):
        optimizer.factors(nn.Parameter(torch.zeros(2, 2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("init", ["balanced", "identity"])
@pytest.mark.parametrize("rank_loss", [False, True])
def test_making_an_optimizer_that_keeps_the_weights_writes_nothing(dtype: Any, init: Any, rank_loss: bool) -> None:
    torch.manual_seed(0)
    model = problems.convolutional_network()[0].to(dtype)
    before = weights(model)
    versions = [p._version for p in model.parameters()]
    groups = od.optim.param_groups(model, depth=3)
    od.optim.Factored(groups, torch.optim.SGD, init=init, lr=0.1, allow_rank_loss=rank_loss)
    assert identical(weights(model), before)
    assert rank_loss or [p._version for p in model.parameters()] == versions


@pytest.mark.parametrize("init", ["near_zero", "near_identity", "orthogonal"])
def test_drawn_factors_overwrite_the_weight_and_say_so_where_it_was_asked(init: Any) -> None:
    layer = nn.Linear(5, 4).double()
    bias = layer.bias.detach().clone()
    with pytest.warns(UserWarning, match=f"init .{init}. draws new factors: 1 weight") as caught:
        optimizer = od.optim.Factored(od.optim.param_groups(layer), torch.optim.SGD, init=init, lr=0.1)
    assert [w.filename for w in caught] == [__file__]
    torch.testing.assert_close(layer.weight.detach(), od.product(optimizer.factors(layer.weight)), rtol=1e-13, atol=0)
    assert torch.equal(layer.bias, bias)
    other = nn.Linear(5, 4)
    with pytest.warns(UserWarning, match="draws new factors") as caught:
        optimizer.add_param_group({"params": [("other", other.weight)]})
    assert [w.filename for w in caught] == [__file__]


def test_scale_match_keeps_the_norm() -> None:
    layer = nn.Linear(5, 4, bias=False).double()
    norm = float(layer.weight.detach().norm())
    with pytest.warns(UserWarning, match="draws new factors"):
        od.optim.Factored(layer.parameters(), torch.optim.SGD, init="near_zero", scale="match", lr=0.1)
    assert float(layer.weight.detach().norm()) == pytest.approx(norm, rel=1e-12)


@pytest.mark.parametrize("rank", [0, 2])
def test_what_cannot_move_is_said_once_by_name_and_identity_moves_it(rank: int) -> None:
    layer = nn.Linear(6, 4, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(drawn(4, rank) @ drawn(rank, 6, seed=1))
    named = list(layer.named_parameters())
    word = "rank-deficient" if rank else "zero"
    with pytest.warns(UserWarning, match=rf"'weight' is {word}.*init='identity'") as caught:
        balanced = od.optim.Factored(named, torch.optim.SGD, lr=0.1)
    assert [w.filename for w in caught] == [__file__]
    other = copy.deepcopy(layer)
    moving = od.optim.Factored(list(other.named_parameters()), torch.optim.SGD, lr=0.1, init="identity")
    for step in range(3):
        layer.weight.grad = other.weight.grad = drawn(4, 6, seed=5 + step)
        balanced.step()
        moving.step()
    assert torch.linalg.matrix_rank(layer.weight.detach(), rtol=1e-6) == rank
    assert torch.linalg.matrix_rank(other.weight.detach(), rtol=1e-6) == 4


def test_a_full_rank_weight_gives_no_warning_though_ill_conditioned() -> None:
    u = torch.linalg.qr(drawn(4, 4)).Q
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        od.optim.Factored([nn.Parameter(u * torch.tensor([1.0, 1e-2, 1e-4, 1e-5]))], torch.optim.SGD, lr=0.1)


def test_a_narrow_width_keeps_the_nearest_weight_of_that_rank() -> None:
    weight = nn.Parameter(drawn(4, 6))
    u, s, vh = torch.linalg.svd(weight.detach(), full_matrices=False)
    od.optim.Factored([weight], torch.optim.SGD, width=2, allow_rank_loss=True, lr=0.1)
    torch.testing.assert_close(weight.detach(), (u[:, :2] * s[:2]) @ vh[:2], rtol=0, atol=1e-13)


@pytest.mark.parametrize("groups", [1, 2])
def test_equal_shapes_together_are_as_one_by_one(groups: int) -> None:
    together = [nn.Parameter(drawn(4, 6, seed=i)) for i in range(5)]
    alone = copy.deepcopy(together)
    one = od.optim.Factored(together, torch.optim.AdamW, depth=3, groups=groups, lr=0.02)
    many = [od.optim.Factored([p], torch.optim.AdamW, depth=3, groups=groups, lr=0.02) for p in alone]
    for step in range(3):
        for i, (p, q) in enumerate(zip(together, alone, strict=True)):
            p.grad = q.grad = drawn(4, 6, seed=1000 + 100 * step + i)
        for optimizer in (one, *many):
            optimizer.step()
    for p, q in zip(together, alone, strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-13)


def test_gradients_are_neither_changed_nor_kept() -> None:
    model, x = make(problems.relu_network)
    optimizer = od.optim.Factored(od.optim.param_groups(model), torch.optim.AdamW, lr=0.02)
    problems.loss(model, x).backward()  # type: ignore[no-untyped-call]
    before = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    assert identical({name: p.grad for name, p in model.named_parameters() if p.grad is not None}, before)
