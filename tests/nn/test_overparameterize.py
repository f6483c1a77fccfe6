"""What over-parameterizing leaves as it was, what is tied stays tied, and copies, devices and dtypes."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.nn.agreement import assert_close, everything
from torch import Tensor, nn
from torch.nn.utils import parametrize

import overdepth as od


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def named(name: str) -> Callable[[nn.Module, str], bool]:
    return lambda _, at: at == name


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5), nn.Linear(5, 2)
    ).double()


class Autoencoder(nn.Module):
    """Two linear layers of one weight, and a third of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Linear(6, 6)
        self.up = nn.Linear(6, 6)
        self.up.weight = self.down.weight
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(self.up(torch.tanh(self.down(x))))
        return result


class Language(nn.Module):
    """An embedding, a layer, and a head that has the embedding's weight."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4, **options)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, indices: Tensor) -> Tensor:
        result: Tensor = self.head(torch.tanh(self.hidden(self.embedding(indices))))
        return result


# --- what stays ------------------------------------------------------------------------------------------------------


def test_only_the_chosen_weights_change() -> None:
    model = network()
    before, x = copy.deepcopy(model), random(2, 2, 4, 4, dtype=torch.float64)
    others = {name: p for name, p in model.named_parameters() if not (name.endswith("weight") and p.ndim > 1)}
    assert od.overparameterize_(model, 3) is model
    after = dict(model.named_parameters())
    assert all(after[name] is p for name, p in others.items())
    assert set(after) - set(others) == {f"{i}.parametrizations.weight.factor{j}" for i in (0, 3, 4) for j in range(3)}
    assert [type(m) is type(b) for m, b in zip(model, before, strict=True)] == [False, True, True, False, False]
    assert all(isinstance(m, type(b)) for m, b in zip(model, before, strict=True))
    assert torch.equal(model.get_submodule("3").weight, dict(od.nn.named_factors(model))["3.weight"]())  # type: ignore[arg-type]
    assert_close(model(x), before(x))
    assert {n for n, _ in model.named_buffers()} == {n for n, _ in before.named_buffers()}


def test_a_layer_keeps_its_attributes_and_its_printed_form() -> None:
    layer: Any = nn.Conv2d(4, 6, 3, stride=2, groups=2)
    layer.note = "mine"
    text = layer.extra_repr()
    over: Any = od.overparameterize_(layer)
    assert over is layer
    assert (over.note, over.groups, over.stride) == ("mine", 2, (2, 2))
    assert over.extra_repr() == text
    assert over.weight.shape == (6, 2, 3, 3)
    assert "factor" not in over.extra_repr()
    assert "(2, 3, 18)" in repr(over)  # the factors say their shapes


def test_hooks_of_every_kind_stay() -> None:
    layer, ran = nn.Linear(3, 3), []
    layer.register_forward_pre_hook(lambda *_: ran.append("pre"))
    layer.register_forward_hook(lambda *_: ran.append("forward"))
    layer.register_full_backward_pre_hook(lambda *_: ran.append("backward pre"))
    layer.register_full_backward_hook(lambda *_: ran.append("backward"))
    layer.register_state_dict_pre_hook(lambda *_: ran.append("state_dict"))  # type: ignore[no-untyped-call]
    for execution in ("chained", "folded"):
        model = od.overparameterize_(copy.deepcopy(nn.Sequential(layer)), execution=execution)
        ran.clear()
        model(random(2, 3).requires_grad_()).sum().backward()
        model.state_dict()
        assert ran == ["pre", "forward", "backward pre", "backward", "state_dict"]


@pytest.mark.parametrize("training", [True, False])
def test_modes_stay(training: bool) -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3))).train(training)
    model[1].train(not training)
    modes = [m.training for m in (model, model[0], model[1], model[1][0])]
    od.overparameterize_(model)
    assert [m.training for m in (model, model[0], model[1], model[1][0])] == modes
    assert all(m.training == training for m in model[0].modules())
    assert all(m.training != training for m in model[1].modules())


@pytest.mark.parametrize("build", [lambda: nn.Linear(3, 3), lambda: nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3)),
                                   lambda: nn.Sequential(nn.LSTM(3, 3), nn.Linear(3, 3)), Language])  # fmt: skip
def test_depth_one_is_the_plain_model(build: Any) -> None:
    model = build()
    classes, ids = [type(m) for m in model.modules()], [id(p) for p in model.parameters()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert od.overparameterize_(model, 1) is model
    assert [type(m) for m in model.modules()] == classes
    assert [id(p) for p in model.parameters()] == ids


def test_layers_may_be_taken_in_several_calls() -> None:
    model, plain = network(), network()
    plain.load_state_dict(model.state_dict())
    od.overparameterize_(model, 2, select=lambda _, name: name == "0")
    od.overparameterize_(model, 3, init="identity", select=lambda _, name: name in ("3", "4"))
    assert [(n, len(f)) for n, f in od.nn.named_factors(model)] == [("0.weight", 2), ("3.weight", 3), ("4.weight", 3)]
    x = random(2, 2, 4, 4, dtype=torch.float64)
    assert_close(model(x), plain(x))
    attention = nn.MultiheadAttention(4, 2).double()
    expected = attention(*[random(3, 2, 4, dtype=torch.float64)] * 3)[0]
    od.overparameterize_(attention, select=lambda _, name: name == "out_proj")
    od.overparameterize_(attention, select=lambda _, name: name == "")
    assert_close(attention(*[random(3, 2, 4, dtype=torch.float64)] * 3)[0], expected)


def test_numpy_integers_are_depths_and_widths() -> None:
    layer = od.overparameterize_(nn.Linear(4, 3), np.int64(3), width=np.int64(5))  # type: ignore[arg-type]
    shapes = [tuple(p.shape) for _, factors in od.nn.named_factors(layer) for p in factors]
    assert shapes == [(5, 4), (5, 5), (3, 5)]


def test_drawn_factors_come_from_the_generator() -> None:
    def draw(seed: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        layer = od.overparameterize_(nn.Linear(4, 3), init="orthogonal", generator=generator)
        return [p for _, factors in od.nn.named_factors(layer) for p in factors]

    state = torch.get_rng_state()
    model = nn.Linear(4, 3)
    torch.set_rng_state(state)
    od.overparameterize_(model, init="near_zero", generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(draw(1), draw(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(draw(1), draw(2), strict=True))


# --- writing to a weight ---------------------------------------------------------------------------------------------


def test_a_product_cannot_be_assigned() -> None:
    layer: Any = od.overparameterize_(nn.Linear(3, 3))
    before = layer.weight.detach().clone()
    for value in (nn.Parameter(torch.zeros(3, 3)), torch.zeros(3, 3), None):
        with pytest.raises((AttributeError, TypeError), match="weight"):
            layer.weight = value
    with pytest.raises(AttributeError, match=r"collapse_\(model\) first"):
        layer.register_parameter("weight", nn.Parameter(torch.zeros(3, 3)))
    layer.bias = nn.Parameter(torch.ones(3))
    assert torch.equal(layer.weight, before)
    assert torch.equal(layer(torch.zeros(3)), torch.ones(3))


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_torchs_parametrizations_are_kept_off_the_weight() -> None:
    layer: Any = od.overparameterize_(nn.Linear(3, 3))
    before = layer.weight.detach().clone()
    assert parametrize.is_parametrized(layer, "weight")
    with pytest.raises(RuntimeError, match="collapse_"):
        parametrize.register_parametrization(layer, "weight", Twice())
    with pytest.raises(RuntimeError, match="collapse_"):
        parametrize.remove_parametrizations(layer, "weight")
    with pytest.raises(RuntimeError, match="collapse_"):
        nn.utils.parametrizations.weight_norm(layer)
    assert torch.equal(layer.weight, before)
    assert layer(random(2, 3)).shape == (2, 3)


def test_a_parametrized_bias_is_that_layers_alone() -> None:
    """Worked or refused, but other layers of the class keep their own bias."""

    class Own(nn.Linear):
        """A class of this test's, so that no other test sees what becomes of it."""

    first, second = od.overparameterize_(Own(3, 2)), od.overparameterize_(Own(3, 2))
    x = random(4, 3)
    expected = second(x)
    plain: Any = first.bias
    before = plain.detach().clone()
    try:
        parametrize.register_parametrization(first, "bias", Twice())
    except (RuntimeError, ValueError):
        before = before / 2  # refused: it is as it was
    assert torch.equal(second(x), expected)
    assert od.overparameterize_(Own(3, 2))(x).shape == (4, 2)
    assert torch.allclose(first(torch.zeros(3)), 2 * before)


