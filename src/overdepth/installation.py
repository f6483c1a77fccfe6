"""What is installed, found and reachable here: what a report of a problem should say."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from overdepth import gemm
from overdepth._version import __version__
from overdepth.lab import ethanol
from overdepth.paper.network import mnist

EXTRAS = ("lab", "compare", "explore", "ray", "lightning", "trainer", "optax", "static", "zarr", "docs")
"""Those that a user may want; one that this version does not have is left out."""


@dataclass(frozen=True)
class Extra:
    """An optional part: its name and the packages that it lacks."""

    name: str
    missing: tuple[str, ...]


@dataclass(frozen=True)
class DataSet:
    """Where a data set lies, or None; ``fallback`` says what happens then."""

    name: str
    place: str | None
    fallback: str


@dataclass(frozen=True)
class Cache:
    """The user's cache folder.

    Attributes:
        folder: Where.
        size: Of all files in it, in bytes.
        files: How many.
        problem: Why it cannot be written, or None.
    """

    folder: str
    size: int
    files: int
    problem: str | None


@dataclass(frozen=True)
class Installation:
    """Everything that is looked at.

    Attributes:
        versions: By name: overdepth, python, torch and what else decides numbers.
        machine: Processor and system.
        cores: That this process may use.
        threads: Of torch.
        onednn: Whether the sweep engine multiplies by oneDNN's kernels.
        gpus: Names of those that torch sees.
        extras: What is optional.
        data: Sets that the experiments need.
        cache: Where finished runs and downloads are kept.
    """

    versions: dict[str, str]
    machine: str
    cores: int
    threads: int
    onednn: bool
    gpus: list[str]
    extras: list[Extra]
    data: list[DataSet]
    cache: Cache

    def to_json(self) -> dict[str, object]:
        """As plain JSON values."""
        return asdict(self)


def examine() -> Installation:
    """Looks at everything; nothing is downloaded, and nothing but a file of a moment is written.

    Example:
        >>> from overdepth.installation import examine
        >>> examine().extras[0]
        Extra(name='lab', missing=())
    """
    packages = ("numpy", "scipy", "xarray", "scikit-learn", "plotly")
    return Installation(
        versions={
            "overdepth": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            **{name: version for name in packages if (version := _version(name))},
        },
        machine=f"{platform.machine()}, {platform.system()} {platform.release()}",
        cores=_cores(),
        threads=torch.get_num_threads(),
        onednn=gemm._HAS_ONEDNN,
        gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        extras=extras(),
        data=data_sets(),
        cache=cache(),
    )


def extras() -> list[Extra]:
    """The extras of this version and what each lacks, from the metadata of the installed package."""
    try:
        requirements = importlib.metadata.requires("overdepth") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source alone
        return []
    wanted: dict[str, set[str]] = {}
    for requirement in requirements:
        name, _, marker = requirement.partition(";")
        if found := re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker):
            wanted.setdefault(found[1], set()).add(re.split(r"[\s<>=!~\[(]", name.strip(), maxsplit=1)[0])
    return [
        Extra(extra, tuple(sorted(name for name in wanted[extra] - {"overdepth"} if _version(name) is None)))
        for extra in EXTRAS
        if extra in wanted
    ]


def data_sets() -> list[DataSet]:
    """Where the sets lie that are not part of a dependency; they are not opened."""
    archive = [[ethanol.FILE_NAME], ["batch1.dat"], [ethanol.ARCHIVE_NAME]]
    images = [[mnist.FILE_NAME], list(mnist.PUBLISHED_MD5)]
    return [
        DataSet("Ethanol", _first_place(archive), "downloaded from the UCI archive when it is needed"),
        DataSet("MNIST", _first_place(images), "downloaded when it is needed, else scikit-learn's digits"),
    ]


def cache() -> Cache:
    """The cache folder, how much is in it, and whether it can be written."""
    folder = ethanol.data_cache().parent
    size = files = 0
    try:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                size, files = size + path.stat().st_size, files + 1
        nearest = folder
        while not nearest.exists():
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            problem = None
    except OSError as error:
        problem = error.strerror or str(error)
    return Cache(str(folder), size, files, problem)


def _first_place(alternatives: list[list[str]]) -> str | None:
    """The file, or the folder, that holds all files of one of the alternatives, where the library looks first."""
    named = os.environ.get("OVERDEPTH_DATA")
    for folder in [*([Path(named)] if named else []), ethanol.data_cache()]:
        for names in alternatives:
            if all((folder / name).is_file() for name in names):
                return str(folder / names[0] if len(names) == 1 else folder)
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    allowed = getattr(os, "sched_getaffinity", None)  # on Linux alone
    return len(allowed(0)) if allowed else os.cpu_count() or 1
