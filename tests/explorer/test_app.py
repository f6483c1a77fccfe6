"""The app as a script, from the command line, and in a real browser: a slider moves, the picture changes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import marimo
import pytest
from tests.explorer.browser import CHROMIUM, Page, opened

import overdepth as od
from overdepth.cli import main
from overdepth.explorer.app import app
from overdepth.explorer.server import APP
from overdepth.explorer.views import VIEWS

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome is installed")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

DRAWN = """document.querySelectorAll('.od-figure').length > 0 && [...document.querySelectorAll('marimo-plotly')].every(
  (plot) => plot.shadowRoot.querySelector('.main-svg'))"""
PICTURE = """[...document.querySelectorAll('marimo-plotly')].map((plot) => [
  ...plot.shadowRoot.querySelectorAll('.scatterlayer path.js-line')].map((line) => line.getAttribute('d'))).join()"""

TEXT = "document.querySelector('.od-text').innerText"


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_runs_without_a_page(view: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(APP), f"--view={view}"])
    outputs, defined = app.run()
    assert defined["view"].key == view
    assert any("od-view" in output.text for output in outputs if isinstance(output, marimo.Html))


@pytest.mark.slow
def test_it_runs_as_a_script() -> None:
    done = subprocess.run(  # noqa: S603 - our own file
        [sys.executable, str(APP), "--view=modes"], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    """``overdepth explore`` in a process of its own, and its address."""
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "overdepth", "explore", "--no-browser", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("overdepth explore: http://127.0.0.1:"), process.communicate()
    return process, line.split()[2]


def ended(process: subprocess.Popen[str]) -> str:
    """Ends it as Ctrl-C does, and returns what it wrote to stderr."""
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    return errors


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    process, url = started()
    yield url
    ended(process)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with opened(tmp_path_factory.mktemp("browser") / "profile") as found:
        yield found


@pytest.fixture
def page(browser: Page) -> Page:
    """The browser's page, empty."""
    browser.open("about:blank", width=1920)
    browser.evaluate("0")  # what the last page had to say has come by now
    browser.problems.clear()
    return browser


def settled(page: Page) -> str:
    """The picture's lines once they stand still: fonts and legends may move them a little after they are drawn."""
    before, now = "", str(page.evaluate(PICTURE))
    while now != before:
        time.sleep(0.5)
        before, now = now, str(page.evaluate(PICTURE))
    return now


def focus(page: Page, slider: int) -> None:
    """Puts the focus on the handle of a slider, by its place among all."""
    handle = f"document.querySelectorAll('.od-dial marimo-slider')[{slider}].shadowRoot.querySelector('[role=slider]')"
    page.evaluate(f"{handle}.focus()")


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("view", [name for name in VIEWS if name != "sweep"])
def test_a_slider_moves_and_the_picture_changes(address: str, page: Page, view: str) -> None:
    page.open(f"{address}?view={view}", width=1920)
    page.wait_for(DRAWN)
    before, text = settled(page), page.evaluate(TEXT)
    focus(page, 0)
    page.press("ArrowRight")
    page.wait_for(f"({TEXT}) !== {json.dumps(text)}")
    assert settled(page) != before
    key = VIEWS[view].controls[0].key
    page.wait_for(f"new URLSearchParams(location.search).has('{key}')")
    assert not page.problems


@needs_browser
@pytest.mark.slow
def test_the_mouse_drags_a_slider_to_its_end(address: str, page: Page) -> None:
    page.open(f"{address}?view=modes", width=1920)
    page.wait_for(DRAWN)
    box = """(() => { const box = document.querySelector('.od-dial marimo-slider').shadowRoot
      .querySelector('[role=slider]').getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2];
      })()"""
    x, y = page.evaluate(box)
    page.drag((x, y), 600)
    page.wait_for("new URLSearchParams(location.search).get('depth') === '6'")
    page.wait_for("document.querySelector('.od-text').innerText.startsWith('6 balanced layers')")
    assert not page.problems


