"""state_dicts both ways, through files too, and the messages where a conversion is missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import overdepth as od
from overdepth.nn import factored_state_dict, plain_state_dict


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6)
        self.hidden = nn.Linear(6, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, indices: Tensor) -> Tensor:
        result: Tensor = self.head(torch.tanh(self.hidden(self.table(indices))))
        return result


class Shared(nn.Module):
    """One layer under two names, which a state_dict lists twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.layers = nn.ModuleList([self.first, nn.Linear(6, 4)])

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers[1](self.first(x))
        return result


def everything(module: nn.Module, name: str) -> bool:
    return True


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(4, 6, 5, groups=2), nn.BatchNorm1d(6), nn.Conv1d(6, 8, 3), nn.ConvTranspose1d(8, 4, 3, groups=2)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "linear": (lambda: nn.Linear(6, 4), everything),
    "deep": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 7)), lambda m, n: {"depth": 4 if n == "0" else 2}),
    "kernel first": (convolutions, None),
    "kernel between": (
        convolutions, lambda m, n: {"factorization": "kernel_between", "depth": 3} if n in ("0", "2") else True,
    ),
    "wider": (convolutions, lambda m, n: {"width": 20, "depth": 3}),
    "attention": (lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4), None),
    "packed attention": (lambda: nn.MultiheadAttention(8, 2), None),
    "tied": (Tied, everything),
    "shared": (Shared, None),
    "data parallel": (lambda: nn.DataParallel(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 7))), None),
}  # fmt: skip


def make(name: str, seed: int, *, factored: bool = False, init: Any = "balanced") -> nn.Module:
    torch.manual_seed(seed)
    build, select = MODELS[name]
    model = build()
    return od.overparameterize_(model, select=select, init=init) if factored else model


def same(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 0.0) -> None:
    """Equal keys in equal order, equal values."""
    assert list(a) == list(b)
    for key, value in a.items():
        torch.testing.assert_close(value, b[key], rtol=0, atol=atol, msg=key)


@pytest.mark.parametrize("init", ["balanced", "identity"])
@pytest.mark.parametrize("name", MODELS)
def test_a_plain_checkpoint_goes_in_and_comes_out(name: str, init: Any) -> None:
    plain, model = make(name, 0), make(name, 1, factored=True, init=init)
    assert list(plain.state_dict()) != list(model.state_dict())
    converted = factored_state_dict(plain.state_dict(), model)
    assert set(converted) == set(model.state_dict())
    model.load_state_dict(converted)
    back = plain_state_dict(model.state_dict(), model)
    same(back, plain.state_dict(), atol=2e-6)
    od.collapse_(model)
    same(back, model.state_dict())  # exactly what folding gives


@pytest.mark.parametrize("name", MODELS)
def test_the_plain_model_knows_enough_to_convert_to_it(name: str) -> None:
    model = make(name, 1, factored=True)
    same(plain_state_dict(model.state_dict(), make(name, 2)), plain_state_dict(model.state_dict(), model))
    fresh = make(name, 3)
    fresh.load_state_dict(plain_state_dict(model.state_dict(), fresh))
    od.collapse_(model)
    same(fresh.state_dict(), model.state_dict())


@pytest.mark.parametrize("layer", [nn.Conv1d, nn.Conv2d])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("width", [None, 5])
def test_composed_kernels_come_out_and_do_not_go_in(layer: Any, groups: int, width: int | None) -> None:
    plain = layer(4, 6, 5, groups=groups)
    model = od.overparameterize_(layer(4, 6, 5, groups=groups), width=width, init="near_zero", factorization="composed")
    state = model.state_dict()
    for knows in (model, plain):
        plain.load_state_dict(plain_state_dict(state, knows))
        assert isinstance(model.weight, Tensor)
        torch.testing.assert_close(plain.weight, model.weight, rtol=0, atol=1e-6 * float(model.weight.detach().max()))
    with pytest.raises(ValueError, match=r"'weight'.*smaller kernels"):
        factored_state_dict(plain.state_dict(), model)


