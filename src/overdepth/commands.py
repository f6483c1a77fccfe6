"""The commands behind :mod:`overdepth.cli`, which needs the extra ``lab``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import overdepth
from overdepth import compare_command, rates_command, reproduce_command

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Linear over-parameterization: train a weight matrix as a product of matrices.",
)
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


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
        if given[:1] == ["compare"] and str(error):  # its messages name the arm and the remedy
            return _complain(str(error), FAILED)
        less = "a shorter --time or a smaller chain" if given[:1] == ["rates"] else "fewer seeds or steps"
        return _complain(f"{str(error).rstrip('.') or 'out of memory'}; try {less}.", FAILED)
    if status == INTERRUPTED:  # Typer turns an interrupt into this status
        of_command = {"rates": "nothing was written", "compare": "finished runs are kept; run it again to go on"}
        kept = of_command.get(given[0], "finished items and sweeps are kept; run it again to go on")
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


app.command(short_help=reproduce_command.SHORT, epilog=reproduce_command.EPILOG)(reproduce_command.reproduce)
app.command(short_help=compare_command.SHORT, epilog=compare_command.EPILOG)(compare_command.compare)
app.command(short_help=rates_command.SHORT, epilog=rates_command.EPILOG)(rates_command.rates)


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"overdepth: {message}\n")
    return status
