"""What all runs of a sweep share: its length, what is recorded, the precision, the minibatches, the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from overdepth._checks import check_size
from overdepth.lab.devices import check_device


@dataclass(frozen=True)
class Settings:
    """What all runs of a sweep share.

    Attributes:
        steps: Number of steps T.
        record_every: The loss is recorded at step 0, every so many steps, and at the last one.
        dtype: Of the training; losses are recorded in float64 whatever it is.
        batch_size: Rows of a minibatch, drawn without replacement within an epoch, the same for all runs; None: all.
        batch_seed: Seed of the minibatches.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``, of the training and the recording. Initial factors are drawn on
            the CPU, so that runs start alike everywhere.
        allow_tf32: Whether a GPU may round the factors of float32 products to TF32.
    """

    steps: int
    record_every: int = 100
    dtype: torch.dtype = torch.float32
    batch_size: int | None = None
    batch_seed: int = 0
    device: str = "cpu"
    allow_tf32: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "record_every", "batch_size"):
            value = getattr(self, name)
            if value is not None or name != "batch_size":
                object.__setattr__(self, name, check_size(value, name))
        seed: object = self.batch_seed
        if not isinstance(seed, (int, np.integer)) or seed < 0:
            raise ValueError(f"batch_seed is {seed!r}, expected an integer >= 0.")
        object.__setattr__(self, "batch_seed", int(seed))
        if self.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"dtype is {self.dtype}, expected torch.float32 or torch.float64.")
        object.__setattr__(self, "device", check_device(self.device, allow_tf32=self.allow_tf32))

    @property
    def recorded_steps(self) -> list[int]:
        """0, record_every, 2 * record_every, ..., and the last step."""
        regular = list(range(0, self.steps + 1, self.record_every))
        return regular if regular[-1] == self.steps else [*regular, self.steps]
