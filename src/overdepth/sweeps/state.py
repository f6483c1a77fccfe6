"""The state of a block of runs as plain arrays, and back."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import torch

from overdepth.lab.devices import available_device
from overdepth.lab.engine import Engine, SweepState
from overdepth.lab.grouping import make_groups
from overdepth.lab.problem import Array
from overdepth.sweeps.piece import Arrays


def columns_until(engine: Engine, step: int) -> int:
    """How many of the recorded losses are known once a step is done."""
    return bisect_right(engine.settings.recorded_steps, step)


def state_arrays(state: SweepState) -> Arrays:
    """Everything but the losses: where the runs are, and which have diverged."""
    arrays: Arrays = {
        "step": np.array(state.step),
        "run_steps": np.array(state.run_steps),
        "diverged_at": state.diverged_at,
        "groups": np.array(len(state.groups)),
    }
    for number, group in enumerate(state.groups):
        for name, tensor in group.state().items():
            arrays[f"{number}.{name}"] = tensor.numpy()
    return arrays


def restored(engine: Engine, arrays: Arrays, loss: Array) -> SweepState:
    """The state from which :meth:`Engine.advance` goes on as if nothing had happened.

    Args:
        engine: With the runs of the block.
        arrays: From :func:`state_arrays`.
        loss: Recorded losses so far, shape (runs, records), NaN where there are none yet.

    Raises:
        ValueError: If the arrays do not fit the runs.
    """
    try:
        step, count = int(arrays["step"]), int(arrays["groups"])
        problem, settings = engine.problem, engine.settings
        fresh = make_groups(engine.runs, problem.k, problem.d, settings.dtype, available_device(settings.device))
        home = {int(row): group for group in fresh for row in group.index}
        groups = []
        for number in range(count):
            index = arrays[f"{number}.index"]
            group = home[int(index[0])]
            own = {name: torch.from_numpy(arrays[f"{number}.{name}"]) for name in group.state()}
            if any(
                mine.dtype != other.dtype or mine.shape[1:] != other.shape[1:] or len(other) != len(index)
                for mine, other in ((group.state()[name], own[name]) for name in own)
            ) or not set(index.tolist()) <= set(group.index.tolist()):
                raise ValueError("a tensor has another shape than its runs have")
            group.load_state(own)
            groups.append(group)
        diverged_at = arrays["diverged_at"].astype(np.int64)
        if diverged_at.shape != (len(engine.runs),) or not 0 <= step <= engine.settings.steps:
            raise ValueError("the number of runs or steps is another one")
        run_steps = int(arrays["run_steps"])
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"a state lacks what its runs need ({error})") from error
    return SweepState(step=step, groups=groups, loss=loss, diverged_at=diverged_at, run_steps=run_steps)
