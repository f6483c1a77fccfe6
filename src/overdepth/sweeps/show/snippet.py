"""The few lines that a reader runs to get the table of best learning rates from the file."""

from __future__ import annotations

import json

from overdepth.sweeps.show.best import Grouping
from overdepth.sweeps.show.runs import INCOMPARABLE, TUNED, Runs


def best_rates_code(runs: Runs, grouping: Grouping) -> str:
    """Lines of xarray that print the best learning rate and its gap for every group.

    Args:
        runs: All of the data set, whatever of it may be compared.
        grouping: How a part of them was grouped.
    """
    apart = [name for name in INCOMPARABLE if name in runs.fields and runs.fields[name].varies]
    keys = [*apart, *(name for name in grouping.by if name not in apart)]
    opened = "open_zarr" if runs.source.path.is_dir() else "open_dataset"
    last = -1 if runs.position == runs.source.data.sizes["step"] - 1 else runs.position
    lines = ["import numpy as np", "import xarray as xr", ""]
    when = "" if runs.source.path.exists() else "  # there once the sweep is finished"
    lines += [f"data = xr.{opened}({json.dumps(str(runs.source.path), ensure_ascii=False)}){when}"]
    if runs.norm_follows_seed:
        lines += ['data["norm"] = data.norm.notnull()  # another one for every seed']
    lines += [f"gap = (data.loss - data.optimal_loss).isel(step={last}, drop=True)"]
    lines += ["gap = gap.where(data.diverged_at.isnull(), np.inf)  # a run that diverged is worse than any other"]
    lines += ['runs = gap.rename("gap").to_dataframe()' + ("" if runs.is_known.all() else '.dropna(subset="gap")')]
    if runs.repeated:
        lines += ['runs = runs.drop_duplicates([name for name in runs if name != "gap"])']
    inner = [*grouping.tuned, TUNED]
    if keys:
        columns = json.dumps(inner[0] if len(inner) == 1 else inner)
        lines += [f"median = runs.groupby({json.dumps([*keys, *inner])}, dropna=False).gap.median().unstack({columns})"]
        lines += ['print(median.agg(["idxmin", "min"], axis=1).to_string(float_format="{:.6g}".format))']
    else:
        lines += [f"median = runs.groupby({json.dumps(inner)}, dropna=False).gap.median()"]
        lines += ["print(median.idxmin(), median.min())"]
    return "\n".join(lines)
