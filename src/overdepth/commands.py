"""The commands behind :mod:`overdepth.cli`, which needs the extra ``lab``."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

import overdepth
from overdepth.lab import DATASETS, SCALINGS, RunCache, load_problem
from overdepth.lab.problem import Problem
from overdepth.paper import ITEMS
from overdepth.paper.claim import HORIZON, Claim, Setting, number
from overdepth.paper.folder import check_destination, replacing
from overdepth.paper.report import write_report
from overdepth.paper.reproduce import reproduce as run_items
from overdepth.terminal import progress_reporter

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Linear over-parameterization: train a weight matrix as a product of matrices.",
)
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
COLORS = {"holds": "green", "fails": "red", "inconclusive": "yellow", "not run": "yellow"}


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; bad input is one sentence on stderr and status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(args=given, prog_name="overdepth", standalone_mode=False)
    except typer.TyperException as error:
        known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
        command = f"overdepth {given[0]}" if given[0] in known else "overdepth"
        return _complain(f"{error.format_message().rstrip('.?')}; see {command} --help.", BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except (ValueError, ConnectionError) as error:
        return _complain(str(error), BAD_INPUT)
    except OSError as error:
        return _complain(f"{error.filename or 'a file'}: {error.strerror or error}; nothing was replaced.", FAILED)
    if status == INTERRUPTED:  # Typer turns an interrupt into this status
        return _complain("interrupted; finished runs are kept and will be reused.", INTERRUPTED)
    return status if isinstance(status, int) else DONE


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Linear over-parameterization: train a weight matrix as a product of matrices."""
    if version:
        typer.echo(f"overdepth {overdepth.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    short_help="Run a paper's figures again and check what it says about them.",
    epilog=f"Items: {', '.join(ITEMS)}. Exit status: 0 done, 1 failed, 2 bad input, 130 interrupted.",
)
def reproduce(
    items: Annotated[list[str] | None, typer.Argument(help="What to reproduce; all if none is named.")] = None,
    data: Annotated[
        str, typer.Option(help=f"One of {', '.join(DATASETS)}, or a .csv, .npz or .parquet file.")
    ] = "auto",
    target: Annotated[str | None, typer.Option(help="The target column of a file.")] = None,
    scaling: Annotated[str, typer.Option(help=f"One of {', '.join(SCALINGS)}.")] = "standard",
    steps: Annotated[int, typer.Option(help=f"Iterations of every run; below {HORIZON:,} no verdicts.")] = HORIZON,
    seeds: Annotated[int, typer.Option(help="Number of random starts, 0, 1, ...")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for the report; replaced only if it is an earlier one.")] = Path(
        "report"
    ),
    strict: Annotated[bool, typer.Option("--strict", help="Exit with status 1 if a claim fails.")] = False,
) -> int:
    """Example: overdepth reproduce fig2 fig3 --data breast-cancer --out report.

    Runs a paper's figures again and checks what it says about them.

    Writes index.html (one page, no network needed), claims.json, and the curves of every item as ITEM.nc.
    """
    chosen = _items(items or [])
    for name, value in (("--steps", steps), ("--seeds", seeds)):
        if value < 1:
            raise ValueError(f"{name} is {value}, expected an integer >= 1.")
    check_destination(out)
    problem = load_problem(data, target=target, scaling=scaling)
    console = Console()
    console.print(_describe(problem, data), soft_wrap=True, highlight=False)
    setting = Setting(problem.name, problem.scaling, tuple(range(seeds)), steps)
    with progress_reporter() as reporter:
        results = run_items(chosen, problem, steps=steps, seeds=setting.seeds, cache=RunCache(), reporter=reporter)
    command = shlex.join(
        ["overdepth", "reproduce", *(item.name for item in chosen), "--data", data]
        + (["--target", target] if target else [])
        + ["--scaling", scaling, "--steps", str(steps), "--seeds", str(seeds), "--out", str(out)]
    )
    with replacing(out) as folder:
        write_report(folder, results, problem, setting, command)
    claims = [claim for result in results for claim in result.claims]
    _print_claims(claims, console)
    console.print(f"\nReport: {out / 'index.html'}", soft_wrap=True, highlight=False)
    return FAILED if strict and any(claim.verdict == "fails" for claim in claims) else DONE


def _items(names: Sequence[str]) -> list[overdepth.paper.Item]:
    for name in names:
        if name not in ITEMS:
            raise ValueError(f"item {name!r} is unknown, expected some of {', '.join(ITEMS)}.")
    return [item for name, item in ITEMS.items() if not names or name in names]


def _describe(problem: Problem, asked: str) -> str:
    chosen = " (chosen because the Ethanol set is not at hand)" if asked == "auto" and problem.name != "ethanol" else ""
    return (
        f"Data: {problem.name}{chosen}, {problem.m} examples x {problem.d} features, scaling {problem.scaling}; "
        f"{problem.source}."
    )


def _print_claims(claims: Sequence[Claim], console: Console) -> None:
    """One block a statement: what was said and what it needs, then a line a comparison."""
    for _, group in itertools.groupby(sorted(claims, key=lambda claim: claim.id), key=lambda claim: claim.id):
        same = list(group)
        console.print(Text.assemble("\n", (same[0].id, "bold"), f"  {same[0].statement} Needs {same[0].threshold}."))
        table = Table.grid(padding=(0, 2))
        for claim in same:
            verdict = Text(f"  {claim.verdict}", style=COLORS[claim.verdict])
            table.add_row(verdict, Text(number(claim.value), justify="right"), claim.comparison)
        console.print(table)


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"overdepth: {message}\n")
    return status
