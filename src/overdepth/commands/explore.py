"""``overdepth explore``: the explorer in the browser of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from overdepth.explorer.server import address, bound, open_browser, preload, serve

SHORT = "Explore depth by sliders, in the browser."
EPILOG = "Exit status: 0 done, 1 failed, 2 bad input, 130 interrupted (Ctrl-C, which is how it ends)."
LAST_PORT = 65_535


def explore(
    port: Annotated[int, typer.Option(help="Where to listen; a free port if it is left out.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the browser.")] = True,
    sweep: Annotated[Path | None, typer.Option(help="A sweep of yours, a report, or a .nc file to look at.")] = None,
) -> int:
    """Example: overdepth explore --port 2718.

    Opens the explorer: two points, the preconditioner, modes, certified rates, and sweeps of your own.

    It listens on this machine alone. What is set stands in the page's address, so that a slide can link to it; for such
    links name a port. Needs the extra explore.
    """
    if not 0 <= port <= LAST_PORT:
        raise ValueError(f"--port is {port}, expected an integer from 1 to {LAST_PORT}, or 0 for a free one.")
    settings: dict[str, str] = {}
    if sweep is not None:
        from overdepth.explorer.sweep_files import data_sets, read_sweep  # xarray is slow to import

        first = next(iter(data_sets(str(sweep)).values()))
        read_sweep(first)  # whatever is wrong with it is said here, not in the page
        settings = {"view": "sweep", "sweep": str(sweep.resolve())}
    with bound(port) as listener:
        url = address(listener.getsockname()[1], settings)

        def started() -> None:
            preload("sweep" if sweep is not None else "points")  # while the browser loads its own
            typer.echo(f"overdepth explore: {url}  (Ctrl-C ends it)")
            if browser:
                open_browser(url)

        serve(listener, started)
    return 0
