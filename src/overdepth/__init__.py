"""overdepth: train a weight matrix as a product of matrices, and keep the plain model.

The ground floor needs torch alone. ``overdepth.lab`` (sweeps, data) and ``overdepth.theory`` (rates, flows) need the
extra ``lab``, ``overdepth.optax`` (the rule for JAX) the extra ``optax``, ``overdepth.compare`` (does depth help this
model?) and ``overdepth.comparison`` the extra ``compare``; each is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from overdepth import inspection, nn, optim
from overdepth._version import __version__
from overdepth.chain import balanced_factors, imbalance, product
from overdepth.citations import cite
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

if TYPE_CHECKING:
    from overdepth import comparison as comparison
    from overdepth import integrations as integrations
    from overdepth import lab as lab
    from overdepth import optax as optax
    from overdepth import theory as theory
    from overdepth.comparison import compare as compare

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

_LAZY = {"compare": "comparison", "comparison": "", "integrations": "", "lab": "", "optax": "", "theory": ""}
"""What is imported on first use: modules, and functions with the module that holds them."""


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])


def __getattr__(name: str) -> object:
    if name in _LAZY:
        if _LAZY[name]:
            return getattr(importlib.import_module(f"overdepth.{_LAZY[name]}"), name)
        return importlib.import_module(f"overdepth.{name}")
    raise AttributeError(f"module 'overdepth' has no attribute {name!r}")
