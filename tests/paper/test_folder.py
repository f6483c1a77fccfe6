"""The report's folder: replaced as a whole or not at all, and only if it is ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from overdepth.paper.folder import MARKER, check_destination, replacing


def write(folder: Path, text: str, *others: str) -> None:
    with replacing(folder, "rates") as fresh:
        for name in ("index.html", *others):
            (fresh / name).parent.mkdir(exist_ok=True)
            (fresh / name).write_text(text, encoding="utf-8")


def leftovers(parent: Path) -> list[str]:
    return [path.name for path in parent.iterdir() if path.name.startswith(".")]


def test_a_report_is_written_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    write(folder, "first", "stale.nc")
    write(folder, "second")
    assert (folder / "index.html").read_text(encoding="utf-8") == "second"
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "index.html"]
    assert leftovers(folder.parent) == []


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    write(tmp_path / "report", "first")
    assert (tmp_path / "report" / "index.html").exists()


def test_a_failure_leaves_the_old_report_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    write(folder, "first")

    def fail() -> None:
        with replacing(folder, "rates") as fresh:
            (fresh / "index.html").write_text("second", encoding="utf-8")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (folder / "index.html").read_text(encoding="utf-8") == "first"
    assert leftovers(tmp_path) == []


def test_foreign_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match="holds other files; name another folder"):
        write(tmp_path, "report")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_that_was_added_to_a_report_is_never_lost(tmp_path: Path) -> None:
    write(tmp_path / "report", "first", "pictures/a.svg")
    (tmp_path / "report" / "pictures" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"not of its report \(pictures/notes.txt\), which would be lost"):
        write(tmp_path / "report", "second")
    assert (tmp_path / "report" / "index.html").read_text(encoding="utf-8") == "first"
    (tmp_path / "report" / "pictures" / "notes.txt").unlink()
    (tmp_path / "report" / "show.html").write_text("a page of overdepth show", encoding="utf-8")
    write(tmp_path / "report", "second")
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == [MARKER, "index.html"]


def test_the_report_of_another_command_is_never_replaced(tmp_path: Path) -> None:
    write(tmp_path / "report", "first")
    with pytest.raises(ValueError, match="holds a report of overdepth rates; name another folder with --out"):
        check_destination(tmp_path / "report", "reproduce")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="is a file; name a folder"):
        check_destination(tmp_path / "report", "rates")
    with pytest.raises(ValueError, match="cannot be written"):
        check_destination(tmp_path / "report" / "inside", "rates")


def test_a_folder_that_cannot_be_written_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:  # the tests may run as root, whom no permission stops
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\); name another one with --out"):
        check_destination(tmp_path / "report", "rates")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        check_destination(tmp_path / ("x" * 300), "rates")


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", "first")
    write(tmp_path / "link", "second")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "index.html").read_text(encoding="utf-8") == "second"
    assert leftovers(tmp_path) == []


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match="--out"):
        check_destination(tmp_path / "a", "rates")
