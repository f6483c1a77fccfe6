"""What is compared and how much of it: arms, seeds, steps, learning rates, controls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from overdepth._checks import check_positive, check_size
from overdepth._version import __version__
from overdepth.comparison.arms import Arm, parse_arms
from overdepth.comparison.batches import batches
from overdepth.comparison.making import make, named
from overdepth.comparison.search import STARTUP
from overdepth.comparison.task import Task

Control = Literal["untuned", "norm", "rms"]
CONTROLS: tuple[Control, ...] = get_args(Control)
MOST_SEEDS = 1_000


@dataclass(frozen=True)
class Settings:
    """What is compared.

    Attributes:
        arms: ``plain`` first, controls of the initial norm among them.
        lrs: Learning rates to try; None: a search.
        trials: How many learning rates are tried for each arm and seed.
        seeds: Replicates.
        steps: Of every run.
        controls: Which are run.
    """

    arms: tuple[Arm, ...]
    lrs: tuple[float, ...] | None
    trials: int
    seeds: int
    steps: int
    controls: tuple[Control, ...]

    @property
    def runs_of_a_form(self) -> int:
        """Runs of an arm of any form in a replicate, the cost of a step aside."""
        return self.trials + 1 + ("untuned" in self.controls) + ("rms" in self.controls)

    def runs(self, task: Task) -> int:
        """All runs there will be, the cost of a step aside."""
        in_a_replicate = 0
        for arm in self.arms:
            in_a_replicate += self.trials + 1
            if "untuned" in self.controls and not arm.control_of:
                in_a_replicate += arm.name != "plain" or task.base_lr is not None
            if "rms" in self.controls and arm.form and not arm.control_of:
                in_a_replicate += 1
        return self.seeds * in_a_replicate

    def to_store(self, task: Task, fingerprint: str) -> dict[str, Any]:
        """What may not change between two calls that share a folder."""
        return {
            "overdepth": __version__,
            "torch": str(torch.__version__),
            "steps": self.steps,
            "lrs": None if self.lrs is None else list(self.lrs),
            "trials": self.trials,
            "first lr": task.first_lr if self.lrs is None else None,
            "base": task.describe_base(),
            "batch_size": task.batch_size,
            "model, data and loss": fingerprint,
        }


def check_settings(
    arms: Sequence[str | Arm],
    lrs: Sequence[float] | None,
    trials: int,
    seeds: int,
    steps: int,
    controls: Sequence[str],
) -> Settings:
    """Settings after all checks that need no model.

    Raises:
        TypeError: If an arm is neither a name nor an arm.
        ValueError: If a setting is out of its range.
    """
    for name in controls:
        if name not in CONTROLS:
            raise ValueError(f"controls holds {name!r}, expected some of {', '.join(CONTROLS)}.")
    if lrs is not None:
        lrs = sorted({float(lr) for lr in lrs})
        for lr in lrs:
            check_positive(lr, "a learning rate of lrs")
        trials = check_size(len(lrs), "the number of learning rates in lrs")
    elif check_size(trials, "trials") < STARTUP:
        raise ValueError(
            f"trials is {trials}, but the search of arm 'plain' needs at least {STARTUP}; raise it, or name learning "
            f"rates with lrs."
        )
    if check_size(seeds, "seeds") > MOST_SEEDS:
        raise ValueError(f"seeds is {seeds}, expected an integer from 1 to {MOST_SEEDS:,}.")
    chosen = tuple(name for name in CONTROLS if name in controls)
    parsed = parse_arms(arms)
    if "norm" in chosen:
        parsed = tuple(a for arm in parsed for a in (arm, arm.matched_in_norm) if a is not None)
    return Settings(
        parsed, None if lrs is None else tuple(lrs), int(trials), int(seeds), check_size(steps, "steps"), chosen
    )


def check_arms(task: Task, arms: Sequence[Arm]) -> None:
    """Makes every arm once, so that what cannot be made is said before anything runs.

    Raises:
        ValueError: If one cannot be made, with its name.
        RuntimeError: If the user's functions fail.
    """
    with torch.random.fork_rng():
        for arm in arms:
            make(task, arm, task.first_lr, arm.seed_shift)


def fingerprint(task: Task) -> str:
    """A hash that changes with the model's start, the data, the loss and the gradient: those of the first batch.

    Raises:
        ValueError: If there is no first batch or the loss is none, with the arm's name.
        RuntimeError: If the user's functions fail.
    """
    plain = Arm("plain")
    with torch.random.fork_rng(), named(plain, "the first batch failed: ", "; mend what it names"):
        made = make(task, plain, task.first_lr, 0)
        digest = hashlib.sha256()
        for name, p in made.model.named_parameters():
            digest.update(f"{name} {tuple(p.shape)} {float(p.detach().double().sum()):.9e}".encode())
        try:
            batch = next(iter(batches(task, 0)))
        except StopIteration:
            raise ValueError("data has no batch at all") from None
        loss: Any = task.loss_step(made.model, batch)
        if isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
            norms = [float(p.grad.double().norm()) for p in made.model.parameters() if p.grad is not None]
            digest.update(" ".join(f"{value:.3e}" for value in (float(loss.detach()), *norms)).encode())
    return digest.hexdigest()[:16]
