"""Linear layers in a row: in nn.Sequential, in forwards that torch.fx follows, and where a chain ends."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od
from overdepth.inspection import Inspection


def chains(found: Inspection) -> list[str]:
    return [product.name for product in found if product.kind == "stacked"]


def linear(*dims: int, bias: bool = True) -> list[nn.Module]:
    return [nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(dims)]


def test_neighbours_in_a_sequential() -> None:
    model = nn.Sequential(*linear(4, 5, 6, bias=False), nn.ReLU(), *linear(6, 3), nn.Tanh(), *linear(3, 3, 3, 2))
    found = od.inspect(model)
    assert chains(found) == ["0 -> 1", "5 -> 6 -> 7"]
    assert found[0].factors == ("0.weight", "1.weight")
    assert found[0].factor_shapes == ((5, 4), (6, 5))
    assert found[0].shape == (6, 4)
    assert found[0].notes == ()
    assert found[1].depth == 3
    assert "biases lie between" in found[1].notes[0]
    assert found.remarks == ()


@pytest.mark.parametrize(
    ("between", "is_product"),
    [
        (nn.Identity(), True), (nn.Dropout(0.0), True), (nn.Dropout(0.5), False), (nn.LayerNorm(5), False),
        (nn.Sequential(nn.Identity(), nn.Sequential()), True), (nn.GELU(), False),
    ],
)  # fmt: skip
def test_what_may_lie_between(between: nn.Module, is_product: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 5), between, nn.Sequential(nn.Linear(5, 3), nn.ReLU()))
    assert bool(chains(od.inspect(model))) == is_product


class Skip(nn.Module):
    """Chains that only the forward shows: a -> b -> c, but not d -> e, whose output between is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.c, self.b, self.a, self.d, self.e = (nn.Linear(4, 4) for _ in range(5))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        h = self.c(self.b(self.a(x)))
        if mask is not None:
            h = h * mask
        d = self.d(torch.relu(h))
        return d + self.e(d)  # type: ignore[no-any-return]


def test_the_forward_is_followed() -> None:
    found = od.inspect(Skip())
    assert chains(found) == ["a -> b -> c"]
    assert found.remarks == ()


class Unfollowed(nn.Module):
    """A forward that no tracer can follow, around parts that one can."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Skip()
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if x.sum() > 0:
            x = self.inner(x)
        return self.second(self.first(self.layers(x)))  # type: ignore[no-any-return]


def test_parts_are_followed_where_the_whole_is_not() -> None:
    model = Unfollowed()
    found = od.inspect(model)
    assert sorted(chains(found)) == ["inner.a -> inner.b -> inner.c", "layers.0 -> layers.1"]
    assert found.remarks == (
        "torch.fx cannot follow the forward of the model itself: linear layers that meet there and not in an "
        "nn.Sequential were not seen",
    )
    assert model.calls == 0


def test_a_part_that_cannot_be_followed_ends_a_chain_but_no_search() -> None:
    model = nn.Sequential(*linear(4, 4, 4), Unfollowed(), *linear(4, 4, 4))
    found = od.inspect(model)
    assert {"0 -> 1", "3 -> 4", "2.layers.0 -> 2.layers.1", "2.inner.a -> 2.inner.b -> 2.inner.c"} == set(chains(found))
    assert "forward of 2:" in found.remarks[0]


def test_the_model_stays_as_it_is() -> None:
    model = Unfollowed().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(model.__dict__)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    od.inspect(model)
    assert torch.equal(torch.rand(1), expected)
    assert set(model.__dict__) == attributes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_layer_that_is_used_twice_ends_a_chain() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.b(x)))  # type: ignore[no-any-return]

    assert chains(od.inspect(Twice())) == []
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[3].weight = tied[1].weight
    assert chains(od.inspect(tied)) == []


def test_hooks_end_a_chain() -> None:
    model = nn.Sequential(*linear(4, 4, 4, 4))
    model[1].register_forward_hook(lambda *_: None)
    assert chains(od.inspect(model)) == []


def test_an_embedding_in_front() -> None:
    model: Any = nn.Sequential(nn.Embedding(20, 3), nn.Linear(3, 8, bias=False))
    (product,) = od.inspect(model)
    assert product.factors == ("0.weight.T", "1.weight")
    assert (product.shape, product.largest_rank) == ((8, 20), 3)
    assert product.notes == ("the first factor acts on one-hot tokens",)
    model[0].max_norm = 1.0
    assert chains(od.inspect(model)) == []


def test_a_tied_head_is_remarked() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(20, 3), nn.Linear(3, 20, bias=False)
            self.head.weight = self.table.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.table(x)))  # type: ignore[no-any-return]

    found = od.inspect(Language())
    assert len(found) == 0
    assert found.remarks[0].startswith("'table.weight' and 'head.weight' are one parameter")
    assert "one parameter" in repr(found)


def test_factors_of_our_own_are_parts_of_a_chain() -> None:
    model = nn.Sequential(*linear(4, 4, 4))
    od.overparameterize_(model, 2, select=lambda m, name: name == "1")
    own, stacked = sorted(od.inspect(model), key=lambda p: p.kind)
    assert (own.kind, own.depth) == ("over-parameterized", 2)
    assert stacked.factors == (
        "0.weight", "1.parametrizations.weight.factor0", "1.parametrizations.weight.factor1",
    )  # fmt: skip


def test_layers_with_a_forward_of_their_own_are_none() -> None:
    class Gate(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    assert chains(od.inspect(nn.Sequential(Gate(4, 4), nn.Linear(4, 4)))) == []


def test_layers_that_do_not_fit_are_no_chain() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 5), nn.Linear(6, 3))
    assert len(od.inspect(model)) == 0
    mixed = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3).double())
    assert len(od.inspect(mixed)) == 0


def test_a_model_that_cannot_be_copied_is_searched_all_the_same() -> None:
    class Locked(nn.Sequential):
        def __deepcopy__(self, memo: object) -> Locked:
            raise TypeError("cannot pickle '_thread.lock' object")

    found = od.inspect(Locked(*linear(4, 4, 4)))
    assert chains(found) == ["0 -> 1"]
    assert "the model itself" in found.remarks[0]
