"""The comparison itself: search, final runs, controls, costs, one list of independent runs after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from overdepth._checks import check_positive, check_size
from overdepth.comparison.arms import Arm
from overdepth.comparison.budget import affordable_steps, check_budget
from overdepth.comparison.executors import Executor, FileTask, InProcess, Processes, deadline
from overdepth.comparison.jobs import Job, Outcome
from overdepth.comparison.result import ArmResult, Comparison
from overdepth.comparison.search import Search
from overdepth.comparison.settings import CONTROLS, Settings, check_arms, check_settings, fingerprint
from overdepth.comparison.store import Store, check_folder, read_settings
from overdepth.comparison.task import Base, Select, Task
from overdepth.comparison.training import Stopped
from overdepth.paper.context import Reporter


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
        rate. RuntimeError: If the budget runs out, or the user's functions fail.

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
        executor=executor_of(task, workers),
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
    work = _Work(task, settings, store, executor, should_stop, reporter or Reporter())
    try:
        return work.compared()
    except Stopped:
        where = "nothing is kept" if out is None else f"what is finished is kept in {out}"
        raise RuntimeError(
            f"the budget of {budget:g} s ran out at {work.at}; {where}, so raise the budget, or lower steps or trials."
        ) from None


def executor_of(task: Task, workers: int, source: FileTask | None = None) -> Executor:
    """This process, or several worker processes, which make the task from its file if there is one.

    Raises:
        ValueError: If ``workers`` is no number of processes.
    """
    return InProcess(task) if check_size(workers, "workers") == 1 else Processes(source or task, workers)


@dataclass
class _Work:
    task: Task
    settings: Settings
    store: Store
    executor: Executor
    should_stop: Callable[[], bool]
    reporter: Reporter
    at: str = "the first run"
    done: int = 0
    left: int = 0
    total: int = 0

    def compared(self) -> Comparison:
        steps, seeds = self.settings.steps, range(self.settings.seeds)
        self.left = self.settings.runs(self.task)
        self.total = self.left * steps
        self.reporter.begin("comparison", self.left, self.total)
        searches = self._searched()
        lrs = {key: search.best_lr for key, search in searches.items()}
        self._check_any_finite(searches)
        finals = self._finals(searches, lrs)
        untuned = self._untuned(lrs) if "untuned" in self.settings.controls else {}
        matched = self._matched(finals) if "rms" in self.settings.controls else {}
        costs = self._costs(lrs)
        results = []
        for arm in self.settings.arms:
            own: list[Mapping[tuple[str, int], Outcome]] = [finals, untuned, matched, costs]
            picked = [[runs.get((arm.name, r)) for r in seeds] for runs in own]
            found = [searches[arm.name, r] for r in seeds]
            results.append(ArmResult(arm, [lrs[arm.name, r] for r in seeds], found, *picked))
        return Comparison(self.task, self.settings, tuple(results))

    def _searched(self) -> dict[tuple[str, int], Search]:
        searches = {
            (arm.name, replicate): Search(
                arm,
                replicate,
                self.settings.steps,
                lrs=self.settings.lrs,
                trials=self.settings.trials,
                first=self.task.first_lr,
                is_full_batch=self.task.is_full_batch,
            )
            for replicate in range(self.settings.seeds)
            for arm in self.settings.arms
        }
        while True:
            jobs = []
            for search in searches.values():
                earlier = tuple(search.tried)
                jobs += [
                    Job("search", search.arm, lr, search.replicate, self.settings.steps, earlier)
                    for lr in search.next_round()
                ]
            if not jobs:
                return searches
            outcomes = {(job.arm.name, job.replicate, job.lr): outcome for job, outcome in self._run(jobs)}
            for job in jobs:  # in order, whatever the order in which they finished
                searches[job.arm.name, job.replicate].tell(job.lr, outcomes[job.arm.name, job.replicate, job.lr])

    def _finals(
        self, searches: Mapping[tuple[str, int], Search], lrs: dict[tuple[str, int], float | None]
    ) -> dict[tuple[str, int], Outcome]:
        """Runs at the learning rates chosen; one that diverges is made again at the next smaller one that was finished.

        The best learning rate is often next to the largest that works at all, which is not the same for every seed.
        """
        finals: dict[tuple[str, int], Outcome] = {}
        missing = {key: lr for key, lr in lrs.items() if lr is not None}
        while missing:
            finals |= self._all("final", missing)
            missing, before = {}, missing
            for key, lr in before.items():
                smaller = searches[key].next_smaller(lr) if finals[key].status != "done" else None
                if smaller is not None:
                    lrs[key] = missing[key] = smaller
            self.left += len(missing)
        return finals

    def _all(self, role: Any, lrs: Mapping[tuple[str, int], float]) -> dict[tuple[str, int], Outcome]:
        arms = {arm.name: arm for arm in self.settings.arms}
        keeps = "rms" in self.settings.controls and role == "final"
        jobs = [
            Job(role, arms[name], lr, r, self.settings.steps, keeps_lengths=keeps and _is_matched(arms[name]))
            for (name, r), lr in lrs.items()
        ]
        return {(job.arm.name, job.replicate): outcome for job, outcome in self._run(jobs)}

    def _untuned(self, lrs: Mapping[tuple[str, int], float | None]) -> dict[tuple[str, int], Outcome]:
        """All arms at one learning rate: the one that the user gave, or else plain training's."""
        given = self.task.base_lr
        wanted = {}
        for arm in self.settings.arms:
            for r in range(self.settings.seeds):
                lr = lrs["plain", r] if given is None else given
                if lr is not None and not arm.control_of and (arm.name != "plain" or given is not None):
                    wanted[arm.name, r] = lr
        return self._all("untuned", wanted)

    def _matched(self, finals: Mapping[tuple[str, int], Outcome]) -> dict[tuple[str, int], Outcome]:
        """Plain training with steps as long as each arm's."""
        jobs = {}
        for arm in self.settings.arms:
            for r in range(self.settings.seeds):
                final = finals.get((arm.name, r))
                if _is_matched(arm) and final is not None and final.status == "done" and final.lengths is not None:
                    plain = Arm("plain", seed_shift=arm.seed_shift)
                    job = Job("matched", plain, self.task.first_lr, r, self.settings.steps, lengths=final.lengths)
                    jobs[arm.name, r] = job
        outcomes = {id(job): outcome for job, outcome in self._run(list(jobs.values()))}
        return {key: outcomes[id(job)] for key, job in jobs.items()}

    def _costs(self, lrs: Mapping[tuple[str, int], float | None]) -> dict[tuple[str, int], Outcome]:
        """In this process, whoever makes the runs: two workers at once would time each other."""
        arms = [arm for arm in self.settings.arms if arm.name != "plain"]
        pairs = [(arm, r, lrs[arm.name, r], lrs["plain", r]) for arm in arms for r in range(self.settings.seeds)]
        jobs = [
            Job("cost", arm, lr, r, self.settings.steps, beside=plain)
            for arm, r, lr, plain in pairs
            if lr is not None and plain is not None
        ]
        found = self._run(jobs, InProcess(self.task))
        return {(job.arm.name, job.replicate): outcome for job, outcome in found}

    def _run(self, jobs: Sequence[Job], executor: Executor | None = None) -> Iterator[tuple[Job, Outcome]]:
        """Runs jobs, or takes them from the store; each is kept as soon as it is finished."""
        missing = []
        for job in jobs:
            found = self.store.get(job)
            if found is None:
                missing.append(job)
            else:
                self._finished(job)
                yield job, found
        partial = 0

        def advance(steps: int) -> None:
            nonlocal partial
            partial += steps
            self.reporter.advance(min(self.done + partial, self.total), self.left)

        if missing:
            self.at = f"arm {missing[0].arm.name!r}"
        position = {id(job): i for i, job in enumerate(missing)}
        for job, outcome in (executor or self.executor).run(missing, advance, self.should_stop):
            self.store.put(job, outcome)
            partial = 0
            self._finished(job)
            after = position.get(id(job), 0) + 1
            self.at = f"arm {missing[min(after, len(missing) - 1)].arm.name!r}"
            yield job, outcome

    def _finished(self, job: Job) -> None:
        if job.role != "cost":
            self.done += job.steps
            self.left -= 1
            self.reporter.advance(min(self.done, self.total), self.left)

    def _check_any_finite(self, searches: Mapping[tuple[str, int], Search]) -> None:
        """Raises unless plain training has a learning rate for every seed."""
        if all(s.best_lr is not None for (name, _), s in searches.items() if name == "plain"):
            return
        tried = [t.lr for (name, _), search in searches.items() if name == "plain" for t in search.tried]
        rates = f"learning rate tried, {min(tried):g} to {max(tried):g}"
        if all(search.best_lr is None for search in searches.values()):
            names = ", ".join(repr(arm.name) for arm in self.settings.arms)
            raise ValueError(
                f"the loss is not finite in every arm ({names}) at every {rates}; check loss_step and the data, or "
                f"give smaller learning rates with lrs."
            )
        raise ValueError(
            f"arm 'plain' diverged at every {rates}, so that there is nothing to compare with; give smaller learning "
            f"rates with lrs, or more trials."
        )


def _is_matched(arm: Arm) -> bool:
    return bool(arm.form) and not arm.control_of