# --- tied weights ----------------------------------------------------------------------------------------------------


def test_tied_linear_layers_stay_tied() -> None:
    plain = Autoencoder().double()
    over: Any = od.overparameterize_(copy.deepcopy(plain), 3)
    assert [name for name, _ in od.nn.named_factors(over)] == ["down.weight", "last.weight"]
    assert over.down.parametrizations.weight is over.up.parametrizations.weight
    assert len(list(over.parameters())) == 3 + 3 + 3
    x = random(5, 6, dtype=torch.float64)
    assert_close(over(x), plain(x))
    over(x).square().sum().backward()
    plain(x).square().sum().backward()
    factors = dict(od.nn.named_factors(over))["down.weight"]
    leaves = [f.detach().requires_grad_() for f in factors]
    gradient = plain.down.weight.grad
    for found, wanted in zip(
        factors, torch.autograd.grad(factors.layout.product(leaves), leaves, gradient), strict=True
    ):
        assert found.grad is not None
        assert_close(found.grad, wanted)
    optimizer = torch.optim.SGD(over.parameters(), 0.1)
    optimizer.step()
    assert torch.equal(over.down.weight, over.up.weight)
    assert not torch.equal(over.down.weight, plain.down.weight)


def test_one_choice_takes_all_that_is_tied_along() -> None:
    for name in ("down", "up"):
        over: Any = od.overparameterize_(Autoencoder(), select=named(name))
        assert over.down.parametrizations.weight is over.up.parametrizations.weight
        assert type(over.last) is nn.Linear


