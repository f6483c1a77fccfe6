"""A chain of factors, or its target, from a file of arrays."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from overdepth._checks import all_finite, shape
from overdepth.lab.npz import read_npz

FORMATS = (".npz", ".safetensors")
TARGET = "target"


@dataclass(frozen=True)
class SavedChain:
    """Factors W_1, ..., W_N in float64, the names they had, and the target that the file holds, if any."""

    factors: list[Tensor]
    names: list[str]
    target: Tensor | None


def read_chain(path: Path) -> SavedChain:
    """Reads factors in the order of the last number in their names, the one that acts on the input first.

    Args:
        path: A ``.npz`` or ``.safetensors`` file of matrices (out, in), and optionally one named ``target``.

    Raises:
        ValueError: If the file is missing or damaged, or its arrays are no chain.
        ModuleNotFoundError: If safetensors is needed and not installed.
    """
    arrays = _read(path)
    target = arrays.pop(TARGET, None)
    if not arrays:
        raise ValueError(f"{path} holds no factors; save them as matrices named W1, W2, ... in the order they act.")
    order: dict[int, str] = {}
    for name in arrays:
        numbers = re.findall(r"\d+", name)
        if not numbers and len(arrays) > 1:
            raise ValueError(f"{path}: {name!r} has no number, which tells the order; name factors W1, W2, ...")
        place = int(numbers[-1]) if numbers else 1
        if place in order:
            raise ValueError(f"{path}: {order[place]!r} and {name!r} have the same number; name factors W1, W2, ...")
        order[place] = name
    names = [order[place] for place in sorted(order)]
    factors = [_matrix(arrays[name], name, path) for name in names]
    for lower, upper in itertools.pairwise(range(len(factors))):
        if factors[upper].shape[1] != factors[lower].shape[0]:
            raise ValueError(
                f"{path}: {names[upper]!r} of shape {shape(factors[upper])} cannot act on the output of "
                f"{names[lower]!r} of shape {shape(factors[lower])}; factors are (out, in) and numbered in the order "
                f"in which they act on the input."
            )
    return SavedChain(factors, names, None if target is None else _matrix(target, TARGET, path))


def read_target(path: Path) -> Tensor:
    """Reads the matrix named ``target``, or the only one of a file.

    Raises:
        ValueError: If the file is missing or damaged, or holds no such matrix.
        ModuleNotFoundError: If safetensors is needed and not installed.
    """
    arrays = _read(path)
    if TARGET not in arrays and len(arrays) != 1:
        found = ", ".join(sorted(arrays)) or "none"
        raise ValueError(f"{path} holds no array named {TARGET!r} (its arrays: {found}); save the minimizer as that.")
    name = TARGET if TARGET in arrays else next(iter(arrays))
    return _matrix(arrays[name], name, path)


def _read(path: Path) -> dict[str, Tensor]:
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"{path} ends in {suffix or 'nothing'!r}, expected {' or '.join(FORMATS)}; save the matrices so."
        )
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is no file; check the path.")
    try:
        return _from_npz(path) if suffix == ".npz" else _from_safetensors(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}); check its permissions.") from error


def _from_npz(path: Path) -> dict[str, Tensor]:
    tensors = {}
    for name, array in read_npz(path).items():
        if array.dtype.kind not in "fiu":
            raise ValueError(f"{path}: {name!r} has dtype {array.dtype}, expected real numbers.")
        tensors[name] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float64))
    return tensors


def _from_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {path} needs safetensors, which is not installed; run pip install safetensors, or save a .npz "
            f"file.",
            name=error.name,
        ) from error
    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(
            f"{path} is truncated, damaged, or no .safetensors file; replace it by a good copy."
        ) from error


def _matrix(tensor: Tensor, name: str, path: Path) -> Tensor:
    if tensor.ndim != 2 or 0 in tensor.shape:
        raise ValueError(
            f"{path}: {name!r} has shape {shape(tensor)}, expected a matrix (out, in); save the matrices of a linear "
            f"chain alone, without biases."
        )
    if tensor.is_complex():
        raise ValueError(f"{path}: {name!r} has dtype {tensor.dtype}, expected real numbers.")
    wide = tensor.double()
    if not all_finite(wide):
        raise ValueError(f"{path}: {name!r} has non-finite entries; save a chain from before it diverged.")
    return wide
