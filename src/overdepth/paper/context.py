"""What an item is run in: the problem, seeds and length, and where finished work is looked up and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import xarray as xr

from overdepth.lab.cache import RunCache
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run
from overdepth.lab.sweeps import sweep
from overdepth.paper.kept import KeptData
from overdepth.reporter import Reporter


@dataclass(frozen=True)
class Plan:
    """A sweep that an item needs.

    Attributes:
        objective: Of all its runs.
        runs: The runs.
        record_every: As in :func:`overdepth.lab.sweep`.
        batch_size: Rows of a minibatch; None: all.
    """

    objective: str
    runs: Sequence[Run]
    record_every: int
    batch_size: int | None = None


@dataclass(frozen=True)
class Context:
    """What an item is run in.

    Attributes:
        problem: The data, scaled as asked, with a single target.
        seeds: Of whatever is random.
        steps: Iterations of the runs on the data.
        quick: Whether a few instances are enough: everything is run, and little of it decides anything.
        full: Whether items that have a shorter way by default, as the convolutional network, go the whole.
        load: The same data under another scaling.
        cache: Where finished runs are looked up and kept; None: nowhere.
        kept: The same for the data of items that are no sweeps.
        reporter: Told of the progress.
    """

    problem: Problem
    seeds: Sequence[int]
    steps: int
    quick: bool = False
    full: bool = False
    load: Callable[[str], Problem] | None = None
    cache: RunCache | None = None
    kept: KeptData | None = None
    reporter: Reporter = field(default_factory=Reporter)

    def scaled(self, scaling: str) -> Problem:
        """The same data under another scaling.

        Raises:
            ValueError: If the data were given ready-made, so that they cannot be scaled otherwise.
        """
        if scaling == self.problem.scaling:
            return self.problem
        if self.load is None:
            raise ValueError(f"scaling {scaling!r} needs the data as they were before; give load.")
        return self.load(scaling)

    def sweep(self, name: str, plans: Sequence[Plan], problem: Problem | None = None) -> xr.Dataset:
        """The data of several sweeps, joined along ``run``, ``batch_size`` being a coordinate too.

        Args:
            name: Whose they are, for the reporter.
            plans: The sweeps.
            problem: What they run on; default: the context's.
        """
        problem = problem or self.problem
        parts = []
        for plan in plans:
            self.reporter.begin(f"{name}, {plan.objective}", len(plan.runs), self.steps)
            part = sweep(
                problem,
                plan.runs,
                objective=plan.objective,
                steps=self.steps,
                record_every=plan.record_every,
                batch_size=plan.batch_size,
                cache=self.cache,
                progress=self.reporter.advance,
            )
            self.reporter.advance(self.steps, len(plan.runs))
            parts.append(part.assign_coords(batch_size=("run", [part.attrs["batch_size"]] * part.sizes["run"])))
        return joined(parts)

    def keep(self, name: str, settings: Mapping[str, object], compute: Callable[[], xr.Dataset]) -> xr.Dataset:
        """The data that ``compute`` makes, or made at an earlier time from the same settings and code.

        Args:
            name: Of the item, or of a part of it that is kept by itself.
            settings: All that decides the result besides the code: plain JSON values, the problem's ``checksum``
                and ``scaling`` among them where the data matter.
            compute: Makes them.
        """
        return compute() if self.kept is None else self.kept.get_or_compute(name, settings, compute)


def joined(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Sweeps with equal recorded steps as one data set, runs numbered anew."""
    data = xr.concat(parts, dim="run", combine_attrs="drop_conflicts", join="exact")
    data["run"] = range(data.sizes["run"])
    data["optimal_loss"].attrs.pop("attained", None)
    return data
