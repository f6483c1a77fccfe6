"""What an inspection prints, hands on, draws and refuses."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.paper.test_page import look, needs_browser
from torch import nn

import overdepth as od
from overdepth.inspection import Inspection


class Model(nn.Module):
    """One product of every kind but LoRA."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.row = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8), nn.ReLU())
        self.deep = nn.Linear(8, 8)


@pytest.fixture
def found() -> Inspection:
    torch.manual_seed(0)
    model = Model()
    od.overparameterize_(model, 3, select=lambda m, name: name == "deep")
    return od.inspect(model)


def test_the_table(found: Inspection) -> None:
    lines = repr(found).splitlines()
    assert lines[0].split()[:3] == ["product", "kind", "shape"]
    assert [line.split("  ")[0] for line in lines[2:6]] == [
        "attention, 2 heads", "attention, 2 heads", "row.0 -> row.1", "deep.weight",
    ]  # fmt: skip
    assert any(line.startswith("attention (query-key), attention (value-output): biases") for line in lines)
    by_head = found.table(by_head=True).splitlines()
    assert sum(line.startswith("attention, head") for line in by_head) == 4
    assert "and 3 more lines" in found.table(lines=1)
    assert "more lines" not in found.table(lines=None)


def test_the_range_of_a_line_is_that_of_its_heads(found: Inspection) -> None:
    heads = [p for p in found if p.kind == "query-key"]
    low, high = sorted(p.norm for p in heads)
    line = repr(found).splitlines()[2]
    assert f"{low:.3g} to {high:.3g}" in line


def test_rows_and_plain_values(found: Inspection) -> None:
    assert len(found) == len(list(found)) == 6
    assert found[0].label == "attention, head 0"
    values = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert values["model"] == "Model"
    assert [p["kind"] for p in values["products"]] == [p.kind for p in found]
    assert values["products"][0]["multipliers"]["mean"] == found[0].multipliers.mean


def test_what_is_undefined_is_none() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    nn.init.zeros_(model[1].weight)
    (product,) = od.inspect(model)
    assert math.isnan(product.condition)
    assert product.to_dict()["condition"] is None
    assert " -  " in repr(od.inspect(model))


def test_a_model_without_products_says_so() -> None:
    found = od.inspect(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    assert len(found) == 0
    assert repr(found).startswith("no products in Sequential: it has no attention")
    with pytest.raises(ValueError, match="nothing to draw: no products in Sequential"):
        found.figure()
    with pytest.raises(ValueError, match="no page was written: no products in Sequential"):
        found.save_page("nowhere.html")


def broken(name: str, number: float) -> nn.Module:
    model = Model()
    od.overparameterize_(model, 2, select=lambda m, n: n == "deep")
    with torch.no_grad():
        dict(model.named_parameters())[name].view(-1)[3] = number
    return model


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize(
    "name",
    ["attention.in_proj_weight", "row.1.weight", "deep.parametrizations.weight.factor1", "attention.out_proj.weight"],
)
def test_numbers_that_are_not_finite_name_the_parameter(name: str, number: float) -> None:
    with pytest.raises(ValueError, match=f"'{re.escape(name)}' of shape .* has non-finite entries"):
        od.inspect(broken(name, number))


def test_the_meta_device_has_no_numbers() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"'0.weight' is on the meta device"):
        od.inspect(model)


def test_a_lazy_layer_is_left_out() -> None:
    model = nn.Module()
    model.query, model.key, model.value = nn.LazyLinear(4), nn.LazyLinear(4), nn.LazyLinear(4)
    assert "run one forward pass" in next(iter(od.inspect(model).left_out.values()))


def test_numbers_that_overflow_name_the_product() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False).double() for _ in range(3)))
    for layer in model:
        nn.init.constant_(layer.weight, 1e120)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"0 -> 1 -> 2, stacked: .*overflow"):
        od.inspect(model)


def test_frozen_factors_are_said() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[0].requires_grad_(requires_grad=False)
    assert od.inspect(model)[0].notes == ("0.weight frozen: the multipliers are those of training all factors",)
    model.requires_grad_(requires_grad=False)
    assert od.inspect(model)[0].notes == ("frozen: the multipliers are those it would have in training",)


def test_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.nn\.Module"):
        od.inspect({"weight": torch.ones(2, 2)})  # type: ignore[arg-type]


def test_the_picture_has_a_curve_a_line_and_its_balanced_one(found: Inspection) -> None:
    figure: Any = found.figure()
    named = {trace.name for trace in figure.data if trace.name}
    assert "row.0 -> row.1 (stacked)" in named
    assert "row.0 -> row.1 (stacked), balanced" in named
    curve = next(trace for trace in figure.data if trace.name == "deep.weight (over-parameterized)")
    drawn = np.asarray(curve.y, dtype=float)
    expected = np.array(found[-1].multipliers.curve)
    np.testing.assert_allclose(drawn[expected > 0], expected[expected > 0], rtol=1e-6)
    assert np.isnan(drawn[expected == 0]).all()
    only: Any = found.figure("stacked")
    assert len(only.data) == 2
    with pytest.raises(ValueError, match="no product is 'LoRA'"):
        found.figure("LoRA")


def test_bounds_are_drawn_as_a_thin_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overdepth.inspection.measures.DENSE", 0)
    monkeypatch.setattr("overdepth.inspection.measures.ITERATED", 0)
    torch.manual_seed(0)
    found = od.inspect(nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3))))
    assert "(bounds)" in repr(found)
    figure: Any = found.figure()
    assert figure.data[0].line.width == 1.0
    assert len(figure.data[0].x) == 2


def test_without_plotly_the_extra_is_named(found: Inspection, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("overdepth.paper")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ModuleNotFoundError, match=r"the picture needs plotly.*overdepth\[lab\]"):
        found.figure()


def test_the_page(found: Inspection, tmp_path: Path) -> None:
    path = tmp_path / "found.html"
    found.save_page(path)
    text = path.read_text(encoding="utf-8")
    assert text.count('class="plot"') == 4
    assert "deep.parametrizations.weight.factor0" in text
    assert "<h1>Products of matrices in Model</h1>" in text


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1920])
def test_the_page_in_a_browser(width: int, found: Inspection, tmp_path: Path) -> None:
    found.save_page(tmp_path / "found.html")
    seen, console = look(tmp_path / "found.html", width, tmp_path)
    assert "CONSOLE" not in console
    assert seen["scroll"] <= seen["width"]
    assert seen["plots"] == seen["drawn"] == 4
    assert seen["external"] == []
