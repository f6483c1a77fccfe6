"""Where problems come from: the Ethanol set, the embedded breast-cancer set, or a file of the user's."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from overdepth.lab import ethanol, tables
from overdepth.lab.problem import Problem, scaled

DATASETS = ("auto", "ethanol", "breast-cancer")

_log = logging.getLogger(__name__)


def load_problem(
    name_or_path: str | os.PathLike[str], *, target: str | Sequence[str] | None = None, scaling: str = "standard"
) -> Problem:
    """Loads data and scales them.

    Args:
        name_or_path: ``"ethanol"`` (2565 x 128; from the folder named by the environment variable ``OVERDEPTH_DATA``,
            the user's cache, or the UCI archive), ``"breast-cancer"`` (569 x 30; ships with scikit-learn; the target
            is the diagnosis as a number), ``"auto"`` (ethanol if it can be had, else breast-cancer), or the path of a
            ``.csv``, ``.npz``, ``.npy`` or ``.parquet`` file.
        target: The target column of a file, or several. Columns of an ``.npz`` file are its arrays; the columns of a
            two-dimensional array ``X`` are called ``X[0]``, ``X[1]``, ..., and so are those of an ``.npy`` file, whose
            targets may be given by number too: ``"-1"`` is the last column.
        scaling: One of ``overdepth.lab.SCALINGS``, or ``"none"`` for data that are prepared already.

    Returns:
        The problem, X (m, d) and Y (m, k) in float64.

    Raises:
        ValueError: If the name, a column or the scaling is unknown, or the data are malformed.
        OSError: If a file cannot be read.
        ConnectionError: If ``"ethanol"`` is not at hand and cannot be downloaded.

    Example:
        >>> import overdepth as od
        >>> od.lab.load_problem("breast-cancer")
        Problem(name='breast-cancer', m=569, d=30, k=1, scaling='standard')
    """
    name = os.fspath(name_or_path)
    if name in DATASETS and target is not None:
        raise ValueError(f"target is {target!r}, but the data set {name!r} has a target of its own; leave target out.")
    if name == "ethanol":
        problem = ethanol.load()
    elif name == "breast-cancer":
        problem = _breast_cancer()
    elif name == "auto":
        problem = _auto()
    elif Path(name).suffix.lower() in tables.READERS:
        problem = tables.load(Path(name), target)
    else:
        raise ValueError(
            f"data set {name!r} is unknown, expected one of {', '.join(DATASETS)}, "
            f"or the path of a file that ends in {', '.join(tables.READERS)}."
        )
    return scaled(problem, scaling)


def _auto() -> Problem:
    try:
        return ethanol.load()
    except (OSError, ValueError) as error:
        _log.warning("Ethanol data not at hand (%s) Using the embedded breast-cancer set.", error)
        return _breast_cancer()


def _breast_cancer() -> Problem:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    return Problem(
        np.asarray(bunch.data),
        np.asarray(bunch.target, dtype=np.float64)[:, None],
        name="breast-cancer",
        feature_names=tuple(str(n) for n in bunch.feature_names),
        target_names=("benign",),
        source="Breast Cancer Wisconsin (Diagnostic), as it ships with scikit-learn",
    )
