"""A benchmark's output becomes its section of the page, its stored figures and a picture; nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from docs.performance import DOCS, SECTIONS, main

MACHINE = {"torch": "2.0", "machine": "a processor", "threads": 1}


def ratios(*ways: str) -> dict[str, dict[str, float]]:
    return {way: {"ratio": 1.25} for way in ways}


LAYERS: dict[str, Any] = {
    "benchmark": "layers",
    **MACHINE,
    "paper_cnn": ratios("auto", "chained", "folded"),
    "conv_64_64": ratios("auto", "chained", "folded"),
    "transformer_block": ratios("auto", "folded"),
    **{
        name: {
            "million_parameters": 124.4,
            "overparameterize_seconds": 9.0,
            "collapse_seconds": 2.0,
            "overparameterize_peak_over_model": 2.3,
            "collapse_peak_over_model": 1.5,
        }
        for name in ("gpt2_small_default", "gpt2_small_with_embeddings")
    },
}
OBJECTIVE = {
    "microseconds_per_step": 560.0,
    "loop_speedup": 43.0,
    "loop_speedup_live": 26.0,
    "gemm_peak_fraction": 1.02,
    "onednn_peak_fraction": 0.49,
}
SWEEP: dict[str, Any] = {
    "benchmark": "sweep",
    **MACHINE,
    "data": "ethanol",
    "m": 10,
    "d": 3,
    "runs": 150,
    "steps": 3000,
    "l4": OBJECTIVE,
    "l2": OBJECTIVE,
    "microseconds_per_step_by_runs": {name: {"1": 100.0, "4": 160.0} for name in ("l4", "l2")},
}
OPTIMIZERS: dict[str, Any] = {
    "benchmark": "optimizers",
    **MACHINE,
    "8x8": {"gemm": {"mm_ms": 1.0}, "muon": {"ms": 1.0}, "factored_sgd_2": {"over_muon": 0.44}},
    "accuracy": {"eigh": {"1e1": 1e-7}},
}
THEORY: dict[str, Any] = {
    "benchmark": "theory",
    **MACHINE,
    "transfer_operator": {"balanced_1e2": {"condition": 100.0, "seconds": 1.5, "relative_residual": 1e-9}},
    "two_layer_certificate_2048_seconds": 3.0,
    "scalar_rates_10000_seconds": 0.1,
    "flow": {"seconds": 2.0},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    (tmp_path / "performance.md").write_text(page, encoding="utf-8")
    return tmp_path


STORED = [
    {**json.loads(path.read_text(encoding="utf-8")), **MACHINE} for path in sorted((DOCS / "measured").glob("*.json"))
]


@pytest.mark.parametrize(
    "figures", [LAYERS, SWEEP, OPTIMIZERS, THEORY, *STORED], ids=lambda figures: str(figures["benchmark"])
)
def test_a_section_is_written_anew_with_the_machine_beside_it(folder: Path, figures: dict[str, Any]) -> None:
    name, output = figures["benchmark"], folder / "output.txt"
    output.write_text(f"some words\n{json.dumps(figures)}\n", encoding="utf-8")
    before = (folder / "performance.md").read_text(encoding="utf-8")
    assert main([str(output)], folder) == 0
    after = (folder / "performance.md").read_text(encoding="utf-8")
    section = after.split(f"<!-- {name} begin -->")[1].split(f"<!-- {name} end -->")[0]
    assert f"`python benchmarks/{name}.py`: torch 2.0, 1 thread of a processor." in section
    assert json.loads((folder / "measured" / f"{name}.json").read_text(encoding="utf-8")) == figures
    for other in set(SECTIONS) - {name}:
        assert all(text.count(f"<!-- {other} begin -->") == 1 for text in (before, after))
    pictures = {path.name for path in folder.rglob("*.svg")}
    assert all(picture in section for picture in pictures)
    assert main([str(output)], folder) == 0
    assert (folder / "performance.md").read_text(encoding="utf-8") == after


def test_every_section_is_filled_from_what_is_stored() -> None:
    assert {figures["benchmark"] for figures in STORED} == set(SECTIONS)


def test_a_benchmark_of_which_a_part_was_left_out_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "performance.md").read_text(encoding="utf-8")
    (explored,) = (figures for figures in STORED if figures["benchmark"] == "explore")
    (folder / "output.txt").write_text(
        json.dumps({key: value for key, value in explored.items() if key != "page"}), encoding="utf-8"
    )
    assert main([str(folder / "output.txt")], folder) == 2
    assert "lacks 'page': run all parts of the benchmark (explore: with --page)" in capsys.readouterr().err
    assert (folder / "performance.md").read_text(encoding="utf-8") == before


def test_what_is_no_benchmark_of_ours_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "output.txt").write_text('{"benchmark": "other"}\n', encoding="utf-8")
    assert main([str(folder / "output.txt")], folder) == 2
    assert "expected one of layers, optimizers, sweep, theory" in capsys.readouterr().err