@needs_browser
@pytest.mark.slow
def test_a_link_opens_a_setting_and_says_what_it_gets_wrong(address: str, page: Page) -> None:
    page.open(f"{address}?view=preconditioner&inverse_depth=0&sigma1=large", width=1920)
    page.wait_for(DRAWN)
    assert "Depth ∞" in page.evaluate("document.querySelector('.od-text').innerText")
    assert "sigma1 is 'large' in the address" in page.evaluate("document.querySelector('.od-wrong').innerText")
    page.open(f"{address}?y1=1.5&y2=5", width=1920)
    page.wait_for(
        "document.querySelector('.od-wrong') && document.querySelector('.od-wrong').innerText.includes('raise y1')"
    )
    assert not page.problems


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1920])
def test_it_fits_a_phone_and_a_projector_and_windows_that_change(address: str, page: Page, width: int) -> None:
    page.open(address, width=width)
    page.wait_for(DRAWN)
    for size in (width, width - 60):
        page.resize(size)
        time.sleep(0.5)
        tall = page.evaluate("document.querySelector('#App').scrollWidth <= innerWidth")
        assert tall, size
        apart = """(() => { const tops = [...document.querySelectorAll('.od-figure')].map((f) =>
          [f.querySelector('marimo-plotly').shadowRoot.querySelector('.main-svg').getBoundingClientRect().bottom,
           f.querySelector('figcaption').getBoundingClientRect().top]);
          return tops.every(([a, b]) => a <= b + 1); })()"""
        assert page.evaluate(apart), size
    assert not page.problems


@needs_browser
@pytest.mark.slow
def test_views_are_changed_and_keep_what_was_set(address: str, page: Page) -> None:
    page.open(f"{address}?depth=5", width=1920)
    page.wait_for(DRAWN)
    choose = (
        "[...document.querySelector('.od-tabs marimo-radio').shadowRoot.querySelectorAll('[role=radio]')][{}].click()"
    )
    page.evaluate(choose.format(2))
    page.wait_for("document.querySelector('.od-text').innerText.includes('3 balanced layers')")
    page.evaluate(choose.format(0))
    page.wait_for("new URLSearchParams(location.search).get('depth') === '5'")
    assert not page.problems


@needs_browser
@pytest.mark.slow
def test_a_sweep_of_ones_own_is_shown_and_an_interrupt_leaves_nothing(tmp_path: Path, page: Page) -> None:
    problem = od.lab.load_problem("breast-cancer")
    data = od.lab.sweep(problem, od.lab.grid(depth=[1, 2], lr=[1e-3, 1e-2]), steps=100)
    (tmp_path / "my sweep").mkdir()
    data.to_netcdf(tmp_path / "my sweep" / "results.nc", engine="h5netcdf")
    process, url = started("--sweep", str(tmp_path / "my sweep"))
    page.open(url, width=1920)
    page.wait_for(DRAWN)
    assert "4 runs on breast-cancer" in page.evaluate("document.querySelector('.od-text').innerText")
    assert not page.problems
    errors = ended(process)  # while the page is open
    assert errors == "overdepth: interrupted; the explorer is closed.\n"


def test_bad_input_is_said_before_anything_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damaged = tmp_path / "damaged" / "sweep.nc"
    damaged.parent.mkdir()
    damaged.write_bytes(b"no NetCDF")
    for arguments, said in (
        (["--port", "70000"], "--port is 70000, expected an integer from 1 to 65535, or 0"),
        (["--port", "-1"], "--port is -1"),
        (["--sweep", str(tmp_path / "nowhere")], "does not exist; give the folder of a sweep"),
        (["--sweep", str(tmp_path)], "holds no .nc file"),
        (["--sweep", str(APP)], "is no .nc file; give one"),
        (["--sweep", str(damaged)], "sweep.nc"),
    ):
        assert main(["explore", "--no-browser", *arguments]) == 2
        message = capsys.readouterr().err
        assert said in message
        assert message.count("\n") == 1


def test_without_marimo_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "marimo", None)
    assert main(["explore", "--no-browser"]) == 2
    assert "install the extra: pip install 'overdepth[explore]'" in capsys.readouterr().err


def test_the_browser_is_opened_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    opened_at: list[str] = []
    monkeypatch.setattr("overdepth.commands.explore.open_browser", opened_at.append)
    monkeypatch.setattr("overdepth.commands.explore.serve", lambda _, say: say())
    assert main(["explore"]) == 0
    assert opened_at[0].startswith("http://127.0.0.1:")
    assert main(["explore", "--no-browser"]) == 0
    assert len(opened_at) == 1
