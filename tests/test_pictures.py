"""The script behind the pictures of docs/theory draws them, and every picture that a page shows is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docs.pictures import DRAW, PAGES, main

SHOWN = {
    page.stem: re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8")) for page in PAGES.glob("*.md")
}


def test_two_pictures_are_drawn_and_repeat(tmp_path: Path) -> None:
    drawn = []
    for run in ("first", "second"):
        main(["--out", str(tmp_path / run), "geometry", "no-regularizer"])
        files = sorted((tmp_path / run).rglob("*.svg"))
        assert sorted(path.name for path in files) == ["geometry.svg"] * 2 + ["no-regularizer.svg"] * 2
        drawn.append([path.read_text(encoding="utf-8") for path in files])
    assert drawn[0] == drawn[1]
    assert all("<text" in svg and "<image" not in svg and "dc:date" not in svg for svg in drawn[0])


def test_a_picture_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nonsense"])
    assert "no picture 'nonsense'; choose from" in capsys.readouterr().err


def test_the_picture_of_frozen_reads_its_table() -> None:
    assert len(re.findall(r"^\| \d+ \|", (PAGES / "frozen.md").read_text(encoding="utf-8"), flags=re.MULTILINE)) == 6


@pytest.mark.parametrize("name", DRAW)
def test_every_picture_is_small_and_on_its_page(name: str) -> None:
    assert SHOWN[name] == [f"pictures/{name}.svg"]
    assert f"python -m docs.pictures {name}" in (PAGES / f"{name}.md").read_text(encoding="utf-8")
    for folder in ("pictures", "pictures/narrow"):
        assert (PAGES / folder / f"{name}.svg").stat().st_size < 60_000


def test_every_page_with_a_picture_has_a_script_for_it() -> None:
    assert (
        {page for page, pictures in SHOWN.items() if pictures}
        == set(DRAW)
        == set(SHOWN) - {"derivations", "errata", "index"}
    )
    assert all((PAGES / picture).exists() for pictures in SHOWN.values() for picture in pictures)
