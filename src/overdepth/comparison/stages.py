"""The stages of a comparison, each a list of independent runs: searches, final runs, controls, costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from overdepth.comparison.arm_result import ArmResult
from overdepth.comparison.arms import Arm
from overdepth.comparison.executors import Executor, InProcess
from overdepth.comparison.jobs import Job, Outcome
from overdepth.comparison.result import Comparison
from overdepth.comparison.search import Search
from overdepth.comparison.settings import Settings
from overdepth.comparison.store import Store
from overdepth.comparison.task import Task
from overdepth.reporter import Reporter


@dataclass
class Stages:
    """Goes through them, keeping every run as soon as it is finished."""

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
        """The finished comparison.

        Raises:
            Stopped: If ``should_stop`` said so; ``at`` tells where.
            ValueError: If plain training has no learning rate at which it works.
        """
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
