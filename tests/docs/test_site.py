"""The built site: strict, every link leads somewhere, nothing is loaded from elsewhere, every public name is there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

import overdepth as od

pytest.importorskip("mkdocs")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LOADED = {
    "script": "src",
    "img": "src",
    "source": "srcset",
    "iframe": "src",
    "audio": "src",
    "video": "src",
    "use": "href",
}


class Page(HTMLParser):
    """What a page links to, loads, and can be linked at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.styles: list[str] = []
        self.emphasized: list[str] = []
        self.inside: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        if tag == "em":
            self.inside.append("")
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        self.styles += [found["style"]] if "style" in found else []
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and found.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(found["href"])
        if LOADED.get(tag, "") in found:
            self.loads.append(found[LOADED[tag]].split()[0])

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.inside[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "em":
            self.emphasized.append(self.inside.pop())


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(  # noqa: S603 - our own site
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def is_elsewhere(target: str) -> bool:
    return bool(urlsplit(target).scheme or urlsplit(target).netloc)


def test_links_inside_the_site_lead_to_a_page_and_a_place_on_it(site: Path, pages: dict[Path, Page]) -> None:
    missing = []
    for page in pages.values():
        for link in (link for link in page.links if not is_elsewhere(link) and link != "."):
            parts = urlsplit(link)
            above = site if parts.path.startswith("/") else page.path.parent
            path = (above / unquote(parts.path).lstrip("/")).resolve() if parts.path else page.path
            path = path / "index.html" if path.is_dir() else path
            place = unquote(parts.fragment)
            if not path.exists() or (place and path in pages and place not in pages[path].anchors):
                missing.append(f"{page.path.relative_to(site)}: {link}")
    assert not missing


def test_links_elsewhere_are_to_papers_and_projects(pages: dict[Path, Page]) -> None:
    found = {urlsplit(link).netloc for page in pages.values() for link in page.links if is_elsewhere(link)}
    explorer = "127.0.0.1:2718"  # of a reader who has started it
    assert found <= {"arxiv.org", "docs.pytorch.org", "docs.ray.io", "optax.readthedocs.io", explorer}


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    for page in pages.values():
        assert not [target for target in page.loads if is_elsewhere(target) and not target.startswith("data:")]
        assert not [style for style in page.styles if "url(" in style]
        for target in (target for target in page.loads if not is_elsewhere(target)):
            above = site if target.startswith("/") else page.path.parent
            assert (above / unquote(urlsplit(target).path).lstrip("/")).exists(), (page.path, target)
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"(?:url\(\s*[\"']?|@import\s+[\"'])(?:https?:)?//", text), sheet
    for drawing in site.rglob("*.svg"):
        assert not re.findall(r"(?:href|src)=\"(?:https?:)?//", drawing.read_text(encoding="utf-8")), drawing


def test_the_formulas_are_drawn_without_a_script(site: Path) -> None:
    text = (site / "theory" / "end-to-end.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 8
    assert not [path for path in site.rglob("*.html") if 'class="arithmatex"' in path.read_text(encoding="utf-8")]


def test_no_stars_and_underscores_of_formulas_are_taken_for_emphasis(pages: dict[Path, Page]) -> None:
    taken = [text for page in pages.values() for text in page.emphasized if not text[:1].isalpha() or "]_" in text]
    assert not taken


def test_tutorials_show_what_they_printed_and_drew(site: Path) -> None:
    for source in [ROOT / "docs" / "tutorial.md", *(ROOT / "docs" / "tutorials").glob("*.md")]:
        page = site / source.relative_to(ROOT / "docs").with_suffix(".html")
        blocks = len(re.findall("^```python", source.read_text(encoding="utf-8"), flags=re.MULTILINE))
        notebook = json.loads(page.with_suffix(".ipynb").read_text(encoding="utf-8"))
        cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
        assert len(cells) == blocks
        assert all(cell["execution_count"] for cell in cells)
        assert 'class="output' in page.read_text(encoding="utf-8")


def test_it_can_be_searched(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    assert any(entry["location"].endswith("#overdepth.theory.certify") for entry in index["docs"])


def public_modules() -> Iterator[ModuleType]:
    """The package, and every module that it offers under its own name."""
    yield od
    yield from (value for _, value in public_names() if isinstance(value, ModuleType))


def public_names() -> list[tuple[str, object]]:
    """What the package offers, though some of it needs an extra."""
    return [(name, getattr(od, name)) for name in dir(od)]


def test_the_reference_has_every_public_name(pages: dict[Path, Page]) -> None:
    documented = {anchor for path, page in pages.items() if path.parent.name == "reference" for anchor in page.anchors}
    places = {(module.__name__, name): getattr(module, name) for module in public_modules() for name in module.__all__}
    places |= {("overdepth", name): value for name, value in public_names()}
    del places["overdepth", "__version__"]
    shown = [value for (module, name), value in places.items() if f"{module}.{name}" in documented]
    missing = [
        f"{module}.{name}"
        for (module, name), value in places.items()
        if not isinstance(value, ModuleType) and not any(value is other for other in shown)
    ]
    assert len(shown) > 80
    assert not missing, f"add '::: {missing[0]}' to a page in docs/reference"


def test_the_reference_has_every_public_module() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    assert not [module.__name__ for module in public_modules() if f"`{module.__name__}`" not in text]


def test_every_command_is_described(site: Path) -> None:
    from overdepth.commands.app import COMMANDS

    text = (site / "reference" / "command-line.html").read_text(encoding="utf-8")
    assert all(f"overdepth {name}" in text for name in COMMANDS)
