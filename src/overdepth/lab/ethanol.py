"""The Ethanol problem: 2565 measurements of 128 sensor features against the concentration of ethanol in ppmv.

It is gas class 1 of the UCI set "Gas Sensor Array Drift at Different Concentrations" (doi 10.24432/C5MK6M, CC BY 4.0;
Vergara et al. 2012, Rodriguez-Lujan et al. 2014), the regression task of Arora, Cohen & Hazan's Section 8.
"""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from overdepth.lab.npz import read_npz
from overdepth.lab.problem import Array, Problem

FEATURES = 128
ROWS_PER_BATCH = (90, 164, 365, 64, 28, 514, 649, 30, 61, 600)
TARGET_MEAN = 114.95029
TARGET_STD = 86.6206
ARCHIVE_URL = "https://archive.ics.uci.edu/static/public/270/gas+sensor+array+drift+at+different+concentrations.zip"
ARCHIVE_NAME = "gas_sensor_array_drift.zip"
FILE_NAME = "gas_ethanol.npz"
DOWNLOAD_TIMEOUT_S = 10.0


def load() -> Problem:
    """The unscaled Ethanol problem, from ``OVERDEPTH_DATA``, the user's cache, or the UCI archive, in this order.

    A folder may hold ``gas_ethanol.npz`` (arrays X and y) or the archive's ``batch1.dat`` ... ``batch10.dat``.

    Raises:
        ValueError: If a file is malformed or is not the known set.
        ConnectionError: If the set is not at hand and cannot be downloaded.
    """
    try:
        folder = os.environ.get("OVERDEPTH_DATA")
        if folder and (found := _from_folder(Path(folder))):
            return found
        cache = data_cache()
        return _from_folder(cache) or _from_archive(_download(cache))
    except PermissionError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror}); check its permissions.") from error


