"""All commands as one program; it needs the extra ``lab``."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

import overdepth
from overdepth.commands import compare, doctor, explore, inspect, rates, reproduce, show, sweep
from overdepth.commands.terminal import terminated_as_interrupted

app = typer.Typer(
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Linear over-parameterization: train a weight matrix as a product of matrices.",
)
DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclass(frozen=True)
class Advice:
    """What a command that was stopped has to say."""

    kept: str
    again: str = "run it again"
    less: str = "fewer seeds or steps"


ADVICE = {
    "compare": Advice("finished runs are kept; run it again to go on", less="fewer seeds or steps"),
    "inspect": Advice("nothing was written", less="a smaller model"),
    "reproduce": Advice("finished items and sweeps are kept; run it again to go on"),
    "rates": Advice("nothing was written", less="a shorter --time or a smaller chain"),
    "explore": Advice("the explorer is closed"),
    "show": Advice("nothing was written", less="a smaller result"),
    "sweep": Advice(
        "what was finished is kept; go on with --resume", again="go on with --resume", less="a smaller --memory"
    ),
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; bad input is one sentence on stderr and status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with terminated_as_interrupted():
            status = app(args=with_ray_address(given), prog_name="overdepth", standalone_mode=False)
    except typer.TyperException as error:
        known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
        command = f"overdepth {given[0]}" if given[0] in known else "overdepth"
        return _complain(f"{error.format_message().rstrip('.?')}; see {command} --help.", BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except SystemExit as end:  # Typer ends the program itself when it has shown or installed a completion
        status = end.code
    except (ValueError, ConnectionError, ModuleNotFoundError) as error:
        return _complain(str(error), BAD_INPUT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}; free what is short, then {_advice(given).again}.", FAILED)
    except (MemoryError, RuntimeError) as error:
        if given[:1] == ["compare"] and str(error):  # its messages name the arm and the remedy
            return _complain(str(error), FAILED)
        return _complain(f"{str(error).rstrip('.') or 'out of memory'}; try {_advice(given).less}.", FAILED)
    if status == INTERRUPTED:  # Typer turns an interrupt into this status
        return _complain(f"interrupted; {_advice(given).kept}.", INTERRUPTED)
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


for module, command in (
    (reproduce, reproduce.reproduce),
    (compare, compare.compare),
    (inspect, inspect.inspect),
    (rates, rates.rates),
    (sweep, sweep.sweep),
    (show, show.show),
    (explore, explore.explore),
    (doctor, doctor.doctor),
):
    app.command(short_help=module.SHORT, epilog=module.EPILOG)(command)


def _advice(arguments: Sequence[str]) -> Advice:
    return ADVICE.get(arguments[0] if arguments else "", Advice("nothing was written"))


def with_ray_address(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--ray``, whose address may be left out, always followed by one: Typer knows no such option.

    Example:
        >>> from overdepth.commands.app import with_ray_address
        >>> with_ray_address(["sweep", "--ray", "fig3"]), with_ray_address(["sweep", "fig3", "--ray", "10.0.0.1:6379"])
        (['sweep', '--ray', 'local', 'fig3'], ['sweep', 'fig3', '--ray', '10.0.0.1:6379'])
    """
    found: list[str] = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        found.append(argument)
        if argument == "--ray" and not re.fullmatch(r"auto|local|(ray://)?[^\s/]+:\d+", following):
            found.append("local")
    return found


def _complain(message: str, status: int) -> int:
    sys.stderr.write(f"overdepth: {message}\n")
    return status
