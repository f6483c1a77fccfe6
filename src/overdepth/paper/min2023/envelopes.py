"""Flows from random starts beside the envelopes that are proved for them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from overdepth.chain import product
from overdepth.lab.problem import Array
from overdepth.paper.min2023.printed import printed_rate
from overdepth.paper.min2023.starts import Drawn, Family, drawn
from overdepth.paper.rates import Result, Start, study
from overdepth.paper.rates.path import FlowPath
from overdepth.theory.certificate import certify
from overdepth.theory.rates import three_layer_rate
from overdepth.transfer import transfer_operator

POINTS = 200
"""Of a kept curve; shorter ones are padded with NaN."""

MOST_DRAWS = 30
"""Starts drawn at most for each one wanted whose certificate is not vacuous."""

_ROUNDING = 1e-8  # of the roots compared, as in overdepth.paper.rates.study
_NOTHING = 1e-12  # of lambda_max(T(0)): a bound that the rounding of balanced factors may have made

MEANINGS = {
    "family": "which statement the start is for",
    "init": "initialization of the factors",
    "seed": "seed of the start",
    "number": "how many starts of the family and seed were drawn before",
    "scale": "scale of the initialization",
    "depth": "number of factors",
    "width": "hidden width",
    "rows": "rows of the end-to-end weight",
    "columns": "columns of the end-to-end weight",
    "near": "1 if the minimizer was drawn near the initial end-to-end weight",
    "data": "1 if the loss is least squares on data that are not whitened",
    "vacuous": "1 if the family's bound is 0 or rounding, so that the flow was not followed",
    "certified_rate": "rate at which the gap is proved to fall, by the family's bound",
    "measured_rate": "mean rate at which the gap fell to 1e-10 of the first one",
    "largest_ratio": "largest gap / certified envelope after the start, beyond the integrator's error",
    "largest_ratio_best": "the same for the best of all bounds with the margin refreshed",
    "largest_ratio_printed": "the same for the rate as the poster prints it",
}


class Followed(NamedTuple):
    """A row of the data, and the curves it is made of if the flow was followed."""

    row: dict[str, Any]
    curves: dict[str, Array] | None


def largest_ratio(gaps: Array, envelope: Array, error: float) -> float:
    """The largest gap / envelope, each gap reduced by an error of its root; above 1 if and only if a gap violates.

    Args:
        gaps: f - f* of the flow at times after the start.
        envelope: At the same times.
        error: What the integrator's error may have added to the root of a gap.
    """
    roots = np.maximum(np.sqrt(gaps) - error, 0.0)
    bounds = np.sqrt(envelope) * (1 + _ROUNDING)
    ratios = np.divide(roots, bounds, out=np.where(roots > 0, np.inf, 0.0), where=bounds > 0)
    return float(ratios.max() ** 2)


def followed(start: Drawn, family: Family) -> Followed:
    """The flow from a start, unless the family's bound is vacuous, and how it compares."""
    loss, weight = start.objective.loss, product(start.factors)
    row: dict[str, Any] = {
        "family": family.name,
        "init": start.init,
        "scale": start.scale,
        "depth": len(start.factors),
        "width": int(start.factors[0].shape[0]),
        "rows": int(weight.shape[0]),
        "columns": int(weight.shape[1]),
        "near": int(start.near),
        "data": int(start.data),
        "vacuous": 1,
    }
    _, largest = transfer_operator(start.factors).eigenvalue_bounds()
    if family.bound == "three layers" and three_layer_rate(start.factors) <= _NOTHING * largest:
        return Followed(row, None)  # the case of most starts: no need of all the other bounds
    certificate = certify(
        start.factors,
        strong_convexity=start.objective.strong_convexity,
        smoothness=loss.smoothness,
        gap=float(loss.gap(weight)),
        target=loss.minimizer,
        covariance=loss.covariance,
    )
    if certificate.alphas[family.bound] <= _NOTHING * largest:
        return Followed(row, None)
    row["vacuous"] = 0
    (result,) = study([Start(start.init, start.factors)], start.objective)
    rates = {
        "certified": certificate.alphas[family.bound] * certificate.pl,
        "printed": printed_rate(family.bound, start.factors, certificate.margin) * certificate.pl,
    }
    curves = _curves(result, rates)
    error = FlowPath(start.factors, loss).error
    for kind, name in (("certified", ""), ("best", "_best"), ("printed", "_printed")):
        known = bool(np.isfinite(curves[kind]).all())
        row[f"largest_ratio{name}"] = largest_ratio(curves["gap"][1:], curves[kind][1:], error) if known else np.nan
    row |= {"certified_rate": rates["certified"], "measured_rate": result.mean_rate}
    return Followed(row, curves)


def _curves(result: Result, rates: Mapping[str, float]) -> dict[str, Array]:
    """Times, the gap, and the envelopes, as far as the flow was followed."""
    gap = result.curves["gap"]
    seen = np.isfinite(gap)
    times, found = result.times[seen], {"time": result.times[seen], "gap": gap[seen]}
    for name, rate in rates.items():
        found[name] = result.certificate.gap * np.exp(-rate * times)
    found["best"] = np.minimum(result.curves["envelope"], result.curves["adaptive_envelope"])[seen]
    return found


def family_data(family: Family, seed: int, wanted: int, advance: Callable[[], None] = lambda: None) -> xr.Dataset:
    """Starts of a family until ``wanted`` of them have a certificate that says something.

    Args:
        family: Which.
        seed: Of all that is random.
        wanted: How many flows to follow; fewer if ``MOST_DRAWS`` times as many draws do not give them.
        advance: Called after each of these flows.

    Returns:
        The variables of ``MEANINGS`` over ``start``; and of the flow whose certified rate is, relative to the
        measured one, the median, the curves over ``example`` and ``point``.
    """
    rows: list[dict[str, Any]] = []
    flows: list[Followed] = []
    for number in itertools.count():
        if len(flows) == wanted or number == MOST_DRAWS * wanted:
            break
        found = followed(drawn(family, number, seed), family)
        rows.append({"seed": seed, "number": number} | found.row)
        if found.curves is not None:
            flows.append(found)
            advance()
    data = xr.Dataset({name: ("start", _column(rows, name), {"long_name": said}) for name, said in MEANINGS.items()})
    flows.sort(key=lambda flow: float(flow.row["certified_rate"] / flow.row["measured_rate"]))
    examples = flows[len(flows) // 2 : len(flows) // 2 + 1]
    data["example_family"] = ("example", np.array([family.name] * len(examples), dtype=object))
    for name in ("time", "gap", "certified", "best"):
        kept = np.full((len(examples), POINTS), np.nan)
        for index, example in enumerate(examples):
            curve = (example.curves or {})[name][:POINTS]
            kept[index, : len(curve)] = curve
        data[f"example_{name}"] = (("example", "point"), kept)
    return data


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    values = [row.get(name, np.nan) for row in rows]
    return np.array(values, dtype=object) if isinstance(values[0], str) else np.array(values)


def counts(data: xr.Dataset, family: Family) -> tuple[int, int]:
    """How many starts of a family were drawn, and how many of them were vacuous."""
    vacuous = data["vacuous"].values[data["family"].values == family.name]
    return len(vacuous), int(vacuous.sum())
