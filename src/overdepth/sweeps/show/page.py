"""The page: what was run, then panel by panel the best learning rates, the curves and the maps."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overdepth.paper.rendering import embedded, write_page
from overdepth.sweeps.show.best import check_fields
from overdepth.sweeps.show.labels import text
from overdepth.sweeps.show.panel import Panel, draw_panel
from overdepth.sweeps.show.reading import Results, Source
from overdepth.sweeps.show.runs import Field, Runs, panels, read_runs
from overdepth.sweeps.show.snippet import best_rates_code

MARKER = '<meta name="generator" content="overdepth show">'
MAX_PANELS = 12
MAX_CELLS = 12_000
"""Of all maps of a page, which is to stay below 8 MB."""
MAX_VALUES = 12
LONG = 300
FACTS = {
    "problem": "problem",
    "source": "source",
    "scaling": "scaling",
    "dtype": "type",
    "batch_size": "rows a step",
    "command": "made by",
}


@dataclass(frozen=True)
class Section:
    """A data set on the page.

    Attributes:
        name: Of its item; empty if there is but one.
        runs: All of them.
        facts: What they are about, a name and words each.
        panels: What is drawn.
        panels_left_out: How many more there are.
        code: Lines of xarray that make the table again.
    """

    name: str
    runs: Runs
    facts: dict[str, str]
    panels: Sequence[Panel]
    panels_left_out: int
    code: str


@dataclass(frozen=True)
class Drawn:
    """What is put on a page.

    Attributes:
        sections: A data set each.
        left_out: Files that could not be drawn, a sentence each.
    """

    sections: Sequence[Section]
    left_out: Sequence[str]


def draw(results: Results, by: Sequence[str] | None = None) -> Drawn:
    """Draws everything that belongs on the page.

    Args:
        results: What was found.
        by: The settings that make a group; default: as in :class:`.best.Grouping`.

    Raises:
        ValueError: If a file is damaged, or ``by`` names no setting.
    """
    found = [(source, read_runs(source)) for source in results.sources]
    for _, runs in found:
        check_fields(by or (), runs)
    parts = [panels(runs) for _, runs in found]
    room = MAX_PANELS
    sections = []
    for (source, runs), own in zip(found, parts, strict=True):
        shown = own[: max(room, 0)]
        room -= len(shown)
        cells = MAX_CELLS // min(sum(map(len, parts)), MAX_PANELS)
        drawn = [draw_panel(settings, part, by, most_cells=cells) for settings, part in shown]
        code = best_rates_code(runs, drawn[0].grouping) if drawn else ""
        sections.append(Section(source.name, runs, _facts(source, runs), drawn, len(own) - len(shown), code))
    return Drawn(sections, results.left_out)


def write(path: Path, drawn: Drawn, *, name: str, command: str) -> None:
    """Writes the page, beside its place first.

    Args:
        path: Where; replaced only if it is an earlier page.
        drawn: From :func:`draw`.
        name: Of the sweep.
        command: The command line that makes this page again.

    Raises:
        ValueError: If ``path`` is no place for the page.
        OSError: If the disk refuses.
    """
    check_page(path)
    path = path.resolve()
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    os.close(handle)
    try:
        write_page(
            Path(temporary),
            "sweeps/show/page.html",
            marker=MARKER,
            drawn=drawn,
            name=name,
            command=command,
            embedded=embedded,
            text=text,
        )
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def check_page(path: Path) -> None:
    """Checks that a page can be written to ``path``: it is absent, or an earlier page.

    Raises:
        ValueError: If it is not, with the remedy.
    """
    if path.is_dir():
        raise ValueError(f"--out is {path}, which is a folder; name a file in it, {path / 'show.html'} say.")
    if not path.parent.is_dir():
        raise ValueError(f"--out is {path}, but there is no folder {path.parent}; make it, or name another page.")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass  # the page is written beside its place just so
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); name another page with --out.") from error
    if path.exists():
        with path.open("rb") as file:
            if MARKER.encode() not in file.read(4096):
                raise ValueError(f"{path} is no page of overdepth show; name another file with --out.")


def _facts(source: Source, runs: Runs) -> dict[str, str]:
    attrs = source.data.attrs
    facts = {
        words: text(attrs[name], LONG) for name, words in FACTS.items() if name in attrs and name not in runs.fields
    }
    steps = source.read(source.data["step"])
    facts["steps"] = f"{int(steps[-1]):,}, the loss recorded {len(steps):,} times"
    if runs.position < len(steps) - 1:
        facts["steps"] += f"; no run has come farther than step {runs.step:,}, at which gaps are told"
    known, diverged = int(runs.is_known.sum()), int(runs.diverged.sum())
    facts["runs"] = f"{len(runs):,}, of which {diverged:,} diverged ({diverged / len(runs):.0%})"
    if known < len(runs):
        facts["runs"] += f"; {len(runs) - known:,} are not finished yet and are left out"
    facts["varied"] = "; ".join(f"{name} {_values(runs.fields[name])}" for name in runs.varying) or "nothing"
    fixed = [f"{name} {text(field.values[0])}" for name, field in runs.fields.items() if not field.varies]
    facts["the same for all"] = ", ".join(fixed) or "nothing"
    versions = {"overdepth": "overdepth_version", "torch": "torch_version"}
    facts["computed with"] = ", ".join(f"{key} {text(attrs[name])}" for key, name in versions.items() if name in attrs)
    return {words: value for words, value in facts.items() if value}


def _values(field: Field) -> str:
    values = field.values
    if len(values) <= MAX_VALUES:
        return ", ".join(map(text, values))
    numbers = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    return f"{len(values):,} values from {text(numbers[0])} to {text(numbers[-1])}"
