"""overdepth: train a weight matrix as a product of matrices, and keep the plain model.

The ground floor needs torch alone. ``overdepth.lab`` (sweeps, data) and ``overdepth.theory`` (rates, flows) need the
extra ``lab``, ``overdepth.optax`` (the rule for JAX) the extra ``optax``, ``overdepth.compare`` (does depth help this
model?) and ``overdepth.comparison`` the extra ``compare``. Every name is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from overdepth._version import __version__

if TYPE_CHECKING:
    from overdepth import comparison as comparison
    from overdepth import inspection as inspection
    from overdepth import integrations as integrations
    from overdepth import lab as lab
    from overdepth import nn as nn
    from overdepth import optax as optax
    from overdepth import optim as optim
    from overdepth import theory as theory
    from overdepth.chain import balanced_factors, imbalance, product
    from overdepth.citations import cite
    from overdepth.comparison import compare as compare
    from overdepth.initialization import initial_factors
    from overdepth.inspection import Inspection, inspect
    from overdepth.nn import (
        CollapseError,
        CollapseReport,
        collapse,
        collapse_,
        overparameterize_,
        verify_collapse,
    )
    from overdepth.rule import end_to_end_spectrum, end_to_end_update
    from overdepth.transfer import TransferOperator, transfer_operator

__all__ = [
    "CollapseError",
    "CollapseReport",
    "Inspection",
    "TransferOperator",
    "__version__",
    "balanced_factors",
    "cite",
    "collapse",
    "collapse_",
    "end_to_end_spectrum",
    "end_to_end_update",
    "imbalance",
    "initial_factors",
    "inspect",
    "inspection",
    "nn",
    "optim",
    "overparameterize_",
    "product",
    "transfer_operator",
    "verify_collapse",
]

_MODULES = ("comparison", "inspection", "integrations", "lab", "nn", "optax", "optim", "theory")
_NAMES = {
    "chain": ("balanced_factors", "imbalance", "product"),
    "citations": ("cite",),
    "comparison": ("compare",),
    "initialization": ("initial_factors",),
    "inspection": ("Inspection", "inspect"),
    "nn": ("CollapseError", "CollapseReport", "collapse", "collapse_", "overparameterize_", "verify_collapse"),
    "rule": ("end_to_end_spectrum", "end_to_end_update"),
    "transfer": ("TransferOperator", "transfer_operator"),
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names}


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES, *_HOMES})


def __getattr__(name: str) -> object:
    if name in _MODULES or name in _NAMES:
        return importlib.import_module(f"overdepth.{name}")
    if name in _HOMES:
        found: object = getattr(importlib.import_module(f"overdepth.{_HOMES[name]}"), name)
        return found
    raise AttributeError(f"module 'overdepth' has no attribute {name!r}")
