"""The report: a self-contained page that needs no network, the claims as JSON, the curves as NetCDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from overdepth.lab.problem import SCALING_MEANINGS, Problem
from overdepth.paper.rendering import embedded, write_json, write_page
from overdepth.paper.reproduce import Reproduced


def write_report(folder: Path, results: Sequence[Reproduced], problem: Problem, command: str) -> None:
    """Writes ``index.html``, ``claims.json`` and an ``.nc`` file for every item into an existing, empty folder.

    Args:
        folder: Where to write.
        results: From :func:`reproduce`, at least one.
        problem: What they are about.
        command: The command line that makes this report.
    """
    claims = [claim for result in results for claim in result.claims]
    write_json(folder / "claims.json", [claim.to_json() for claim in claims])
    for result in results:
        result.data.to_netcdf(folder / f"{result.item.name}.nc", engine="h5netcdf")
    sections = []
    for result in results:
        pictures = [(picture.caption, embedded(picture.figure)) for picture in result.item.pictures(result.data)]
        sections.append({"result": result, "item": result.item, "pictures": pictures})
    write_page(
        folder / "index.html",
        "page.html",
        sections=sections,
        claims=claims,
        problem=problem,
        setting=results[0].setting,
        scaling_meaning=SCALING_MEANINGS[problem.scaling],
        command=command,
    )