def test_tied_layers_are_chosen_alike() -> None:
    model = Autoencoder()
    with pytest.raises(ValueError, match=r"'up.weight' is tied to 'down.weight'.*alike"):
        od.overparameterize_(model, select=lambda _, name: {"depth": 3 if name == "up" else 2})
    assert type(model.last) is nn.Linear


def test_convolutions_of_other_groups_cannot_share_factors() -> None:
    first, second = nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3, groups=2)
    second.weight = first.weight
    model = nn.Sequential(first, second)
    with pytest.raises(ValueError, match=r"'0.weight' is tied to '1.weight'.*groups"):
        od.overparameterize_(model)
    assert type(model[0]) is nn.Conv1d


@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}, {"max_norm": 1.0}, {"sparse": True}])
def test_a_weight_that_is_tied_to_an_embedding_stays_plain_by_default(options: dict[str, Any]) -> None:
    model = od.overparameterize_(Language(**options))
    assert [name for name, _ in od.nn.named_factors(model)] == ["hidden.weight"]
    assert type(model.head) is nn.Linear
    assert model.head.weight is model.embedding.weight  # type: ignore[union-attr]


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("chosen", ["embedding", "head"])
def test_an_embedding_and_its_head_stay_tied(chosen: str, depth: int) -> None:
    plain = Language().double()
    over: Any = od.overparameterize_(copy.deepcopy(plain), depth, select=lambda _, name: name == chosen)
    assert [name for name, _ in od.nn.named_factors(over)] == ["embedding.weight"]
    indices = torch.tensor([[1, 2], [8, 1]])
    assert_close(over(indices), plain(indices))
    optimizer = torch.optim.SGD(over.parameters(), 0.1)
    over(indices).square().sum().backward()
    optimizer.step()
    assert torch.equal(over.head.weight, over.embedding.weight)
    assert not torch.equal(over.head.weight, plain.head.weight)


def test_a_module_at_two_places_is_one() -> None:
    layer = nn.Linear(4, 4).double()
    model = nn.Sequential(layer, nn.Tanh(), layer)
    x = random(3, 4, dtype=torch.float64)
    expected = model(x)
    od.overparameterize_(model)
    assert model[0] is model[2]
    assert len(list(model.parameters())) == 3
    assert_close(model(x), expected)


# --- warnings --------------------------------------------------------------------------------------------------------


