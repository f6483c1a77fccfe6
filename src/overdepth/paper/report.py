"""The report: a self-contained page that needs no network, the claims as JSON, the curves as NetCDF."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
import plotly.offline
import torch
from markupsafe import Markup

from overdepth._version import __version__
from overdepth.lab.problem import SCALING_MEANINGS, Problem
from overdepth.paper.claim import number
from overdepth.paper.reproduce import Reproduced

_PLOTLY = {"responsive": True, "displaylogo": False}


def write_report(folder: Path, results: Sequence[Reproduced], problem: Problem, command: str) -> None:
    """Writes ``index.html``, ``claims.json`` and an ``.nc`` file for every item into an existing, empty folder.

    Args:
        folder: Where to write.
        results: From :func:`reproduce`, at least one.
        problem: What they are about.
        command: The command line that makes this report.
    """
    claims = [claim.to_json() for result in results for claim in result.claims]
    (folder / "claims.json").write_text(json.dumps(claims, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    for result in results:
        result.data.to_netcdf(folder / f"{result.item.name}.nc", engine="h5netcdf")
    _write_page(folder / "index.html", results, problem, command)


def _write_page(path: Path, results: Sequence[Reproduced], problem: Problem, command: str) -> None:
    """What the paper said, what was run, the curves, and the verdicts, as one page."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["number"] = number
    template = environment.from_string(resources.files("overdepth.paper").joinpath("page.html").read_text("utf-8"))
    sections = []
    for result in results:
        pictures = [
            (picture.caption, Markup(picture.figure.to_html(full_html=False, include_plotlyjs=False, config=_PLOTLY)))  # noqa: S704
            for picture in result.item.pictures(result.data)
        ]
        sections.append({"result": result, "item": result.item, "pictures": pictures})
    html = template.render(
        sections=sections,
        claims=[claim for result in results for claim in result.claims],
        problem=problem,
        setting=results[0].setting,
        scaling_meaning=SCALING_MEANINGS[problem.scaling],
        command=command,
        plotly=Markup(plotly.offline.get_plotlyjs()),  # noqa: S704 - the library's own script
        versions={
            "overdepth": __version__,
            "torch": torch.__version__,
            "Python": platform.python_version(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        },
    )
    path.write_text(html, encoding="utf-8", errors="replace")  # a path in the command may be no UTF-8
