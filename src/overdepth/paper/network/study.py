"""Which runs of the network are made: learning rates first, then the new matrices' standard deviations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import xarray as xr

from overdepth.lab.problem import Array
from overdepth.paper.context import Context
from overdepth.paper.item import LEARNING_RATES
from overdepth.paper.network import forms
from overdepth.paper.network.curves import MEASURES, WINDOW, Measure, tuned
from overdepth.paper.network.mnist import Images, load
from overdepth.paper.network.model import STD
from overdepth.paper.network.penalty import PENALTIES
from overdepth.paper.network.store import RunStore
from overdepth.paper.network.training import ARMS, CHECKPOINT_EVERY, HORIZON, Recorded, Run, begin, finished, train
from overdepth.reporter import Reporter

STDS = (1e-3, 5e-3, 1e-2, 5e-2, 1e-1, 5e-1)
FORMS_LR = 1e-2  # the tutorial's
REPORT_EVERY = 10


@dataclass(frozen=True)
class Extent:
    """How much is run.

    Attributes:
        steps: Of every run.
        rates: Learning rates of every arm.
        stds: Of the new matrices, at the tuned rates.
        forms_steps: Over which form 1 is held against form 2.
    """

    steps: int
    rates: tuple[float, ...]
    stds: tuple[float, ...]
    forms_steps: int = forms.STEPS


FULL = Extent(HORIZON, LEARNING_RATES, STDS)
SHORT = Extent(150, (5e-3, 1e-2, 5e-2), (1e-2, STD, 5e-1))
QUICK = Extent(20, (1e-2,), (1e-2, STD), forms_steps=5)


def extent_of(context: Context) -> Extent:
    """The whole only where it was asked for."""
    if context.quick:
        return QUICK
    return FULL if context.full else SHORT


def seeds_of(context: Context) -> tuple[int, ...]:
    """Every seed where the whole was asked for, else the first."""
    seeds = tuple(int(seed) for seed in context.seeds)
    return seeds if extent_of(context) is FULL else seeds[:1]


def work(context: Context) -> xr.Dataset:
    """The data of the item."""
    images, extent, seeds = load(), extent_of(context), seeds_of(context)
    store = RunStore(context.kept.folder / "network" if context.kept else None)
    settings = {"images": images.checksum, "seeds": seeds, **asdict(extent)}
    return context.keep("network", settings, lambda: study(images, extent, seeds, store, context.reporter))


def study(
    images: Images,
    extent: Extent,
    seeds: Sequence[int],
    store: RunStore,
    reporter: Reporter,
    *,
    every: int = CHECKPOINT_EVERY,
) -> xr.Dataset:
    """Makes all runs, or takes them from the store and goes on with what was begun.

    Args:
        images: To train on.
        extent: How much is run.
        seeds: Of every run.
        store: Where runs are kept.
        reporter: Told of the progress.
        every: Steps between two checkpoints.
    """
    inputs = images.inputs().contiguous(memory_format=torch.channels_last)
    runs: list[Run] = []
    records: list[Recorded] = []

    def complete(wanted: Sequence[Run], what: str) -> None:
        for i, run in enumerate(wanted, start=1):
            settings = {**asdict(run), "steps": extent.steps, "images": images.checksum}
            settings_shown = f"{run.arm}, lr {run.lr:g}, std {run.std:g}"
            reporter.begin(f"network, {what} {i} of {len(wanted)}: {settings_shown}", 1, extent.steps)
            saved = store.load(settings)
            record = finished(saved) or train(
                begin(run, inputs, images.labels),
                extent.steps,
                saved=saved,
                save=lambda record, settings=settings: store.save(settings, record),  # type: ignore[misc]
                every=every,
                progress=lambda done, left: None if done % REPORT_EVERY else reporter.advance(done, left),
            )
            reporter.advance(extent.steps, 1)
            runs.append(run)
            records.append(record)

    complete([Run(arm, lr, STD, seed) for seed in seeds for arm in ARMS for lr in extent.rates], "learning rate")
    searched = dataset(runs, records)
    others = dict.fromkeys(
        Run(arm, lr, std, seed)
        for seed in seeds
        for arm in PENALTIES
        for lr in (tuned(searched, measure, arm, seed) for measure in MEASURES)
        for std in extent.stds
        if std != STD and lr == lr
    )
    complete(list(others), "standard deviation")
    data = xr.merge([dataset(runs, records), _forms(images, extent, seeds, reporter)])
    data.attrs = {
        "images": images.name,
        "images_from": images.source,
        "images_count": len(images.labels),
        "smoothing": f"mean of the last {WINDOW} batch losses",
        "seeds": np.array(seeds),
    }
    return data


def dataset(runs: Sequence[Run], records: Sequence[Recorded]) -> xr.Dataset:
    """Batch losses by run and step."""
    steps = len(records[0].total)
    columns = {name: ("run", [getattr(run, name) for run in runs]) for name in ("arm", "lr", "std", "seed")}
    losses: dict[Measure, list[Array]] = {
        "cross_entropy": [r.cross_entropy for r in records],
        "total_loss": [r.total for r in records],
    }
    variables = {
        name: (("run", "step"), np.stack(rows).astype(np.float32), {"long_name": f"{MEASURES[name]} of a batch"})
        for name, rows in losses.items()
    }
    return xr.Dataset(
        {
            **variables,
            "diverged_at": ("run", [r.diverged_at for r in records], {"long_name": "step, -1 if it stayed finite"}),
        },
        coords={"step": np.arange(1, steps + 1), "run": np.arange(len(runs)), **columns},
    )


def _forms(images: Images, extent: Extent, seeds: Sequence[int], reporter: Reporter) -> xr.Dataset:
    """Total batch losses of form 1 and form 2 in double precision."""
    count = min(len(images.labels), 64 * (extent.forms_steps + 2))
    inputs, labels = images.inputs(torch.float64)[:count], images.labels[:count]
    reporter.begin("network, form 1 against form 2", 1, len(forms.PENALTIES) * len(seeds))
    losses = []
    for penalty in forms.PENALTIES:
        for seed in seeds:
            losses.append(forms.both_forms(penalty, FORMS_LR, seed, inputs, labels, extent.forms_steps))
            reporter.advance(len(losses), 1)
    table = np.array(losses).reshape(len(forms.PENALTIES), len(seeds), 2, extent.forms_steps)
    return xr.Dataset(
        {
            "forms_loss": (
                ("forms_penalty", "forms_seed", "form", "forms_step"),
                table,
                {"long_name": "total loss of a batch, double precision"},
            )
        },
        coords={
            "forms_penalty": list(forms.PENALTIES),
            "forms_seed": list(seeds),
            "form": [1, 2],
            "forms_step": np.arange(1, extent.forms_steps + 1),
        },
    )
