"""The commands behind :mod:`overdepth.cli`, which needs the extra ``lab``."""

from __future__ import annotations

import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

import overdepth
from overdepth.lab import DATASETS, SCALINGS, RunCache, load_problem
from overdepth.lab.problem import Problem
from overdepth.paper import ITEMS
from overdepth.paper.claim import HORIZON, Claim, number
from overdepth.paper.context import Context
from overdepth.paper.folder import check_destination, replacing
from overdepth.paper.kept import KeptData
from overdepth.paper.report import write_report
from overdepth.paper.reproduce import reproduce as run_items
from overdepth.rates_command import EPILOG, SHORT, rates
from overdepth.terminal import OutputConsole, progress_reporter

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Linear over-parameterization: train a weight matrix as a product of matrices.",
)
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
MOST_STEPS, MOST_SEEDS = 100_000_000, 1_000
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
    except (ValueError, ConnectionError, ModuleNotFoundError) as error:
        return _complain(str(error), BAD_INPUT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}; free what is short and run it again.", FAILED)
    except (MemoryError, RuntimeError) as error:
        less = "a shorter --time or a smaller chain" if given[:1] == ["rates"] else "fewer seeds or steps"
        return _complain(f"{str(error).rstrip('.') or 'out of memory'}; try {less}.", FAILED)
    if status == INTERRUPTED:  # Typer turns an interrupt into this status
        kept = "nothing was written" if given[:1] == ["rates"] else "finished sweeps are kept and will be reused"
        return _complain(f"interrupted; {kept}.", INTERRUPTED)
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
    scaling: Annotated[str, typer.Option(help=f"One of {', '.join(SCALINGS)}, or none.")] = "standard",
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
    for name, value, most in (("--steps", steps, MOST_STEPS), ("--seeds", seeds, MOST_SEEDS)):
        if not 1 <= value <= most:
            raise ValueError(f"{name} is {value}, expected an integer from 1 to {most:,}.")
    check_destination(out)
    problem = load_problem(data, target=target, scaling=scaling)
    console = OutputConsole(markup=False, highlight=False, soft_wrap=True)
    console.print(_describe(problem, data))
    with progress_reporter() as reporter:
        context = Context(problem, range(seeds), steps, cache=RunCache(), kept=KeptData(), reporter=reporter)
        results = run_items(chosen, context)
    command = shlex.join(
        ["overdepth", "reproduce", *(item.name for item in chosen), "--data", data]
        + (["--target", target] if target else [])
        + ["--scaling", scaling, "--steps", str(steps), "--seeds", str(seeds), "--out", str(out)]
    )
    with replacing(out) as folder:
        write_report(folder, results, problem, command)
    claims = [claim for result in results for claim in result.claims]
    _print_claims(claims, console)
    console.print(f"\nReport: {out / 'index.html'}")
    return FAILED if strict and any(claim.verdict == "fails" for claim in claims) else DONE


app.command(short_help=SHORT, epilog=EPILOG)(rates)


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


def _print_claims(claims: Sequence[Claim], console: OutputConsole) -> None:
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
