"""What is chosen, and the table of what it costs, against counts by hand and by torch's own counter."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from tests.nn.agreement import everything, products_made
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import overdepth as od


class InOut(nn.Module):
    """Stores its weight (in, out), as some transformers do."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(into, out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def zoo() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "linear": nn.Linear(4, 3),
            "conv": nn.Conv2d(3, 4, 3),
            "up": nn.ConvTranspose1d(3, 4, 3),
            "attention": nn.MultiheadAttention(4, 2),
            "cross": nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
            "matrix": InOut(4, 5),
            "embedding": nn.Embedding(7, 4),
            "bag": nn.EmbeddingBag(7, 4),
            "norm": nn.LayerNorm((3, 4)),
            "batchnorm": nn.BatchNorm1d(4),
            "prelu": nn.PReLU(4),
        }
    )


DEFAULT = ["linear.weight", "conv.weight", "up.weight", "attention.in_proj_weight", "attention.out_proj.weight"]
DEFAULT += [f"cross.{p}_proj_weight" for p in "qkv"] + ["cross.out_proj.weight", "matrix.weight"]


def chosen(plan: od.nn.Plan) -> list[str]:
    return [w.name for w in plan.weights]


def costs(model: nn.Module, inputs: Iterable[Any], **options: Any) -> dict[str, tuple[int, int, str] | None]:
    return {w.name: w.cost for w in od.nn.plan(model, inputs=list(inputs), **options).weights}


# --- what is chosen --------------------------------------------------------------------------------------------------


def test_the_default_choice() -> None:
    plan = od.nn.plan(zoo())
    assert chosen(plan) == DEFAULT
    assert {"embedding.weight", "bag.weight", "norm.weight"} <= plan.left_plain.keys()
    model = od.overparameterize_(zoo())
    assert [name for name, _ in od.nn.named_factors(model)] == DEFAULT


def test_what_select_is_asked() -> None:
    model, asked = zoo(), []

    def select(module: nn.Module, name: str) -> bool:
        assert model.get_submodule(name) is module
        asked.append(name)
        return name in ("embedding", "conv")

    assert chosen(od.nn.plan(model, select=select)) == ["conv.weight", "embedding.weight"]
    assert {"linear", "conv", "up", "attention", "attention.out_proj", "matrix", "embedding", "bag"} <= set(asked)
    assert not {"batchnorm", "prelu", ""} & set(asked)


def test_select_overrides_layer_by_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Conv1d(3, 4, 5), nn.Linear(4, 4), nn.Linear(4, 5))
    answers: list[bool | dict[str, Any]] = [
        {"depth": 4, "width": 9, "init": "identity", "execution": "folded"},
        {"depth": 3, "factorization": "composed", "init": "orthogonal", "scale": "match"},
        {},
        {"depth": 1},
    ]
    od.overparameterize_(model, 2, width=5, select=lambda _, name: answers[int(name)])
    found = dict(od.nn.named_factors(model))
    assert list(found) == ["0.weight", "1.weight", "2.weight"]
    assert [(len(f), f.layout.width, f.init, f.execution) for f in found.values()] == [
        (4, 9, "identity", "folded"),
        (3, 5, "orthogonal", "auto"),
        (2, 5, "balanced", "auto"),
    ]
    assert [tuple(f.shape) for f in found["1.weight"]] == [(5, 3, 3), (5, 5, 2), (4, 5, 2)]
    assert type(model[3]) is nn.Linear


@pytest.mark.parametrize("answer", [None, 1, 0, "yes", [], ["depth"], 2.5, torch.tensor(True)])
def test_select_returns_bool_or_dict(answer: Any) -> None:
    model = nn.Sequential(nn.ReLU(), nn.Linear(3, 3))
    for call in (od.nn.plan, od.overparameterize_):
        with pytest.raises(TypeError, match=r"select returned .*'1'.*expected a bool or a dict"):
            call(model, select=lambda *_: answer)
    assert type(model[1]) is nn.Linear


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        ({"dept": 3}, r"dept.*'1'.*expected some of depth"),
        ({"depth": 2, 3: 4}, r"3.*'1'"),
        ({"depth": 0}, r"depth of '1.*' is 0"),
        ({"depth": 2.5}, r"depth of '1.*' is 2\.5"),
        ({"width": -1}, r"width of '1.*' is -1"),
        ({"width": 2}, r"width of '1.*' is 2, below 4"),
        ({"init": "xavier"}, r"init of '1.*' is 'xavier', expected one of near_zero"),
        ({"execution": "fast"}, r"execution of '1.*' is 'fast', expected one of auto"),
        ({"factorization": "tucker"}, r"factorization of '1.*' is 'tucker', expected one of kernel_first"),
        ({"scale": 0.0}, r"scale of '1.*' is 0\.0"),
        ({"scale": "big"}, r"scale of '1.*' is 'big'"),
        ({"factorization": "kernel_between"}, r"'1.weight'.*depth is 2"),
    ],
)
def test_values_of_a_dict_are_checked_by_name(answer: dict[Any, Any], match: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(3, 4, 3))
    for call in (od.nn.plan, od.overparameterize_):
        with pytest.raises(ValueError, match=match):
            call(model, select=lambda _, name: answer if name == "1" else True)
    assert [type(m) for m in model] == [nn.Linear, nn.Conv1d]


