"""``overdepth.compare``: checks what is asked, and goes through the stages."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from overdepth._checks import check_positive, check_size
from overdepth.comparison.arms import Arm
from overdepth.comparison.budget import affordable_steps, check_budget
from overdepth.comparison.executors import Executor, FileTask, InProcess, Processes, deadline
from overdepth.comparison.result import Comparison
from overdepth.comparison.settings import CONTROLS, check_arms, check_settings, fingerprint
from overdepth.comparison.stages import Stages
from overdepth.comparison.store import Store, check_folder, read_settings
from overdepth.comparison.task import Base, Select, Task
from overdepth.comparison.training import Stopped
from overdepth.reporter import Reporter


def compare(
    build: Callable[[], nn.Module],
    loss_step: Callable[[nn.Module, Any], Tensor],
    data: Any,
    *,
    arms: Sequence[str | Arm] = ("plain", "form1:2"),
    base: Base,
    lrs: Sequence[float] | None = None,
    seeds: int = 3,
    steps: int | None = None,
    budget: float | None = None,
    out: str | os.PathLike[str] | None = None,
    trials: int = 9,
    batch_size: int | None = None,
    schedule: Callable[[Optimizer], Any] | None = None,
    select: Select | None = None,
    controls: Sequence[str] = CONTROLS,
    workers: int = 1,
    reporter: Reporter | None = None,
) -> Comparison:
    """Does depth help this model? Plain and over-parameterized training, each at its own best learning rate.

    For every seed each arm searches its learning rate anew, on a seed apart, with as many trials as the others, and is
    then trained at it: the same start, the same batches in the same order. What is compared is this whole procedure,
    seed by seed, so that luck in the search is in the error bars too.

    Args:
        build: Makes the model. Called under ``torch.manual_seed``.
        loss_step: ``loss_step(model, batch)`` returns the loss, a scalar tensor.
        data: A tensor or tuple of tensors (a batch is the same, with ``batch_size`` rows); or what can be iterated
            again and again, such as a ``DataLoader``; or a function of the seed that returns such a thing.
        arms: ``plain``, ``form1:2`` (factors in the model), ``form2:3:near_identity:0.1`` (in the optimizer),
            ``form3:2.5`` (the end-to-end rule), ``again`` (plain training on other seeds: what chance alone does), or
            :class:`overdepth.comparison.Arm`. ``plain`` is always there.
        base: An optimizer class, or ``functools.partial`` of one with its options. An ``lr`` among them is where
            searches begin and what the untuned comparison uses.
        lrs: Learning rates to try; None: a search that finds its own range.
        seeds: Replicates of search and final run; below 3 there is no verdict, and 5 show much more than 3.
        steps: Of every run; None: as many as ``budget`` affords.
        budget: Seconds that all of it may take.
        out: Folder in which finished runs are kept: called again with the same settings, it goes on where it was. More
            arms and seeds may be asked for then.
        trials: Learning rates tried for each arm and seed, if ``lrs`` is None.
        batch_size: Rows of a batch, where data are tensors; None: all.
        schedule: ``schedule(optimizer)`` returns a learning-rate scheduler, stepped after every step.
        select: ``select(layer, qualified_name)``: which layers are over-parameterized. Default: as
            :func:`overdepth.overparameterize_`, in every form.
        controls: ``untuned``: all arms at one learning rate, the base's or else the one tuned for ``plain``; ``norm``:
            drawn starts once more with the norms of the plain start; ``rms``: plain training with steps as long as
            the arm's, by the root mean square of every parameter's change.
        workers: Processes; with more than one, functions must be picklable and the script guarded by ``__main__``.
        reporter: Told of the progress.

    Returns:
        The comparison; print it, or write its page.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an argument is out of its range, an arm cannot be made of the model, ``out`` holds runs with
            other settings, the budget is too small for what is asked, or plain training diverges at every learning
            rate.
        RuntimeError: If the budget runs out, or the user's functions fail.

    Example:
        >>> import torch, overdepth as od
        >>> X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
        >>> def loss_step(model, batch):
        ...     return (model(batch[0]) - batch[1]).square().mean()
        >>> found = od.compare(
        ...     lambda: torch.nn.Linear(4, 1), loss_step, (X, X[:, :1]), base=torch.optim.SGD, lrs=[0.1, 0.3], steps=20
        ... )
        >>> list(found.verdicts)
        ['form1:2']
    """
    task = Task(build, loss_step, data, base, batch_size, schedule, select)
    with executor_of(task, workers) as executor:
        return run(
            task,
            arms=arms,
            lrs=lrs,
            seeds=seeds,
            steps=steps,
            budget=budget,
            out=out,
            trials=trials,
            controls=controls,
            executor=executor,
            reporter=reporter,
        )


def run(
    task: Task,
    *,
    arms: Sequence[str | Arm],
    lrs: Sequence[float] | None,
    seeds: int,
    steps: int | None,
    budget: float | None,
    out: str | os.PathLike[str] | None,
    trials: int,
    controls: Sequence[str],
    executor: Executor,
    reporter: Reporter | None = None,
) -> Comparison:
    """:func:`compare` on a task, with an executor that makes the runs; arguments and errors as there."""
    if budget is not None:
        check_positive(budget, "budget")
    if steps is None and budget is None:
        raise ValueError("steps is None and so is budget; give the number of steps of a run, or seconds for all of it.")
    settings = check_settings(arms, lrs, trials, seeds, 1 if steps is None else steps, controls)
    if out is not None:
        check_folder(Store.place(out))
    check_arms(task, settings.arms)
    mark = fingerprint(task)
    should_stop = deadline(budget)
    if budget is not None:
        kept = None if out is None else read_settings(Store.place(out))
        chosen = kept["steps"] if steps is None and kept is not None else steps
        if chosen is None:
            chosen = affordable_steps(task, settings, budget)
        elif kept is None:
            check_budget(task, settings, budget)
        settings = check_settings(arms, lrs, trials, seeds, chosen, controls)
    store = Store(out, settings.to_store(task, mark))
    work = Stages(task, settings, store, executor, should_stop, reporter or Reporter())
    try:
        return work.compared()
    except Stopped:
        where = "nothing is kept" if out is None else f"what is finished is kept in {out}"
        raise RuntimeError(
            f"the budget of {budget:g} s ran out at {work.at}; {where}, so raise the budget, or lower steps or trials."
        ) from None


def executor_of(task: Task, workers: int, source: FileTask | None = None) -> AbstractContextManager[Executor]:
    """For a ``with`` block: this process, or several worker processes, which make the task from its file if they can.

    Raises:
        ValueError: If ``workers`` is no number of processes.
    """
    return nullcontext(InProcess(task)) if check_size(workers, "workers") == 1 else Processes(source or task, workers)
