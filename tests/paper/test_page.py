"""The page in a real browser: no error in the console, every figure drawn, nothing wider than the screen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from overdepth.lab import load_problem
from overdepth.paper import fig3
from overdepth.paper.claim import Setting
from overdepth.paper.context import Context
from overdepth.paper.report import Report, write_report
from overdepth.paper.reproduce import reproduce
from overdepth.paper.static import check_static

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")

PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const before = document.querySelectorAll(".plot .main-svg").length > 0;
  dispatchEvent(new Event("beforeprint")); dispatchEvent(new Event("afterprint"));
  for (const key of ["t", "n", "p"]) document.body.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
  setTimeout(() => {
    const plots = [...document.querySelectorAll(".plot")];
    const found = {
      before, width: innerWidth, scroll: document.documentElement.scrollWidth, plots: plots.length,
      drawn: plots.filter((plot) => plot.querySelector(".main-svg")).length,
      theme: document.documentElement.dataset.theme, ink: getComputedStyle(document.body).color,
      external: performance.getEntriesByType("resource").map((entry) => entry.name),
      targets: [...document.querySelectorAll("a[href^='#']")].every((a) => document.querySelector(
        "#" + CSS.escape(a.hash.slice(1)))),
    };
    document.title = "PROBE" + JSON.stringify(found) + "END";
  }, 800);
}, 800));</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    context = Context(load_problem("breast-cancer"), (0, 1), 100)
    results = reproduce([fig3.ITEM], context)
    missing = [fig3.FASTER.not_run("something long", Setting("MNIST", "none", (), 0), "overdepth reproduce network")]
    write_report(folder, Report(results, context, "overdepth reproduce fig3", "overdepth reproduce {}".format, missing))
    return folder / "index.html"


def look(page: Path, width: int, tmp_path: Path) -> tuple[dict[str, Any], str]:
    """What the browser says of the page at this width, and its console."""
    probed = tmp_path / "probed.html"
    probed.write_text(page.read_text(encoding="utf-8").replace("</body>", PROBE), encoding="utf-8")
    done = subprocess.run(  # noqa: S603 - a browser on our own page
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom",
            "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )  # fmt: skip
    found = re.search(r"<title>PROBE(.*?)END</title>", done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(found[1].replace("&quot;", '"')), done.stderr


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1920])  # headless windows are at least 500 wide
def test_the_page_in_a_browser(width: int, page: Path, tmp_path: Path) -> None:
    found, console = look(page, width, tmp_path)
    assert "CONSOLE" not in console
    assert found["scroll"] <= found["width"]
    assert found["plots"] == found["drawn"] == 4
    assert found["theme"] == "dark"
    assert found["ink"] == "rgb(230, 237, 243)"
    assert found["external"] == []
    assert found["targets"]


def test_nothing_in_a_figure_ends_its_script(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    figures = re.findall(r'<script type="application/json">(.*?)</script>', text, flags=re.DOTALL)
    assert len(figures) == 4
    for figure in figures:
        assert "<" not in figure
        assert json.loads(figure)["data"]


def test_what_was_not_run_is_said(page: Path) -> None:
    claims = json.loads((page.parent / "claims.json").read_text(encoding="utf-8"))
    assert claims[-1]["verdict"] == "not run"
    assert claims[-1]["value"] is None
    assert "overdepth reproduce network" in page.read_text(encoding="utf-8")


@needs_browser
@pytest.mark.slow
def test_figures_are_written_as_files(tmp_path: Path) -> None:
    context = Context(load_problem("breast-cancer"), (0,), 20)
    results = reproduce([fig3.ITEM], context)
    check_static()
    write_report(tmp_path, Report(results, context, "command", str), static=True)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == [f"fig3-{i}.{extension}" for i in (1, 2, 3, 4) for extension in ("png", "svg")]
    assert (tmp_path / "figures" / "fig3-1.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "figures" / "fig3-1.svg").read_text(encoding="utf-8")[:300]


def test_without_a_browser_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> bytes:
        raise RuntimeError("Kaleido requires Google Chrome to be installed.\n\nEither download it")

    monkeypatch.setattr("plotly.io.to_image", refuse)
    with pytest.raises(ValueError, match=r"--static needs Chrome or Chromium.*install one, or leave --static out"):
        check_static()
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"overdepth\[static\]"):
        check_static()
