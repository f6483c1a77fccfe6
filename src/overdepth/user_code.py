"""Functions of a user's own file, named on the command line as FILE.py:FUNCTION."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def said_by(error: BaseException) -> str:
    """What an exception of a user's code says, in one line."""
    if isinstance(error, SystemExit):
        return "it calls sys.exit, which belongs under if __name__ == '__main__'"
    return f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(". :")


def load_function(place: str) -> Callable[..., Any]:
    """The function that ``FILE.py:FUNCTION`` names; runs the file, with its folder on the import path.

    Raises:
        ValueError: If there is no such file or function, or the file does not run; with the reason.
    """
    file, colon, name = place.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise ValueError(f"{place!r} should be FILE.py:FUNCTION, such as model.py:build.")
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"there is no file {file}; give FILE.py:FUNCTION with the path from here.")
    module_name = f"overdepth_user_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python file that can be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickles look their module up
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)  # for what the file imports beside it
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise ValueError(f"{file} does not run: {said_by(error)}") from error
    found: Callable[..., Any] | None = getattr(module, name, None)
    if found is None or not callable(found):
        functions = [n for n, value in vars(module).items() if callable(value) and not n.startswith("_")]
        raise ValueError(f"{file} has no function {name!r}; it has {', '.join(functions) or 'none'}.")
    return found
