"""The examples of the README and the docs run as they stand, those of one page in order."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<indent> *)(?P<mark><!-- not run: (?P<why>[^>]*)-->\n *)?```python *\n(?P<code>.*?)^ *```", re.M | re.S
)


def examples(page: Path) -> list[str]:
    """The blocks of Python of a page, without those that a mark in front of them excuses with a reason."""
    return [found["code"] for found in FENCE.finditer(page.read_text(encoding="utf-8")) if not found["mark"]]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_the_readme_has_its_examples() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert len(examples(PAGES[0])) == text.count("```python") >= 3


def test_every_block_is_run_or_excused() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = list(FENCE.finditer(text))
        assert len(found) == len(re.findall(r"```\s*(?:\{?\s*\.?)?(?:python|py|pycon)\b", text)), name_of(page)
        assert all(len(block["why"].split()) >= 3 for block in found if block["mark"]), name_of(page)
        assert all(not block["indent"] for block in found), name_of(page)
        assert len(re.findall("<!-- not run", text)) == sum(bool(block["mark"]) for block in found), name_of(page)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # of torch.onnx itself
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=name_of)
def test_examples_run(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    names: dict[str, object] = {}
    for example in examples(page):
        exec(compile(example, str(page), "exec"), names)  # noqa: S102 - our own text
    plt.close("all")
    assert capsys.readouterr().out


def test_the_two_commands_are_named() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert "make reproduce" in text
    assert "make test" in text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
