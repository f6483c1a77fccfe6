"""Corners at which a second reading found the library wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od
from overdepth.layouts import MatrixLayout, Start, find_layout


def everything(module: nn.Module, name: str) -> bool:
    return True


@pytest.mark.parametrize(("mine", "theirs"), [(3, 2), (2, 3)])
def test_a_checkpoint_of_another_depth_is_refused(mine: int, theirs: int) -> None:
    state = od.overparameterize_(nn.Linear(8, 8), mine).state_dict()
    with pytest.raises(ValueError, match="'weight' should come as factors"):
        od.nn.plain_state_dict(state, od.overparameterize_(nn.Linear(8, 8), theirs))


def test_a_checkpoint_with_another_prefix_is_refused() -> None:
    model = od.overparameterize_(nn.Sequential(nn.Linear(4, 4)))
    state = {f"module.{key}": value for key, value in nn.Sequential(nn.Linear(4, 4)).state_dict().items()}
    with pytest.raises(ValueError, match=r"none of the model's weights \(0.weight, ...\), but module.0.weight"):
        od.nn.factored_state_dict(state, model)


def test_a_checkpoint_of_low_precision_loses_no_digit() -> None:
    model, plain = od.overparameterize_(nn.Linear(32, 16)), nn.Linear(32, 16).half()
    state = od.nn.factored_state_dict(plain.state_dict(), model)
    assert state["parametrizations.weight.factor0"].dtype == torch.float32
    torch.testing.assert_close(od.nn.plain_state_dict(state, model)["weight"], plain.weight.float(), rtol=0, atol=1e-7)


def test_a_padding_row_of_a_checkpoint_stays_zero() -> None:
    model, plain = od.overparameterize_(nn.Embedding(5, 8, padding_idx=2), select=everything), nn.Embedding(5, 8, 2)
    model.load_state_dict(od.nn.factored_state_dict(plain.state_dict(), model))
    assert not bool(model(torch.tensor([2])).any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_not_taken_for_low_rank(dtype: torch.dtype) -> None:
    weight = torch.randn(256, 256).to(dtype)
    with pytest.raises(ValueError, match="below the rank"):
        od.balanced_factors(weight, 2, width=1)


def test_a_small_singular_value_of_float64_is_not_lost(recwarn: pytest.WarningsRecorder) -> None:
    layer = nn.Linear(4, 4).double()
    layer.weight.data = torch.diag(torch.tensor([1.0, 1.0, 1.0, 1e-8], dtype=torch.float64))
    od.overparameterize_(layer)
    assert not recwarn.list


class Reads(nn.Module):
    """Uses the convolution's weight once more."""

    def __init__(self) -> None:
        super().__init__()
        self.c = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.c(x)) * self.c.weight.sum()
        return result


