"""``overdepth rates``: gradient flow from chosen starts beside what is proved about it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from overdepth._checks import check_choice, check_size
from overdepth.commands.terminal import OutputConsole, status_line
from overdepth.initialization import INITIALIZATIONS
from overdepth.lab import DATASETS, SCALINGS, load_problem
from overdepth.paper.claim import number
from overdepth.paper.folder import check_destination, replacing
from overdepth.paper.rates import (
    PRESETS,
    Objective,
    Result,
    Start,
    drawn_start,
    drawn_target,
    from_problem,
    read_chain,
    read_target,
    study,
    towards,
    write_report,
)
from overdepth.paper.rates.saved import SavedChain

SIZE = 3
SHORT = "Compare gradient flow with its certified rates."
EPILOG = (
    f"Presets: {', '.join(PRESETS)}; imbalance if nothing else is asked for. Exit status: 0 done, 1 failed, 2 bad "
    f"input, 130 interrupted."
)


def rates(
    chain: Annotated[
        Path | None, typer.Argument(help="A .npz or .safetensors file of factors W1, W2, ... (out, in); or draw them.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help=f"Starts side by side: {', '.join(PRESETS)}.")] = None,
    init: Annotated[str | None, typer.Option(help=f"Draw one start: {', '.join(INITIALIZATIONS)}.")] = None,
    depth: Annotated[int | None, typer.Option(help="Number of factors of a drawn start; 2.")] = None,
    width: Annotated[int | None, typer.Option(help="Its hidden width; the smaller of rows and columns.")] = None,
    scale: Annotated[float | None, typer.Option(help="Of its entries; 0.01.")] = None,
    imbalance: Annotated[
        float | None, typer.Option(help="Refactor its product with this imbalance between neighbours.")
    ] = None,
    rows: Annotated[int | None, typer.Option(help=f"Outputs, if nothing else tells; {SIZE}.")] = None,
    columns: Annotated[int | None, typer.Option(help=f"Inputs, if nothing else tells; {SIZE}.")] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn, the target included.")] = 0,
    target: Annotated[
        str | None, typer.Option(help="A .npz or .safetensors file with the minimizer; with --data the target column.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help=f"Least squares on {', '.join(DATASETS)}, or a .csv, .npz, .npy, .parquet file."),
    ] = None,
    scaling: Annotated[str | None, typer.Option(help=f"Of the data: {', '.join(SCALINGS)}, or none; standard.")] = None,
    whiten: Annotated[
        bool | None, typer.Option(help="Whiten the features of the data after scaling; they are.")
    ] = None,
    time: Annotated[float | None, typer.Option(help="How far to follow; until the gap has fallen by 1e-10.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the report; replaced only if it is an earlier one.")] = Path(
        "rates"
    ),
) -> int:
    """Example: overdepth rates --preset imbalance --out rates.

    Compares gradient flow of the factors with the rates that are proved for it, and with the frozen prediction.

    Writes index.html (one page, no network needed), rates.json and curves.nc. Without data the loss is half the squared
    distance to a target: a file's, the one beside the factors, or a drawn one.
    """
    drawn = {"init": init, "depth": depth, "width": width, "scale": scale, "imbalance": imbalance}
    given = {name: value for name, value in drawn.items() if value is not None}
    _check_together(chain, preset, given, rows, columns, target, data)
    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed is {seed}, expected an integer from 0 to {2**63 - 1}.")
    if data is None and not (scaling is None and whiten is None):
        raise ValueError("--scaling and --whiten are about data; give --data, or leave them out.")
    scaling, whiten = scaling or "standard", whiten is not False
    check_destination(out, "rates")
    saved = None if chain is None else read_chain(chain)
    objective = _objective(saved, chain, rows, columns, seed, target, data, scaling, whiten)
    shows = ""
    if saved is not None and chain is not None:
        starts = [Start(chain.name, saved.factors)]
    elif given:
        starts = [_drawn(objective, given, seed)]
    else:
        chosen = PRESETS[preset or "imbalance"]
        starts, shows = chosen.starts(objective.loss.minimizer, seed), chosen.shows
    console = OutputConsole()
    console.print(f"Loss: {objective.name}; W* is {objective.target}.")
    with status_line() as report:
        results = study(starts, objective, time=time, report=report)
    options = {
        "preset": preset,
        **drawn,
        "rows": rows,
        "columns": columns,
        "target": target,
        "data": data,
        "time": time,
    }
    command = ["overdepth", "rates", *([] if chain is None else [str(chain)])]
    command += [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    command += [] if data is None else ["--scaling", scaling, "--whiten" if whiten else "--no-whiten"]
    command += ["--seed", str(seed), "--out", str(out)]
    with replacing(out, "rates") as folder:
        write_report(folder, results, objective, command=shlex.join(command), shows=shows)
    _print(results, console)
    console.print(f"\nReport: {out / 'index.html'}")
    return 0


def _check_together(
    chain: Path | None,
    preset: str | None,
    drawn: Mapping[str, object],
    rows: int | None,
    columns: int | None,
    target: str | None,
    data: str | None,
) -> None:
    """Refuses what would be ignored."""
    if preset is not None:
        check_choice(preset, "--preset", list(PRESETS))
    words = ", ".join(f"--{name}" for name in drawn)
    for first, second, said in (
        (chain, preset, "a chain and --preset"),
        (chain, drawn, f"a chain and {words}"),
        (preset, drawn, f"--preset and {words}"),
    ):
        if first is not None and second:
            raise ValueError(f"{said} both say where to start; leave one out.")
    for name, size in (("--rows", rows), ("--columns", columns)):
        if size is not None:
            check_size(size, name)
            if chain is not None or target is not None or data is not None:
                raise ValueError(f"{name} is {size}, but the chain, target or data have a shape already; leave it out.")


def _objective(
    saved: SavedChain | None,
    chain: Path | None,
    rows: int | None,
    columns: int | None,
    seed: int,
    target: str | None,
    data: str | None,
    scaling: str,
    whiten: bool,
) -> Objective:
    if data is not None:
        if saved is not None and saved.target is not None:
            raise ValueError(
                f"{chain} holds a target and --data has one of its own; leave --data out or drop the array."
            )
        return from_problem(load_problem(data, target=target, scaling=scaling), whitened=whiten)
    if target is not None:
        return towards(read_target(Path(target)), f"from {Path(target).name}")
    if saved is not None and saved.target is not None and chain is not None:
        return towards(saved.target, f"from {chain.name}")
    if saved is not None:
        rows, columns = saved.factors[-1].shape[0], saved.factors[0].shape[1]
    found = drawn_target(rows or SIZE, columns or SIZE, seed)
    return towards(found, f"drawn with seed {seed}, singular values evenly from 2 to 1")


def _drawn(objective: Objective, given: Mapping[str, object], seed: int) -> Start:
    """A start by the options; whatever is wrong with one is named as on the command line."""
    try:
        return drawn_start(objective.loss.shape, seed=seed, **given)  # type: ignore[arg-type]
    except ValueError as error:
        name = str(error).split(" ", 1)[0]
        raise ValueError(f"--{error}" if name in given else str(error)) from error


def _print(results: Sequence[Result], console: OutputConsole) -> None:
    """A table that fits into 80 columns, then what its lines mean; equal explanations are said once."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("bound")
    for heading in ("alpha", "margin", "frozen", "rate", "step size", "violations"):
        table.add_column(heading, justify="right", no_wrap=True)
    said: dict[str, list[str]] = {}
    for index, result in enumerate(results, 1):
        found = result.certificate
        table.add_row(
            str(index),
            "none: vacuous" if found.is_vacuous else found.bound,
            *map(number, (found.alpha, found.margin, found.frozen_alpha, result.mean_rate, found.step_size)),
            str(result.violations),
            style="red" if result.violations else None,
        )
        said.setdefault(" ".join([found.explanation, result.note]).strip(), []).append(f"{index} {result.start.name}")
    console.print()
    console.print(table)
    gamma = number(results[0].certificate.pl)
    console.print(
        f"\nalpha: the proved bound of lambda_min(T(t)), the gap falls at least as exp(-{gamma} alpha t). frozen: "
        f"lambda_min(T(0)), no bound. rate: the measured one, of the gap."
    )
    for explanation, names in said.items():
        console.print(f"\n{'; '.join(names)}:\n{explanation}")
