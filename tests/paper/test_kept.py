"""What was computed is not computed again, unless something that matters changed or the file is damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from overdepth.paper.kept import KeptData

SETTINGS: dict[str, object] = {"seeds": [0, 1], "quick": False}


class Work:
    """Counts how often it is done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> xr.Dataset:
        self.times += 1
        values = np.linspace(0.0, 1.0, 7)
        values[3] = np.nan
        return xr.Dataset(
            {"value": (("run", "step"), np.stack([values, values + 1])), "works": ("run", [1, 0])},
            coords={"run": [0, 1], "family": ("run", ["near_zero", "balanced"])},
            attrs={"note": "a note", "count": 3},
        )


def test_the_second_time_nothing_is_computed(tmp_path: Path) -> None:
    work = Work()
    first = KeptData(tmp_path).get_or_compute("item", SETTINGS, work)
    second = KeptData(tmp_path).get_or_compute("item", dict(reversed(SETTINGS.items())), work)
    assert work.times == 1
    xr.testing.assert_identical(first, second)


def test_other_settings_and_other_names_are_other_data(tmp_path: Path) -> None:
    work, kept = Work(), KeptData(tmp_path)
    kept.get_or_compute("item", SETTINGS, work)
    kept.get_or_compute("item", {**SETTINGS, "quick": True}, work)
    kept.get_or_compute("other", SETTINGS, work)
    assert work.times == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_file_is_computed_again_with_a_warning(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work, kept = Work(), KeptData(tmp_path)
    whole = kept.get_or_compute("item", SETTINGS, work)
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 0xFF
    path.write_bytes({"cut": bytes(content[: len(content) // 2]), "flip": bytes(content), "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again = kept.get_or_compute("item", SETTINGS, work)
    assert work.times == 2
    assert "computed again" in caplog.text
    xr.testing.assert_identical(whole, again)
    kept.get_or_compute("item", SETTINGS, work)
    assert work.times == 2


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    work = Work()
    with caplog.at_level(logging.WARNING):
        KeptData(tmp_path / "file" / "items").get_or_compute("item", SETTINGS, work)
    assert work.times == 1
    assert "cannot be kept" in caplog.text


def test_work_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> xr.Dataset:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        KeptData(tmp_path).get_or_compute("item", SETTINGS, fails)
    assert list(tmp_path.iterdir()) == []


def test_any_flipped_byte_is_computed_again_or_does_no_harm(tmp_path: Path) -> None:
    work, kept = Work(), KeptData(tmp_path)
    whole = kept.get_or_compute("item", SETTINGS, work)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    edges = [*range(40), *range(len(content) - 120, len(content))]  # zip's own structures
    for position in edges:
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        xr.testing.assert_identical(kept.get_or_compute("item", SETTINGS, work), whole)
