"""Folding: what comes back is the model that was there."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od

EVERYTHING = lambda module, name: True  # noqa: E731


class Tied(nn.Module):
    """Two layers that share their weight, as language models do, with the decoder first."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Linear(6, 9)
        self.encoder = nn.Embedding(9, 6)
        self.decoder.weight = self.encoder.weight

    def forward(self, indices: Tensor) -> Tensor:
        result: Tensor = self.decoder(self.encoder(indices))
        return result


class Mixed(nn.Module):
    """A parameter and a buffer of its own before and after the layers, and one layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(5))
        self.first = nn.Linear(4, 5)
        self.norm = nn.LayerNorm(5)
        self.register_buffer("steps", torch.zeros(()))
        self.again = nn.ModuleList([self.first, nn.Linear(5, 4, bias=False)])

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.again[1](self.norm(self.first(x)) * self.gain)
        return result


MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(6, 4),
    "mixed": Mixed,
    "tied": Tied,
    "embedding": lambda: nn.Sequential(nn.Embedding(9, 6, padding_idx=2), nn.Linear(6, 3)),
    "convolutions": lambda: nn.Sequential(
        nn.Conv1d(4, 6, 3, groups=2), nn.Conv2d(4, 4, 3, groups=4), nn.Conv3d(2, 3, 2), nn.ConvTranspose2d(4, 6, 3)
    ),
    "attention": lambda: nn.MultiheadAttention(8, 2),
    "attention with other keys": lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4, bias=False),
    "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16),
}


def fingerprint(model: nn.Module) -> list[object]:
    """Everything that folding has to bring back, except the values."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [
        list(model.state_dict()),
        [(name, type(m), list(m.__dict__), m.training) for name, m in model.named_modules(remove_duplicate=False)],
        [(name, list(m._parameters), list(m._buffers), list(m._modules)) for name, m in model.named_modules()],
        [(name, p.shape, p.stride(), p.dtype, p.requires_grad, type(p)) for name, p in model.named_parameters()],
        [names[id(p)] for p in model.parameters()],
        str(model),
    ]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_the_model_that_was_there_comes_back(name: str, depth: int) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    before, values = fingerprint(model), state(model)
    od.overparameterize_(model, depth, select=EVERYTHING if name in ("tied", "embedding") else None)
    assert any("parametrizations" in key for key in model.state_dict())
    od.collapse_(model)
    assert fingerprint(model) == before
    for key, value in model.state_dict().items():
        largest = float(values[key].abs().max())
        torch.testing.assert_close(value, values[key], rtol=0, atol=2e-6 * max(largest, 1e-30), msg=key)


def test_a_second_call_does_nothing() -> None:
    model = od.overparameterize_(Mixed(), 3)
    assert len(od.collapse_(model).weights) == 2
    parameters = [id(p) for p in model.parameters()]
    values = state(model)
    report = od.collapse_(model)
    assert report == od.CollapseReport()
    assert "nothing to fold" in str(report)
    assert [id(p) for p in model.parameters()] == parameters
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())


def test_a_plain_model_is_left_alone() -> None:
    model = Mixed()
    before, values = fingerprint(model), state(model)
    assert od.collapse_(model).weights == ()
    assert fingerprint(model) == before
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())


def test_eval_never_folds() -> None:
    model = od.overparameterize_(Mixed())
    keys = list(model.state_dict())
    model.eval()
    model(torch.ones(2, 4))
    model.train()
    assert list(model.state_dict()) == keys


def test_a_part_is_folded_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    od.overparameterize_(model)
    report = od.collapse_(model[0])
    assert [w.name for w in report.weights] == ["weight"]
    assert type(model[0]) is nn.Linear
    assert list(model.state_dict())[:2] == ["0.weight", "0.bias"]
    assert "1.parametrizations.weight.factor0" in model.state_dict()


def test_tied_weights_stay_tied_and_count_once() -> None:
    model = Tied()
    od.overparameterize_(model, 2, select=EVERYTHING)
    assert len(list(model.parameters())) == 3  # two factors and the bias
    report = od.collapse_(model)
    assert model.decoder.weight is model.encoder.weight
    assert [w.name for w in report.weights] == ["decoder.weight"]
    assert report.parameters_saved == (6 * 6 + 9 * 6) - 9 * 6
    assert len(list(model.parameters())) == 2


def test_two_weights_tied_across_kinds_train_together_after_folding() -> None:
    model = Tied()
    od.overparameterize_(model, 3, select=EVERYTHING)
    od.collapse_(model)
    model(torch.tensor([1, 3])).square().sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(0.1 * parameter.grad)
    assert torch.equal(model.decoder.weight, model.encoder.weight)


def test_the_copy_is_folded_and_the_model_stays() -> None:
    model = od.overparameterize_(Mixed(), 3)
    before, values = fingerprint(model), state(model)
    plain, report = od.collapse(model)
    assert fingerprint(plain) == fingerprint(Mixed())
    assert fingerprint(model) == before
    assert all(torch.equal(value, values[key]) for key, value in model.state_dict().items())
    assert [w.name for w in report.weights] == ["first.weight", "again.1.weight"]
    memory = {p.data_ptr() for p in model.parameters()}
    assert memory.isdisjoint(p.data_ptr() for p in plain.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_and_what_is_frozen_are_kept(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).to(dtype)
    od.overparameterize_(model)
    model[0].requires_grad_(requires_grad=False)
    od.collapse_(model)
    assert all(p.dtype == dtype for p in model.parameters())
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    assert all(p.is_leaf and p.grad is None for p in model.parameters())


def test_an_over_parameterized_model_that_changed_its_dtype_folds_in_the_new_one() -> None:
    model = od.overparameterize_(nn.Linear(4, 5)).double()
    report = od.collapse_(model)
    assert model.weight.dtype == torch.float64
    assert report.weights[0].dtype == torch.float64


def test_an_optimizer_that_is_none_is_a_type_error_and_nothing_changes() -> None:
    model = od.overparameterize_(nn.Linear(4, 5))
    before = fingerprint(model)
    with pytest.raises(TypeError, match="optimizer"):
        od.collapse_(model, optimizer=[torch.ones(1)])  # type: ignore[list-item]
    assert fingerprint(model) == before


def test_a_model_on_the_meta_device_folds_without_figures() -> None:
    with torch.device("meta"):
        model = Mixed()
    before = fingerprint(model)
    od.overparameterize_(model, 3)
    report = od.collapse_(model)
    assert fingerprint(model) == before
    assert all(p.is_meta for p in model.parameters())
    assert all(math.isnan(w.max_abs_error) for w in report.weights)
    assert report.parameters_saved > 0


def test_folding_and_unfolding_again_is_possible() -> None:
    model = Mixed()
    before = fingerprint(model)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    for depth in (2, 3, 2):
        od.overparameterize_(model, depth)
        od.collapse_(model)
    assert fingerprint(model) == before
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-5)


def test_other_attributes_and_a_deep_copy_made_before_are_untouched() -> None:
    model: Any = od.overparameterize_(nn.Linear(4, 5))
    model.note = "kept"
    kept = copy.deepcopy(model)
    od.collapse_(model)
    assert model.note == "kept"
    assert type(kept) is not nn.Linear
    assert isinstance(kept.parametrizations.weight, od.nn.Factors)
    torch.testing.assert_close(kept.weight, model.weight, rtol=0, atol=1e-6)
    od.collapse_(kept)
    assert torch.equal(kept.weight, model.weight)
