"""``overdepth inspect``: the products that are already in a model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from overdepth.commands.terminal import OutputConsole
from overdepth.inspection import inspect as inspect_model
from overdepth.paper.folder import check_destination, replacing
from overdepth.paper.inspected import write_inspection
from overdepth.paper.rendering import write_json
from overdepth.user_code import load_function, said_by

SHORT = "Show the products of matrices that a model holds already."
EPILOG = "Exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."


def inspect(
    model: Annotated[str, typer.Argument(help="FILE.py:FUNCTION; the function builds the model, without arguments.")],
    weights: Annotated[
        Path | None, typer.Option(help="A .safetensors, .pt or .pth file with the state_dict to load into it.")
    ] = None,
    heads: Annotated[bool, typer.Option("--heads", help="A line for each head, instead of their range.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page and the JSON; replaced only if it is an earlier one.")
    ] = None,
) -> int:
    """Example: overdepth inspect model.py:build --out products.

    Lists query-key and value-output pairs, linear layers in a row, LoRA pairs and over-parameterized weights, with
    their imbalance, rank, condition and learning-rate multipliers. Runs FILE.py; trains nothing.

    With --out it writes index.html (one page, no network needed) and products.json.
    """
    if out is not None:
        check_destination(out, "inspect")
    built = _built(model)
    if weights is not None:
        _load(built, weights)
    found = inspect_model(built)
    console = OutputConsole()
    console.print(found.table(by_head=heads, lines=None))
    if out is None:
        return 0
    options = [*(["--weights", str(weights)] if weights else []), *(["--heads"] if heads else [])]
    command = shlex.join(["overdepth", "inspect", model, *options, "--out", str(out)])
    with replacing(out, "inspect") as folder:
        write_inspection(folder / "index.html", found, command=command)
        write_json(folder / "products.json", found.to_dict())
    console.print(f"\nReport: {out / 'index.html'}")
    return 0


def _built(place: str) -> nn.Module:
    """What the user's function builds."""
    try:
        built = load_function(place)()
    except ValueError:
        raise
    except (Exception, SystemExit) as error:  # a user's function may raise anything
        raise ValueError(f"{place} did not build a model: {said_by(error)}") from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"{place} returned a {type(built).__name__}, expected a torch.nn.Module; return the model.")
    return built


def _load(model: nn.Module, path: Path) -> None:
    """Loads a state_dict; nothing is unpickled but tensors."""
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    state = _state_dict(path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model: {' '.join(str(error).split())[:300]}") from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"{path} needs safetensors, which is not installed: pip install safetensors.", name=error.name
            ) from error
        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path} is truncated, damaged, or no .safetensors file.") from error
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of pickle, zip and torch, which have no common base
        raise ValueError(
            f"{path} is no file of tensors that torch.load(weights_only=True) takes; save model.state_dict(), not the "
            f"model."
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} holds no state_dict; save model.state_dict() alone.")
    return state
