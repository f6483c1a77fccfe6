"""What is said where an extra is missing, on every floor."""

from __future__ import annotations

from typing import NoReturn


def missing_extra(error: ModuleNotFoundError, what: str, extra: str) -> NoReturn:
    """Says which extra holds a package that is missing; to be called where the error was caught.

    Args:
        error: What was caught.
        what: What needs the package.
        extra: To install.

    Raises:
        ModuleNotFoundError: That names the extra; or ``error`` itself, where what is missing is a module of ours.
    """
    if error.name is None or error.name.split(".")[0] == "overdepth":
        raise error
    raise ModuleNotFoundError(
        f"{what} needs {error.name}, which is not installed; install the extra: pip install 'overdepth[{extra}]'.",
        name=error.name,
    ) from error
