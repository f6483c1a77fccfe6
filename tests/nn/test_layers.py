"""Linear layers, embeddings and other matrices: chained, folded and plain are the same function."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from hypothesis import given
from hypothesis import strategies as st
from tests.nn.agreement import ROUTES, assert_close, check_agreement, everything, twins
from tests.reference import layers as ref
from tests.reference.linear_algebra import as_array
from torch import Tensor, nn

import overdepth as od

LEADING = [(), (1,), (7,), (2, 3), (0,), (2, 0, 3), (1, 2, 1, 3)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class InOut(nn.Module):
    """Stores its weight (in, out), as some transformers do."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(out))
        self.weight = nn.Parameter(torch.randn(into, out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


class Doubled(nn.Linear):
    """A forward of its own on top of Linear's."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return 2 * super().forward(input)


class Cosine(nn.Linear):
    """A forward that reads the weight twice."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        return F.linear(input, self.weight / self.weight.norm(dim=1, keepdim=True), self.bias)


class Named(nn.Linear):
    """Linear with another constructor, and nothing else."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size + 1)


# --- linear ----------------------------------------------------------------------------------------------------------


@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(2, 4), st.none() | st.integers(0, 3), st.sampled_from(LEADING),
    st.booleans(), st.integers(0, 99),
)  # fmt: skip
def test_linear(
    into: int, out: int, depth: int, wider: int | None, leading: tuple[int, ...], bias: bool, seed: int
) -> None:
    width = None if wider is None else min(into, out) + wider
    over, plain = twins(nn.Linear(into, out, bias=bias), depth, width=width, seed=seed)
    x = random(*leading, into, seed=seed)
    check_agreement(over, plain, x)
    factors = [as_array(f) for _, fs in od.nn.named_factors(over) for f in fs]
    expected = as_array(x) @ ref.chain(factors).T
    if isinstance(over.bias, Tensor):
        expected = expected + as_array(over.bias)
    np.testing.assert_allclose(as_array(over(x)), expected, rtol=0, atol=1e-12 * (1 + np.abs(expected).max(initial=0)))


@pytest.mark.parametrize("init", ["balanced", "identity"])
@pytest.mark.parametrize("execution", ROUTES)
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_starts_that_keep_the_weight_keep_the_function(depth: int, execution: Any, init: Any) -> None:
    layers: list[tuple[nn.Module, Tensor]] = [
        (nn.Linear(5, 3), random(4, 5)),
        (nn.Conv2d(3, 4, 3, padding=1), random(2, 3, 5, 5)),
        (nn.Conv1d(4, 6, 3, groups=2, stride=2), random(2, 4, 9)),
        (nn.ConvTranspose2d(3, 4, 3, stride=2), random(2, 3, 4, 4)),
        (nn.Embedding(9, 4), torch.tensor([[0, 3, 3], [8, 1, 2]])),
    ]
    for layer, x in layers:
        plain = layer.double()
        over = od.overparameterize_(copy.deepcopy(plain), depth, init=init, execution=execution, select=everything)
        assert_close(over(x), plain(x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-2), (torch.float16, 5e-3)])
@pytest.mark.parametrize("execution", ROUTES)
def test_other_dtypes_stay_what_they_are(execution: Any, dtype: torch.dtype, tolerance: float) -> None:
    """Within a few units of the largest output: the factors are rounded, and so is what runs between them."""
    plain = nn.Linear(8, 6).to(dtype)
    over = od.overparameterize_(copy.deepcopy(plain), 3, execution=execution)
    x = random(5, 8).to(dtype)
    assert over(x).dtype == dtype
    assert all(p.dtype == dtype for p in over.parameters())
    expected = F.linear(x.double(), plain.weight.double(), plain.bias.double()).detach()
    assert float((over(x).detach().double() - expected).abs().max()) <= tolerance * float(expected.abs().max())


def test_steps_of_training_agree_on_every_route() -> None:
    ends = []
    for execution in ROUTES:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2)).double()
        od.overparameterize_(model, 3, execution=execution)  # type: ignore[arg-type]
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for step in range(5):
            optimizer.zero_grad()
            model(random(6, 5, seed=step)).square().sum().backward()
            optimizer.step()
        ends.append(list(model.parameters()))
    for others in ends[1:]:
        for a, b in zip(ends[0], others, strict=True):
            assert_close(a, b)


# --- embeddings ------------------------------------------------------------------------------------------------------

INDICES = [
    torch.tensor([1, 4, 4, 0, 6]),
    torch.tensor([[2, 3], [3, 3]]),
    torch.tensor(5),
    torch.zeros(0, dtype=torch.int64),
]


@pytest.mark.parametrize("indices", INDICES)
@pytest.mark.parametrize("shape", [(7, 4), (7, 9)])
@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 3}, {"padding_idx": -1}, {"scale_grad_by_freq": True}])
def test_embedding(options: dict[str, Any], depth: int, shape: tuple[int, int], indices: Tensor) -> None:
    over, plain = twins(nn.Embedding(*shape, **options), depth)
    check_agreement(over, plain, indices, chains=not options.get("scale_grad_by_freq"))


@pytest.mark.parametrize("init", ["balanced", "identity", "near_zero", "near_identity", "orthogonal"])
@pytest.mark.parametrize("layer", [nn.Embedding, nn.EmbeddingBag])
def test_the_padding_row_starts_at_zero(layer: Any, init: Any) -> None:
    over: Any = od.overparameterize_(layer(7, 4, padding_idx=2), init=init, select=everything)
    assert torch.equal(over.weight[2], torch.zeros(4))
    assert bool(over.weight[1].any())


@pytest.mark.parametrize("execution", ROUTES)
def test_training_leaves_the_padding_row_at_zero(execution: Any) -> None:
    over: Any = od.overparameterize_(nn.Embedding(7, 4, padding_idx=2), 3, execution=execution, select=everything)
    optimizer = torch.optim.Adam(over.parameters(), 0.1)
    before = over.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        (over(torch.tensor([1, 2, 2, 3])) - 1).square().sum().backward()
        optimizer.step()
    assert torch.equal(over.weight[2], torch.zeros(4))
    assert not torch.equal(over.weight[1], before[1])


def test_a_padding_row_that_is_not_zero_is_told() -> None:
    embedding = nn.Embedding(7, 4, padding_idx=2)
    nn.init.ones_(embedding.weight)
    with pytest.warns(UserWarning, match="padding row.*is not zero"):
        od.overparameterize_(embedding, init="identity", select=everything)


BAGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"mode": mode, "padding_idx": padding, "include_last_offset": last}, {})
    for mode in ("sum", "mean", "max")
    for padding in (None, 3)
    for last in (False, True)
]
BAGS += [({"mode": "sum"}, {"per_sample_weights": random(6)}), ({"mode": "mean", "scale_grad_by_freq": True}, {})]


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("options", "keywords"), BAGS)
def test_embedding_bag(options: dict[str, Any], keywords: dict[str, Any], depth: int) -> None:
    over, plain = twins(nn.EmbeddingBag(7, 4, **options), depth)
    offsets = torch.tensor([0, 2, 2, 6] if options.get("include_last_offset") else [0, 2, 2])
    check_agreement(over, plain, torch.tensor([1, 3, 3, 0, 6, 1]), offsets, chains=False, **keywords)
    check_agreement(over, plain, torch.tensor([[1, 3], [0, 6], [2, 2]]), chains=False, **keywords | (
        {"per_sample_weights": random(3, 2)} if keywords else {}
    ))  # fmt: skip


# --- modules of other makers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("layer", [InOut(5, 3), InOut(3, 5), Doubled(5, 3), Cosine(5, 3)])
def test_layers_that_read_their_weight(layer: nn.Module, depth: int) -> None:
    into = 3 if isinstance(layer, InOut) and layer.weight.shape == (3, 5) else 5
    over, plain = twins(layer, depth)
    check_agreement(over, plain, random(4, into), chains=False)
    assert isinstance(over, type(layer))


def test_a_subclass_without_a_forward_of_its_own_is_chained() -> None:
    over, plain = twins(Named(4), 3)
    check_agreement(over, plain, random(3, 4))
    assert isinstance(over, Named)


@pytest.mark.parametrize("depth", [2, 3])
def test_a_convolution_that_standardizes_its_weight(depth: int) -> None:
    class Standardized(nn.Conv2d):
        def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
            centred = weight - weight.mean((1, 2, 3), keepdim=True)
            result: Tensor = super()._conv_forward(input, centred, bias)
            return result

    class Scaled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
            return F.conv2d(input, self.weight * 3, self.bias)

    for layer in (Standardized(3, 4, 3), Scaled(3, 4, 3)):
        over, plain = twins(layer, depth)
        check_agreement(over, plain, random(2, 3, 5, 4), chains=False)


@pytest.mark.parametrize("layer", [Doubled(4, 4), InOut(4, 4), nn.EmbeddingBag(5, 4)])
def test_what_only_reads_its_weight_cannot_be_chained(layer: nn.Module) -> None:
    model = nn.Sequential(layer)
    with pytest.raises(ValueError, match=r"'0.weight' cannot be chained.*execution='auto'"):
        od.overparameterize_(model, execution="chained", select=everything)


def test_a_parameter_that_another_layer_shares_under_another_name() -> None:
    """The second layer chains its own weight, not the one it merely holds."""
    first, second = nn.Linear(4, 4).double(), nn.Linear(4, 4).double()
    second.alias = first.weight
    model = nn.Sequential(first, second)
    x = random(3, 4)
    expected = model(x)
    for execution in ROUTES:
        over = od.overparameterize_(copy.deepcopy(model), execution=execution, select=everything)  # type: ignore[arg-type]
        assert_close(over(x), expected)


def test_weights_of_a_parameter_list_that_are_tied_to_a_layer() -> None:
    class Listed(nn.Module):
        def __init__(self, linear: nn.Linear) -> None:
            super().__init__()
            self.linear = linear
            self.matrices = nn.ParameterList([linear.weight])

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.linear(x) @ self.matrices[0]
            return result

    over, plain = twins(Listed(nn.Linear(4, 4)), 3)
    x = random(3, 4)
    assert_close(over(x), plain(x))
