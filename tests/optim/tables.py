"""What a table of parameter groups says."""

from __future__ import annotations

from torch import nn

from overdepth.optim import ParamGroups


def depths(groups: ParamGroups) -> dict[str, float]:
    return {name: group["depth"] for group in groups for name, _ in group["params"]}


def deep(groups: ParamGroups) -> set[str]:
    return {name for name, depth in depths(groups).items() if depth != 1}


def check_complete(groups: ParamGroups, model: nn.Module) -> None:
    """Every parameter is in one group, and has one row of the table, with its shape and a reason."""
    parameters = dict(model.named_parameters())
    held = [(name, p) for group in groups for name, p in group["params"]]
    assert sorted(name for name, _ in held) == sorted(parameters)
    assert all(parameters[name] is p for name, p in held)
    rows = [line.split() for line in repr(groups).splitlines()[2:]]
    assert [row[0] for row in rows] == list(parameters)
    for line, (name, p) in zip(repr(groups).splitlines()[2:], parameters.items(), strict=True):
        assert " x ".join(map(str, p.shape)) in line
        assert groups.reasons[name]
        assert line.rstrip().endswith(groups.reasons[name])
