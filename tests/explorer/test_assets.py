"""Scripts from memory: what is a file of the folder is answered, everything else is passed on."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import marimo
import pytest

from overdepth.explorer.assets import Assets
from overdepth.explorer.server import OWN_SCRIPTS, head

MARIMO = Path(marimo.__file__).parent / "_static" / "assets"


def asked(folder: Path, path: str, method: str = "GET", kind: str = "http") -> list[dict[str, Any]]:
    """What is sent as an answer; what is passed on is answered with 404."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def rest(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})

    asyncio.run(Assets(rest, folder)({"type": kind, "method": method, "path": path}, None, send))  # type: ignore[arg-type]
    return sent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret.txt").write_text("not an asset", encoding="utf-8")
    assets = tmp_path / "assets"
    (assets / "inner").mkdir(parents=True)
    (assets / "code-1.js").write_bytes(b"1 + 1")
    (assets / "inner" / "code-2.js").write_bytes(b"2")
    return assets


def test_a_file_comes_whole_and_may_be_kept(folder: Path) -> None:
    start, body = asked(folder, "/assets/code-1.js")
    headers = dict(start["headers"])
    assert start["status"] == 200
    assert headers[b"content-type"].startswith(b"text/javascript")
    assert headers[b"content-length"] == b"5"
    assert b"immutable" in headers[b"cache-control"]
    assert body["body"] == b"1 + 1"


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/", "GET"),
        ("/assets/", "GET"),
        ("/assets/absent.js", "GET"),
        ("/assets/inner/code-2.js", "GET"),
        ("/assets/../secret.txt", "GET"),
        ("/assets/code-1.js", "POST"),
        ("/code-1.jsx", "GET"),
    ],
)
def test_everything_else_is_passed_on(path: str, method: str, folder: Path) -> None:
    (start,) = asked(folder, path, method)
    assert start["status"] == 404


def test_the_page_is_told_of_plotly_where_marimo_keeps_it() -> None:
    found = head(MARIMO)
    assert found.startswith(OWN_SCRIPTS)
    names = [path.name for path in MARIMO.glob("Plot-*.js")]
    assert len(names) == 1
    assert found.count(names[0]) == 2


def test_a_marimo_without_such_a_file_is_no_harm(tmp_path: Path) -> None:
    assert head(tmp_path) == OWN_SCRIPTS