def test_the_balanced_split_is_that_of_the_call_and_init_can_be_asked_for() -> None:
    plain = nn.Linear(6, 4)
    for init in ("balanced", "identity"):
        model = od.overparameterize_(nn.Linear(6, 4), 3, init=init)
        expected = nn.Linear(6, 4)
        expected.load_state_dict(plain.state_dict())
        od.overparameterize_(expected, 3, init=init)
        converted, state = factored_state_dict(plain.state_dict(), model), expected.state_dict()
        assert set(converted) == set(state)
        same({key: converted[key] for key in state}, dict(state))
    drawn = od.overparameterize_(nn.Linear(6, 4), 3, init="near_zero")
    balanced = factored_state_dict(plain.state_dict(), drawn)
    same(balanced, factored_state_dict(plain.state_dict(), model, init="balanced"))
    same(
        factored_state_dict(plain.state_dict(), drawn, init="identity"), factored_state_dict(plain.state_dict(), model)
    )


def test_the_keys_are_the_documented_ones() -> None:
    model = od.overparameterize_(nn.Sequential(nn.Linear(6, 4), nn.MultiheadAttention(4, 2)), 3)
    expected = {"0.bias", "1.in_proj_bias", "1.out_proj.bias"}
    for weight in ("0.parametrizations.weight", "1.parametrizations.in_proj_weight",
                   "1.out_proj.parametrizations.weight"):  # fmt: skip
        expected |= {f"{weight}.factor{j}" for j in range(3)}
    assert set(model.state_dict()) == expected
    assert [tuple(model.state_dict()[f"0.parametrizations.weight.factor{j}"].shape) for j in range(3)] == [
        (4, 6), (4, 4), (4, 4),
    ]  # fmt: skip


def test_parts_and_other_keys_are_passed_on() -> None:
    model = od.overparameterize_(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 7)))
    part = {"epoch": torch.tensor(3), "1.weight": torch.ones(7, 4)}
    converted = factored_state_dict(part, model)
    assert list(converted) == ["epoch", "1.parametrizations.weight.factor0", "1.parametrizations.weight.factor1"]
    assert converted["epoch"] is part["epoch"]
    back = plain_state_dict(converted, model)
    assert set(back) == {"epoch", "1.weight"}
    torch.testing.assert_close(back["1.weight"], part["1.weight"], rtol=0, atol=1e-6)
    assert list(factored_state_dict(model.state_dict(), model)) == list(model.state_dict())


def test_the_sources_are_not_touched_and_share_no_memory() -> None:
    plain, model = nn.Linear(6, 4), od.overparameterize_(nn.Linear(6, 4), init="identity")
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    converted = factored_state_dict(plain.state_dict(), model)
    back = plain_state_dict(model.state_dict(), model)
    for name in ("parametrizations.weight.factor0", "parametrizations.weight.factor1"):
        converted[name].zero_()
    back["weight"].zero_()
    same(dict(plain.state_dict()), before)
    assert model.weight.abs().min() > 0  # type: ignore[operator]
    assert not any(value.requires_grad for value in [*converted.values(), *back.values()])


def test_tied_weights_stay_tied_in_both_directions() -> None:
    plain, model = make("tied", 0), make("tied", 1, factored=True)
    converted = factored_state_dict(plain.state_dict(), model)
    for j in range(2):
        one, other = (converted[f"{name}.parametrizations.weight.factor{j}"] for name in ("table", "head"))
        assert one.data_ptr() == other.data_ptr()
    back = plain_state_dict(converted, model)
    assert back["table.weight"].data_ptr() == back["head.weight"].data_ptr()


def test_an_embeddings_padding_row_is_zero_exactly() -> None:
    plain = nn.Embedding(90, 60, padding_idx=2)
    model = od.overparameterize_(nn.Embedding(90, 60, padding_idx=2), 3, select=everything)
    assert not model(torch.tensor(2)).any()
    model.load_state_dict(factored_state_dict(plain.state_dict(), model))
    assert not model(torch.tensor(2)).any()


# --- the meta device -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_made_on_the_meta_device_is_filled_from_a_plain_checkpoint(name: str, assign: bool) -> None:
    plain = make(name, 0)
    with torch.device("meta"):
        model = make(name, 1, factored=True)
    assert all(p.is_meta for p in model.parameters())
    converted = factored_state_dict(plain.state_dict(), model)
    assert not any(value.is_meta for value in converted.values())
    if not assign:
        model.to_empty(device="cpu")
    model.load_state_dict(converted, assign=assign)
    assert len(list(model.parameters())) == len(list(make(name, 0, factored=True).parameters()))  # ties are kept
    od.collapse_(model)
    same(dict(model.state_dict()), dict(plain.state_dict()), atol=2e-6)