def data_cache() -> Path:
    """The folder in which downloaded data are kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("overdepth")) / "data"


def _from_folder(folder: Path) -> Problem | None:
    if (path := folder / FILE_NAME).is_file():
        return _from_npz(path)
    if (folder / "batch1.dat").is_file():
        texts = {}
        for i in range(1, len(ROWS_PER_BATCH) + 1):
            path = folder / f"batch{i}.dat"
            try:
                texts[str(path)] = path.read_text(encoding="utf-8", errors="replace")
            except OSError as error:
                raise ValueError(f"{path} cannot be read ({error.strerror}); unpack the archive again.") from error
        return _problem(*parse_batches(texts), source=str(folder))
    if (path := folder / ARCHIVE_NAME).is_file():
        return _from_archive(path)
    return None


def _from_npz(path: Path) -> Problem:
    arrays = read_npz(path)
    if not {"X", "y"} <= arrays.keys():
        raise ValueError(f"{path} has the arrays {sorted(arrays)}, expected X and y; replace it by a good copy.")
    return _problem(np.asarray(arrays["X"], np.float64), np.asarray(arrays["y"], np.float64), source=str(path))


def _from_archive(path: Path, content: bytes | None = None) -> Problem:
    """Reads the archive at ``path``, or ``content``, a zip that came inside it."""
    try:
        with zipfile.ZipFile(path if content is None else io.BytesIO(content)) as archive:
            names = archive.namelist()
            inner = [name for name in names if name.endswith(".zip")]
            if inner and content is None:
                return _from_archive(path, archive.read(inner[0]))
            members = {name.rpartition("/")[2]: name for name in names}
            wanted = [f"batch{i}.dat" for i in range(1, len(ROWS_PER_BATCH) + 1)]
            if missing := [name for name in wanted if name not in members]:
                raise ValueError(f"{path} lacks {', '.join(missing)}; delete it to download it anew.")
            texts = {f"{path}:{name}": archive.read(members[name]).decode("utf-8", "replace") for name in wanted}
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise ValueError(f"{path} is no readable zip archive; delete it to download it anew.") from error
    return _problem(*parse_batches(texts), source=str(path))


def parse_batches(texts: dict[str, str]) -> tuple[Array, Array]:
    """Rows of gas class 1 from the archive's text, ``GAS;PPM 1:VALUE 2:VALUE ... 128:VALUE`` a line.

    Args:
        texts: Content by file name, in the order in which rows are wanted.

    Returns:
        X (rows, 128) and y (rows,), the concentration in ppmv.

    Raises:
        ValueError: Names file and line of the first one that is malformed.
    """
    rows: list[list[float]] = []
    targets: list[float] = []
    for name, text in texts.items():
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                continue
            gas, target, values = _parse_line(line, where=f"{name}, line {number}")
            if gas == 1:
                rows.append(values)
                targets.append(target)
    return np.array(rows, dtype=np.float64).reshape(-1, FEATURES), np.array(targets, dtype=np.float64)


def _parse_line(line: str, *, where: str) -> tuple[int, float, list[float]]:
    head, *fields = line.split()
    try:
        gas_text, ppm_text = head.split(";")
        gas, ppm = int(gas_text), _finite(ppm_text)
    except ValueError:
        raise ValueError(f"{where}: starts with {head!r}, expected GAS;PPM like '1;10.000000'.") from None
    if len(fields) != FEATURES:
        raise ValueError(f"{where}: has {len(fields)} features, expected {FEATURES}; the file may be truncated.")
    values = []
    for index, text in enumerate(fields, start=1):
        label, separator, value = text.partition(":")
        try:
            if label != str(index) or not separator:
                raise ValueError
            values.append(_finite(value))
        except ValueError:
            raise ValueError(f"{where}: has {text!r} as feature {index}, expected '{index}:NUMBER'.") from None
    return gas, ppm, values


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _download(cache: Path) -> Path:
    import pooch

    named = os.environ.get("OVERDEPTH_DATA")
    remedy = f"; the folder {named}, which OVERDEPTH_DATA names, does not hold them: put" if named else "; put"
    pooch.get_logger().setLevel("WARNING")
    try:
        downloader = pooch.HTTPDownloader(timeout=DOWNLOAD_TIMEOUT_S)
        path = pooch.retrieve(ARCHIVE_URL, known_hash=None, fname=ARCHIVE_NAME, path=cache, downloader=downloader)
    except Exception as error:  # requests, urllib3 and the operating system each have their own
        raise ConnectionError(
            f"the Ethanol data could not be downloaded ({type(error).__name__}){remedy} {FILE_NAME} or the unpacked "
            f"UCI archive into a folder and set OVERDEPTH_DATA to it, or use the data set breast-cancer."
        ) from error
    return Path(path)


def _problem(X: Array, y: Array, *, source: str) -> Problem:
    """The problem, after a check against the known facts of the set."""
    expected = (sum(ROWS_PER_BATCH), FEATURES)
    if X.shape != expected or y.shape != expected[:1]:
        raise ValueError(
            f"{source}: X has shape {X.shape} and y has shape {y.shape}, the Ethanol set has {expected} and "
            f"{expected[:1]}; the file is truncated or another one."
        )
    try:
        problem = Problem(
            X,
            y[:, None],
            name="ethanol",
            feature_names=tuple(f"sensor{i // 8 + 1}_feature{i % 8 + 1}" for i in range(FEATURES)),
            target_names=("ppmv",),
            source=f"UCI Gas Sensor Array Drift at Different Concentrations, gas class 1, from {source}",
        )
    except ValueError as error:
        raise ValueError(f"{source}: {error} The file is damaged.") from error
    if abs(y.mean() - TARGET_MEAN) > 1e-4 or abs(y.std() - TARGET_STD) > 1e-3:
        raise ValueError(
            f"{source}: y has mean {y.mean():.5f} and standard deviation {y.std():.4f}, the Ethanol set has "
            f"{TARGET_MEAN} and {TARGET_STD}; the file is another one."
        )
    return problem
