"""The page of ``overdepth show``: what is said, in a real browser, and from files of strangers."""

from __future__ import annotations

import contextlib
import html
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from tests.paper.test_page import look, needs_browser
from tests.sweeps.made import made, swept, write

from overdepth.cli import main
from overdepth.sweeps.show import best_rates, open_results, panels, read_runs
from overdepth.sweeps.show.page import MARKER
from overdepth.sweeps.show.panel import MAX_CURVES, MAX_ROWS

INF, NAN = math.inf, math.nan
FILTERED = """<script>addEventListener("load", () => setTimeout(() => {
  const panel = document.querySelector(".panel"), select = panel.querySelector("select[name=depth]");
  const seen = () => ({
    rows: [...panel.querySelectorAll("tbody tr")].filter((row) => row.offsetParent).length,
    curves: panel.querySelector(".plot").data.filter((trace) => trace.name && trace.visible !== false).length,
    said: panel.querySelector("output").textContent,
  });
  const before = seen();
  select.value = "2"; select.dispatchEvent(new Event("change"));
  setTimeout(() => console.log("FILTER" + JSON.stringify([before, seen()]) + "END"), 100);
}, 500));</script></body>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep")
    write(path / "results.nc", swept().assign_attrs(command="overdepth sweep mine.toml --out sweep"))
    assert main(["show", str(path)]) == 0
    return path


def page_of(data: xr.Dataset, tmp_path: Path, *options: str) -> str:
    file = write(tmp_path / "results.nc", data)
    assert main(["show", str(file), *options]) == 0
    return (tmp_path / "results.html").read_text(encoding="utf-8")


def words(page: str) -> str:
    """The page's text, without scripts."""
    body = re.sub(r"<(script|style).*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def run_code(page: str) -> str:
    """What the lines on the page print."""
    found = re.search(r'<pre class="code"[^>]*>(.*?)</pre>', page, flags=re.DOTALL)
    assert found
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(html.unescape(found[1]), "page", "exec"), {})  # noqa: S102 - our own lines
    return printed.getvalue()


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1920])
def test_the_page_in_a_browser(width: int, folder: Path, tmp_path: Path) -> None:
    found, console = look(folder / "show.html", width, tmp_path)
    assert "CONSOLE" not in console
    assert found["scroll"] <= found["width"]
    assert found["plots"] == found["drawn"] == 12  # two losses: curves, sensitivity, two maps for each of two starts
    assert found["theme"] == "dark"
    assert found["external"] == []
    assert found["targets"]


