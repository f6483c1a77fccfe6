"""Zarr folders from strangers: some of Zarr's codecs execute what they read, so that only plain ones are let in."""

from __future__ import annotations

import importlib.util
import json
import os
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
    for file in _metadata(path):
        for codec in _codecs(json.loads(file.read_text(encoding="utf-8"))):
            if codec.removeprefix("numcodecs.") not in PLAIN:
                raise ValueError(f"the codec {codec!r} in {file.relative_to(path)} is not one of plain data")
    if importlib.util.find_spec("zarr") is None:
        raise ModuleNotFoundError(
            "a Zarr folder needs zarr, which is not installed; install the extra: pip install 'overdepth[zarr]'.",
            name="zarr",
        )
    data: xr.Dataset = xr.open_zarr(path, chunks=None, decode_times=False)
    return data


def _metadata(path: Path) -> Iterator[Path]:
    """Every file that Zarr may take for metadata."""
    for folder, folders, files in os.walk(path):
        here = Path(folder)
        for name in folders:
            if (here / name).is_symlink():
                raise ValueError(f"{(here / name).relative_to(path)} is a link, which may lead anywhere")
        yield from (here / name for name in METADATA if name in files)


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
