"""``overdepth show``: the result of a sweep as one page."""

from __future__ import annotations

import shlex
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from overdepth.commands.terminal import OutputConsole, status_line
from overdepth.paper.claim import number
from overdepth.sweeps.results import unfinished_results
from overdepth.sweeps.show import Drawn, draw, open_results, write
from overdepth.sweeps.show.labels import label, text
from overdepth.sweeps.show.page import check_page
from overdepth.sweeps.show.panel import Panel

SHORT = "Draw the result of a sweep: best learning rates, curves, maps."
EPILOG = "Exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."
SHOWN = 20
"""Lines of a table in the terminal; the page has more."""


def show(
    results: Annotated[
        Path, typer.Argument(help="A sweep's folder, a NetCDF file, a Zarr folder, or a folder of overdepth reproduce.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page; show.html in the folder, or beside a file. Replaced if it is one.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(help="A setting that makes groups, may be given again; the others are tuned as lr is."),
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> int:
    """Example: overdepth show sweep --group depth --open.

    Draws the result of a sweep into one page that needs no network: the best learning rate of every group of runs,
    curves, the gap over learning rate and depth, where runs diverged.

    Groups are made by all settings that vary but the learning rate and the seed.
    """
    page = out or default_page(results)
    with status_line() as report:
        report(f"reading {results}")
        with open_results(results, assemble=unfinished_results) as found:
            check_page(page)
            drawn = draw(found, [name for each in group for name in each.split(",")] if group else None)
            report(f"writing {page}")
            write(page, drawn, name=_name(results), command=_command(results, out, group or ()))
    console = OutputConsole()
    _print(drawn, console)
    console.print(f"\nPage: {page}")
    if open_page and not webbrowser.open(page.resolve().as_uri()):
        console.print("No browser was found; open the page by hand.")
    return 0


def default_page(results: Path) -> Path:
    """Where the page goes: into a folder, beside a file and beside a Zarr folder."""
    if results.is_dir() and not results.name.endswith(".zarr"):
        return results / "show.html"
    return results.with_name(f"{results.stem}.html")


def _name(results: Path) -> str:
    path = results.resolve()
    return path.parent.name if path.stem == "results" else path.stem


def _command(results: Path, out: Path | None, group: Sequence[str]) -> str:
    options = [part for name in group for part in ("--group", name)]
    return shlex.join(["overdepth", "show", str(results), *options, *(["--out", str(out)] if out else [])])


def _print(drawn: Drawn, console: OutputConsole) -> None:
    """The tables of best learning rates, as far as they fit."""
    for section in drawn.sections:
        for panel in section.panels:
            heading = ", ".join(filter(None, [section.name, panel.title]))
            if heading:
                console.print(f"\n{heading}")
            console.print(_table(panel))
            more = len(panel.grouping.best) - min(len(panel.rows), SHOWN)
            if more:
                console.print(f"and {more:,} more groups")
    for sentence in drawn.left_out:
        console.print(f"Left out: {sentence}")


def _table(panel: Panel) -> Table:
    table = Table("group", box=None, padding=(0, 2, 0, 0))
    for heading in ("best lr", "gap", "diverged"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("notes")
    for row in panel.rows[:SHOWN]:
        best = row.best
        table.add_row(
            label({**best.settings, **best.chosen}) or "all runs",
            "–" if best.lr is None else text(best.lr),
            "–" if best.lr is None else number(best.gap),
            f"{best.diverged:,} of {best.runs:,}",
            "; ".join(best.notes),
        )
    return table
