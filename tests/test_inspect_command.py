"""``overdepth inspect`` as a user meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from overdepth.cli import main

MODEL = """
import torch
from sizes import WIDTH  # a file beside this one

def build():
    return torch.nn.Sequential(torch.nn.Linear(4, WIDTH), torch.nn.Linear(WIDTH, 4), torch.nn.MultiheadAttention(4, 2))

def number():
    return 3

def fails():
    raise RuntimeError("no data")

def nothing():
    return torch.nn.Linear(4, 4)
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "model.py").write_text(MODEL, encoding="utf-8")
    (tmp_path / "sizes.py").write_text("WIDTH = 3\n", encoding="utf-8")
    return tmp_path / "model.py"


def inspect(*arguments: object) -> int:
    return main(["inspect", *map(str, arguments)])


def test_the_table_and_the_report(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "found"
    assert inspect(f"{model}:build", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "0 -> 1" in printed
    assert "2, 2 heads" in printed
    assert f"Report: {out / 'index.html'}" in printed
    values = json.loads((out / "products.json").read_text(encoding="utf-8"))
    assert [p["kind"] for p in values["products"]] == ["query-key"] * 2 + ["value-output"] * 2 + ["stacked"]
    assert f"overdepth inspect {model}:build --out {out}" in (out / "index.html").read_text(encoding="utf-8")
    assert inspect(f"{model}:build", "--heads") == 0
    assert "2, head 1" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_weights_are_loaded(kind: str, model: Path, tmp_path: Path) -> None:
    state = {
        name: torch.full_like(value, 0.5)
        for name, value in nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4), nn.MultiheadAttention(4, 2))
        .state_dict()
        .items()
    }
    file = tmp_path / f"weights.{kind}"
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save(state, file)
    assert inspect(f"{model}:build", "--weights", file, "--out", tmp_path / "found") == 0
    values = json.loads((tmp_path / "found" / "products.json").read_text(encoding="utf-8"))
    assert values["products"][-1]["norm"] == pytest.approx(3.0)  # 4 x 4 entries of 3 * 0.25
    assert values["products"][-1]["rank"] == 1


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/model.py"], "should be FILE.py:FUNCTION"),
        (["{folder}/model.txt:build"], "should be FILE.py:FUNCTION"),
        (["{folder}/other.py:build"], "there is no file"),
        (["{folder}/broken.py:build"], "broken.py does not run: NameError: name 'undefined' is not defined"),
        (["{folder}/model.py:bild"], "has no function 'bild'; it has build, number, fails, nothing"),
        (["{folder}/ends.py:build"], "ends.py does not run: it calls sys.exit, which belongs under if __name__"),
        (["{folder}/model.py:number"], "returned a int, expected a torch.nn.Module; return the model"),
        (["{folder}/model.py:fails"], "did not build a model: RuntimeError: no data"),
        (["{folder}/model.py:nothing", "--out", "{folder}/found"], "no page was written: no products in Linear"),
        (["{folder}/model.py:build", "--weights", "{folder}/none.pt"], "there is no file"),
        (["{folder}/model.py:build", "--weights", "{folder}/harmful.pt"], "torch.load(weights_only=True)"),
        (["{folder}/model.py:build", "--weights", "{folder}/other.pt"], "does not fit the model"),
        (["{folder}/model.py:build", "--weights", "{folder}/list.pt"], "holds no state_dict"),
        (["{folder}/model.py:build", "--weights", "{folder}/text.safetensors"], "no .safetensors file"),
        (["{folder}/model.py:build", "--out", "{folder}"], "holds other files"),
    ],
)
def test_bad_input_is_one_sentence(
    arguments: list[str], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("undefined\n", encoding="utf-8")
    (tmp_path / "ends.py").write_text("exit()\n", encoding="utf-8")
    torch.save(Harmful(), tmp_path / "harmful.pt")
    torch.save({"weight": torch.ones(2)}, tmp_path / "other.pt")
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    (tmp_path / "text.safetensors").write_text("text", encoding="utf-8")
    assert inspect(*(a.format(folder=tmp_path) for a in arguments)) == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert errors.startswith("overdepth: ")
    assert errors.count("\n") == 1
    assert not (tmp_path / "found").exists()


def test_a_model_without_products_is_a_result(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect(f"{model}:nothing") == 0
    assert capsys.readouterr().out.startswith("no products in Linear")


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert inspect("--help") == 0
    assert "Example: overdepth inspect model.py:build" in capsys.readouterr().out