def test_lost_directions_are_told_with_the_remedy() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3), nn.Conv2d(3, 4, 3))
    with torch.no_grad():
        model[1].weight.zero_()
        model[2].weight[1] = model[2].weight[0]
    for init, expected in (("balanced", 2), ("identity", 0)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            od.overparameterize_(copy.deepcopy(model), init=init)  # type: ignore[arg-type]
        texts = [str(w.message) for w in caught]
        assert len(texts) == expected
        if texts:
            assert all(t in texts[0] for t in ("'1.weight'", "(3, 4)", "zero", "init='identity'"))
            assert all(t in texts[1] for t in ("'2.weight'", "rank-deficient", "1 of its", "init='identity'"))
            assert all(w.filename == __file__ for w in caught)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_ordinary_networks_are_taken_without_a_word(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(128, 128), nn.Linear(300, 20), nn.Conv2d(16, 16, 3), nn.Conv2d(8, 8, 3, groups=8)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        od.overparameterize_(model.to(dtype))
        od.overparameterize_(nn.Embedding(4, 9, padding_idx=1).to(dtype), select=everything)


def test_what_cannot_be_factored_is_told_where_nothing_was_chosen() -> None:
    model = nn.Sequential(nn.LSTM(3, 3), nn.Linear(3, 3))
    with pytest.warns(UserWarning, match=r"'0.*LSTM.*select="):
        od.overparameterize_(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        od.overparameterize_(nn.Sequential(nn.LSTM(3, 3), nn.Linear(3, 3)), select=lambda _, name: name == "1")


# --- copies, devices, dtypes -----------------------------------------------------------------------------------------


def test_copies_are_independent() -> None:
    model: Any = od.overparameterize_(network(), 3)
    x = random(2, 2, 4, 4, dtype=torch.float64)
    model.eval()
    expected, state = model(x), copy.deepcopy(model.state_dict())
    other = copy.deepcopy(model)
    assert_close(other(x), expected)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    od.collapse_(other)
    assert type(other[0]) is nn.Conv2d
    assert [name for name, _ in od.nn.named_factors(model)] == ["0.weight", "3.weight", "4.weight"]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(model(x), expected)


def test_copies_of_tied_weights_are_tied_among_themselves() -> None:
    model: Any = od.overparameterize_(Autoencoder())
    other = copy.deepcopy(model)
    assert other.down.parametrizations.weight is other.up.parametrizations.weight
    assert other.down.parametrizations.weight is not model.down.parametrizations.weight


@pytest.mark.parametrize("build", [network, Autoencoder, lambda: nn.MultiheadAttention(4, 2), lambda: nn.Linear(3, 2)])
def test_pickles_come_back(build: Any) -> None:
    model = od.overparameterize_(build(), 3)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)):  # noqa: S301
        assert [type(m) for m in other.modules()] == [type(m) for m in model.modules()]
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in other.state_dict().items())
        assert list(other.state_dict()) == list(model.state_dict())
        od.collapse_(other)
        assert [type(m) for m in other.modules()] == [type(m) for m in build().modules()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_models_move_to_other_dtypes(dtype: torch.dtype) -> None:
    model: Any = od.overparameterize_(nn.Sequential(nn.Linear(4, 3), nn.Conv1d(3, 4, 3)))
    factors = [p for p in model.parameters() if p.ndim > 1]
    values = [p.detach().clone() for p in factors]
    model.to(dtype)
    assert model[0].weight.dtype == model[1].weight.dtype == dtype
    assert all(torch.equal(p, v.to(dtype)) for p, v in zip(factors, values, strict=True))
    assert model[0](random(2, 4).to(dtype)).dtype == dtype
    od.collapse_(model)
    assert model[0].weight.dtype == dtype


def test_models_are_built_on_the_meta_device() -> None:
    trained = od.overparameterize_(network(), 3)
    with torch.device("meta"):
        empty: Any = od.overparameterize_(network(), 3)
    assert all(p.is_meta for p in empty.parameters())
    assert {k: v.shape for k, v in empty.state_dict().items()} == {k: v.shape for k, v in trained.state_dict().items()}
    assert empty(torch.zeros(2, 2, 4, 4, device="meta", dtype=torch.float64)).shape == (2, 2)
    assert od.collapse(empty)[0].state_dict().keys() == network().state_dict().keys()
    empty.to_empty(device="cpu").load_state_dict(trained.state_dict())
    x = random(2, 2, 4, 4, dtype=torch.float64)
    assert torch.equal(empty.eval()(x), trained.eval()(x))