@pytest.mark.parametrize("what", ["hook", "read", "factored read"])
def test_a_batch_norm_is_not_folded_past_what_is_not_seen(what: str) -> None:
    model: Any = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)) if what == "hook" else Reads()
    x = torch.randn(4, 2, 6, 6)
    model(x)
    model.eval()
    if what == "hook":
        model[0].register_forward_hook(lambda module, args, output: output.relu())
    if what.startswith("factored"):
        od.overparameterize_(model)
    expected = model(x)
    try:
        assert od.collapse_(model, fold_batchnorm=True).batchnorms == ()
    except ValueError as error:
        assert "cannot trace" in str(error)  # noqa: PT017 - a refusal is as good
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factorization", ["kernel_between", "composed"])
def test_a_transposed_convolution_tied_to_a_convolution_reads_its_weight(factorization: Any) -> None:
    model: Any = nn.ModuleDict(
        {"c": nn.Conv1d(4, 4, 3, padding=1, bias=False), "t": nn.ConvTranspose1d(4, 4, 3, padding=1, bias=False)}
    )
    model["t"].weight = model["c"].weight
    init: Any = "identity" if factorization == "kernel_between" else "orthogonal"
    od.overparameterize_(model, 3, factorization=factorization, init=init, select=lambda layer, name: name == "c")
    x = torch.randn(2, 4, 2)
    expected = nn.functional.conv_transpose1d(x, model["c"].weight, padding=1)
    torch.testing.assert_close(model["t"](x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", [MatrixLayout((8, 4, 3, 3), 2), MatrixLayout((8, 2, 3), 3, None, 2)])
def test_near_identity_kernels_live_where_the_weight_does(layout: MatrixLayout) -> None:
    start = Start("near_identity", scale=1e-9)
    assert all(f.is_meta for f in layout.initial(torch.zeros(layout.weight_shape, device="meta"), start))
    weight = layout.product(layout.initial(torch.zeros(layout.weight_shape), start))
    kernel = layout.weight_shape[2:]
    centre = weight.flatten(2)[:, :, sum(k // 2 * k**i for i, k in enumerate(kernel))]  # of kernels as wide as high
    per_group = centre.reshape(layout.groups, -1, layout.weight_shape[1])
    for block in per_group:
        torch.testing.assert_close(block, torch.eye(*block.shape), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="norm of the weight is 0"):
        layout.initial(torch.zeros(layout.weight_shape), Start("near_identity", scale="match"))


@pytest.mark.parametrize("execution", ["chained", "folded"])
def test_inputs_may_come_by_name(execution: Any) -> None:
    x = torch.randn(2, 4, 5)
    for layer in (nn.Linear(5, 3), nn.Conv1d(4, 3, 2), nn.ConvTranspose1d(4, 3, 2)):
        expected = layer(x)
        torch.testing.assert_close(od.overparameterize_(layer, execution=execution)(input=x), expected)


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning")
def test_nested_inputs(layout: torch.layout) -> None:
    layer = nn.Linear(5, 3)
    x = torch.nested.nested_tensor([torch.randn(2, 5), torch.randn(4, 5)], layout=layout)
    expected = [t.clone() for t in layer(x).unbind()]
    for found, wanted in zip(od.overparameterize_(layer)(x).unbind(), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_an_embedding_runs_on_meta() -> None:
    with torch.device("meta"):
        layer = od.overparameterize_(nn.Embedding(20, 4), select=everything)
        assert layer(torch.zeros(3, dtype=torch.int64)).shape == (3, 4)


class Final(nn.Linear):
    """Refuses to be subclassed."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        raise TypeError("final")


class Guarded(nn.Linear):
    """Refuses new attributes."""

    guarded = False

    def __setattr__(self, name: str, value: Any) -> None:
        if self.__dict__.get("guarded") and name == "parametrizations":
            raise AttributeError("guarded")
        super().__setattr__(name, value)


@pytest.mark.parametrize("last", [Final, Guarded])
def test_a_layer_that_resists_leaves_all_as_it_was(last: type[nn.Linear]) -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), last(3, 3))
    model[1].guarded = True
    classes, parameters = [type(m) for m in model], [id(p) for p in model.parameters()]
    with pytest.raises((TypeError, AttributeError), match=r"final|guarded"):
        od.overparameterize_(model)
    assert [type(m) for m in model] == classes
    assert [id(p) for p in model.parameters()] == parameters
    assert model(torch.zeros(2, 3)).shape == (2, 3)


def test_names_of_an_optimizer_keep_the_prefix_of_the_whole_model() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 3)), nn.Linear(3, 3))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    part = model[0]
    od.overparameterize_(part, optimizer=optimizer)
    assert set(optimizer.param_groups[0]["param_names"]) == {name for name, _ in model.named_parameters()}
    od.collapse_(part, optimizer=optimizer)
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]


def test_the_penalty_of_a_half_precision_weight_is_finite() -> None:
    layer = od.overparameterize_(nn.Linear(64, 64).half())
    with torch.no_grad():
        layer.get_parameter("parametrizations.weight.factor0").mul_(300)
    assert bool(od.nn.end_to_end_penalty(layer).isfinite())


@pytest.mark.parametrize("execution", ["chained", "folded"])
def test_functional_call_takes_a_whole_weight_too(execution: Any) -> None:
    layer, x, weight = od.overparameterize_(nn.Linear(4, 3), execution=execution), torch.randn(2, 4), torch.randn(3, 4)
    found = torch.func.functional_call(layer, {"weight": weight}, (x,))
    torch.testing.assert_close(found, nn.functional.linear(x, weight, layer.bias))  # type: ignore[arg-type]


def test_damaged_factors_are_no_missing_weight() -> None:
    layer: Any = od.overparameterize_(nn.Linear(4, 3))
    del layer.parametrizations.weight.factor0
    with pytest.raises(RuntimeError, match="factors of 'weight' are damaged"):
        _ = layer.weight


def test_what_is_no_module_or_no_function_is_said_so() -> None:
    calls: list[Any] = [od.overparameterize_, od.collapse_, od.nn.plan]
    for call in calls:
        with pytest.raises(TypeError, match="module is a str, expected"):
            call("x")
    with pytest.raises(TypeError, match="select is"):
        od.overparameterize_(nn.Linear(2, 2), select=["0"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nothing to over-parameterize"):
        od.nn.plan(nn.ReLU())
    with pytest.raises(ValueError, match="composition"):
        od.nn.plan(nn.Conv1d(2, 2, 3), factorization="composed")


@pytest.mark.parametrize("shapes", [[(4,), (4,)], [(0, 4), (4, 0)], []])
def test_shapes_that_are_no_factors(shapes: list[tuple[int, ...]]) -> None:
    for groups in (1, 2):
        with pytest.raises(ValueError, match="no factorization"):
            find_layout((4, 4), shapes, groups)