def test_the_root_has_a_name_in_messages_too() -> None:
    with pytest.raises(ValueError, match="weight"):
        od.overparameterize_(nn.Linear(3, 3), select=lambda *_: {"depth": 0})


def test_what_select_raises_comes_through() -> None:
    def select(module: nn.Module, name: str) -> bool:
        raise KeyError(name)

    with pytest.raises(KeyError, match="0"):
        od.overparameterize_(nn.Sequential(nn.Linear(3, 3)), select=select)


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table() -> None:
    model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 2), nn.Embedding(5, 2))
    model[3].weight.requires_grad_(False)
    plan = od.nn.plan(model[:3], depth=3, inputs=[torch.zeros(4, 6)])
    # 8 x 6: factors 6 x 6, 6 x 6, 8 x 6; 4 rows. 2 x 8: factors 2 x 8, 2 x 2, 2 x 2.
    assert (plan.parameters_before, plan.parameters_after) == (48 + 16, 36 + 36 + 48 + 16 + 4 + 4)
    assert [w.cost for w in plan.weights] == [(4 * 48, 4 * 120, "chained"), (4 * 16, 4 * 24, "chained")]
    lines = str(plan).splitlines()
    assert " ".join(lines[2].split()) == "0.weight linear 8 x 6 3 6 balanced 48 -> 120 192 -> 480 chained"
    assert lines[-1] == "2 weights: 64 -> 144 parameters"
    text = str(od.nn.plan(model, select=lambda _, name: name == "0"))
    assert "give inputs=" in text
    assert "left plain: 2.weight (not chosen)" in text
    assert "left plain: 3.weight (not chosen)" in text


def test_planning_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 4))
    before, classes = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    ids = [id(p) for p in model.parameters()]
    od.nn.plan(model, inputs=[torch.randn(5, 4)])
    assert [type(m) for m in model.modules()] == classes
    assert [id(p) for p in model.parameters()] == ids
    assert all(not m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_planning_draws_no_random_numbers() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    x = torch.randn(5, 4)
    state = torch.get_rng_state()
    od.nn.plan(model, inputs=[x])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_forward_that_fails_leaves_no_hooks() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4))
    with pytest.raises(RuntimeError, match="shapes"):
        od.nn.plan(model, inputs=[torch.zeros(2, 4)])
    assert all(not m._forward_hooks for m in model.modules())


def test_a_plan_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
        assert costs(model, [torch.zeros(8, 64)])["0.weight"] == (8 * 2048, 8 * 3072, "chained")


# --- multiply-adds ---------------------------------------------------------------------------------------------------

COUNTED: list[tuple[nn.Module, tuple[int, ...], dict[str, Any]]] = [
    (nn.Linear(6, 8), (3, 6), {}),
    (nn.Linear(6, 8), (2, 9, 6), {}),
    (nn.Linear(8, 3), (5, 8), {"depth": 4, "width": 5}),
    (nn.Conv2d(3, 4, 3, padding=1, stride=2), (2, 3, 7, 8), {}),
    (nn.Conv2d(3, 4, 3, padding="same", dilation=2), (1, 3, 5, 5), {"depth": 3}),
    (nn.Conv1d(4, 6, 3, padding="valid", groups=2), (2, 4, 9), {"depth": 3}),
    (nn.Conv2d(4, 6, 3, stride=(2, 1)), (2, 4, 6, 5), {"depth": 3, "factorization": "kernel_between"}),
    (nn.Conv1d(4, 8, 3, groups=4, stride=2), (4, 9), {"depth": 4, "factorization": "kernel_between"}),
    (nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1), (2, 3, 4, 5), {}),
    (nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (2, 4, 5), {"depth": 3}),
]


@pytest.mark.parametrize("execution", ["chained", "folded", "auto"])
@pytest.mark.parametrize(("layer", "shape", "options"), COUNTED)
def test_the_plan_counts_what_torch_counts(
    layer: nn.Module, shape: tuple[int, ...], options: dict[str, Any], execution: Any
) -> None:
    x = torch.zeros(shape)
    (cost,) = costs(layer, [x], execution=execution, **options).values()
    assert cost is not None
    with FlopCounterMode(display=False) as before:
        layer(x)
    over = od.overparameterize_(copy.deepcopy(layer), execution=execution, **options)
    with FlopCounterMode(display=False) as after:
        over(x)
    assert (2 * cost[0], 2 * cost[1]) == (before.get_total_flops(), after.get_total_flops())
    assert execution in ("auto", cost[2])


@pytest.mark.parametrize("execution", ["folded", "auto"])
def test_the_plan_counts_a_matrix_that_is_stored_transposed(execution: Any) -> None:
    assert costs(InOut(6, 8), [torch.zeros(5, 6)], execution=execution) == {
        "weight": (5 * 48, 5 * 48 + 6 * 6 * 8, "folded")
    }


