"""``overdepth doctor``: what is installed, found and reachable, for a reader or for a report of a problem."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from overdepth.commands.terminal import OutputConsole, size
from overdepth.installation import Installation, examine

SHORT = "Show versions, extras, data, threads and the cache."
EPILOG = "Exit status: 0 done, 1 if the cache cannot be written."


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Example: overdepth doctor --json.

    Shows what is installed and found here: versions, extras, data sets, threads, GPUs, the cache folder and its size.

    Nothing is downloaded. Put its output into a report of a problem.
    """
    found = examine()
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        console = OutputConsole()
        console.print(table(found))
    return 1 if found.cache.problem else 0


def table(found: Installation) -> Table:
    """Two columns: what, and how it is."""
    rows = Table.grid(padding=(0, 2))
    for name, version in found.versions.items():
        rows.add_row(name, version)
    rows.add_row("machine", found.machine)
    rows.add_row("threads", f"{found.threads} of torch, on {found.cores} cores")
    rows.add_row("oneDNN", "used by sweeps" if found.onednn else "not in this torch: sweeps use torch.mm")
    rows.add_row("GPU", ", ".join(found.gpus) or "none that torch sees")
    for extra in found.extras:
        lacks = f"lacks {', '.join(extra.missing)}: pip install 'overdepth[{extra.name}]'"
        rows.add_row(f"extra {extra.name}", lacks if extra.missing else "installed")
    for data in found.data:
        rows.add_row(data.name, data.place or f"not at hand; {data.fallback}")
    cache = found.cache
    state = f"cannot be written ({cache.problem})" if cache.problem else "can be written"
    rows.add_row("cache", f"{cache.folder}, {cache.files:,} files, {size(cache.size)}, {state}")
    return rows
