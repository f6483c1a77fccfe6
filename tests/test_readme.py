"""The examples of the README and the docs run as they stand, those of one page in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def examples(page: Path) -> list[str]:
    return re.findall(r"<!-- test -->\n```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readme_has_its_examples() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(examples(PAGES[0])) == text.count("```python") >= 3


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch.onnx itself
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: str(page.name))
def test_examples_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in examples(page):
        exec(compile(example, str(page), "exec"), names)  # noqa: S102 - our own text
    assert capsys.readouterr().out


def test_the_two_commands_are_named() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert "make reproduce" in text
    assert "make test" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
