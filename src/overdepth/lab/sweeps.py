"""Sweeps: many runs on one problem, the result as one labelled data set."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from overdepth._version import __version__
from overdepth.lab.cache import Finished, RunCache
from overdepth.lab.engine import Engine, Progress
from overdepth.lab.objectives import objective as objective_by_name
from overdepth.lab.optimum import optimal_loss
from overdepth.lab.problem import Problem
from overdepth.lab.rows import RowProblem
from overdepth.lab.run import RUN_FIELDS, Run
from overdepth.lab.settings import Settings


def sweep(
    problem: Problem | RowProblem,
    runs: Sequence[Run],
    *,
    objective: str = "l4",
    steps: int,
    record_every: int = 100,
    dtype: torch.dtype = torch.float32,
    batch_size: int | None = None,
    batch_seed: int = 0,
    device: str = "cpu",
    allow_tf32: bool = False,
    cache: RunCache | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Trains linear networks, all at once, and returns their losses.

    The loss is (1/m) sum_i (1/p) (prediction_i - y_i)^p for ``l<p>``, summed over outputs. Time grows linearly in
    runs and steps once the runs fill the matrix products, from about a hundred runs on; below, thin products and kernel
    launches weigh more (the README has a table). Memory is that of the data, in float64 and in ``dtype``, of the runs'
    factors, of some MB of predictions, and of the recorded losses; :func:`working_set` estimates it.

    Args:
        problem: The data, from :func:`load_problem`, or from :func:`open_rows` if they do not fit into memory.
        runs: Settings of each run, from :class:`Run` or :func:`grid`.
        objective: ``l2``, ``l4``, any even ``l<p>``, ``logistic`` or ``cross_entropy``.
        steps: Gradient steps T.
        record_every: The loss is recorded, in float64, at step 0, every so many steps, and at the last one.
        dtype: Of the training, torch.float32 or torch.float64.
        batch_size: Rows of a minibatch, the same ones for all runs (common random numbers); default: all rows.
        batch_seed: Seed of the minibatches.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``. Runs start from the same factors on every device.
        allow_tf32: Whether a GPU may round the factors of float32 products to TF32.
        cache: Where finished runs are looked up and kept; default: nowhere.
        progress: Called now and then with the step reached and the number of live runs.

    Returns:
        A data set with dimensions ``run`` and ``step``; a coordinate on ``run`` for every field of :class:`Run`
        (``norm`` is NaN where None) and for ``objective``; and the variables ``loss(run, step)``, NaN from the
        divergence on; ``optimal_loss(run)``, an infimum where ``optimal_loss.attrs["attained"]`` is 0; and
        ``diverged_at(run)``, the first step after which the weight was not finite, NaN if there is none.

    Raises:
        ValueError: If a setting is out of its range, the problem's targets do not suit the objective, or this machine
            does not have the device.

    Example:
        >>> import overdepth as od
        >>> problem = od.lab.load_problem("breast-cancer")
        >>> result = od.lab.sweep(problem, od.lab.grid(depth=[1, 2], lr=[1e-3, 1e-2]), objective="l2", steps=200)
        >>> result.loss.sizes
        Frozen({'run': 4, 'step': 3})
        >>> bool((result.loss.isel(step=-1) < result.loss.isel(step=0)).all())
        True
    """
    runs = list(runs)
    if isinstance(problem, str | os.PathLike):
        raise TypeError(f"problem is {problem!r}, expected a Problem; load_problem({problem!r}) makes one.")
    for i, run in enumerate(runs):
        if not isinstance(run, Run):
            raise TypeError(f"runs[{i}] is {run!r}, expected a Run, such as those that grid() makes.")
    loss = objective_by_name(objective)
    settings = Settings(steps, record_every, dtype, batch_size, batch_seed, device, allow_tf32)
    if not runs:
        raise ValueError("runs is empty, expected at least one Run.")
    optimum = optimal_loss(problem, loss)
    keys = cache.keys(problem, loss.name, runs, settings) if cache else [""] * len(runs)
    finished = [cache.get(key) if cache else None for key in keys]
    missing = [i for i, found in enumerate(finished) if found is None]
    began = time.perf_counter()
    if missing:
        engine = Engine(problem, [runs[i] for i in missing], loss, settings)
        state = engine.advance(engine.start(), progress=progress)
        for row, i in enumerate(missing):
            finished[i] = Finished(state.loss[row], int(state.diverged_at[row]))
        if cache:
            cache.put([keys[i] for i in missing], [found for i in missing if (found := finished[i])])
    seconds = time.perf_counter() - began
    known = [found for found in finished if found]
    diverged = np.array([run.diverged_at for run in known], dtype=np.float64)
    diverged[diverged < 0] = np.nan
    data = described(problem, runs, [loss.name] * len(runs), settings)
    data["loss"] = (("run", "step"), np.stack([run.loss for run in known]), {"long_name": "training loss"})
    data["diverged_at"] = ("run", diverged, {"long_name": "first step after which the weight was not finite"})
    data["optimal_loss"] = ("run", np.full(len(runs), optimum.value))
    data["optimal_loss"].attrs = {"long_name": "optimal loss of a linear model", "attained": int(optimum.attained)}
    data.attrs.update(runs_computed=len(missing), seconds=seconds)
    return data


def described(
    problem: Problem | RowProblem, runs: Sequence[Run], objectives: Sequence[str], settings: Settings
) -> xr.Dataset:
    """A data set with the coordinates and attributes of a sweep, and no variables yet.

    Args:
        problem: The data.
        runs: Settings of each run.
        objectives: The objective of each.
        settings: What they share.
    """
    columns: dict[str, list[object]] = {name: [getattr(run, name) for run in runs] for name in RUN_FIELDS}
    columns["depth"] = [float(run.depth) for run in runs]
    columns["norm"] = [np.nan if run.norm is None else run.norm for run in runs]
    columns["objective"] = list(objectives)
    return xr.Dataset(
        coords={
            "run": np.arange(len(runs)),
            "step": settings.recorded_steps,
            **{name: ("run", np.array(values)) for name, values in columns.items()},
        },
        attrs={
            "problem": problem.name,
            "scaling": problem.scaling,
            "source": problem.source,
            "checksum": problem.checksum,
            "steps": settings.steps,
            "dtype": str(settings.dtype).removeprefix("torch."),
            "batch_size": settings.batch_size or problem.m,
            "device": settings.device,
            "overdepth_version": __version__,
            "torch_version": str(torch.__version__),
        },
    )
