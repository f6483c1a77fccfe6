"""What all pages share: one file with everything inside, in one style, that opens without a network."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import jinja2
import plotly.graph_objects as go
import plotly.offline
import torch
import xarray as xr
from markupsafe import Markup

from overdepth._version import __version__
from overdepth.paper.claim import number


def write_page(path: Path, template: str, **values: object) -> None:
    """Writes a template as a page; besides ``values`` it knows ``plotly`` and ``versions``.

    Args:
        path: Where to write.
        template: Its path inside this package, or else inside ``overdepth``.
        values: What the template needs.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("overdepth.paper", ""), jinja2.PackageLoader("overdepth", "")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters["number"] = number
    html = environment.get_template(template).render(
        plotly=Markup(plotly.offline.get_plotlyjs()),  # noqa: S704 - the library's own script
        versions={
            "overdepth": __version__,
            "torch": torch.__version__,
            "Python": platform.python_version(),
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        },
        **values,
    )
    path.write_text(html, encoding="utf-8", errors="replace")  # a path in the command may be no UTF-8


def embedded(figure: go.Figure) -> Markup:
    """An interactive figure for a page that holds Plotly's script and ``page.js``, which draws it."""
    content = json.loads(figure.to_json())
    content["layout"].pop("template", None)  # the page has its own colours
    height = int(content["layout"].get("height", 450))
    text = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return Markup(  # noqa: S704 - nothing in it can end the element
        f'<div class="plot" style="min-height:{height}px"></div><script type="application/json">{text}</script>'
    )


def write_netcdf(path: Path, data: xr.Dataset) -> None:
    """Writes data as NetCDF, made in memory first: HDF5 does not survive a full disk."""
    path.write_bytes(data.to_netcdf(engine="h5netcdf"))


def write_json(path: Path, value: object) -> None:
    """Writes plain values as JSON that every reader understands: no NaN, no infinity."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
