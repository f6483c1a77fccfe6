"""The README's examples run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = re.findall(r"<!-- test -->\n```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readme_has_its_examples() -> None:
    assert len(EXAMPLES) == README.read_text(encoding="utf-8").count("```python") >= 2


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_runs(example: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(example, str(README), "exec"), {})  # noqa: S102 - our own text
    assert capsys.readouterr().out


def test_the_two_commands_are_named() -> None:
    text = README.read_text(encoding="utf-8")
    assert "make reproduce" in text
    assert "make test" in text