@pytest.mark.parametrize(
    ("layer", "shape", "options", "most"),
    [
        # Rows at which the chain costs as much as the product: 8 * 6 * 6 multiply-adds over 6 * 6 more a row, ...
        (nn.Linear(6, 8), (6,), {}, 8),
        # ... 6 * 6 * 6 and 8 * 6 * 6 over twice as much a row.
        (nn.Linear(6, 8), (6,), {"depth": 3}, 7),
        # 4 x 4 more at each of 5 * 5 positions, against 4 * 4 * 27.
        (nn.Conv2d(3, 4, 3, padding=1), (3, 5, 5), {}, 1),
        (nn.Conv2d(3, 4, 3, padding=1), (3, 3, 3), {}, 3),
        # 3 x 3 more at each of 4 inputs, against 3 * 3 * 12.
        (nn.ConvTranspose1d(3, 4, 3), (3, 4), {}, 3),
    ],
)
def test_auto_takes_what_costs_less(
    layer: nn.Module, shape: tuple[int, ...], options: dict[str, Any], most: int
) -> None:
    over = od.overparameterize_(copy.deepcopy(layer), **options)
    for batch, route in ((1, "chained"), (most, "chained"), (most + 1, "folded"), (5 * most, "folded")):
        x = torch.zeros(batch, *shape)
        (cost,) = costs(layer, [x], **options).values()
        assert cost is not None
        assert cost[2] == route
        with products_made() as made:
            over(x)
        assert sum(made.values()) == (route == "folded")


def test_auto_of_an_embedding_follows_its_cost() -> None:
    """20 x 4 from 20 x 4 and 4 x 4: 16 multiply-adds a lookup, against 320."""
    over = od.overparameterize_(nn.Embedding(20, 4), select=everything)
    for count, products in ((20, 0), (21, 1)):
        with products_made() as made:
            over(torch.zeros(count, dtype=torch.int64))
        assert sum(made.values()) == products


def test_lookups_are_counted() -> None:
    indices = torch.zeros(3, 5, dtype=torch.int64)
    assert costs(nn.Embedding(20, 4), [indices], select=everything) == {"weight": (0, 15 * 16, "chained")}
    assert costs(nn.Embedding(20, 4), [indices.repeat(2, 1)], select=everything) == {"weight": (0, 320, "folded")}
    assert costs(nn.EmbeddingBag(20, 4), [indices], select=everything) == {"weight": (0, 320, "folded")}


def test_projections_of_self_attention() -> None:
    """3 sequences of 5: 15 rows. In 24 x 8 from 8 x 8 and 24 x 8; out 8 x 8 twice; each folded once."""
    x = torch.zeros(3, 5, 8)
    expected = {
        "in_proj_weight": (15 * 192, 15 * 192 + 24 * 8 * 8, "folded"),
        "out_proj.weight": (15 * 64, 15 * 64 + 8 * 8 * 8, "folded"),
    }
    for batch_first in (False, True):
        assert costs(nn.MultiheadAttention(8, 2, batch_first=batch_first), [x, x, x]) == expected
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    for training in (True, False):
        found = costs(layer.train(training), [x])
        assert {name.removeprefix("self_attn."): cost for name, cost in found.items()} == expected | {
            "linear1.weight": (15 * 96, 15 * 96 + 12 * 8 * 8, "folded"),
            "linear2.weight": (15 * 96, 15 * 96 + 12 * 8 * 8, "folded"),
        }


def test_projections_of_cross_attention() -> None:
    """2 sequences of 3 queries and 7 keys: 6 rows of queries and outputs, 14 of keys and of values."""
    q, k, v = torch.zeros(2, 3, 8), torch.zeros(2, 7, 6), torch.zeros(2, 7, 4)
    found = costs(nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True), [q, k, v])
    assert found == {
        "q_proj_weight": (6 * 64, 6 * 64 + 8 * 8 * 8, "folded"),
        "k_proj_weight": (14 * 48, 14 * 48 + 8 * 6 * 6, "folded"),
        "v_proj_weight": (14 * 32, 14 * 32 + 8 * 4 * 4, "folded"),
        "out_proj.weight": (6 * 64, 6 * 64 + 8 * 8 * 8, "folded"),
    }
    same = costs(nn.MultiheadAttention(8, 2, batch_first=True), [q, torch.zeros(2, 7, 8), torch.zeros(2, 7, 8)])
    in_proj = (6 + 14 + 14) * 64
    assert same["in_proj_weight"] == (in_proj, in_proj + 24 * 8 * 8, "folded")


@pytest.mark.parametrize("tied", [False, True])
def test_a_weight_that_is_used_twice_costs_what_its_calls_cost(tied: bool) -> None:
    """Two calls of 6 rows, each of which is cheaper chained (8 rows would be as cheap folded)."""
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    model = nn.Sequential(first, second if tied else first)
    x = torch.zeros(6, 8)
    (cost,) = costs(model, [x]).values()
    with products_made() as made:
        od.overparameterize_(copy.deepcopy(model))(x)
    assert sum(made.values()) == 0
    assert cost == (2 * 6 * 64, 2 * 6 * 128, "chained")
