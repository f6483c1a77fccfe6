"""MNIST (LeCun, Cortes & Burges) from a folder, the user's cache or a download; scikit-learn's digits in its place."""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import struct
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overdepth.lab.ethanol import data_cache
from overdepth.lab.npz import read_npz

_log = logging.getLogger(__name__)

FILE_NAME = "mnist.npz"
IMAGES_NAME, LABELS_NAME = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
DOWNLOAD_TIMEOUT_S = 10.0
PUBLISHED_MD5 = {IMAGES_NAME: "f68b3c2dcbeaaa9fbdd348bbdeb94873", LABELS_NAME: "d53e105ee54ea40749a09fcbcd1e9432"}
UNPACKED_SHA256 = {
    IMAGES_NAME: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    LABELS_NAME: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
}
VALIDATION = 5_000
MNIST = "MNIST"
DIGITS = "digits (MNIST not at hand)"

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Images:
    """The training images, in order, and their classes.

    Attributes:
        name: Of the data set.
        pixels: Shape (m, 28, 28), 0 to 255.
        labels: Shape (m,), 0 to 9.
        source: Where they come from.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    source: str

    @property
    def checksum(self) -> str:
        """A hash of images and classes."""
        return hashlib.sha256(self.pixels.numpy().tobytes() + self.labels.numpy().tobytes()).hexdigest()[:16]

    def inputs(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Pixels scaled to [-0.5, 0.5], as in the tutorial; shape (m, 1, 28, 28)."""
        return (self.pixels.to(dtype)[:, None] - 127.5) / 255


def load() -> Images:
    """The images to train on: MNIST without the first 5,000, which are set aside, or the digits if it is not at hand.

    Raises:
        ValueError: If a file is damaged or another one.
    """
    try:
        images = load_mnist()
    except ConnectionError as error:
        _log.warning("%s; scikit-learn's digits, 28 x 28 pixels large, stand in.", error)
        return load_digits()
    return Images(images.name, images.pixels[VALIDATION:], images.labels[VALIDATION:], images.source)


def load_mnist(*, download: bool = True) -> Images:
    """All 60,000 training images, from ``OVERDEPTH_DATA``, the user's cache, or a download, in this order.

    A folder may hold ``mnist.npz`` as Keras has it (``x_train``, ``y_train``) or the original IDX files.

    Args:
        download: Whether they may be downloaded.

    Raises:
        ValueError: If a file is damaged or is not the known set.
        ConnectionError: If the set is not at hand and cannot be downloaded.
    """
    named = os.environ.get("OVERDEPTH_DATA")
    try:
        cache = data_cache()
        if named and (found := _from_folder(Path(named), any)):
            return found
        if found := _from_folder(cache, all):  # a download may have been cut off between two files
            return found
        if not download:
            raise ConnectionError(f"MNIST is not at hand; set OVERDEPTH_DATA to a folder that holds {FILE_NAME}.")
        return _from_idx(_download())
    except PermissionError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); check its permissions.") from error


def load_digits() -> Images:
    """Scikit-learn's 1,797 digits of 8 x 8 pixels, every pixel made 3 x 3, in a frame of two."""
    from sklearn.datasets import load_digits as load_bunch

    bunch: Any = load_bunch()
    enlarged = np.kron(bunch.images, np.ones((1, 3, 3)))
    framed = np.pad(enlarged, ((0, 0), (2, 2), (2, 2)))
    pixels = torch.from_numpy(np.round(framed * 255 / 16).astype(np.uint8))
    return Images(DIGITS, pixels, torch.from_numpy(bunch.target).long(), "scikit-learn's digits")


def _from_folder(folder: Path, enough: Callable[[Iterable[bool]], bool]) -> Images | None:
    if (path := folder / FILE_NAME).is_file():
        arrays = read_npz(path)
        if not {"x_train", "y_train"} <= arrays.keys():
            raise ValueError(
                f"{path} has the arrays {sorted(arrays)}, expected x_train and y_train; replace it by a good copy."
            )
        return _checked(arrays["x_train"], arrays["y_train"], path)
    return _from_idx(folder) if enough((folder / name).is_file() for name in PUBLISHED_MD5) else None


def _from_idx(folder: Path) -> Images:
    return _checked(_idx(folder / IMAGES_NAME), _idx(folder / LABELS_NAME), folder)


def _idx(path: Path) -> Bytes:
    """The array of a packed IDX file of bytes: two zeros, 8, the number of axes, the sizes, the numbers."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} lacks {path.name}; put all files of MNIST there.") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(_remedy(path, "is truncated or damaged")) from error
    axes = content[3] if len(content) > 3 and content[:3] == b"\0\0\x08" else 0
    start = 4 + 4 * axes
    if not axes or len(content) < start:
        raise ValueError(_remedy(path, "is no IDX file of bytes"))
    shape = struct.unpack(f">{axes}I", content[4:start])
    numbers = np.frombuffer(content, dtype=np.uint8, offset=start)
    if numbers.size != int(np.prod(shape, dtype=np.int64)):
        raise ValueError(_remedy(path, f"holds {numbers.size} numbers, not those of the shape {shape} that it states"))
    return numbers.reshape(shape)


def _checked(images: NDArray[Any], labels: NDArray[Any], source: Path) -> Images:
    """The images, after a check against the checksums of the original files."""
    for name, array in ((IMAGES_NAME, images), (LABELS_NAME, labels)):
        header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        found = hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()
        if array.dtype != np.uint8 or found != UNPACKED_SHA256[name]:
            raise ValueError(
                _remedy(
                    source / name if source.is_dir() else source,
                    f"has other contents than MNIST's training set ({array.dtype} numbers of shape {array.shape}, "
                    f"SHA-256 {found[:8]}..., expected {UNPACKED_SHA256[name][:8]}...)",
                )
            )
    return Images(MNIST, torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64)), str(source))


def _remedy(path: Path, what: str) -> str:
    remedy = "delete it to download it anew" if path.parent == data_cache() else "replace it by a good copy"
    return f"{path} {what}; {remedy}."


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no reason given")


def _download() -> Path:
    """Puts the two files of the training set into the cache; each is checked against its published checksum."""
    import pooch

    pooch.get_logger().setLevel("WARNING")
    folder = data_cache()
    try:
        for name, md5 in PUBLISHED_MD5.items():
            downloader = pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT_S)
            pooch.retrieve(URL + name, known_hash=f"md5:{md5}", fname=name, path=folder, downloader=downloader)
    except Exception as error:  # requests, urllib3 and the operating system each have their own
        raise ConnectionError(
            f"MNIST could not be downloaded ({type(error).__name__}: {_first_line(error)}); put {FILE_NAME} or its IDX "
            f"files into a folder and set OVERDEPTH_DATA to it"
        ) from error
    return folder
