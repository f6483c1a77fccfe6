"""Images for the benchmarks: MNIST from a folder of the user's, or scikit-learn's digits in its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from overdepth.lab.npz import read_npz

MNIST_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)


class Data(NamedTuple):
    """Images (m, d) and their classes (m,)."""

    name: str
    inputs: str
    images: Tensor
    labels: Tensor


def load(name: str, inputs: str) -> Data:
    """The data asked for.

    Raises:
        OSError: If MNIST is asked for and not there.
        ValueError: If its file is another one.
        ImportError: If the digits are needed and scikit-learn is missing.
    """
    folder = os.environ.get("OVERDEPTH_DATA")
    path = Path(folder) / "mnist.npz" if folder else None
    found = path is not None and path.is_file()
    if name == "mnist" and not found:
        raise FileNotFoundError("set OVERDEPTH_DATA to a folder that holds mnist.npz, or use --data digits.")
    if name == "auto" and not found:
        print("OVERDEPTH_DATA names no folder that holds mnist.npz: scikit-learn's digits stand in for MNIST.")
    if path is not None and found and name != "digits":
        name, images, labels = "mnist", *_mnist(path)
    else:
        name, images, labels = "digits", *_digits()
    if inputs == "standardized":
        images = (images - images.mean()) / images.std()
    return Data(name, inputs, images, labels)


def _mnist(path: Path) -> tuple[Tensor, Tensor]:
    arrays = read_npz(path)
    images, labels = (arrays.get(key, np.empty(0)) for key in ("x_train", "y_train"))
    counts = tuple(np.bincount(labels.astype(np.int64), minlength=10).tolist()) if labels.ndim == 1 else ()
    if images.shape != (60_000, 28, 28) or counts != MNIST_COUNTS:
        raise ValueError(f"{path} has x_train of shape {images.shape}, which is not MNIST; replace it by a good copy.")
    return torch.from_numpy(images).float().flatten(1) / 255 - 0.5, torch.from_numpy(labels).long()


def _digits() -> tuple[Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("scikit-learn's digits need the extra lab: pip install 'overdepth[lab]'.") from error
    bunch = load_digits()
    return torch.from_numpy(bunch.images).float().flatten(1) / 16 - 0.5, torch.from_numpy(bunch.target).long()
