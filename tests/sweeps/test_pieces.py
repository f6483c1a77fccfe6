"""Pieces: written whole or not at all, and read without trust."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from overdepth.sweeps.piece import MAGIC, decode, encode, write_atomically

ARRAYS = {"loss": np.linspace(0.0, 1.0, 12).reshape(3, 4), "diverged_at": np.array([-1, 3, -1])}
CONTENT = encode(ARRAYS, identity="this")

DAMAGED = r"checksum does not fit|no piece of a sweep, or cut short|something else than plain arrays"

plain = npst.arrays(
    npst.integer_dtypes() | npst.floating_dtypes(endianness="<") | npst.boolean_dtypes(), npst.array_shapes(min_dims=0)
)


def sealed(content: bytes) -> bytes:
    """Any content under a checksum that fits."""
    return MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


@given(st.dictionaries(st.from_regex(r"[a-z0-9.]{1,8}", fullmatch=True).filter(lambda n: n != "identity"), plain))
def test_arrays_come_back_as_they_were(arrays: dict[str, np.ndarray]) -> None:
    found = decode(encode(arrays, identity="this"), identity="this")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes()


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_found(position: int, flip: int) -> None:
    damaged = bytearray(CONTENT)
    damaged[position] ^= flip
    with pytest.raises(ValueError, match=DAMAGED):
        decode(bytes(damaged), identity="this")


@given(st.integers(0, len(CONTENT) - 1))
def test_a_truncated_piece_is_found(length: int) -> None:
    with pytest.raises(ValueError, match=DAMAGED):
        decode(CONTENT[:length], identity="this")


@given(st.binary(max_size=300) | st.binary(max_size=300).map(sealed))
def test_no_bytes_crash(content: bytes) -> None:
    with pytest.raises(ValueError, match=DAMAGED):
        decode(content, identity="this")


def test_another_sweeps_piece_is_refused() -> None:
    with pytest.raises(ValueError, match="belongs to another sweep"):
        decode(CONTENT, identity="that")
    buffer = io.BytesIO()
    np.savez(buffer, loss=np.zeros(2))
    with pytest.raises(ValueError, match="belongs to another sweep"):
        decode(sealed(buffer.getvalue()), identity="this")


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, ("executed",)


def npz(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in members.items():
            archive.writestr(f"{name}.npy", member)
    return buffer.getvalue()


DIRECTORY = b"PK\x01\x02\x14\x03\x14\x00"
"""How an entry begins; flags follow."""


def header(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("kind", ["object array", "pickle", "not numpy", "huge", "negative", "encrypted", "no shape"])
def test_whoever_can_make_a_checksum_still_gets_nothing_executed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    objects = io.BytesIO()
    np.save(objects, np.array([Exploit()], dtype=object), allow_pickle=True)
    content = {
        "object array": npz(loss=objects.getvalue()),
        "pickle": pickle.dumps(Exploit()),
        "not numpy": npz(loss=b"text"),
        "huge": npz(loss=header("(1000000000000000,)")),
        "negative": npz(loss=header("(-1,)")),
        "encrypted": npz(loss=b"x").replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
        ),
        "no shape": npz(loss=b"\x93NUMPY\x01\x00\x05\x00((((("),
    }[kind]
    with pytest.raises(ValueError, match="something else than plain arrays"):
        decode(sealed(content), identity="this")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "piece"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["fsync", "replace", "write"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_whatever_stops_it_the_old_file_stays(
    failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "piece"
    write_atomically(path, b"old")

    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        if failing == "fsync":
            patched.setattr(os, "fsync", fail)
        elif failing == "replace":
            patched.setattr(Path, "replace", fail)
        else:
            patched.setattr(os, "fdopen", fail)
        with pytest.raises(type(error)):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
