"""``overdepth compare`` as a user meets it: the page, exit statuses, an interrupt and its continuation."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.paper.test_page import look, needs_browser

from overdepth.cli import main

PROBLEMS = Path(__file__).parent / "comparison" / "problems.py"
TASK = f"{PROBLEMS}:settings"


def compare(*arguments: str) -> int:
    return main(["compare", *arguments])


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "out"
    arms = ["--arm", "form1:2", "--arm", "form2:2:near_zero:0.3", "--arm", "again"]
    assert compare(TASK, *arms, "--out", str(folder)) == 0
    return folder


def test_what_is_written(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    names = ["plain", "form1:2", "form2:2:near_zero:0.3", "form2:2:near_zero:0.3, norm matched", "again"]
    assert [arm["name"] for arm in content["arms"]] == names
    assert content["steps"] == 30
    assert content["lrs"] == [0.05, 0.1]
    page = (out / "index.html").read_text(encoding="utf-8")
    for arm in content["arms"][1:]:
        assert arm["verdict"]["words"] in page
    assert f"overdepth compare {TASK} --arm form1:2" in page
    assert page.count('class="plot"') == 5
    for pattern in ('src="http', "src='http", '<link rel="stylesheet" href="http', "@import"):
        assert pattern not in page
    assert {path.name for path in out.iterdir()} == {"index.html", "comparison.json", "settings.json", "trials"}


def test_the_same_again_trains_nothing_and_says_the_same(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (out / "comparison.json").read_text(encoding="utf-8")
    trials = {path.name: path.stat().st_mtime_ns for path in (out / "trials").iterdir()}
    arms = ["--arm", "form1:2", "--arm", "form2:2:near_zero:0.3", "--arm", "again"]
    assert compare(TASK, *arms, "--out", str(out)) == 0
    assert {path.name: path.stat().st_mtime_ns for path in (out / "trials").iterdir()} == trials
    assert (out / "comparison.json").read_text(encoding="utf-8") == before
    printed = capsys.readouterr().out
    assert "form1:2: " in printed
    assert f"Page: {out / 'index.html'}" in printed


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [500, 1920])
def test_the_page_in_a_browser(width: int, out: Path, tmp_path: Path) -> None:
    found, console = look(out / "index.html", width, tmp_path)
    assert "CONSOLE" not in console
    assert found["scroll"] <= found["width"]
    assert found["plots"] == found["drawn"] == 5
    assert found["theme"] == "dark"
    assert found["external"] == []
    assert found["targets"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([TASK, "--seeds", "0"], "overdepth: --seeds is 0"),
        ([TASK, "--ray-cpus", "2"], "--ray-cpus is for runs on Ray; add --ray, or leave it out."),
        (["nothing"], "the task is 'nothing', expected FILE.py:FUNCTION"),
        (["missing.py:task"], "there is no file missing.py; give FILE.py:FUNCTION"),
        ([f"{PROBLEMS}:absent"], "has no function 'absent'; it has "),
        ([f"{PROBLEMS}:wrong"], "the function returned a list, expected an overdepth Task or a dict"),
        ([TASK, "--arm", "form7:2"], "arm is 'form7:2', expected plain, again, or FORM:DEPTH"),
        ([TASK, "--lrs", "many"], "--lrs is 'many', expected numbers such as 0.01,0.03,0.1"),
        ([TASK, "--controls", "rsm"], "controls holds 'rsm', expected some of untuned, norm, rms"),
        ([TASK, "--steps", "0"], "steps is 0, expected an integer >= 1"),
        ([TASK, "--budget", "0.0001"], "budget is 0.0001 s, but"),
        ([TASK, "--workers", "0"], "workers is 0, expected an integer >= 1"),
        ([TASK, "--stepz", "3"], "--stepz"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(*arguments, "--out", str(tmp_path / "out")) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert expected in message
    assert message.startswith("overdepth: ")
    assert not (tmp_path / "out" / "index.html").exists()


def test_a_file_that_fails_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    assert compare(f"{tmp_path / 'broken.py'}:task", "--out", str(tmp_path / "out")) == 2
    assert "broken.py does not run: ModuleNotFoundError: No module named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import sys\n\nsys.exit(0)\n", "does not run: it calls sys.exit, which belongs under if __name__"),
        ("def task():\n    raise SystemExit('no')\n", "failed (it calls sys.exit, which belongs under if __name__"),
        ("def task():\n    raise OSError('a\\nb')\n", "failed (OSError: a b); mend the file."),
    ],
)
def test_a_file_that_ends_the_program_is_one_sentence(
    code: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ends.py").write_text(code, encoding="utf-8")
    assert compare(f"{tmp_path / 'ends.py'}:task", "--out", str(tmp_path / "out")) == 2
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1


def test_changed_settings_are_refused(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare(TASK, "--steps", "31", "--out", str(out)) == 2
    assert "steps was 30 and is 31; name another folder with --out, or delete it." in capsys.readouterr().err


def test_help_begins_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Example: overdepth compare examples/l4_regression.py:task" in printed
    assert printed.index("Example:") < printed.index("--arm")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_interrupt_is_status_130_and_the_same_command_goes_on(workers: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "overdepth",
        "compare",
        TASK,
        "--steps",
        "400",
        "--workers",
        workers,
        "--out",
        str(out),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(  # noqa: S603 - our own command
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(list(out.glob("trials/*.npz"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does, to the workers too
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "interrupted; finished runs are kept; run it again to go on" in errors
    assert "Traceback" not in errors
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("trials/*")}
    assert not [name for name in kept if name.endswith(".partial")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    assert re.search(r"^form1:2: ", done.stdout, flags=re.MULTILINE)
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("trials/*")}
    assert kept.items() <= after.items()