def test_two_state_dicts_on_the_meta_device_have_the_right_shapes() -> None:
    with torch.device("meta"):
        plain, model = make("kernel between", 0), make("kernel between", 1, factored=True)
        back = plain_state_dict(model.state_dict(), plain)
    expected = {key: (value.shape, True) for key, value in plain.state_dict().items()}
    assert {key: (value.shape, value.is_meta) for key, value in back.items()} == expected


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("tied", "shared")])
def test_safetensors_take_both_forms(name: str, tmp_path: Path) -> None:
    model, other = make(name, 0, factored=True), make(name, 1, factored=True)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "factored.safetensors")
    other.load_state_dict(safetensors.torch.load_file(tmp_path / "factored.safetensors"))
    same(dict(other.state_dict()), dict(model.state_dict()))
    safetensors.torch.save_file(plain_state_dict(model.state_dict(), model), tmp_path / "plain.safetensors")
    plain = make(name, 2)
    plain.load_state_dict(safetensors.torch.load_file(tmp_path / "plain.safetensors"))
    od.collapse_(model)
    same(dict(plain.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("name", ["tied", "shared"])
def test_safetensors_take_a_tied_model(name: str, tmp_path: Path) -> None:
    model, other = make(name, 0, factored=True), make(name, 1, factored=True)
    safetensors.torch.save_model(model, str(tmp_path / "model.safetensors"))
    safetensors.torch.load_model(other, tmp_path / "model.safetensors")
    same(dict(other.state_dict()), dict(model.state_dict()))


@pytest.mark.parametrize("name", MODELS)
def test_torch_files_load_with_weights_only(name: str, tmp_path: Path) -> None:
    model, other = make(name, 0, factored=True), make(name, 1, factored=True)
    torch.save(model.state_dict(), tmp_path / "factored.pt")
    other.load_state_dict(torch.load(tmp_path / "factored.pt", weights_only=True))
    same(dict(other.state_dict()), dict(model.state_dict()))
    torch.save(plain_state_dict(model.state_dict(), model), tmp_path / "plain.pt")
    od.collapse_(model)
    same(torch.load(tmp_path / "plain.pt", weights_only=True), dict(model.state_dict()))


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
def test_loading_a_plain_checkpoint_says_which_conversion_is_missing(strict: bool) -> None:
    plain, model = make("kernel first", 0), make("kernel first", 1, factored=True)
    with pytest.raises(RuntimeError, match=r"overdepth\.nn\.factored_state_dict") as caught:
        model.load_state_dict(plain.state_dict(), strict=strict)
    assert all(f"'{name}.weight' is a plain weight" in str(caught.value) for name in "023")
    assert "'1.weight'" not in str(caught.value)  # a batch norm's, which is plain on both sides


def refused(convert: Callable[[], object], *parts: str) -> None:
    with pytest.raises(ValueError, match=".*".join(re.escape(part) for part in parts)):
        convert()


def test_errors_name_the_key_and_what_came() -> None:
    model = od.overparameterize_(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 7)))
    plain = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 7))
    state = model.state_dict()
    refused(lambda: factored_state_dict({"1.weight": torch.ones(4, 7)}, model), "'1.weight'", "(4, 7)", "(7, 4)")
    refused(lambda: factored_state_dict({"1.weight": torch.full((7, 4), torch.nan)}, model), "'1.weight'", "finite")
    refused(lambda: factored_state_dict(plain.state_dict(), plain), "Sequential has no factors", "overparameterize_")
    refused(lambda: factored_state_dict(state, model, init="orthogonal"), "init is 'orthogonal'", "'balanced'")
    refused(lambda: plain_state_dict({"2.parametrizations.weight.factor0": torch.ones(2, 2)}, nn.Sequential()), "'2")
    missing = {key: value for key, value in state.items() if key != "1.parametrizations.weight.factor1"}
    wrong = {**state, "0.parametrizations.weight.factor1": torch.ones(4, 5)}
    for convert in (partial(plain_state_dict, module=model), partial(plain_state_dict, module=plain)):
        refused(partial(convert, missing), "'1.weight'", "(4, 4)")
        refused(partial(convert, wrong), "'0.weight'", "(4, 5)")
    elsewhere = {f"elsewhere.{key}": value for key, value in od.overparameterize_(nn.Linear(6, 4)).state_dict().items()}
    refused(lambda: plain_state_dict(elsewhere, nn.Linear(6, 4)), "'elsewhere.weight'", "does not hold")
    narrow = od.overparameterize_(nn.Linear(6, 4), width=2, allow_rank_loss=True)
    refused(lambda: factored_state_dict(nn.Linear(6, 4).state_dict(), narrow), "'weight'", "width")
