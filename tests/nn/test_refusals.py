"""Bad input: one exception at the call, by the layer's name, and the model exactly as it was."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.nn.agreement import everything
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import overdepth as od


class Holder(nn.Module):
    """Holds any weight."""

    def __init__(self, weight: Tensor, *, buffer: bool = False) -> None:
        super().__init__()
        if buffer:
            self.register_buffer("weight", weight)
        else:
            self.weight = nn.Parameter(weight, requires_grad=weight.is_floating_point())


class Tagged(nn.Parameter):
    """A Parameter of another kind."""


def frozen() -> nn.Module:
    return nn.Linear(3, 3).requires_grad_(False)


def holding(value: float) -> nn.Module:
    layer = nn.Conv1d(3, 3, 2)
    with torch.no_grad():
        layer.weight[1, 2, 0] = value
    return layer


def tagged() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.weight = Tagged(torch.randn(3, 3))
    return layer


def quantized() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations of torch's own
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(3, 3)), {nn.Linear})[0]  # type: ignore[no-any-return, no-untyped-call]


def scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.Linear(3, 3))


def pruned() -> nn.Module:
    layer = nn.Linear(3, 3)
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    return layer


def weighted_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(3, 3))


def sparse_rows() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is in beta
        return Holder(torch.eye(3).to_sparse_csr())


def tied_to_a_sparse_embedding() -> nn.Module:
    embedding, head = nn.Embedding(3, 3, sparse=True), nn.Linear(3, 3)
    head.weight = embedding.weight
    return nn.Sequential(head, embedding)


BAD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "frozen": (frozen, "frozen"),
    "nan": (lambda: holding(math.nan), "non-finite"),
    "inf": (lambda: holding(-math.inf), "non-finite"),
    "LSTM": (lambda: nn.LSTM(3, 3), "LSTM.*fused"),
    "GRU": (lambda: nn.GRU(3, 3, num_layers=2, bidirectional=True), "GRU.*fused"),
    "RNN": (lambda: nn.RNN(3, 3), "RNN"),
    "RNNCell": (lambda: nn.RNNCell(3, 3), "RNNCell"),
    "LSTMCell": (lambda: nn.LSTMCell(3, 3), "LSTMCell"),
    "GRUCell": (lambda: nn.GRUCell(3, 3), "GRUCell"),
    "Bilinear": (lambda: nn.Bilinear(3, 3, 3), "bilinear"),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(3, 3)), "parametrization"),
    "spectral_norm": (lambda: parametrizations.spectral_norm(nn.Linear(3, 3)), "parametrization"),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(3, 3)), "parametrization"),
    "weight_norm of old": (weighted_norm, "no Parameter"),
    "pruned": (pruned, "no Parameter"),
    "lazy linear": (lambda: nn.LazyLinear(3), "lazy"),
    "lazy convolution": (lambda: nn.LazyConv2d(3, 2), "lazy"),
    "sparse": (lambda: Holder(torch.eye(3).to_sparse()), "sparse"),
    "sparse rows": (sparse_rows, "sparse"),
    "integers": (lambda: Holder(torch.ones(3, 3, dtype=torch.int32)), "int32"),
    "complex": (lambda: Holder(torch.ones(3, 3, dtype=torch.complex64)), "complex64"),
    "float8": (lambda: Holder(torch.ones(3, 3).to(torch.float8_e4m3fn)), "float8"),
    "empty": (lambda: Holder(torch.ones(0, 3)), r"\(0, 3\)"),
    "cube": (lambda: Holder(torch.ones(3, 3, 3)), "3 axes"),
    "buffer": (lambda: Holder(torch.ones(3, 3), buffer=True), "no Parameter"),
    "subclass": (tagged, "Tagged"),
    "quantized": (quantized, "quantized"),
    "scripted": (scripted, "scripted"),
    "max_norm": (lambda: nn.Embedding(3, 3, max_norm=1.0), "max_norm"),
    "max_norm of a bag": (lambda: nn.EmbeddingBag(3, 3, max_norm=1.0), "max_norm"),
    "sparse gradients": (lambda: nn.Embedding(3, 3, sparse=True), "sparse=True"),
    "sparse gradients of a bag": (lambda: nn.EmbeddingBag(3, 3, sparse=True), "sparse=True"),
    "tied to sparse gradients": (tied_to_a_sparse_embedding, "sparse=True"),
    "second call": (lambda: od.overparameterize_(nn.Linear(3, 3)), r"already.*collapse_"),
    "second call, attention": (lambda: od.overparameterize_(nn.MultiheadAttention(4, 2)), r"already.*collapse_"),
    "second call, matrix": (lambda: od.overparameterize_(Holder(torch.randn(3, 3))), r"already.*collapse_"),
}
DEFAULT = ["frozen", "nan", "inf", "weight_norm", "lazy linear", "lazy convolution", "sparse", "second call"]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything by identity, and values by copy."""
    seen: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        seen[f"{name} class"] = (type(module), id(module), module.training)
        if isinstance(module, torch.jit.ScriptModule):
            continue
        seen[f"{name} attributes"] = sorted(vars(module))
        for store in (module._parameters, module._buffers):
            for key, tensor in store.items():
                seen[f"{name} {key}"] = id(tensor)
                if tensor is None or isinstance(tensor, nn.parameter.UninitializedParameter):
                    continue
                plain = tensor.detach().to_dense() if tensor.layout != torch.strided else tensor.detach()
                seen[f"{name} {key} value"] = plain.to(torch.complex128).nan_to_num(123.0).flatten().tolist()
                seen[f"{name} {key} gradient"] = (tensor.requires_grad, tensor.grad is None)
    return seen


