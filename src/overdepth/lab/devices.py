"""Where a sweep is computed: the CPU, or a GPU that torch reaches through CUDA."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def check_device(device: object, *, allow_tf32: object) -> str:
    """Returns the name of a device if it is one that sweeps can run on, whether or not this machine has it.

    Raises:
        ValueError: If it is not, or if TF32 is asked for on a device without it.
    """
    try:
        found = torch.device(device) if isinstance(device, str | torch.device) else None
    except RuntimeError:
        found = None
    if found is None or found.type not in ("cpu", "cuda"):  # others have no float64, in which losses are recorded
        raise ValueError(f"device is {device!r}, expected 'cpu', 'cuda' or 'cuda:N'.")
    if not isinstance(allow_tf32, bool) or (allow_tf32 and found.type == "cpu"):
        raise ValueError(
            f"allow_tf32 is {allow_tf32!r} on device {str(found)!r}, expected True or False, True on cuda."
        )
    return "cpu" if found.type == "cpu" else str(found)


def available_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: If this machine, or this build of torch, does not have it.
    """
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            build = "" if torch.version.cuda else f", which torch {torch.__version__} is built without"
            raise ValueError(
                f"device is {name!r}, but torch sees {count or 'no'} CUDA device{'s' * (count > 1)}{build}; "
                f"use device 'cpu'{f' or a number below {count}' if count else ''}."
            )
    return device


@contextlib.contextmanager
def matmul_precision(device: torch.device, *, allow_tf32: bool) -> Iterator[None]:
    """Float32 products on a GPU in full precision, or in TF32; torch's global setting is put back afterwards."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def on_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """An array as a tensor on a device; on the CPU it shares the memory of an array that may be written to."""
    # torch warns of arrays that may not be written to, as those of an object store, of which nothing here is changed.
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)


def to_numpy(tensor: Tensor) -> NDArray[Any]:
    """A tensor from any device as an array."""
    return np.asarray(tensor.cpu().numpy())
