"""A regression problem: features X, targets Y, and how they were scaled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scaling = Literal["standard", "unit-rows", "minmax", "maxabs", "label5"]
SCALINGS: tuple[Scaling, ...] = get_args(Scaling)

SCALING_MEANINGS: dict[str, str] = {
    "standard": "columns of X and Y standardised to zero mean and unit population variance",
    "unit-rows": "standard, then X divided by the root of the number of features, so that rows have mean square norm 1",
    "minmax": "columns of X mapped to [0, 1]; Y standardised",
    "maxabs": "columns of X divided by their largest absolute value, not centred; Y standardised",
    "label5": "standard, with Y times 5",
    "none": "as given",
}


@dataclass(frozen=True, eq=False)
class Problem:
    """Data of a linear model Y = X W^T without bias.

    Attributes:
        X: Features, shape (m, d), float64.
        Y: Targets, shape (m, k), float64.
        name: What the data are called in tables and pages.
        feature_names: d names.
        target_names: k names.
        scaling: One of ``SCALINGS``; ``"none"`` for data taken as given, one-hot classes say.
        source: Where the data came from, for people.
        checksum: SHA-256 of the unscaled X and Y; made from X and Y if not given.

    Raises:
        ValueError: If shapes do not fit, or an entry is not finite.

    Example:
        >>> import numpy as np
        >>> from overdepth.lab import Problem
        >>> Problem(np.ones((4, 2)), np.arange(4.0)[:, None])
        Problem(name='data', m=4, d=2, k=1, scaling='none')
    """

    X: Array
    Y: Array
    name: str = "data"
    feature_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    scaling: str = "none"
    source: str = "arrays"
    checksum: str = field(default="")

    def __post_init__(self) -> None:
        X, Y = np.ascontiguousarray(self.X, dtype=np.float64), np.ascontiguousarray(self.Y, dtype=np.float64)
        if X.ndim != 2 or Y.ndim != 2 or X.shape[0] != Y.shape[0] or 0 in X.shape or 0 in Y.shape:
            raise ValueError(
                f"X has shape {X.shape} and Y has shape {Y.shape}, expected (m, d) and (m, k) with m, d, k >= 1; "
                f"give a vector of targets as one column, y[:, None]."
            )
        for label, array in (("X", X), ("Y", Y)):
            if not np.isfinite(array).all():
                row, column = np.argwhere(~np.isfinite(array))[0]
                raise ValueError(f"{label}[{row}, {column}] is {array[row, column]}, expected finite numbers.")
        names = self.feature_names or tuple(f"x{i}" for i in range(X.shape[1]))
        targets = self.target_names or tuple(f"y{i}" for i in range(Y.shape[1]))
        if len(names) != X.shape[1] or len(targets) != Y.shape[1]:
            raise ValueError(f"{len(names)} feature and {len(targets)} target names for {X.shape[1]} and {Y.shape[1]}.")
        for attribute, value in (
            ("X", X),
            ("Y", Y),
            ("feature_names", names),
            ("target_names", targets),
            ("checksum", self.checksum or checksum(X, Y)),
        ):
            object.__setattr__(self, attribute, value)

    @property
    def m(self) -> int:
        """Number of examples."""
        return int(self.X.shape[0])

    @property
    def d(self) -> int:
        """Number of features."""
        return int(self.X.shape[1])

    @property
    def k(self) -> int:
        """Number of targets."""
        return int(self.Y.shape[1])

    def row_blocks(self) -> Iterator[tuple[Array, Array]]:
        """The rows of X and Y: here all at once, where the data do not fit into memory a block at a time."""
        yield self.X, self.Y

    def __repr__(self) -> str:
        return f"Problem(name={self.name!r}, m={self.m}, d={self.d}, k={self.k}, scaling={self.scaling!r})"


def scaled(problem: Problem, scaling: str) -> Problem:
    """The same problem with columns scaled; see ``SCALING_MEANINGS``.

    Raises:
        ValueError: If the scaling is unknown, the problem is scaled already, or a column is constant.
    """
    check_scaling(scaling)
    if problem.scaling != "none":
        raise ValueError(f"the problem is scaled already ({problem.scaling}); load it anew to scale it differently.")
    if scaling == "none":
        return problem
    for kind, array, names in (
        ("feature", problem.X, problem.feature_names),
        ("target", problem.Y, problem.target_names),
    ):
        refuse_constant_columns(problem.source, kind, names, np.ptp(array, axis=0) == 0)
    X, Y = problem.X, standardised(problem.Y)
    if scaling == "minmax":
        X = (X - X.min(axis=0)) / np.ptp(X, axis=0)
    elif scaling == "maxabs":
        X = X / np.abs(X).max(axis=0)
    else:
        X = standardised(X)
    if scaling == "unit-rows":
        X = X / np.sqrt(problem.d)
    if scaling == "label5":
        Y = 5.0 * Y
    return Problem(
        X,
        Y,
        name=problem.name,
        feature_names=problem.feature_names,
        target_names=problem.target_names,
        scaling=scaling,
        source=problem.source,
        checksum=problem.checksum,
    )


def standardised(array: Array) -> Array:
    """Columns with zero mean and unit population variance."""
    centred = array - array.mean(axis=0)
    centred = centred / np.abs(centred).max(axis=0)  # else the squares of very large or small columns are lost
    return np.asarray(centred / np.sqrt(np.mean(centred**2, axis=0)))


def checksum(X: Array, Y: Array) -> str:
    """SHA-256 of the shapes and the float64 entries."""
    digest = hashlib.sha256(repr((X.shape, Y.shape)).encode())
    digest.update(np.ascontiguousarray(X, dtype="<f8").tobytes())
    digest.update(np.ascontiguousarray(Y, dtype="<f8").tobytes())
    return digest.hexdigest()


def check_scaling(scaling: str) -> None:
    """Checks that a scaling is one of ``SCALING_MEANINGS``.

    Raises:
        ValueError: If it is not.
    """
    if scaling not in SCALING_MEANINGS:
        raise ValueError(f"scaling is {scaling!r}, expected one of {', '.join(SCALING_MEANINGS)}.")


def refuse_constant_columns(source: str, kind: str, names: Sequence[str], is_constant: NDArray[np.bool_]) -> None:
    """Refuses columns, features or targets, that have one value only.

    Raises:
        ValueError: If there is one; it names the first five.
    """
    constant = [name for name, found in zip(names, is_constant, strict=True) if found]
    if constant:
        shown = ", ".join(repr(name) for name in constant[:5]) + (", ..." if len(constant) > 5 else "")
        raise ValueError(
            f"{source}: {kind} column{'s' if len(constant) > 1 else ''} {shown} "
            f"{'are' if len(constant) > 1 else 'is'} constant, which no scaling can standardise; "
            + (
                "name another target."
                if kind == "target"
                else f"drop {'them' if len(constant) > 1 else 'it'} from the file."
            )
        )
