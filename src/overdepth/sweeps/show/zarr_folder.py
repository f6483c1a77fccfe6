"""Zarr folders from strangers: some of Zarr's codecs execute what they read, so that only plain ones are let in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import xarray as xr

METADATA = ("zarr.json", ".zmetadata", ".zarray", ".zgroup", ".zattrs")
NUMBERS = ("bytes", "delta", "fixedscaleoffset", "quantize", "shuffle", "transpose", "vlen-utf8", "vlen-bytes")
PACKED = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd", "sharding_indexed")
CHECKED = ("adler32", "crc32", "crc32c", "fletcher32")
PLAIN = frozenset((*NUMBERS, *PACKED, *CHECKED))


def is_zarr(path: Path) -> bool:
    """Whether a folder is a Zarr store."""
    return path.is_dir() and any((path / name).is_file() for name in METADATA[:4])


def open_zarr(path: Path) -> xr.Dataset:
    """Opens a Zarr folder, nothing in which is executed.

    Raises:
        ValueError: If it names a codec that is not known to be plain data.
        ModuleNotFoundError: If Zarr is not installed.
    """
    for file in sorted(each for name in METADATA for each in path.rglob(name)):
        for codec in _codecs(json.loads(file.read_text(encoding="utf-8"))):
            if codec.removeprefix("numcodecs.") not in PLAIN:
                raise ValueError(f"the codec {codec!r} in {file.relative_to(path)} is not one of plain data")
    try:
        import zarr  # noqa: F401 - an extra
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a Zarr folder needs zarr, which is not installed; install the extra: pip install 'overdepth[zarr]'.",
            name=error.name,
        ) from error
    return xr.open_zarr(path, chunks=None, decode_times=False)


def _codecs(found: object) -> Iterator[str]:
    """The names of all codecs, filters and compressors in metadata of either version of the format."""
    if isinstance(found, list):
        for each in found:
            yield from _codecs(each)
    elif isinstance(found, dict):
        for key, value in found.items():
            if key in ("codecs", "index_codecs", "filters", "compressor", "compressors", "serializer"):
                for codec in value if isinstance(value, list) else [value]:
                    if isinstance(codec, dict):
                        yield str(codec.get("id", codec.get("name")))
                    elif codec is not None:
                        yield str(codec)
            yield from _codecs(value)
