"""Embeddings whose table is also the output head."""

from __future__ import annotations

from torch import nn

from overdepth.inspection.chains import Findings
from overdepth.nn.classes import qualified


def find_tied(model: nn.Module, findings: Findings) -> None:
    """Adds a remark for every embedding that shares its table with another layer."""
    places: dict[int, list[tuple[str, nn.Module]]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                places.setdefault(id(parameter), []).append((qualified(prefix, name), module))
    for held in places.values():
        tables = [name for name, module in held if isinstance(module, nn.Embedding)]
        others = [name for name, module in held if not isinstance(module, nn.Embedding)]
        if tables and others:
            findings.remarks.append(
                f"{tables[0]!r} and {' and '.join(map(repr, others))} are one parameter: the embedding's transpose "
                f"acts first and the head last, but there are not two factors that could be out of balance"
            )
