"""The runs of a data set: their settings, which of those vary, and the gap that each ends with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from overdepth.lab.problem import Array
from overdepth.sweeps.show.reading import BLOCK, Source

Index = np.ndarray
INCOMPARABLE = ("problem", "data", "scaling", "objective")
"""Settings that change the loss: gaps under different values of these are never compared."""
TUNED = "lr"
REPEATED = "seed"


@dataclass(frozen=True)
class Field:
    """A setting of all runs.

    Attributes:
        name: As in :class:`overdepth.lab.Run`.
        values: The distinct ones, in order; NaN last.
        codes: Shape (runs,): which of them each run has.
    """

    name: str
    values: np.ndarray
    codes: Index

    @classmethod
    def of(cls, name: str, column: np.ndarray) -> Field:
        """The field of a column of values."""
        if column.dtype.kind not in "fiub":
            column = column.astype(str)
        values, codes = np.unique(column, return_inverse=True)
        return cls(name, values, codes.reshape(-1))

    @property
    def varies(self) -> bool:
        """Whether runs differ in it."""
        return len(self.values) > 1

    def take(self, rows: Index) -> Field:
        """The field of some runs."""
        kept, codes = np.unique(self.codes[rows], return_inverse=True)
        return Field(self.name, self.values[kept], codes.reshape(-1))


@dataclass(frozen=True)
class Runs:
    """Runs, in the order of the file, each setting once.

    Attributes:
        source: Where they are from.
        rows: Shape (runs,): their positions there.
        fields: The settings, by name.
        gap: Shape (runs,): loss minus optimal loss at ``step``; infinite for a run that diverged, NaN for one that has
            not come that far.
        diverged_at: Shape (runs,): the first step after which the weight was not finite; NaN if there is none.
        starts: Shape (runs,): the gap at step 0.
        position: Of ``step`` among the recorded ones.
        step: The last step that a run reached: of a finished sweep the last one.
        repeated: How many runs were left out because another one has the same settings.
        norm_follows_seed: Whether ``norm``, which was another one for every seed, now only tells if there is one.
    """

    source: Source
    rows: Index
    fields: dict[str, Field]
    gap: Array
    diverged_at: Array
    starts: Array
    position: int
    step: int
    repeated: int = 0
    norm_follows_seed: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def varying(self) -> tuple[str, ...]:
        """The settings in which they differ."""
        return tuple(name for name, field in self.fields.items() if field.varies)

    @cached_property
    def is_known(self) -> np.ndarray:
        """Shape (runs,): which of them came to the step, or diverged."""
        return ~np.isnan(self.gap)

    @cached_property
    def diverged(self) -> np.ndarray:
        """Shape (runs,): which of them diverged."""
        return np.isfinite(self.diverged_at)

    @cached_property
    def start(self) -> float:
        """The median gap at step 0; NaN if it is not known."""
        known = self.starts[np.isfinite(self.starts)]
        return float(np.median(known)) if len(known) else np.nan

    @cached_property
    def resolution(self) -> float:
        """Gaps below are rounding of the training."""
        dtype = np.float64 if self.source.data.attrs.get("dtype") == "float64" else np.float32
        return float(np.finfo(dtype).eps) * self.start

    def take(self, rows: Index) -> Runs:
        """Some of the runs."""
        fields = {name: field.take(rows) for name, field in self.fields.items()}
        return replace(
            self,
            rows=self.rows[rows],
            fields=fields,
            gap=self.gap[rows],
            diverged_at=self.diverged_at[rows],
            starts=self.starts[rows],
        )


def combined(fields: Sequence[Field], runs: int) -> tuple[Index, Index]:
    """Numbers the combinations of settings that occur, in the order of their values.

    Returns:
        For every run the number of its combination, and for every combination the first run that has it.
    """
    ids, first = np.zeros(runs, dtype=np.int64), np.zeros(min(runs, 1), dtype=np.int64)
    for field in fields:
        _, first, ids = np.unique(ids * len(field.values) + field.codes, return_index=True, return_inverse=True)
        ids = ids.reshape(-1)
    return ids, first


def read_runs(source: Source) -> Runs:
    """The runs of a data set.

    Raises:
        ValueError: If the file is damaged.
    """
    data = source.data
    count = data.sizes["run"]
    fields = {}
    for name in data.coords:
        if data[name].dims == ("run",) and name != "run":
            fields[str(name)] = Field.of(str(name), source.read(data[name]))
    norm_follows_seed = _norm_follows_seed(fields)
    if norm_follows_seed:
        norm = fields["norm"]
        fields["norm"] = Field.of("norm", np.isfinite(norm.values)[norm.codes])
    optimal = np.asarray(source.read(data["optimal_loss"]), dtype=np.float64)
    diverged_at = np.asarray(source.read(data["diverged_at"]), dtype=np.float64)
    position = _last_reached(source, diverged_at)
    gap = np.asarray(source.read(data["loss"].isel(step=position)), dtype=np.float64) - optimal
    gap[np.isfinite(diverged_at)] = np.inf
    start = np.asarray(source.read(data["loss"].isel(step=0)), dtype=np.float64) - optimal
    _, once = combined(list(fields.values()), count)
    runs = Runs(
        source,
        np.arange(count),
        fields,
        gap,
        diverged_at,
        start,
        position,
        int(source.read(data["step"])[position]),
        count - len(once),
        norm_follows_seed,
    )
    return runs.take(np.sort(once)) if len(once) < count else runs


def panels(runs: Runs) -> list[tuple[dict[str, object], Runs]]:
    """The runs that may be compared with one another, with the settings that tell them apart."""
    apart = [runs.fields[name] for name in INCOMPARABLE if name in runs.fields and runs.fields[name].varies]
    ids, first = combined(apart, len(runs))
    found: list[tuple[dict[str, object], Runs]] = []
    for number, example in enumerate(first):
        settings = {field.name: field.values[field.codes[example]] for field in apart}
        part = runs.take(np.flatnonzero(ids == number)) if apart else runs
        found.append((settings, part))
    return found


def _norm_follows_seed(fields: dict[str, Field]) -> bool:
    """Whether every seed has its own norm, as where the norm of another start is matched: those are one group.

    So it is if, all else being equal, seeds and norms come in pairs, and somewhere there is more than one pair.
    """
    norm, seed = fields.get("norm"), fields.get(REPEATED)
    if norm is None or seed is None or norm.values.dtype.kind != "f":
        return False
    given = np.flatnonzero(np.isfinite(norm.values[norm.codes]))
    norm, seed = norm.take(given), seed.take(given)
    others = [field.take(given) for name, field in fields.items() if name not in ("norm", REPEATED)]
    equal, _ = combined(others, len(given))
    whole = Field("", np.unique(equal), equal)
    places, pairs, norms, seeds = (
        len(combined([whole, *parts], len(given))[1]) for parts in ([], [norm, seed], [norm], [seed])
    )
    return pairs == norms == seeds > places


def _last_reached(source: Source, diverged_at: Array) -> int:
    """Position of the last recorded step that a run reached which did not diverge; the last one if all did."""
    loss = source.data["loss"].transpose("run", "step")
    runs, steps = loss.shape
    going = ~np.isfinite(diverged_at)
    if not going.any() or np.isfinite(source.read(loss.isel(step=-1))[going]).any():
        return steps - 1
    last = 0
    for first in range(0, runs, size := max(1, BLOCK // steps)):
        block = source.read(loss.isel(run=slice(first, first + size)))[going[first : first + size]]
        reached = np.flatnonzero(np.isfinite(block).any(axis=0))
        last = max(last, int(reached[-1]) if len(reached) else 0)
    return last
