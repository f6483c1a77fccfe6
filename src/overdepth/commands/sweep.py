"""``overdepth sweep``: a sweep from a file, in pieces that survive whatever stops it."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from overdepth.commands.sweep_progress import Mode, event, shown
from overdepth.commands.terminal import OutputConsole, size
from overdepth.lab.devices import available_device
from overdepth.ray_cluster import check_ray_cpus
from overdepth.sweeps import presets
from overdepth.sweeps.budget import available, block_runs_within, largest_block, load, needs_row_blocks
from overdepth.sweeps.estimate import Estimate, estimate
from overdepth.sweeps.execution import CHECKPOINT_SECONDS, Work, planned, run_here
from overdepth.sweeps.folder import SweepFolder
from overdepth.sweeps.identity import identity_of
from overdepth.sweeps.on_ray import run_on_ray
from overdepth.sweeps.results import optima, write_results
from overdepth.sweeps.sweep_file import SweepFile, parse, read
from overdepth.sweeps.watch import Watch

SHORT = "Train thousands of linear networks, as a file asks; nothing is lost when it is stopped."
EPILOG = (
    f"Presets: {', '.join(presets.NAMES)}. Exit status: 0 done, 1 failed, 2 bad input, 130 interrupted; what was "
    f"finished is kept, and --resume goes on."
)
_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def sweep(
    file: Annotated[
        str | None, typer.Argument(metavar="SWEEP.toml", help="A sweep file, or the name of a preset.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the folder holds.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show runs, time, memory and disk that it will take, and stop.")
    ] = False,
    show_file: Annotated[bool, typer.Option("--print", help="Print the sweep file, a preset's say, and stop.")] = False,
    memory: Annotated[str | None, typer.Option(help="What the computation may take, 800MB or 4GB, say.")] = None,
    checkpoint: Annotated[
        float, typer.Option(help="Seconds between two pieces: what a crash costs at most.")
    ] = CHECKPOINT_SECONDS,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1: where the runs are trained.")] = "cpu",
    ray: Annotated[
        str | None,
        typer.Option(metavar="[ADDRESS]", help="Run on Ray: no address for this machine's cores, auto, or host:port."),
    ] = None,
    ray_cpus: Annotated[int | None, typer.Option(help="Cores, and threads, of a task on Ray; 1.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
    json_lines: Annotated[bool, typer.Option("--json-lines", help="Progress as lines of JSON on stdout.")] = False,
) -> int:
    """Example: overdepth sweep fig3 --out fig3; overdepth show fig3.

    Trains linear networks as a TOML file asks: data, loss, steps, and lists of depths, widths, initializations,
    scales, methods, learning rates, weight decays and seeds, which are multiplied out.

    Writes results.nc, which xarray.open_dataset opens, and on the way pieces from which --resume goes on.
    """
    mode: Mode = "json" if json_lines else "quiet" if quiet else "bar"
    console = OutputConsole(quiet=mode != "bar")
    text, base, asked = _sweep_file(file, out, resume=resume)
    if show_file:
        OutputConsole().print(text.rstrip())
        return 0
    if not checkpoint >= 0:
        raise ValueError(f"--checkpoint is {checkpoint}, expected a number >= 0.0.")
    check_ray_cpus(ray, ray_cpus)
    if out is None and not dry_run:
        raise ValueError("--out is missing; name a folder for the results, --out DIR.")
    folder = SweepFolder(out or Path())
    if not dry_run:
        folder.check(resume=resume)
    asked = replace(asked, settings=replace(asked.settings, device=device))
    available_device(asked.settings.device)
    budget, begun = available(_bytes(memory)), folder.cuts() if resume else None
    problem = load(asked, by_rows=begun[1] if begun else needs_row_blocks(asked, budget))
    console.print(f"Data: {problem.name}, {problem.m} examples x {problem.d} features, scaling {problem.scaling}.")
    rows = [row.of(problem) for row in asked.rows]
    block_runs = begun[0] if begun else block_runs_within(problem, rows, asked.settings, budget)
    work = planned(asked, problem, block_runs)
    console.print(_summary(asked, work))
    if dry_run:
        _print_estimate(estimate(work), largest_block(problem, rows, asked.settings, block_runs), folder.path)
        return 0
    optimal = optima(work)  # before anything is written: data that do not suit an objective are found here
    with folder.locked():
        folder.begin(identity_of(asked, problem, work.rows, block_runs=block_runs), text, base=base)
        with shown(mode) as show:
            watch = Watch(work, optimal, show)
            event(mode, "begin", **watch.snapshot().to_dict())
            if ray is None:
                run_here(work, folder, watch, seconds=checkpoint)
            else:
                run_on_ray(work, folder, watch, address=ray, cpus=ray_cpus or 1, seconds=checkpoint)
        write_results(work, folder, optimal)
    final = watch.snapshot()
    event(mode, "done", results=str(folder.results), **final.to_dict())
    console.print(
        f"{final.runs:,} runs, {final.diverged:,} diverged, {final.converged:,} converged.\n"
        f"Results: {folder.results}. Look at them: overdepth show {folder.path}"
    )
    return 0


def _sweep_file(file: str | None, out: Path | None, *, resume: bool) -> tuple[str, Path, SweepFile]:
    """The text of the sweep file, the folder that its paths begin at, and what it says."""
    if file is None:
        if not resume or out is None:
            raise ValueError(
                f"no sweep file was given; name one, or a preset ({', '.join(presets.NAMES)}), or go on with "
                f"--resume --out DIR."
            )
        folder = SweepFolder(out)
        text, base = folder.identity()[1], folder.base()
        return text, base, parse(text, name=str(folder.copy), folder=base)
    if file in presets.NAMES and not Path(file).is_file():  # but a folder may be the preset's results
        text = presets.text_of(file)
        return text, Path(), parse(text, name=f"preset {file}")
    asked = read(Path(file))
    return asked.text, Path(file).parent, asked


def _summary(asked: SweepFile, work: Work) -> str:
    repeated = f" ({asked.repeated:,} more were asked for twice)" if asked.repeated else ""
    objectives = ", ".join(dict.fromkeys(row.objective for row in work.rows))
    blocks = "1 block" if len(work.blocks) == 1 else f"{len(work.blocks)} blocks"
    return (
        f"{len(work.rows):,} runs{repeated} in {blocks}, {work.settings.steps:,} steps each, "
        f"{len(work.settings.recorded_steps):,} records, {objectives}."
    )


def _print_estimate(found: Estimate, memory: int, out: Path) -> None:
    console = OutputConsole()
    free = shutil.disk_usage(_existing(out)).free
    console.print(
        f"Time: about {_duration(found.seconds)} with {torch.get_num_threads()} threads, if no run diverges.\n"
        f"Memory: about {size(memory)} beyond the program, the data included.\n"
        f"Disk: about {size(found.disk)}; {size(free)} are free."
    )


def _existing(path: Path) -> Path:
    path = path.resolve()
    while not path.exists():
        path = path.parent
    return path


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _bytes(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)b?\s*", text.lower())
    if not match or float(match[1]) <= 0:
        raise ValueError(f"--memory is {text!r}, expected a size such as 800MB or 4GB.")
    return int(float(match[1]) * _UNITS[match[2]])