@needs_browser
@pytest.mark.slow
def test_the_filter_hides_rows_and_curves(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    text = (folder / "show.html").read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", FILTERED), encoding="utf-8")
    _, console = look(page, 1280, tmp_path)
    found = re.search(r"FILTER(.*?)END", console)
    assert found, console[-2000:]
    before, after = json.loads(found[1])
    assert before == {"rows": 6, "curves": 6, "said": "6 of 6 groups"}
    assert after == {"rows": 2, "curves": 2, "said": "2 of 6 groups"}


def test_the_page_says_what_was_run(folder: Path) -> None:
    said = words((folder / "show.html").read_text(encoding="utf-8"))
    for part in (
        "problem breast-cancer",
        "scaling standard",
        "steps 200, the loss recorded 11 times",
        "made by overdepth sweep mine.toml --out sweep",
        "depth 1, 2, 3",
        "seed 0, 1, 2",
        "computed with overdepth",
        f"overdepth show {folder}",
    ):
        assert part in said
    with xr.open_dataset(folder / "results.nc") as data:
        gone = int(np.isfinite(data.diverged_at).sum())
    assert f"runs 180, of which {gone} diverged ({gone / 180:.0%})" in said


def test_the_lines_on_the_page_make_its_table(folder: Path) -> None:
    printed = run_code((folder / "show.html").read_text(encoding="utf-8"))
    expected = []
    with open_results(folder) as results:
        for settings, runs in panels(read_runs(results.sources[0])):
            expected += [(settings["objective"], best) for best in best_rates(runs)]
    lines = [line.split() for line in printed.splitlines()][-len(expected) :]
    assert len(expected) == 12
    shared: list[str] = []
    for (objective, best), line in zip(expected, lines, strict=True):
        shared = [*shared[: 5 - len(line)], *line]  # pandas prints an index once
        assert shared[0] == objective
        assert (float(shared[1]), shared[2]) == (best.settings["depth"], best.settings["init"])
        assert (float(shared[3]), float(shared[4])) == pytest.approx((best.lr, best.gap), rel=1e-5)


def runs(**varied: list[Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{}]
    for name, values in varied.items():
        rows = [{**row, name: value} for row in rows for value in values]
    return [{**row, "gap": row.get("gap", 1.0 + 0.01 * i)} for i, row in enumerate(rows)]


@pytest.mark.parametrize("group", [[], ["--group", "depth"], ["--group", "width,depth"]])
def test_the_lines_run_whatever_varies(group: list[str], tmp_path: Path) -> None:
    rows = runs(depth=[1.0, 2.0], width=[1, 5], lr=[0.1, 0.2], seed=[0, 1])
    rows[0]["gap"], rows[-1]["gap"] = INF, NAN
    rows += [{**row, "norm": [0.3, 0.4][row["seed"]], "gap": 0.5} for row in rows[:8]]
    rows.append(rows[1])
    data = made(rows)
    printed = run_code(page_of(data, tmp_path, *group))
    with open_results(tmp_path) as results:
        found = best_rates(read_runs(results.sources[0]), group[1].split(",") if group else None)
    gaps = [float(line.split()[-1]) for line in printed.splitlines()[-len(found) :]]
    assert sorted(gaps) == pytest.approx(sorted(best.gap for best in found), rel=1e-4)


def test_the_lines_run_where_only_the_rate_varies(tmp_path: Path) -> None:
    printed = run_code(page_of(made(runs(lr=[0.1, 0.2], gap=[2.0])), tmp_path))
    assert printed.split() == ["0.1", "2.0"]


def test_notes_are_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        *({"depth": 1.0, "lr": lr, "gap": gap} for lr, gap in ((0.1, 3.0), (0.2, 2.0), (0.4, 1.0))),
        *({"depth": 2.0, "lr": lr, "gap": INF} for lr in (0.1, 0.2, 0.4)),
        *({"depth": 3.0, "lr": lr, "gap": gap} for lr, gap in ((0.1, 1.0), (0.2, 1.0), (0.4, 2.0))),
    ]
    said = words(page_of(made(rows), tmp_path))
    printed = " ".join(capsys.readouterr().out.split())
    assert "of the grid: extend it to higher rates" in said
    for note in ("every learning rate diverged: try lower ones", "tie: lr 0.1, 0.2 are equally good"):
        assert note in said
    assert "every learning rate" in printed


def test_one_run_is_a_page(tmp_path: Path) -> None:
    said = words(page_of(made([{"gap": 1.0}]), tmp_path))
    assert "There is one learning rate, 0.001: nothing is tuned." in said
    assert "runs 1, of which 0 diverged (0%)" in said


def test_nothing_but_divergence_is_a_page(tmp_path: Path) -> None:
    page = page_of(made(runs(depth=[1.0, 2.0], lr=[0.1, 0.2], gap=[INF])), tmp_path)
    assert "runs 4, of which 4 diverged (100%)" in words(page)
    assert page.count('<div class="plot"') == 2  # the maps


def test_an_unfinished_sweep_is_said(tmp_path: Path) -> None:
    rows = [{**row, "gap": [1.0, NAN][row["seed"]]} for row in runs(lr=[0.1, 0.2], seed=[0, 1])]
    said = words(page_of(made(rows), tmp_path))
    assert "2 are not finished yet and are left out" in said
    said = words(page_of(made(runs(lr=[0.1, 0.2], gap=[NAN])), tmp_path))
    assert "no run has come farther than step 10, at which gaps are told" in said


def test_labels_of_strangers_are_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    rows = runs(init=[evil, "near_zero"], depth=[1.0, 2.0], lr=[0.1, 0.2], seed=[0, 1])
    data = made(rows, problem=evil, command=evil).assign_coords({"<b>": ("run", np.arange(len(rows)) % 2)})
    page = page_of(data, tmp_path)
    ours = page[page.index("</style>") :]
    scripts = re.findall(r"<script[^>]*>", ours)
    figures = re.findall(r'<script type="application/json">(.*?)</script>', ours, flags=re.DOTALL)
    assert len(scripts) == 2 + len(figures)
    assert "<img" not in ours
    for figure in figures:
        assert "<" not in figure
        assert "<img" not in json.dumps([trace.get("name", "") for trace in json.loads(figure)["data"]])


def test_many_groups_are_cut_and_said(tmp_path: Path) -> None:
    rows = runs(depth=[1.0, 2.0, 3.0], width=list(range(1, 41)), lr=[0.1, 0.2])
    page = page_of(made(rows), tmp_path)
    said = words(page)
    assert f"The table lists the {MAX_ROWS} groups with the lowest gaps of 120." in said
    assert f"The curves are of the {MAX_CURVES} groups with the lowest gaps." in said
    assert "Of 40 maps the 6 with the lowest gaps are drawn." in said
    assert page.count("<tr data-settings") == MAX_ROWS


@pytest.mark.slow
@pytest.mark.parametrize(("count", "steps"), [(100_000, 20), (20_000, 320)])
def test_many_runs_are_a_small_page(count: int, steps: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = made([{}] * count, steps=steps)
    pairs = np.arange(count) // 2  # two seeds each
    lr, depth = 10 ** rng.uniform(-4, 0, count)[pairs], rng.integers(1, 60, count)[pairs]
    columns = {
        "lr": lr,
        "depth": depth.astype(float),
        "width": rng.integers(1, 60, count)[pairs],
        "init": rng.choice(["near_zero", "orthogonal"], count)[pairs],
        "seed": np.arange(count) % 2,
        "objective": rng.choice([f"l{2 * p}" for p in range(1, 20)], count)[pairs],
    }
    data = data.assign_coords({name: ("run", values) for name, values in columns.items()})
    data["loss"] = data.loss * rng.uniform(1, 2, (count, 1)) + 0.1
    data["diverged_at"] = ("run", np.where(lr * depth > 5, 10.0, np.nan))
    file = write(tmp_path / "results.nc", data)
    assert main(["show", str(file)]) == 0
    page = file.with_suffix(".html")
    assert page.stat().st_size < 8e6
    assert "7 more of its parts have no room on this page" in words(page.read_text(encoding="utf-8"))


def test_the_place_of_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = made(runs(lr=[0.1, 0.2]))
    file = write(tmp_path / "sweep" / "results.nc", data)
    other = tmp_path / "mine.html"
    assert main(["show", str(file.parent), "--out", str(other)]) == 0
    assert f"Page: {other}" in capsys.readouterr().out
    assert MARKER in other.read_text(encoding="utf-8")
    assert main(["show", str(file.parent), "--out", str(other)]) == 0  # its own page is replaced
    for page, expected in (
        (tmp_path / "thesis.html", "is no page of overdepth show; name another file"),
        (tmp_path, "which is a folder"),
        (tmp_path / "missing" / "page.html", "there is no folder"),
        (Path("/proc/page.html"), "cannot be written ("),
    ):
        (tmp_path / "thesis.html").write_text("years of work", encoding="utf-8")
        assert main(["show", str(file), "--out", str(page)]) == 2
        message = capsys.readouterr().err
        assert expected in message
        assert message.count("\n") == 1
    assert (tmp_path / "thesis.html").read_text(encoding="utf-8") == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.html", "sweep", "thesis.html"]


def test_a_failure_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "results.nc", made(runs(lr=[0.1, 0.2])))
    assert main(["show", str(file)]) == 0
    before = file.with_suffix(".html").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("overdepth.sweeps.show.page.write_page", full)
    assert main(["show", str(file)]) == 1
    assert file.with_suffix(".html").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_the_page_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def browse(address: str) -> bool:
        opened.append(address)
        return True

    monkeypatch.setattr("webbrowser.open", browse)
    file = write(tmp_path / "results.nc", made(runs(lr=[0.1, 0.2])))
    assert main(["show", str(file), "--open"]) == 0
    assert opened == [file.with_suffix(".html").as_uri()]


def test_a_group_that_is_no_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "results.nc", made(runs(lr=[0.1, 0.2])))
    assert main(["show", str(file), "--group", "colour"]) == 2
    assert "--group is 'colour', expected some of depth, width" in capsys.readouterr().err
    assert main(["show", "--help"]) == 0
    assert "Example: overdepth show sweep --group depth --open" in capsys.readouterr().out
