"""Tutorials are Markdown whose blocks of Python are executed, in order, while the site is built.

What a block prints and draws is put below it, and the executed notebook is offered beside the page. A block that
raises ends the build. On a code host the same file reads as it is, and the tests run its blocks as they run those of
all pages, with warnings as errors.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

BLOCK = re.compile(r"(?P<mark><!-- not run: [^>]*-->\n)?```python\n(?P<code>.*?)^```\n", re.DOTALL | re.MULTILINE)
PLACES = ("tutorial.md", "tutorials/*.md")
SECONDS = 120  # a block that takes longer hangs
AT_ONCE = 2
_STYLE = """
%config InlineBackend.figure_formats = ["svg"]
%config InlineBackend.print_figure_kwargs = {"bbox_inches": "tight", "metadata": {"Date": None, "Creator": None}}
%config InlineBackend.rc = {"svg.fonttype": "none", "svg.hashsalt": "overdepth", "figure.figsize": (5.2, 3.4)}
"""
_running: dict[str, Future[str]] = {}


def on_files(files: Files, **_: object) -> None:
    """Begins with the tutorials, each in a process of its own, so that they run while the other pages are made."""
    pool = ThreadPoolExecutor(AT_ONCE)
    for file in files.documentation_pages():
        if any(PurePosixPath(file.src_uri).match(place) for place in PLACES):
            _running[file.src_uri] = pool.submit(_executed, str(file.abs_src_path))
    pool.shutdown(wait=False)


def _executed(page: str) -> str:
    """The executed notebook of a page, as this module prints it when it is run as a script."""
    done = subprocess.run([sys.executable, __file__, page], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise RuntimeError(f"{page} does not run: {done.stderr.strip()[-2000:]}")
    return done.stdout


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files, **_: object) -> str:
    """Puts the outputs of a tutorial in."""
    from mkdocs.structure.files import File

    running = _running.pop(page.file.src_uri, None)
    if running is None:
        return markdown
    path = PurePosixPath(page.file.src_uri)

    def add(name: str, content: str) -> None:
        files.append(File.generated(config, str(path.with_name(name)), content=content))

    add(f"{path.stem}.ipynb", running.result())
    notebook: Any = importlib.import_module("nbformat").reads(running.result(), as_version=4)
    title, rest = to_markdown(notebook, path.stem, add).split("\n", 1)
    return f"{title}\n\n[Executed while this site was built; download the notebook]({path.stem}.ipynb)\n{rest}"


def to_notebook(markdown: str) -> Any:
    """The page as a notebook: text, and a cell for each block that is run."""
    form: Any = importlib.import_module("nbformat.v4")
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


def execute(notebook: Any) -> Any:
    """Runs all cells in a fresh kernel that listens on no port; what it says on stderr is left out."""
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    form: Any = importlib.import_module("nbformat.v4")
    notebook.cells.insert(0, form.new_code_cell(_STYLE))
    with tempfile.TemporaryDirectory() as folder:
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=f"{folder}/kernel")
        NotebookClient(notebook, km=manager, timeout=SECONDS).execute(cleanup_kc=True)
    del notebook.cells[0]
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of the day
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def to_markdown(notebook: Any, stem: str, add: Callable[[str, str], None]) -> str:
    """The page again, with the outputs below their blocks; pictures are handed to ``add``."""
    parts, pictures = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```\n")
        drawn = [svg for output in cell.outputs if (svg := output.get("data", {}).get("image/svg+xml"))]
        said = [_text(output) for output in cell.outputs if output.get("data", {}).get("image/svg+xml") is None]
        if text := "".join(said).rstrip():
            parts.append(f"\n```{{ .text .output }}\n{text}\n```\n")
        for svg in drawn:
            pictures += 1
            add(f"{stem}-{pictures}.svg", svg)
            parts.append(f"\n![Drawn by the block above]({stem}-{pictures}.svg){{ .drawn }}\n")
    return "".join(parts)


def _text(output: Any) -> str:
    """What an output says in plain text."""
    text: str = output.get("text") or output.get("data", {}).get("text/plain", "")
    return text if text.endswith("\n") else f"{text}\n"


if __name__ == "__main__":
    source = Path(sys.argv[1]).read_text(encoding="utf-8")
    sys.stdout.write(importlib.import_module("nbformat").writes(execute(to_notebook(source))))
