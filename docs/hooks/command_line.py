"""The page of the commands is written from the commands themselves: every option that there is, as it is explained."""

from __future__ import annotations

import re
from typing import Any

_MARK = "<!-- commands -->"
_EXAMPLE = re.compile(r"Example: (overdepth .+?)\.?\s*$", re.DOTALL)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Puts all commands where a page has the mark for them."""
    return markdown.replace(_MARK, "\n\n".join(described())) if _MARK in markdown else markdown


def described() -> list[str]:
    """A section in Markdown for each command."""
    import typer.main

    from overdepth.commands.app import program

    group: Any = typer.main.get_command(program())
    return [_section(f"overdepth {name}", command) for name, command in group.commands.items() if not command.hidden]


def _section(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=name)
    lines = [f"## `{name}`", "", *_paragraphs(command.help or ""), f"```text\n{command.get_usage(context)}\n```", ""]
    records = [record for record in _records(command, context) if record]
    if records:
        lines += ["| option | meaning |", "| --- | --- |"]
        lines += [f"| `{_cell(names)}` | {_cell(text)} |" for names, text in records]
    return "\n".join([*lines, "", *_paragraphs(command.epilog or "")])


def _records(command: Any, context: Any) -> list[tuple[str, str] | None]:
    """Names and explanation of every argument and option."""
    found = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        found.append(record or (parameter.make_metavar(context), getattr(parameter, "help", None) or ""))
    return found


def _paragraphs(text: str) -> list[str]:
    """Paragraphs, and examples as blocks of code: what the help shows with its lines kept."""
    lines = []
    for block in re.split(r"\n\s*\n", text.strip("\n")):
        example = _EXAMPLE.match(block)
        if example:
            lines += [f"```\n{' '.join(example[1].split())}\n```", ""]
            continue
        kept = block.lstrip().startswith("\b") or block.startswith("  ")
        clean = block.replace("\b\n", "").replace("\b", "").strip("\n")
        lines += ["```text", clean, "```", ""] if kept and clean else [clean, ""]
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
