"""Images for the benchmarks: MNIST from a folder of the user's, or scikit-learn's digits in its place."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from overdepth.paper.network.mnist import load_mnist


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
    try:
        found = None if name == "digits" else load_mnist(download=False)
    except ConnectionError:
        if name == "mnist":
            raise FileNotFoundError(
                "set OVERDEPTH_DATA to a folder that holds mnist.npz, or use --data digits."
            ) from None
        print("OVERDEPTH_DATA names no folder that holds mnist.npz: scikit-learn's digits stand in for MNIST.")
        found = None
    if found is not None:
        name, images, labels = "mnist", found.pixels.float().flatten(1) / 255 - 0.5, found.labels
    else:
        name, images, labels = "digits", *_digits()
    if inputs == "standardized":
        images = (images - images.mean()) / images.std()
    return Data(name, inputs, images, labels)


def _digits() -> tuple[Tensor, Tensor]:
    """As scikit-learn has them, 8 x 8 pixels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("scikit-learn's digits need the extra lab: pip install 'overdepth[lab]'.") from error
    bunch = load_digits()
    return torch.from_numpy(bunch.images).float().flatten(1) / 16 - 0.5, torch.from_numpy(bunch.target).long()
