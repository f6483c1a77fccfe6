"""``overdepth reproduce``: the papers' figures and statements again, with verdicts, on one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from overdepth.commands.terminal import OutputConsole, progress_reporter
from overdepth.lab import DATASETS, SCALINGS, RunCache, load_problem
from overdepth.lab.problem import Problem
from overdepth.paper.claim import HORIZON, Claim, Setting, by_statement, number
from overdepth.paper.context import Context
from overdepth.paper.folder import check_destination, replacing
from overdepth.paper.item import PARTS, Item
from overdepth.paper.items import ITEMS
from overdepth.paper.kept import KeptData
from overdepth.paper.network.mnist import load as load_images
from overdepth.paper.report import Report, write_report
from overdepth.paper.reproduce import reproduce as run_items
from overdepth.paper.static import check_static

SHORT = "Run the papers' figures again and check what they say."
EPILOG = (
    f"Parts: {', '.join(PARTS)}. Items: {', '.join(ITEMS)}. Exit status: 0 done, 1 failed, 2 bad input, "
    f"130 interrupted."
)
QUICK_STEPS = 5_000
MOST_STEPS, MOST_SEEDS = 100_000_000, 1_000
COLORS = {"holds": "green", "fails": "red", "inconclusive": "yellow", "not run": "yellow"}


def reproduce(
    items: Annotated[
        list[str] | None, typer.Argument(help="Items or parts; the papers' if none is named, all but the network's.")
    ] = None,
    data: Annotated[
        str, typer.Option(help=f"One of {', '.join(DATASETS)}, or a .csv, .npz, .npy or .parquet file.")
    ] = "auto",
    target: Annotated[str | None, typer.Option(help="The target column of a file.")] = None,
    scaling: Annotated[str, typer.Option(help=f"One of {', '.join(SCALINGS)}, or none.")] = "standard",
    steps: Annotated[
        int | None, typer.Option(help=f"Iterations of every run; {HORIZON:,}, and below that no verdicts.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Number of random starts, 0, 1, ...")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"In minutes: {QUICK_STEPS:,} iterations; all parts but the network.")
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The network at full length: hours, may be interrupted and continued.")
    ] = False,
    static: Annotated[
        bool, typer.Option("--static", help="Write every figure as PNG and SVG too; needs Chrome or Chromium.")
    ] = False,
    list_items: Annotated[bool, typer.Option("--list", help="Show the items, what they need and how long.")] = False,
    out: Annotated[Path, typer.Option(help="Folder for the report; replaced only if it is an earlier one.")] = Path(
        "report"
    ),
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 if a claim fails.")] = False,
) -> int:
    """Example: overdepth reproduce fig2 fig3 --data breast-cancer --out report.

    Runs the papers' figures again and checks what they say about them.

    Writes index.html (one page, no network needed), claims.json, and the data of every item as ITEM.nc. What was
    computed is kept in the user's cache folder and reused; an interrupted command goes on where it was.
    """
    console = OutputConsole()
    if quick and full:
        raise ValueError("--quick and --full were both given, expected at most one of them; leave one out.")
    chosen = chosen_items(items or [], quick=quick, full=full)
    if list_items:
        _print_list(chosen if items else list(ITEMS.values()), console)
        return 0
    steps = steps if steps is not None else QUICK_STEPS if quick else HORIZON
    for name, value, most in (("--steps", steps, MOST_STEPS), ("--seeds", seeds, MOST_SEEDS)):
        if not 1 <= value <= most:
            raise ValueError(f"{name} is {value}, expected an integer from 1 to {most:,}.")
    check_destination(out, "reproduce")
    if static:
        check_static()
    problem = load_problem(data, target=target, scaling=scaling)
    found = problem.name if data == "auto" else data  # decided once, whatever the network does meanwhile
    console.print(_describe(problem, data))
    if any(item.part == "network" for item in chosen):
        load_images()  # what is wrong with the images is said before hours of work
    command = _Command(data, target, scaling, steps, seeds, quick=quick, full=full, static=static, out=out)
    with progress_reporter() as reporter:
        context = Context(
            problem,
            range(seeds),
            steps,
            quick=quick,
            full=full,
            load=lambda name: load_problem(found, target=target, scaling=name),
            cache=RunCache(),
            kept=KeptData(),
            reporter=reporter,
        )
        results = run_items(chosen, context)
    not_run = [] if items else _left_out(chosen, command)
    report = Report(results, context, command.of(items or []), command.alone, not_run)
    with replacing(out, "reproduce") as folder:
        write_report(folder, report, static=static)
    _print_claims(report.claims, console)
    console.print(f"\nReport: {out / 'index.html'}")
    return 1 if strict and any(claim.verdict == "fails" for claim in report.claims) else 0


@dataclass(frozen=True)
class _Command:
    """The command line, to be given again."""

    data: str
    target: str | None
    scaling: str
    steps: int
    seeds: int
    quick: bool
    full: bool
    static: bool
    out: Path

    def alone(self, name: str) -> str:
        """The command for a single item, into a folder beside this one's."""
        return replace(self, out=self.out.with_name(f"{self.out.name}-{name}")).of([name])

    def of(self, names: Sequence[str]) -> str:
        """The same command for these items."""
        flags = {"--quick": self.quick, "--full": self.full, "--static": self.static}
        return shlex.join(
            ["overdepth", "reproduce", *dict.fromkeys(names), "--data", self.data]
            + (["--target", self.target] if self.target else [])
            + ["--scaling", self.scaling, "--steps", str(self.steps), "--seeds", str(self.seeds)]
            + [flag for flag, given in flags.items() if given]
            + ["--out", str(self.out)]
        )


