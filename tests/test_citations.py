"""``od.cite``: the right sources, the facts of CITATION.cff, and every public name known."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import overdepth as od
from overdepth.citations import ALWAYS, ENTRIES, USED_BY

yaml: Any = importlib.import_module("yaml")
ROOT = Path(__file__).parent.parent
CFF = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
MODULES = ("overdepth", "overdepth.nn", "overdepth.optim", "overdepth.theory", "overdepth.lab", "overdepth.optax")
NAMED = {
    "Mallada": "min2023convergence",
    "Saxe": "saxe2014exact",
    "Tarmoun": "tarmoun2021understanding",
    "Fukumizu": "fukumizu1998effect",
    "Bernstein": "yang2023spectral",
}


def plain(field: str) -> str:
    """A BibTeX field without its braces and accents."""
    return re.sub(r"[{}]|\\['c]", "", field)


def test_the_software_is_that_of_the_citation_file() -> None:
    fields = ENTRIES["overdepth"].fields
    assert plain(fields["title"]) == CFF["title"]
    assert fields["license"] == CFF["license"]
    assert plain(fields["author"]) == CFF["authors"][0]["name"]
    assert fields["version"] == od.__version__ == CFF["version"]


@pytest.mark.parametrize(
    ("key", "cited"),
    [("arora2018optimization", CFF["preferred-citation"]), ("min2023convergence", CFF["references"][0])],
)
def test_the_papers_are_those_of_the_citation_file(key: str, cited: dict[str, Any]) -> None:
    fields = ENTRIES[key].fields
    assert plain(fields["title"]) == cited["title"]
    assert fields["booktitle"] == cited["collection-title"]
    assert fields["year"] == str(cited["year"])
    families = [author["family-names"] for author in cited["authors"]]
    assert [author.split(",")[0] for author in fields["author"].split(" and ")] == families
    if "start" in cited:
        assert fields["pages"] == f"{cited['start']}--{cited['end']}"
    if "identifiers" in cited:
        assert cited["identifiers"][0]["value"] == f"arXiv:{fields['eprint']}"


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_known_and_brings_what_its_docstring_cites(module: str) -> None:
    found = importlib.import_module(module)
    for name in found.__all__:
        keys = od.cite(f"{module.removeprefix('overdepth.')}.{name}").keys
        assert keys[:2] == ALWAYS
        own: object = getattr(found, name)
        text = inspect.getdoc(own) or "" if inspect.isfunction(own) or inspect.isclass(own) else ""
        for author, key in NAMED.items():
            assert author not in text or key in keys, (name, author)


@pytest.mark.parametrize(
    ("names", "more"),
    [
        (("Factored",), ()),
        (("rates",), ("min2023convergence", "jacot2018neural")),
        (
            ("optim.EndToEndSGD", "ethanol"),
            ("yang2023spectral", "vergara2012chemical", "rodriguezlujan2014calibration"),
        ),
        (("doctor",), ()),
    ],
)
def test_what_is_cited(names: tuple[str, ...], more: tuple[str, ...]) -> None:
    assert od.cite(*names).keys == (*ALWAYS, *more)


def test_nothing_named_means_all() -> None:
    assert od.cite().keys == tuple(ENTRIES)
    assert set(USED_BY) | set(ALWAYS) == set(ENTRIES)


def test_it_is_a_text_that_a_console_shows() -> None:
    found = od.cite("Factored")
    assert isinstance(found, str)
    assert repr(found) == str(found)
    assert found.count("@") == 2
    for entry in str(od.cite()).split("\n\n"):
        assert re.fullmatch(r"@\w+\{\w+,\n(  \w+ += \{.+\},?\n)+\}", entry), entry
        assert entry.count("{") == entry.count("}")


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'Factord' is no public name.*such as Factored"):
        od.cite("Factord")
    with pytest.raises(ValueError, match="or none for all sources"):
        od.cite("Factored", "")


def test_it_needs_no_torch() -> None:
    code = (
        "import importlib.util, pathlib, sys, types; package = types.ModuleType('overdepth');"
        f"package.__path__ = [{str(ROOT / 'src' / 'overdepth')!r}]; sys.modules['overdepth'] = package;"
        "from overdepth.citations import cite; assert 'arora' in cite('rates'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603 - our own code
