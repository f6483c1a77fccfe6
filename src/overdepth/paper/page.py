"""The report's page: one self-contained file that needs no network."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
import plotly.offline
import torch
from markupsafe import Markup

import overdepth
from overdepth.lab.problem import SCALING_MEANINGS, Problem
from overdepth.paper.claim import Setting, number

if TYPE_CHECKING:
    from overdepth.paper.reproduce import Reproduced


def write_page(path: Path, results: Sequence[Reproduced], problem: Problem, setting: Setting, command: str) -> None:
    """Writes ``index.html``: what the paper said, what was run, the curves, and the verdicts.

    Args:
        path: The file.
        results: What was reproduced.
        problem: What it is about.
        setting: Under what.
        command: The command line that makes this report.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = number
    template = environment.from_string(resources.files("overdepth.paper").joinpath("page.html").read_text("utf-8"))
    sections = []
    for result in results:
        pictures = [
            (picture.caption, Markup(picture.figure.to_html(full_html=False, include_plotlyjs=False, config=_CONFIG)))  # noqa: S704
            for picture in result.item.pictures(result.data)
        ]
        sections.append({"result": result, "item": result.item, "pictures": pictures})
    html = template.render(
        sections=sections,
        claims=[claim for result in results for claim in result.claims],
        problem=problem,
        setting=setting,
        scaling_meaning=SCALING_MEANINGS[problem.scaling],
        command=command,
        plotly=Markup(plotly.offline.get_plotlyjs()),  # noqa: S704 - the library's own script
        versions={
            "overdepth": overdepth.__version__,
            "torch": torch.__version__,
            "Python": platform.python_version(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        },
    )
    path.write_text(html, encoding="utf-8")


_CONFIG = {"responsive": True, "displaylogo": False}
