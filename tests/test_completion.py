"""Shell completion, and ``python -m overdepth``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import overdepth as od

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def run(*arguments: str, **more: str) -> str:
    """Runs the command from bash: which shell's completion is meant is seen from the process that calls."""
    done = subprocess.run(  # noqa: S603 - our own command
        ["bash", "-c", '"$0" -m overdepth "$@"; exit $?', sys.executable, *arguments],  # noqa: S607
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


def test_the_script_is_shown() -> None:
    assert "complete -o default -F _overdepth_completion overdepth" in run("--show-completion")


def test_the_script_is_installed(tmp_path: Path) -> None:
    assert "completion installed" in run("--install-completion", HOME=str(tmp_path))
    (script,) = [path for path in tmp_path.rglob("*") if path.is_file() and "_overdepth_completion" in path.read_text()]
    assert str(script) in (tmp_path / ".bashrc").read_text(encoding="utf-8")


def test_python_m_overdepth_is_overdepth() -> None:
    assert run("--version") == f"overdepth {od.__version__}\n"
