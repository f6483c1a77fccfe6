"""verify_collapse: finds a folded model that computes something else, and leaves no trace."""

from __future__ import annotations

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tests.reference import linear_algebra as ref
from torch import Tensor, nn

import overdepth as od
from overdepth.layouts import Layout, MatrixLayout

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(3))


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 4)).to(dtype)


def snapshot(model: nn.Module) -> list[object]:
    values = [(name, value.detach().numpy().tobytes()) for name, value in model.state_dict().items()]
    return [values, [(type(m), m.training) for m in model.modules()], [id(p) for p in model.parameters()]]


def corrupt(monkeypatch: pytest.MonkeyPatch, change: Callable[[Tensor], Tensor], shape: tuple[int, ...] = ()) -> None:
    """Makes folding wrong for weights of a shape (default: all)."""

    def folded(self: MatrixLayout, factors: Any) -> Tensor:
        weight = Layout.folded(self, factors)
        return change(weight) if shape in ((), self.weight_shape) else weight

    monkeypatch.setattr(MatrixLayout, "folded", folded)


def test_a_sound_model_passes_and_nothing_changes() -> None:
    model = od.overparameterize_(network(), 3)
    model.get_submodule("1").eval()  # modes that differ come back as they were
    before, random_state = snapshot(model), torch.get_rng_state()
    report = od.verify_collapse(model, X)
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [w.name for w in report.weights] == ["0.weight", "3.weight"]
    assert report.output_error is not None
    assert report.tolerance is not None
    assert 0 < report.output_error <= report.tolerance
    assert f"{report.output_error:.2e}" in str(report)


@pytest.mark.parametrize("factor", [1.01, 0.0, math.nan, math.inf])
def test_a_wrong_fold_is_an_error_and_nothing_changes(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model = od.overparameterize_(network())
    model.get_submodule("1").eval()
    before = snapshot(model)
    corrupt(monkeypatch, lambda weight: weight * factor, shape=(4, 8))
    with pytest.raises(od.CollapseError, match="tolerance") as caught:
        od.verify_collapse(model, X)
    assert snapshot(model) == before
    report = caught.value.report
    assert report.tolerance is not None
    assert report.output_error is not None
    assert report.output_error > report.tolerance
    assert [w.name for w in report.weights] == ["0.weight", "3.weight"]
    assert "3.weight" in str(report)
    monkeypatch.undo()
    od.verify_collapse(model, X)


def test_one_wrong_entry_of_one_weight_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(weight: Tensor) -> Tensor:
        weight = weight.clone()
        weight[2, 3] += 0.01
        return weight

    model = od.overparameterize_(network())
    corrupt(monkeypatch, change, shape=(8, 6))
    with pytest.raises(od.CollapseError):
        od.verify_collapse(model, X)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_figures_are_the_definition(dtype: torch.dtype) -> None:
    model = od.overparameterize_(network(dtype), 3)
    report = od.verify_collapse(model, X.to(dtype))
    plain, _ = od.collapse(model)
    with torch.no_grad():
        a, b = ref.as_array(model.eval()(X.to(dtype))), ref.as_array(plain.eval()(X.to(dtype)))
    assert report.output_error == pytest.approx(np.abs(a - b).max() / np.abs(a).max(), rel=1e-9)
    assert report.tolerance == pytest.approx(torch.finfo(dtype).eps ** 0.5)


def test_a_tolerance_can_be_given() -> None:
    model = od.overparameterize_(network(), 3)
    assert od.verify_collapse(model, X, tolerance=1e-3).tolerance == 1e-3
    with pytest.raises(od.CollapseError):
        od.verify_collapse(model, X, tolerance=0.0)


# --- outputs of every kind -------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


@dataclasses.dataclass
class Result:
    first: Tensor
    second: Tensor
    name: str = "result"


KINDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, [b]],
    "dict": lambda a, b: {"first": a, "second": {"inner": b}},
    "ordered": lambda a, b: OrderedDict(first=a, second=b),
    "named": Pair,
    "dataclass": Result,
    "tuple with a dataclass": lambda a, b: (a, Result(b, b)),
    "with others": lambda a, b: (None, a.argmax(), "text", a, 3, b),
}


class Heads(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.kind = nn.Linear(6, 3), nn.Linear(6, 4), kind

    def forward(self, x: Tensor, scale: float = 1.0) -> Any:
        return KINDS[self.kind](self.first(x) * scale, self.second(x) * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_of_an_output_is_compared(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = od.overparameterize_(Heads(kind), 3)
    error = od.verify_collapse(model, X).output_error
    assert error is not None
    assert error > 0
    for shape in ((3, 6), (4, 6)):
        corrupt(monkeypatch, lambda weight: 1.1 * weight, shape=shape)
        with pytest.raises(od.CollapseError):
            od.verify_collapse(model, X)
        monkeypatch.undo()


def test_keywords_reach_the_model() -> None:
    model = od.overparameterize_(Heads("tuple"), 3)
    seen = []
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True)
    od.verify_collapse(model, X, scale=3.0)
    assert seen == [{"scale": 3.0}] * 2  # the model and its folded copy


class Output(nn.Module):
    """A layer whose output is changed afterwards."""

    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.layer, self.change = nn.Linear(6, 3), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.layer(x))


def test_outputs_without_a_tensor_cannot_be_compared() -> None:
    for change in (lambda y: None, lambda y: y.argmax(-1), lambda y: "text"):
        with pytest.raises(ValueError, match="no floating-point tensor"):
            od.verify_collapse(od.overparameterize_(Output(change)), X)


def test_equal_infinities_agree_and_empty_outputs_pass() -> None:
    masked = od.overparameterize_(Output(lambda y: torch.where(torch.arange(3) == 1, -math.inf, y)))
    error = od.verify_collapse(masked, X).output_error
    assert error is not None
    assert error < 1e-5
    empty = od.overparameterize_(Output(lambda y: y[:0]))
    assert od.verify_collapse(empty, X).output_error == 0


def test_a_model_that_draws_numbers_is_compared_on_the_same_ones() -> None:
    model = od.overparameterize_(Output(lambda y: y + torch.rand(3)))
    error = od.verify_collapse(model, X).output_error
    assert error is not None
    assert error < 1e-5
    state = torch.get_rng_state()
    od.verify_collapse(model, X)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_without_factors_is_refused() -> None:
    with pytest.raises(ValueError, match="no factors"):
        od.verify_collapse(network(), X)


def test_outputs_that_are_no_numbers_verify_nothing() -> None:
    layer = od.overparameterize_(nn.Linear(6, 3), depth=2)
    with pytest.raises(ValueError, match="NaN throughout, so there is nothing to compare; give other inputs"):
        od.verify_collapse(layer, torch.full((2, 6), float("nan")))
