"""The data of items that are no sweeps, kept from one report to the next."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import platformdirs
import torch
import xarray as xr

_log = logging.getLogger(__name__)
_MEMBER = "data.nc"


class KeptData:
    """Data sets in a folder, addressed by name, settings and the library's source code.

    Each is a NetCDF file inside a zip archive, whose checksum is verified on reading: what is damaged or cut short is
    computed again, with a warning. Files are written beside their place and moved there.

    Args:
        folder: Default: ``items`` in the user's cache folder.

    Example:
        >>> import tempfile, xarray as xr
        >>> from overdepth.paper.kept import KeptData
        >>> kept = KeptData(tempfile.mkdtemp())
        >>> kept.get_or_compute("item", {"seeds": [0]}, lambda: xr.Dataset({"a": 1.0}))["a"].item()
        1.0
        >>> kept.get_or_compute("item", {"seeds": [0]}, lambda: xr.Dataset({"a": 2.0}))["a"].item()
        1.0
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = Path(folder) if folder else Path(platformdirs.user_cache_dir("overdepth")) / "items"

    def get_or_compute(
        self, name: str, settings: Mapping[str, object], compute: Callable[[], xr.Dataset]
    ) -> xr.Dataset:
        """The kept data, or what ``compute`` makes, which is kept from then on."""
        code = [_code_digest(), str(torch.__version__)]
        text = json.dumps({"name": name, "settings": dict(settings), "code": code}, sort_keys=True)
        path = self.folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.zip"
        found = self._read(path)
        if found is None:
            found = compute()
            self._write(path, found)
        return found

    def _read(self, path: Path) -> xr.Dataset | None:
        try:
            with zipfile.ZipFile(path) as archive:
                content = archive.read(_MEMBER)
            return xr.load_dataset(io.BytesIO(content), engine="h5netcdf")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            _log.warning("The kept data %s cannot be read (%s) and are computed again.", path, error)
            return None

    def _write(self, path: Path, data: xr.Dataset) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self.folder, suffix=".partial") as name:
                temporary = Path(name)
                content = bytes(data.to_netcdf(engine="h5netcdf"))  # in memory: HDF5 does not survive a full disk
                with zipfile.ZipFile(temporary / "kept.zip", "w") as archive:
                    archive.writestr(_MEMBER, content)
                (temporary / "kept.zip").replace(path)
        except OSError as error:
            _log.warning("Finished items cannot be kept in %s (%s).", self.folder, error.strerror or error)


@functools.cache
def _code_digest() -> str:
    """Hash of all modules: what decides an item's data reaches too far to be listed."""
    root = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