def check_refused(model: nn.Module, match: str, error: type[Exception] = ValueError, **options: Any) -> str:
    """The call is refused with this message, and the model is as it was."""
    before = snapshot(model)
    with pytest.raises(error, match=match) as caught:
        od.overparameterize_(model, **options)
    assert snapshot(model) == before
    return str(caught.value)


# --- weights that cannot be factored ---------------------------------------------------------------------------------


@pytest.mark.parametrize("case", BAD)
def test_a_chosen_layer_that_cannot_be_factored_is_refused(case: str) -> None:
    build, reason = BAD[case]
    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.ReLU(), build()), nn.Linear(3, 3))
    message = check_refused(model, reason, select=everything)
    assert "'1.1." in message
    with pytest.raises(ValueError, match=re.escape("'1.1.")):
        od.nn.plan(model, select=everything)


@pytest.mark.parametrize("case", DEFAULT)
def test_so_are_layers_of_the_default_choice(case: str) -> None:
    build, reason = BAD[case]
    model = nn.ModuleDict({"good": nn.Linear(3, 3), "bad": build()})
    assert "'bad.weight'" in check_refused(model, reason)
    od.overparameterize_(model, select=lambda _, name: name == "good")
    assert [name for name, _ in od.nn.named_factors(model["good"])] == ["weight"]


@pytest.mark.parametrize("case", ["LSTM", "GRU", "RNNCell", "Bilinear", "quantized", "cube"])
def test_a_model_of_nothing_else_is_refused_by_default(case: str) -> None:
    build, reason = BAD[case]
    assert "'0." in check_refused(nn.Sequential(build()), reason)


def test_a_layer_by_itself_is_named_by_its_weight() -> None:
    assert "'weight'" in check_refused(frozen(), "frozen")


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0, -1, 0.5, 2.5, 2.0, True, "2", None, math.nan, math.inf, [2]])
def test_depths_are_integers_from_one_on(depth: Any) -> None:
    check_refused(nn.Sequential(nn.Linear(3, 3)), "depth", depth=depth)
    message = check_refused(nn.Sequential(nn.Linear(3, 3)), "depth", select=lambda *_: {"depth": depth})
    assert "'0" in message


@pytest.mark.parametrize("width", [0, -1, 3.0, True, "3", math.nan])
def test_widths_are_integers_from_one_on(width: Any) -> None:
    check_refused(nn.Sequential(nn.Linear(3, 3)), "width", width=width)
    message = check_refused(nn.Sequential(nn.Linear(3, 3)), "width", select=lambda *_: {"width": width})
    assert "'0" in message


@pytest.mark.parametrize("init", ["balanced", "identity", "near_zero", "orthogonal"])
@pytest.mark.parametrize("depth", [2, 3])
def test_a_width_that_loses_rank_is_refused(depth: int, init: Any) -> None:
    for layer, needed in (
        (nn.Linear(5, 4), 4),
        (nn.Conv2d(3, 8, 3), 8),
        (nn.Conv1d(8, 8, 3, groups=2), 4),
        (nn.ConvTranspose1d(5, 2, 3), 5),
        (nn.MultiheadAttention(6, 2), 6),
        (nn.Embedding(9, 4), 4),
    ):
        model = nn.ModuleDict({"good": nn.Linear(3, 3), "narrow": layer})
        message = check_refused(
            model, rf"is 3, below {needed}.*allow_rank_loss=True", depth=depth, width=3, init=init, select=everything
        )
        assert "'narrow." in message


