"""``overdepth compare``: does depth help the model in this file?"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from overdepth._extras import missing_extra
from overdepth.commands.terminal import OutputConsole, progress_reporter
from overdepth.ray_cluster import LOCAL, check_ray_cpus, keep_local

SHORT = "Does depth help your model? A fair comparison, with controls and error bars."
EPILOG = (
    "Arms: plain; form1:2 (two factors in the model); form2:3:near_identity:0.1 (three in the optimizer, drawn); "
    "form3:2.5 (the rule, any depth); again (plain on other seeds: chance alone). Exit status: 0 done, 1 failed, 2 bad "
    "input, 130 interrupted."
)
_ARGUMENT = re.compile(
    r"^(?=(?:steps|seeds|trials|budget|workers|lrs|controls) (?:is|holds) )|(?<=with )(?=(?:out|lrs)\b)"
)
COLORS = {"faster": "green", "lower loss": "green", "slower": "red", "higher loss": "red", "unstable": "red"}


def compare(
    task: Annotated[
        str, typer.Argument(help="FILE.py:FUNCTION; it returns a dict of build, loss_step, data, base, ...")
    ],
    arm: Annotated[
        list[str] | None, typer.Option(help="An arm; give it several times. The task's, or form1:2.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of every run; the task's, or what --budget affords.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Replicates of search and run; the task's, or 3.")] = None,
    lrs: Annotated[str | None, typer.Option(help="Learning rates to try, as in 0.01,0.03,0.1; else a search.")] = None,
    trials: Annotated[int | None, typer.Option(help="Learning rates a search tries, an arm and seed; 9.")] = None,
    budget: Annotated[float | None, typer.Option(help="Seconds that all of it may take.")] = None,
    controls: Annotated[str, typer.Option(help="Some of untuned,norm,rms, or none.")] = "untuned,norm,rms",
    workers: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    ray: Annotated[
        str | None,
        typer.Option(metavar="[ADDRESS]", help="Run on Ray: no address for this machine's cores, auto, or host:port."),
    ] = None,
    ray_cpus: Annotated[int | None, typer.Option(help="Cores, and threads, of a run on Ray; 1.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the page and all finished runs; the same command goes on where it was.")
    ] = Path("comparison"),
) -> int:
    """Example: overdepth compare examples/l4_regression.py:task --arm form1:2 --seeds 3 --out comparison.

    Trains a model plainly and with weights as products of factors, each at its own best learning rate, and says whether
    depth helps: in steps, in time, in loss, with controls and intervals.

    Writes index.html (one page, no network needed), comparison.json, and every finished run under trials. An
    interrupted command loses no finished run.
    """
    try:
        from overdepth.comparison.comparing import executor_of, run
        from overdepth.comparison.executors import FileTask
        from overdepth.comparison.on_ray import OnRay
        from overdepth.comparison.settings import CONTROLS
        from overdepth.comparison.store import Store, check_folder, write_json
    except ModuleNotFoundError as error:
        missing_extra(error, "overdepth compare", "compare")
    path, colon, function = task.rpartition(":")
    if not colon or not path or not function:
        raise ValueError(f"the task is {task!r}, expected FILE.py:FUNCTION.")
    if ray is not None and workers != 1:
        raise ValueError("--ray and --workers are two ways to make runs side by side; give one of them.")
    check_ray_cpus(ray, ray_cpus)
    if ray == LOCAL:
        keep_local()  # before the task's file is run, which may import Ray
    source = FileTask(path, function)
    with _options_named():
        check_folder(Store.place(out))
    loaded = source.load()
    chosen = CONTROLS if controls == "untuned,norm,rms" else [] if controls == "none" else controls.split(",")
    console = OutputConsole()
    with _options_named():
        making = executor_of(loaded, workers, source) if ray is None else OnRay(source, ray, ray_cpus or 1)
    with _options_named(), progress_reporter() as reporter, making as executor:
        found = run(
            loaded,
            arms=arm or loaded.arms,
            lrs=_numbers(lrs) if lrs is not None else loaded.lrs,
            seeds=loaded.seeds if seeds is None else seeds,
            steps=steps if steps is not None or budget is not None else loaded.steps,
            budget=budget,
            out=out,
            trials=loaded.trials if trials is None else trials,
            controls=chosen,
            executor=executor,
            reporter=reporter,
        )
    options = {"steps": steps, "seeds": seeds, "lrs": lrs, "trials": trials, "budget": budget}
    command = ["overdepth", "compare", task, *(part for each in arm or [] for part in ("--arm", each))]
    command += [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    command += ["--controls", controls] if controls != "untuned,norm,rms" else []
    command += ["--workers", str(workers)] if workers != 1 else []
    command += [] if ray is None else ["--ray", *([] if ray == LOCAL else [ray])]
    command += [] if ray_cpus is None else ["--ray-cpus", str(ray_cpus)]
    command += ["--out", str(out)]
    place = Store.place(out)
    title = f"{Path(path).stem.replace('_', ' ')}"
    found.save_page(place / "index.html", title=title, command=shlex.join(command))
    write_json(place / "comparison.json", {"task": title, "command": shlex.join(command), **found.to_dict()})
    console.print(found.table())
    console.print()
    for (name, verdict), sentence in zip(found.verdicts.items(), found.sentences(), strict=True):
        rest = sentence.removeprefix(f"{name}: ").removeprefix(verdict.words)
        console.print(Text.assemble((name, "bold"), ": ", (verdict.words, COLORS.get(verdict.kind, "")), rest))
    console.print()
    for note in found.notes():
        console.print(note)
    console.print(f"\nPage: {place / 'index.html'}")
    return 0


@contextlib.contextmanager
def _options_named() -> Iterator[None]:
    """Says ``--steps`` where a function of Python says ``steps``."""
    try:
        yield
    except ValueError as error:
        raise ValueError(_ARGUMENT.sub("--", str(error))) from error


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--lrs is {text!r}, expected numbers such as 0.01,0.03,0.1.") from None
