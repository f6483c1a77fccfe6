"""The theory: what the flow of the factors does, how fast it provably converges, and what no regularizer can imitate.

Torch float64 in and out, factors in the library's order. Needs the extra ``lab``.
"""

from __future__ import annotations

try:
    from overdepth.theory.certificate import Certificate, certify
    from overdepth.theory.lazy import LazyRate, frozen_rate, lazy_rate
    from overdepth.theory.margins import margin, margin_from_distance
    from overdepth.theory.rates import (
        chain_rate,
        single_io_rate,
        supported_single_io_rate,
        three_layer_rate,
        two_layer_rate,
        two_layer_rates,
    )
    from overdepth.theory.scalar_chains import homogeneous_rate, scalar_rate, scalar_rate_bound
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] == "overdepth":
        raise
    raise ModuleNotFoundError(
        f"overdepth.theory needs {error.name}, which is not installed; install the extra: "
        f"pip install 'overdepth[lab]'.",
        name=error.name,
    ) from error

__all__ = [
    "Certificate",
    "LazyRate",
    "certify",
    "chain_rate",
    "frozen_rate",
    "homogeneous_rate",
    "lazy_rate",
    "margin",
    "margin_from_distance",
    "scalar_rate",
    "scalar_rate_bound",
    "single_io_rate",
    "supported_single_io_rate",
    "three_layer_rate",
    "two_layer_rate",
    "two_layer_rates",
]
