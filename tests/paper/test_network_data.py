"""MNIST from wherever it is, and what stands in for it; no test touches the network."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest

from overdepth.paper.network import mnist


class NoNetworkError(Exception):
    """Any of what a download may raise."""


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as the original files have it, unpacked."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def arrays(monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """A small made-up set, whose checksums are taken for MNIST's."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (70, 28, 28), np.uint8), rng.integers(0, 10, 70, np.uint8)
    known = {
        mnist.IMAGES_NAME: hashlib.sha256(idx(images)).hexdigest(),
        mnist.LABELS_NAME: hashlib.sha256(idx(labels)).hexdigest(),
    }
    monkeypatch.setattr(mnist, "UNPACKED_SHA256", known)
    monkeypatch.setattr(mnist, "VALIDATION", 6)
    return images, labels


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no network."""
    folder = tmp_path / "cache"
    folder.mkdir()

    def offline(*_args: object, **_options: object) -> str:
        raise NoNetworkError("no route to host")

    monkeypatch.setattr(mnist, "data_cache", lambda: folder)
    monkeypatch.setattr("pooch.retrieve", offline)
    return folder


@pytest.fixture
def data(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty ``OVERDEPTH_DATA`` besides."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("OVERDEPTH_DATA", str(folder))
    return folder


def put_npz(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    np.savez_compressed(folder / mnist.FILE_NAME, x_train=images, y_train=labels, x_test=images[:0])
    return folder / mnist.FILE_NAME


def put_idx(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    (folder / mnist.IMAGES_NAME).write_bytes(gzip.compress(idx(images)))
    (folder / mnist.LABELS_NAME).write_bytes(gzip.compress(idx(labels)))


@pytest.mark.parametrize("put", [put_npz, put_idx])
@pytest.mark.parametrize("where", ["data", "cache"])
def test_both_formats_are_read_from_both_folders(
    put: object, where: str, arrays: tuple[np.ndarray, np.ndarray], data: Path, cache: Path
) -> None:
    put(data if where == "data" else cache, *arrays)  # type: ignore[operator]
    found = mnist.load()
    assert (found.name, len(found.labels)) == ("MNIST", 64)
    np.testing.assert_array_equal(found.pixels, arrays[0][6:])  # the first are set aside
    np.testing.assert_array_equal(found.labels, arrays[1][6:])
    inputs = found.inputs()
    assert inputs.shape == (64, 1, 28, 28)
    expected = arrays[0][6:, None].astype(np.float64) / 255 - 0.5
    np.testing.assert_allclose(inputs, expected, atol=1e-6)


def test_the_checksums_are_those_of_the_files_that_are_published() -> None:
    """Of the packed file, known for decades; the unpacked one's are checked where MNIST is at hand."""
    assert mnist.PUBLISHED_MD5["train-images-idx3-ubyte.gz"] == "f68b3c2dcbeaaa9fbdd348bbdeb94873"
    assert mnist.PUBLISHED_MD5["train-labels-idx1-ubyte.gz"] == "d53e105ee54ea40749a09fcbcd1e9432"


def test_mnist_itself_where_it_is_at_hand() -> None:
    try:
        found = mnist.load_mnist(download=False)
    except ConnectionError:
        pytest.skip("MNIST is not at hand")
    assert found.pixels.shape == (60_000, 28, 28)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(found.labels).tolist() == counts


def test_a_download_is_checked_and_kept(
    arrays: tuple[np.ndarray, np.ndarray], cache: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def online(url: str, *, known_hash: str, fname: str, path: Path, downloader: object) -> str:
        asked.append((url, known_hash))
        assert 0 < downloader.kwargs["timeout"] <= 60  # type: ignore[attr-defined]
        content = idx(arrays["images" not in fname])
        (path / fname).write_bytes(gzip.compress(content))
        return str(path / fname)

    monkeypatch.setattr("pooch.retrieve", online)
    (cache / mnist.IMAGES_NAME).write_bytes(b"half of a pair")  # as after an interrupt: taken up by the download
    for _ in range(2):
        assert mnist.load().name == "MNIST"
    assert [(url.rsplit("/", 1)[1], md5) for url, md5 in asked] == [
        (name, f"md5:{md5}") for name, md5 in mnist.PUBLISHED_MD5.items()
    ]


@pytest.mark.usefixtures("data")
def test_without_files_and_network_digits_stand_in_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    found = mnist.load()
    assert found.name == "digits (MNIST not at hand)"
    assert "OVERDEPTH_DATA" in caplog.text
    assert found.pixels.shape == (1797, 28, 28)
    assert (int(found.pixels.min()), int(found.pixels.max())) == (0, 255)
    assert not found.pixels[:, :2].any()  # the frame
    with pytest.raises(ConnectionError, match="OVERDEPTH_DATA"):
        mnist.load_mnist(download=False)


def refused(*parts: object) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        mnist.load()
    for part in parts:
        assert str(part) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_contents_are_refused_with_the_remedy(
    arrays: tuple[np.ndarray, np.ndarray], data: Path, cache: Path
) -> None:
    changed = arrays[0].copy()
    changed[3, 14, 14] ^= 1
    path = put_npz(data, changed, arrays[1])
    refused(path, "replace it by a good copy", "SHA-256")
    put_npz(data, arrays[0].astype(np.float32), arrays[1])
    refused(path, "float32")
    put_npz(data, arrays[0], arrays[1][:-1])
    refused(path, "(69,)")
    path.unlink()
    put_idx(cache, changed, arrays[1])
    refused(cache / mnist.IMAGES_NAME, "delete it to download it anew")


def test_an_archive_that_is_no_mnist_is_refused(data: Path) -> None:
    np.savez(data / mnist.FILE_NAME, x=np.zeros(3))
    refused(data / mnist.FILE_NAME, "x_train")
    (data / mnist.FILE_NAME).write_bytes(b"PK\x03\x04 no more")
    refused(data / mnist.FILE_NAME, "truncated, damaged")


@pytest.mark.parametrize("name", [mnist.IMAGES_NAME, mnist.LABELS_NAME])
def test_damaged_idx_files_are_refused(name: str, arrays: tuple[np.ndarray, np.ndarray], data: Path) -> None:
    put_idx(data, *arrays)
    content = (data / name).read_bytes()
    unpacked = gzip.decompress(content)
    for damaged, why in (
        (content[: len(content) // 2], "truncated or damaged"),
        (b"no gzip at all", "truncated or damaged"),
        (gzip.compress(unpacked[:-1]), "numbers"),
        (gzip.compress(b"\0\0\x09\1" + unpacked[4:]), "no IDX file"),
        (gzip.compress(b""), "no IDX file"),
    ):
        (data / name).write_bytes(damaged)
        refused(data / name, why, "replace it by a good copy")
    (data / name).unlink()
    refused(name, "lacks")


def test_the_checksum_is_of_images_and_classes(arrays: tuple[np.ndarray, np.ndarray], data: Path) -> None:
    put_npz(data, *arrays)
    first = mnist.load()
    assert first.checksum == mnist.load().checksum
    other = mnist.Images(first.name, first.pixels, first.labels.flip(0), first.source)
    assert other.checksum != first.checksum


def test_unreadable_files_are_bad_input(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = data / mnist.FILE_NAME
    path.write_bytes(b"")

    def denied(*_args: object, **_options: object) -> io.BytesIO:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(mnist, "read_npz", denied)
    refused(path, "permissions")