def chosen_items(names: Sequence[str], *, quick: bool = False, full: bool = False) -> list[Item]:
    """The items of these names and parts, in the order of the report.

    Raises:
        ValueError: If a name is unknown.
    """
    for name in names:
        if name not in ITEMS and name not in PARTS:
            raise ValueError(
                f"item {name!r} is unknown, expected some of {', '.join(dict.fromkeys([*PARTS, *ITEMS]))}."
            )
    default = [part for part in PARTS if part != "network"] if quick else ["papers"] + ["network"] * full
    wanted = names or default
    return [item for name, item in ITEMS.items() if name in wanted or item.part in wanted]


def _left_out(chosen: Sequence[Item], command: _Command) -> list[Claim]:
    """The papers' claims that need what was not asked for."""
    setting = Setting("MNIST", "none", (), 0)
    whole = replace(command, quick=False, full=True)
    return [
        statement.not_run(item.title, setting, f"Takes hours, and may be interrupted: {whole.alone(item.name)}")
        for item in ITEMS.values()
        if item.part == "network" and item not in chosen
        for statement in item.statements
    ]


def _print_list(items: Sequence[Item], console: OutputConsole) -> None:
    for part, title in PARTS.items():
        if not (own := [item for item in items if item.part == part]):
            continue
        console.print(Text.assemble((part, "bold"), f": {title}"))
        table = Table("  item", "minutes", "--quick", "needs", "what", box=None, pad_edge=False)
        table.columns[0].no_wrap, table.columns[0].min_width = True, 2 + max(len(item.name) for item in own)
        for item in own:
            full, quick = (f"{value:.1f}" if value < 10 else f"{value:.0f}" for value in item.minutes)
            table.add_row(f"  {item.name}", full, quick, item.needs, item.title)
        console.print(table, "")
    console.print("Minutes: about, one seed, the Ethanol data, two cores; what is in the cache takes none.")
    console.print("The data of an item: in the report as ITEM.nc. Run one alone: overdepth reproduce ITEM.")


def _describe(problem: Problem, asked: str) -> str:
    chosen = " (chosen because the Ethanol set is not at hand)" if asked == "auto" and problem.name != "ethanol" else ""
    return (
        f"Data: {problem.name}{chosen}, {problem.m} examples x {problem.d} features, scaling {problem.scaling}; "
        f"{problem.source}."
    )


def _print_claims(claims: Sequence[Claim], console: OutputConsole) -> None:
    """One block a statement: what was said and what it needs, then a line a comparison."""
    for same in by_statement(claims).values():
        console.print(Text.assemble("\n", (same[0].id, "bold"), f"  {same[0].statement} Needs {same[0].threshold}."))
        table = Table.grid(padding=(0, 2))
        for claim in same:
            verdict = Text(f"  {claim.verdict}", style=COLORS[claim.verdict])
            table.add_row(verdict, Text(number(claim.value), justify="right"), claim.comparison)
        console.print(table)
