"""Tutorials are Markdown whose blocks of Python are executed, in order, while the site is built.

What a block prints and draws is put below it, and the executed notebook is offered beside the page. A block that
raises ends the build. On a code host the same file reads as it is, and the tests run its blocks as they run those of all
pages, with warnings as errors.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

BLOCK = re.compile(r"(?P<mark><!-- not run: [^>]*-->\n)?```python\n(?P<code>.*?)^```\n", re.DOTALL | re.MULTILINE)
PLACES = ("tutorial.md", "tutorials/*.md")
SECONDS = 120  # a block that takes longer hangs
_STYLE = """
%config InlineBackend.figure_formats = ["svg"]
%config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "metadata": {"Date": None, "Creator": None}}
%config InlineBackend.rc = {"svg.fonttype": "none", "svg.hashsalt": "overdepth", "figure.figsize": (6.0, 3.4)}
"""
_log = logging.getLogger("mkdocs.plugins.notebooks")


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files, **_: object) -> str | None:
    """Executes a tutorial and puts its outputs in."""
    from mkdocs.structure.files import File

    path = PurePosixPath(page.file.src_uri)
    if not any(path.match(place) for place in PLACES):
        return None

    def add(name: str, content: str) -> None:
        files.append(File.generated(config, str(path.with_name(name)), content=content))

    notebook = execute(to_notebook(markdown), str(path))
    add(f"{path.stem}.ipynb", written(notebook))
    title, _, rest = to_markdown(notebook, path.stem, add).partition("\n")
    return f"{title}\n\n[Executed while this site was built; download the notebook]({path.stem}.ipynb)\n{rest}"


def to_notebook(markdown: str) -> Any:
    """The page as a notebook: text, and a cell for each block that is run."""
    import nbformat.v4 as form

    cells, end = [], 0
    for found in BLOCK.finditer(markdown):
        if found["mark"]:
            continue
        cells += [form.new_markdown_cell(markdown[end : found.start()]), form.new_code_cell(found["code"].rstrip("\n"))]
        end = found.end()
    cells.append(form.new_markdown_cell(markdown[end:]))
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # the same in every build
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return form.new_notebook(cells=cells, metadata={"kernelspec": kernel})


def execute(notebook: Any, name: str) -> Any:
    """Runs all cells in a fresh kernel that listens on no port; what it says on stderr is logged, and not shown."""
    import nbformat.v4 as form
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient

    notebook.cells.insert(0, form.new_code_cell(_STYLE))
    NotebookClient(notebook, km=AsyncKernelManager(kernel_name="python3", transport="ipc"), timeout=SECONDS).execute()
    del notebook.cells[0]
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the day
        if cell.cell_type == "code":
            said = [out for out in cell.outputs if out.output_type == "stream" and out.name == "stderr"]
            for output in said:
                _log.debug("%s: %s", name, output.text.strip())
            cell.outputs = [output for output in cell.outputs if output not in said]
    return notebook


def written(notebook: Any) -> str:
    """The notebook as the text of a file."""
    import nbformat

    return str(nbformat.writes(notebook))


def to_markdown(notebook: Any, stem: str, add: Callable[[str, str], None]) -> str:
    """The page again, with the outputs below their blocks; pictures are handed to ``add``."""
    parts, pictures = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```\n")
        for output in cell.outputs:
            drawn = output.get("data", {}).get("image/svg+xml")
            if drawn:
                pictures += 1
                add(f"{stem}-{pictures}.svg", drawn)
                parts.append(f"\n![Drawn by the block above]({stem}-{pictures}.svg){{ .drawn }}\n")
            elif text := output.get("text") or output.get("data", {}).get("text/plain"):
                parts.append(f"\n```{{ .text .output }}\n{text.rstrip()}\n```\n")
    return "".join(parts)
