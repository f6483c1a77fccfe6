"""Presets are what they say: the runs of the papers' figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from overdepth.cli import main
from overdepth.lab import Problem, Run, load_problem
from overdepth.paper import fig2, fig3, fig4, fig5
from overdepth.paper.context import Plan
from overdepth.sweeps import parse, presets
from overdepth.sweeps.sweep_file import SweepFile

Plans = Callable[[Problem, Sequence[int]], list[Plan]]
FIGURES: dict[str, Plans] = {"fig2": fig2.plans, "fig3": fig3.plans, "fig4": fig4.plans, "fig5": fig5.plans}


def preset(name: str) -> SweepFile:
    return parse(presets.text_of(name), name=name)


def without_norms(runs: Sequence[tuple[str, Run]]) -> list[tuple[tuple[str, Run], float]]:
    """The runs in an order that rounding of norms cannot change, with their norms, -1 for none."""
    key = [((name, replace(run, norm=None)), -1.0 if run.norm is None else run.norm) for name, run in runs]
    return sorted(key, key=lambda pair: (repr(pair[0]), pair[1]))


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_papers_item(name: str) -> None:
    problem = load_problem("breast-cancer")
    file = preset(name)
    plans = FIGURES[name](problem, (0,))
    wanted = without_norms([(plan.objective, run) for plan in plans for run in plan.runs])
    found = without_norms([(row.objective, row.run) for row in (row.of(problem) for row in file.rows)])
    assert [pair for pair, _ in found] == [pair for pair, _ in wanted]
    assert [norm for _, norm in found] == pytest.approx([norm for _, norm in wanted], rel=1e-12)
    assert {plan.record_every for plan in plans} == {file.settings.record_every}
    assert {plan.batch_size for plan in plans} == {file.settings.batch_size}
    assert (file.settings.steps, file.data, file.scaling, file.repeated) == (100_000, "auto", "standard", 0)


def test_every_preset_is_a_sweep_file_and_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(FIGURES) < set(presets.NAMES)
    for name in presets.NAMES:
        assert preset(name).rows
        assert main(["sweep", name, "--print"]) == 0
        assert capsys.readouterr().out.rstrip() == presets.text_of(name).rstrip()


def test_the_quick_one_needs_no_other_data() -> None:
    file = preset("quick")
    assert file.data == "breast-cancer"
    assert len(file.rows) == 150
    assert {row.run.depth for row in file.rows} == {1, 2, 3, 1.5, 2.5}