def test_rank_loss_is_allowed_on_request() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(5, 4).double()
    u, s, vh = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    over: Any = od.overparameterize_(layer, 3, width=2, allow_rank_loss=True)
    torch.testing.assert_close(over.weight.detach(), (u[:, :2] * s[:2]) @ vh[:2], rtol=0, atol=1e-12)
    drawn: Any = od.overparameterize_(nn.Linear(5, 4), width=1, allow_rank_loss=True, init="orthogonal")
    assert [tuple(p.shape) for p in drawn.parameters()] == [(4,), (1, 5), (4, 1)]
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(5, 4))
    message = check_refused(model, "width is 3", width=3, allow_rank_loss=True, init="identity")
    assert "'1.weight'" in message


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"init": "xavier"}, "init is 'xavier', expected one of"),
        ({"execution": "fast"}, "execution is 'fast', expected one of"),
        ({"factorization": "tucker"}, "factorization is 'tucker', expected one of"),
        ({"scale": 0.0}, "scale"),
        ({"scale": -1.0}, "scale"),
        ({"scale": math.nan}, "scale"),
        ({"scale": "large"}, "scale.*match"),
        ({"factorization": "kernel_between"}, "'0.weight'.*depth >= 3"),
        ({"factorization": "composed"}, "'0.weight'.*from scratch"),
        ({"factorization": "kernel_between", "depth": 3, "width": 3}, "'0.weight'.*below 4"),
    ],
)
def test_words_and_numbers_are_checked(options: dict[str, Any], match: str) -> None:
    check_refused(nn.Sequential(nn.Conv1d(2, 4, 3), nn.Linear(3, 3)), match, **options)


@pytest.mark.parametrize("module", [None, torch.zeros(3, 3), [nn.Linear(3, 3)], nn.Linear])
def test_only_modules_are_taken(module: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        od.overparameterize_(module)


# --- nothing to factor, and all or nothing ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "build",
    [
        nn.ReLU,
        nn.Sequential,
        lambda: nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3)),
        lambda: nn.Sequential(nn.Embedding(3, 3)),
    ],
)
def test_a_model_with_nothing_to_factor_is_refused(build: Callable[[], nn.Module]) -> None:
    model = build()
    message = check_refused(model, "nothing to over-parameterize in")
    assert type(model).__name__ in message
    assert "'0.weight'" in message or not isinstance(model, nn.Sequential) or not any(
        isinstance(m, nn.Embedding) for m in model
    )  # fmt: skip


def test_choosing_nothing_is_refused() -> None:
    check_refused(nn.Sequential(nn.Linear(3, 3)), "nothing to over-parameterize.*'0.weight'", select=lambda *_: False)


def test_a_second_call_on_a_model_is_refused() -> None:
    model = od.overparameterize_(nn.Sequential(nn.Linear(3, 3), nn.MultiheadAttention(4, 2)))
    check_refused(model, "'0.weight'.*already")


def test_a_start_that_fails_late_leaves_the_first_layers_alone() -> None:
    """Of a zero weight no norm can be matched."""
    last = nn.Linear(3, 3)
    nn.init.zeros_(last.weight)
    model = nn.Sequential(nn.Linear(3, 3), last)
    check_refused(model, "'1.weight'.*norm", init="orthogonal", scale="match")


def test_a_warning_that_is_an_error_changes_nothing() -> None:
    last = nn.Linear(3, 3)
    nn.init.zeros_(last.weight)
    model = nn.Sequential(nn.Linear(3, 3), last)
    check_refused(model, "'1.weight'.*zero", UserWarning)


def test_an_optimizer_is_left_alone_too() -> None:
    model = nn.Sequential(nn.Linear(3, 3), frozen())
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1, momentum=0.9)
    model(torch.ones(3)).sum().backward()
    optimizer.step()
    ids = [id(p) for p in optimizer.param_groups[0]["params"]]
    check_refused(model, "'1.weight'.*frozen", optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == ids
    assert [id(p) for p in optimizer.state] == ids
