"""The report: a self-contained page that needs no network, the claims as JSON, the data as NetCDF."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from overdepth.lab.problem import SCALING_MEANINGS
from overdepth.paper.claim import Claim, by_statement
from overdepth.paper.context import Context
from overdepth.paper.item import PARTS, Part
from overdepth.paper.rendering import embedded, write_json, write_netcdf, write_page
from overdepth.paper.reproduce import Reproduced
from overdepth.paper.static import write_figures


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    Attributes:
        results: From :func:`reproduce`, at least one.
        context: Under which they were made.
        command: The command line that makes this report again.
        command_of: The command line that makes the report of one item, from its name.
        not_run: Claims of items that were left out.
    """

    results: Sequence[Reproduced]
    context: Context
    command: str
    command_of: Callable[[str], str]
    not_run: Sequence[Claim] = ()

    @property
    def claims(self) -> list[Claim]:
        """All claims in the order of their items, those that were not run last."""
        return [claim for result in self.results for claim in result.claims] + list(self.not_run)


def write_report(folder: Path, report: Report, *, static: bool = False) -> None:
    """Writes ``index.html``, ``claims.json`` and an ``.nc`` file for every item into an existing, empty folder.

    Args:
        folder: Where to write.
        report: What to write.
        static: Whether every figure is written to ``figures`` too, as PNG and SVG; :func:`check_static` tells whether
            that can be done.
    """
    claims, context = report.claims, report.context
    write_json(folder / "claims.json", [claim.to_json() for claim in claims])
    sections = []
    drawn = {}
    for result in report.results:
        name = result.item.name
        write_netcdf(folder / f"{name}.nc", result.data)
        pictures = result.item.pictures(result.data)
        drawn.update({f"{name}-{i}": picture.figure for i, picture in enumerate(pictures, start=1)})
        sections.append(
            {
                "result": result,
                "item": result.item,
                "statements": by_statement(result.claims),
                "pictures": [(picture.caption, embedded(picture.figure)) for picture in pictures],
                "command": report.command_of(name),
                "settings": {key.replace("_", " "): value for key, value in result.data.attrs.items()},
            }
        )
    write_page(
        folder / "index.html",
        "page.html",
        sections=sections,
        claims=claims,
        not_run=by_statement(report.not_run),
        overview=_overview(report),
        problem=context.problem,
        scaling_meaning=SCALING_MEANINGS[context.problem.scaling],
        steps=context.steps,
        seeds=context.seeds,
        quick=context.quick,
        command=report.command,
    )
    if static:
        write_figures(folder / "figures", drawn)


def _overview(report: Report) -> list[tuple[Part, str, dict[str, list[Claim]]]]:
    """Part by part the statements with their claims."""
    parts: dict[Part, list[Claim]] = {}
    for result in report.results:
        parts.setdefault(result.item.part, []).extend(result.claims)
    if report.not_run:
        parts.setdefault("network", []).extend(report.not_run)
    return [(part, PARTS[part].capitalize(), by_statement(parts[part])) for part in PARTS if part in parts]
