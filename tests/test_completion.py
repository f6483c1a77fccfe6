"""Shell completion, and ``python -m overdepth``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import overdepth as od
from overdepth.cli import main

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run(*arguments: str, **more: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "overdepth", *arguments],
        env={**ENVIRONMENT, **more},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("overdepth re", {"reproduce"}), ("overdepth ", {"explore", "doctor", "rates", "reproduce"})],
)
def test_bash_completes_commands(typed: str, offered: set[str]) -> None:
    words = typed.split(" ")
    found = run(_OVERDEPTH_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1))
    assert offered <= set(found.split())


def test_bash_completes_options() -> None:
    typed = "overdepth explore --no"
    found = run(_OVERDEPTH_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD="2")
    assert found.split() == ["--no-browser"]


def test_the_script_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--show-completion", "bash"]) == 0
    assert "complete -o default -F _overdepth_completion overdepth" in capsys.readouterr().out


def test_the_script_is_installed(tmp_path: Path) -> None:
    assert "completion installed" in run("--install-completion", "bash", HOME=str(tmp_path))
    (script,) = [path for path in tmp_path.rglob("*") if path.is_file() and "_overdepth_completion" in path.read_text()]
    assert str(script) in (tmp_path / ".bashrc").read_text(encoding="utf-8")


def test_python_m_overdepth_is_overdepth() -> None:
    assert run("--version") == f"overdepth {od.__version__}\n"
