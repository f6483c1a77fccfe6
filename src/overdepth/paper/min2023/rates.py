"""Certified rates of gradient flow: is a flow ever above the envelope that is proved for it?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from overdepth.lab.problem import Array
from overdepth.paper.claim import Claim, Setting, Statement, number
from overdepth.paper.context import Context
from overdepth.paper.item import Item, Picture
from overdepth.paper.min2023.envelopes import counts, family_data
from overdepth.paper.min2023.starts import FAMILIES, Family
from overdepth.paper.picture import COLORS, Curve, add_curve, blank_figure

NAME = "min2023-rates"
SOURCE = "Min, Vidal & Mallada 2023"
ENOUGH = 100
"""Random starts with a certificate that says something, of all seeds together, which a verdict needs."""

FEW = 4  # a seed, with --quick

TEXTS = {
    "scalar": "Deep scalar networks: while |w| stays above its margin, the loss falls at least at the rate that the "
    "cumulative imbalances and the margin give.",
    "two-layer": "Two layers, any sizes and imbalance: the loss falls at least at the rate that the imbalance's "
    "eigenvalues and the margin give.",
    "three-layer": "Three layers, any sizes and imbalances: the loss falls at least at the rate that the imbalances' "
    "eigenvalues give.",
    "homogeneous": "Deep networks whose imbalances are multiples of the identity: the loss falls at least at the rate "
    "that the cumulative imbalances and the margin give.",
}
STATISTIC = "largest ratio of the loss gap to its certified envelope, over all random starts and times"
THRESHOLD = "<= 1: no violation"
STATEMENTS = {
    family.name: Statement(
        id=f"min2023.{family.name}",
        source=f"{SOURCE}, rates corrected",
        text=TEXTS[family.name],
        statistic=STATISTIC,
        threshold=THRESHOLD,
        holds=lambda ratio: ratio <= 1.0,
    )
    for family in FAMILIES
}
_DASHES = {"gap": "solid", "certified": "dash", "best": "dot"}
_LOWEST = 1e-11


def work(context: Context) -> xr.Dataset:
    """Flows from random starts of every family, shared out among the seeds."""
    wanted = FEW if context.quick else math.ceil(ENOUGH / len(context.seeds))
    parts = []
    for seed in context.seeds:
        context.reporter.begin(f"{NAME}, seed {seed}", wanted * len(FAMILIES), 1)
        parts += context_parts(context, int(seed), wanted)
        context.reporter.advance(1, wanted * len(FAMILIES))
    kinds = [[str(name) for name in parts[0] if parts[0][name].dims[0] == dim] for dim in ("start", "example")]
    return xr.merge(
        xr.concat([part[names] for part in parts], dim=dim, join="exact")
        for names, dim in zip(kinds, ("start", "example"), strict=True)
    )


def context_parts(context: Context, seed: int, wanted: int) -> list[xr.Dataset]:
    """The data of every family for one seed, kept apart from each other."""
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        context.reporter.advance(0, wanted * len(FAMILIES) - done)

    return [
        context.keep(
            f"{NAME}-{family.name}",
            {"seed": seed, "wanted": wanted},
            lambda family=family: family_data(family, seed, wanted, advance),  # type: ignore[misc]
        )
        for family in FAMILIES
    ]


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """Per family the verdict on its own bound, and as a control that on all bounds with the margin refreshed."""
    found = []
    for family in FAMILIES:
        part = _followed(data, family)
        drawn, vacuous = counts(data, family)
        flows = part.sizes["start"]
        few = f"{flows} starts say something; the statement asks for {ENOUGH}." if flows < ENOUGH else ""
        for name, what, control in (
            ("largest_ratio", "gap against the family's envelope", False),
            ("largest_ratio_best", "gap against the best of all envelopes, margin refreshed", True),
        ):
            ratios = part[name].values
            note = f"{drawn} starts drawn, {vacuous} of them vacuous and not counted." if not control else ""
            if flows and not control:
                rates = part["certified_rate"].values / part["measured_rate"].values
                note += (
                    f" Certified over measured rate: median {number(float(np.median(rates)))}, at most "
                    f"{number(float(rates.max()))}. At first every envelope is the gap itself, so that the largest "
                    f"ratio lies close to 1.{_printed(part)}"
                )
            value = float(ratios.max()) if flows else float("nan")
            comparison = f"{family.name}: {what}, {flows} starts"
            found.append(
                STATEMENTS[family.name].judge(comparison, [value], setting, note=note, control=control, too_few=few)
            )
    return found


def _printed(part: xr.Dataset) -> str:
    """What the same comparison says of the rate as printed, where one could be read."""
    ratios = part["largest_ratio_printed"].values
    known = ratios[~np.isnan(ratios)]  # infinite where the envelope is 0 in floating point and the gap is not
    if not len(known):
        return ""
    return f" By the rate as the poster prints it, {int((known > 1).sum())} of {len(known)} flows would violate."


def _followed(data: xr.Dataset, family: Family) -> xr.Dataset:
    chosen = (data["family"].values == family.name) & (data["vacuous"].values == 0)
    return data[[name for name in data if data[name].dims == ("start",)]].isel(start=np.flatnonzero(chosen))


def pictures(data: xr.Dataset) -> list[Picture]:
    """Certified against measured rates, and a typical flow of every family below its envelopes."""
    return [
        Picture(
            "Every dot is a start. On the dashed line the flow is just as fast as certified; below it, faster; a dot "
            "above it would contradict the theory. The measured rate is the mean one until the gap has fallen by "
            "1e-10. Stars: balanced or orthogonal starts; squares: near zero or identity; circles: with a chosen "
            "imbalance.",
            _rates_figure(data),
        ),
        Picture(
            "Of every family the start whose certificate is of median quality: the gap of the flow (solid) below the "
            "family's envelope (dashed) and the best of all with the margin refreshed (dotted). Time ends where the "
            "gap has fallen by 1e-10.",
            _examples_figure(data),
        ),
    ]


_SYMBOLS = {"near_zero": "square", "near_identity": "square", "orthogonal": "star", "balanced": "star"}


def _rates_figure(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Certified and measured rates", x="measured rate", y="certified rate", log_x=True)
    figure.update_layout(hovermode="closest")
    figure.update_xaxes(dtick=1)
    figure.update_yaxes(dtick=1)
    everything: list[Array] = []
    for index, family in enumerate(FAMILIES, 1):
        part = _followed(data, family)
        if not part.sizes["start"]:
            continue
        measured, certified = part["measured_rate"].values, part["certified_rate"].values
        everything.append(measured)
        figure.add_trace(
            go.Scatter(
                x=measured.astype(np.float32),
                y=certified.astype(np.float32),
                mode="markers",
                name=family.name,
                text=_words(part),
                marker={
                    "color": COLORS[index],
                    "size": 7,
                    "opacity": 0.65,
                    "symbol": [_SYMBOLS.get(init, "circle") for init in part["init"].values.tolist()],
                },
                hovertemplate="%{text}<br>measured %{x:.3g}, certified %{y:.3g}",
            )
        )
    if everything:
        measured = np.concatenate(everything)
        ends = np.array([measured.min() / 2, measured.max() * 2])
        add_curve(figure, ends, Curve("as fast as certified", ends[None], color=0, dash="dash"))
        figure.update_yaxes(range=[float(np.log10(measured.min())) - 3, float(np.log10(ends[1]))])
    return figure


def _words(part: xr.Dataset) -> list[str]:
    names = ("init", "depth", "rows", "columns")
    rows: Sequence[tuple[str, int, int, int]] = list(zip(*(part[name].values.tolist() for name in names), strict=True))
    return [f"{init}, depth {depth}, {k} x {d}" for init, depth, k, d in rows]


def _examples_figure(data: xr.Dataset) -> go.Figure:
    figure = blank_figure("Flows below their envelopes", x="time, in units of the last", y="gap / first gap")
    families = data["example_family"].values.tolist()
    for index, family in enumerate(FAMILIES, 1):
        if family.name not in families:
            continue
        example = families.index(family.name)  # the first seed's
        times = data["example_time"].values[example]
        seen = np.isfinite(times)
        first = data["example_gap"].values[example, 0]
        for name, dash in _DASHES.items():
            values = data[f"example_{name}"].values[example, seen] / first
            label = family.name if name == "gap" else f"{family.name}, {name}"
            shown = np.where(values > _LOWEST, values, np.nan)[None]
            curve = Curve(label, shown, color=index, dash=dash, width=2.5 if name == "gap" else 1.5)
            add_curve(figure, times[seen] / times[seen][-1], curve)
            figure.data[-1].update(showlegend=name == "gap", legendgroup=family.name)
    return figure


ITEM = Item(
    name=NAME,
    title="Certified rates of gradient flow from any initialization",
    said=(
        "For gradient flow of a deep linear network the loss falls exponentially, at a rate bounded below by the "
        "initial imbalances and the margin of the initial loss.",
        "There are explicit rates for deep scalar networks, for two and for three layers of any sizes, and for deep "
        "networks with homogeneous imbalance.",
    ),
    ran=(
        f"Per family, {ENOUGH} random starts whose rate is above 0, shared out among the seeds: near zero, near "
        "identity, orthogonal, balanced, and with chosen imbalances, at random scales, depths, sizes and hidden "
        "widths. (For three layers the bound is from imbalances alone, and the balanced and orthogonal starts, always "
        "vacuous, are left out; "
        "homogeneous imbalance excludes the first two.)",
        "The loss is the squared distance to a random matrix, or least squares on random data that are not whitened; "
        "half of the minimizers are drawn close to the start, so that there is a margin.",
        "Each flow is integrated until the gap has fallen by 1e-10, to a relative tolerance of 1e-11; what the "
        "integrator's error may have added to the root of a gap is taken off before it is compared.",
        "The rates are those of the paper with its misprints corrected (docs/theory/errata.md).",
        "Control: the best of all our bounds with the margin refreshed as the gap falls.",
    ),
    statements=tuple(STATEMENTS.values()),
    work=work,
    claims=claims,
    pictures=pictures,
    needs="random starts",
    drawn="random factors",
    minutes=(1.3, 0.1),
)
