"""All commands as one program; it needs the extra ``lab``."""

from __future__ import annotations

import contextlib
import errno
import importlib
import itertools
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Annotated, Any

import typer

import overdepth
from overdepth._extras import missing_extra

COMMANDS = ("reproduce", "compare", "inspect", "rates", "sweep", "show", "explore", "doctor")
"""Each a module of this package with a function of the same name."""
_SHORT = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG)
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
    "doctor": Advice("nothing was written", less="to run it again"),
    "explore": Advice("the explorer is closed", less="to open it again"),
    "show": Advice("nothing was written", less="a smaller result"),
    "sweep": Advice(
        "what was finished is kept; go on with --resume", again="go on with --resume", less="a smaller --memory"
    ),
}


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; bad input is one sentence on stderr and status 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    named = given[0] if given and given[0] in COMMANDS else ""
    try:
        with _terminated_as_interrupted():
            app = program([named] if named else COMMANDS)
            status = app(args=with_ray_address(given), prog_name="overdepth", standalone_mode=False)
    except typer.TyperException as error:
        command = f"overdepth {named}".rstrip()
        said = error.format_message().rstrip(".")
        return _complain(f"{said}{' S' if said.endswith('?') else '; s'}ee {command} --help.", BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except SystemExit as end:  # Typer ends the program itself when it has shown or installed a completion
        if isinstance(end.code, str):
            return _complain(end.code, FAILED)
        status = end.code
    except (ValueError, ConnectionError, ModuleNotFoundError) as error:
        return _complain(str(error), BAD_INPUT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = "free what is short" if error.errno in _SHORT else "check the path and its permissions"
        return _complain(f"{where}{error.strerror or error}; {remedy}, then {_advice(given).again}.", FAILED)
    except (MemoryError, RuntimeError) as error:
        if given[:1] == ["compare"] and str(error):  # its messages name the arm and the remedy
            return _complain(str(error), FAILED)
        if str(error).endswith("--resume"):  # a task lost on a cluster
            return _complain(f"{error}.", FAILED)
        return _complain(f"{str(error).rstrip('.') or 'out of memory'}; try {_advice(given).less}.", FAILED)
    if status == INTERRUPTED:  # Typer turns an interrupt into this status
        return _complain(f"interrupted; {_advice(given).kept}.", INTERRUPTED)
    return status if isinstance(status, int) else DONE


def program(names: Sequence[str] = COMMANDS) -> typer.Typer:
    """A program of some commands, which are imported here: the libraries of all take seconds."""
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback(invoke_without_command=True)(root)
    for name in names:
        module = _imported(name)
        app.command(short_help=module.SHORT, epilog=module.EPILOG)(getattr(module, name))
    return app


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(f"overdepth.commands.{name}")
    except ModuleNotFoundError as error:
        missing_extra(error, "the command line", "lab")


def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Linear over-parameterization: train a weight matrix as a product of matrices."""
    if version:
        typer.echo(f"overdepth {overdepth.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _advice(arguments: Sequence[str]) -> Advice:
    return ADVICE.get(arguments[0] if arguments else "", Advice("nothing was written"))


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A termination, as schedulers send it before they kill, ends a command as Ctrl-C does."""
    own = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:  # a fork, which inherits this
            os._exit(128 + number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
