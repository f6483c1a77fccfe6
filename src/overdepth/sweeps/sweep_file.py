"""Sweep files: a sweep as a TOML document, checked as a whole, every mistake reported with its line."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from overdepth.chain import product
from overdepth.lab.datasets import DATASETS, load_problem
from overdepth.lab.memory import AnyProblem
from overdepth.lab.objectives import objective as objective_by_name
from overdepth.lab.problem import SCALING_MEANINGS, Problem
from overdepth.lab.run import Run
from overdepth.lab.settings import Settings
from overdepth.lab.tables import READERS
from overdepth.sweeps.mistakes import SweepFileError
from overdepth.sweeps.positions import Key, line_numbers
from overdepth.sweeps.values import FIELDS, checked, closest, combinations, listed, norm_of_depth, plain, shown

MOST_RUNS = 10_000_000
MOST_STEPS = 10**12 - 1
MOST_RECORDS = 1_000_000
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Row:
    """A run as a sweep file asks for it.

    Attributes:
        objective: Its objective.
        run: Its settings.
        norm_of_depth: If positive, the run's ``norm`` is that of the initial product of this depth at width 1.
    """

    objective: str
    run: Run
    norm_of_depth: int = 0

    def of(self, problem: AnyProblem) -> Row:
        """The row with its norm as a number."""
        if not self.norm_of_depth:
            return self
        start = replace(self.run, depth=self.norm_of_depth, width=1, method="gd", norm=None).start(problem.k, problem.d)
        return Row(self.objective, replace(self.run, norm=float(product(start).norm())))


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says.

    Attributes:
        text: The file, as it was read.
        data: A data set's name, or the absolute path of a file.
        target: The target column or columns of a file.
        scaling: Of the columns.
        settings: What all runs share.
        rows: The runs, each once, in the order of the file.
        repeated: How many further rows asked for a run that is there already.
    """

    text: str
    data: str
    target: tuple[str, ...]
    scaling: str
    settings: Settings
    rows: tuple[Row, ...]
    repeated: int = 0

    def load(self) -> Problem:
        """The data.

        Raises:
            ValueError, OSError, ConnectionError: As :func:`overdepth.lab.load_problem`.
        """
        return load_problem(self.data, target=list(self.target) or None, scaling=self.scaling)


def parse(text: str, *, name: str = "sweep file", folder: Path | None = None) -> SweepFile:
    r"""Reads a sweep file's text.

    Args:
        text: A TOML document: ``data``, ``target``, ``scaling``, ``objective``, ``steps``, ``record_every``, ``dtype``,
            ``batch_size``, ``batch_seed``; tables ``[[grid]]``, whose lists are multiplied out, and ``[[run]]``, rows.
        name: What messages call it.
        folder: Where relative paths of data begin; default: the working directory.

    Raises:
        SweepFileError: With every mistake that can be seen without the data.

    Example:
        >>> from overdepth.sweeps import parse
        >>> file = parse('data = "breast-cancer"\nsteps = 100\n[[grid]]\ndepth = [1, 2]\nlr = [0.1, 0.5]')
        >>> len(file.rows), file.rows[0].run.lr
        (4, 0.1)
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists in lists in lists
        raise SweepFileError(name, [(None, f"it is no TOML document: {str(error).rstrip('.')}.")]) from None
    return _Reader(text, document, name, folder or Path()).read()


def read(path: Path) -> SweepFile:
    """Reads a sweep file.

    Raises:
        SweepFileError: If there are mistakes in it.
        ValueError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(
            f"the sweep file {path} does not exist; check the path, or give the name of a preset (overdepth sweep "
            f"--help lists them)."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ValueError(f"the sweep file {path} cannot be read ({reason}); give the path of a .toml file.") from None
    return parse(text, name=path.name, folder=path.parent)


class _Reader:
    """One reading of a document, with the mistakes found so far."""

    def __init__(self, text: str, document: dict[str, Any], name: str, folder: Path) -> None:
        self.text, self.document, self.name, self.folder = text, document, name, folder
        self.lines: dict[Key, int] | None = None
        self.mistakes: dict[tuple[int | None, str], None] = {}  # in their order, each once

    def read(self) -> SweepFile:
        for key in self.document:
            if key not in _KEYS:
                self.complain(
                    (key,), f"{plain(key)} is unknown, expected one of {', '.join(_KEYS)}{closest(key, list(_KEYS))}"
                )
        for key in ("data", "steps"):
            if key not in self.document:
                self.note((None, f"{key} is missing; give {_KEYS[key]}."))
        if not self.document.get("grid") and not self.document.get("run"):
            self.note((None, "there are no runs; add a table [[grid]] of lists, or a table [[run]]."))
        data = self.data()
        target = tuple(self.texts("target"))
        scaling = self.single("scaling", "standard", str)
        if scaling not in SCALING_MEANINGS:
            self.complain(("scaling",), f"scaling is {scaling!r}, expected one of {', '.join(SCALING_MEANINGS)}.")
        if self.document.get("data") in DATASETS and target:
            self.complain(("target",), f"target is given, but the data set {data!r} has its own; leave target out.")
        objectives = self.objectives()
        settings = self.settings()
        tables = [*self.tables("grid"), *self.tables("run")]
        rows = self.rows(tables, objectives)
        if self.mistakes or settings is None:
            raise SweepFileError(self.name, list(self.mistakes))
        unique = tuple(dict.fromkeys(rows))
        return SweepFile(self.text, data, target, scaling, settings, unique, len(rows) - len(unique))

    def data(self) -> str:
        """A data set's name, or an absolute path."""
        data = self.single("data", "auto", str)
        if data in DATASETS:
            return data
        try:
            if Path(data).suffix.lower() not in READERS:
                raise ValueError
            return str((self.folder / Path(data).expanduser()).resolve())
        except (ValueError, RuntimeError, OSError):  # no such home, a loop of links
            endings = ", ".join(READERS)
            self.complain(
                ("data",),
                f"data is {shown(data)}, expected one of {', '.join(DATASETS)}, or the path of a file that ends in "
                f"{endings}.",
            )
            return ""

    def objectives(self) -> list[str]:
        found: dict[str, None] = {}
        for name in self.texts("objective") or ["l4"]:
            try:
                found[objective_by_name(name).name] = None
            except ValueError as error:
                self.complain(("objective",), str(error))
        return list(found)

    def settings(self) -> Settings | None:
        dtype = self.single("dtype", "float32", str)
        if dtype not in DTYPES:
            self.complain(("dtype",), f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}.")
        numbers = {name: self.document[name] for name in _NUMBERS if name in self.document}
        before = len(self.mistakes)
        for name, value in numbers.items():
            try:
                if name == "batch_seed" and isinstance(value, bool):
                    raise ValueError(f"{name} is {value!r}, expected an integer >= 0.")
                Settings(**{"steps": 1, name: value})
                if name == "steps" and value > MOST_STEPS:
                    raise ValueError(f"{name} is {value!r}, expected at most {MOST_STEPS!r}.")
            except (ValueError, TypeError) as error:
                self.complain((name,), str(error))
        if len(self.mistakes) > before or dtype not in DTYPES or "steps" not in numbers:
            return None
        found = Settings(dtype=DTYPES[dtype], **numbers)
        if (records := found.steps // found.record_every + 1) > MOST_RECORDS:
            name = "record_every" if "record_every" in numbers else "steps"
            self.complain(
                (name,),
                f"{name} is {getattr(found, name)}, which asks for {records:,} records with steps {found.steps:,} and "
                f"record_every {found.record_every:,}, expected at most {MOST_RECORDS:,}; raise record_every.",
            )
        return found

    def tables(self, kind: str) -> list[tuple[Key, dict[str, list[Any]]]]:
        """The tables of a kind: for every field the values."""
        tables = self.document.get(kind, [])
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self.complain((kind,), f"{kind} is no table of its own; write [[{kind}]] above its settings.")
            return []
        found: list[tuple[Key, dict[str, list[Any]]]] = []
        for number, table in enumerate(tables):
            lists = {name: self.values((kind, number, name), value) for name, value in table.items()}
            if kind == "run":
                for name, values in lists.items():
                    if len(values) > 1:
                        self.complain((kind, number, name), f"{name} has {len(values)} values; lists go into [[grid]].")
            found.append(((kind, number), {name: values for name, values in lists.items() if name in FIELDS}))
        return found

    def values(self, key: Key, value: Any) -> list[Any]:
        field = str(key[-1])
        if field not in FIELDS:
            name = plain(field)
            self.complain(key, f"{name} is unknown, expected one of {', '.join(FIELDS)}{closest(field, FIELDS)}")
            return []
        found = []
        try:
            values = listed(value)
        except ValueError as error:
            self.complain(key, f"{field} {error}")
            return []
        for each in values:
            try:
                found.append(checked(field, each))
            except ValueError as error:
                self.complain(key, f"{field} {error}")
        return found

    def rows(self, tables: Sequence[tuple[Key, dict[str, list[Any]]]], objectives: Sequence[str]) -> list[Row]:
        count = len(objectives) * sum(math.prod(map(len, lists.values())) for _, lists in tables)
        if count > MOST_RUNS:
            self.note((None, f"it asks for {count:,} runs, at most {MOST_RUNS:,} fit one sweep; cut it."))
            return []
        runs: list[tuple[Run, int]] = []
        for key, lists in tables:
            refused: dict[str, None] = {}
            for settings in combinations(lists):
                depth = norm_of_depth(settings)
                try:
                    runs.append((Run(**settings), depth))
                except ValueError as error:
                    refused[str(error).replace("Run.", "")] = None
            for text in refused:
                self.complain(key, text)
        return [Row(objective, run, depth) for objective in objectives for run, depth in runs]

    def single(self, key: str, default: str, kind: type[str]) -> str:
        value = self.document.get(key, default)
        if not isinstance(value, kind):
            self.complain((key,), f"{key} is {shown(value)}, expected {_KEYS[key]}.")
            return default
        return value

    def texts(self, key: str) -> list[str]:
        value = self.document.get(key, [])
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, str) for each in values) or (key in self.document and not values):
            self.complain((key,), f"{key} is {shown(value)}, expected {_KEYS[key]}.")
            return []
        return values

    def complain(self, key: Key, text: str) -> None:
        if self.lines is None:
            self.lines = line_numbers(self.text)
        while key and key not in self.lines:
            key = key[:-1]
        self.note((self.lines.get(key), text))

    def note(self, mistake: tuple[int | None, str]) -> None:
        self.mistakes[mistake] = None


_NUMBERS = ("steps", "record_every", "batch_size", "batch_seed")
_KEYS = {
    "data": f"one of {', '.join(DATASETS)}, or the path of a file",
    "target": "a column's name, or a list of them",
    "scaling": f"one of {', '.join(SCALING_MEANINGS)}",
    "objective": "l2, l4, any even l<p>, logistic or cross_entropy, or a list of them",
    "steps": "the number of iterations",
    "record_every": "a number of iterations",
    "dtype": f"one of {', '.join(DTYPES)}",
    "batch_size": "the rows of a minibatch",
    "batch_seed": "an integer >= 0",
    "grid": "tables of lists",
    "run": "tables of values",
}
