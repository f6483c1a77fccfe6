"""Figure 2: a single layer under the end-to-end rule against the deep network, and widths against each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from overdepth.lab.curves import Ratio, first_step, gaps, ratio_of_times, select
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Plan
from overdepth.paper.item import Item, Picture, of_sweeps, start_norm
from overdepth.paper.picture import Curve, gap_figure
from overdepth.paper.tuning import caught_up

LEARNING_RATE = 1e-3
WIDE = 100
RECORD_EVERY = 10
OBJECTIVES = ("l2", "l4")
SOURCE = "Arora, Cohen & Hazan 2018, Figure 2"
LEVELS = (0.5, 0.25, 0.1)
EMULATES = (0.8, 1.25)
NEGLIGIBLE = (0.5, 2.0)

RULE = Statement(
    id="fig2.rule",
    source=SOURCE,
    text="A single layer trained by the end-to-end rule emulates the deep network.",
    statistic="iterations to 50%, 25% and 10% of the initial gap, network / rule, from the network's own W_e",
    threshold=f"all in [{EMULATES[0]:g}, {EMULATES[1]:g}]",
    holds=lambda ratio: EMULATES[0] <= ratio <= EMULATES[1],
)
RULE_BALANCED = Statement(
    id="fig2.rule-balanced",
    source=SOURCE,
    text="The same from balanced factors of that W_e, as the rule assumes.",
    statistic=RULE.statistic,
    threshold=RULE.threshold,
    holds=RULE.holds,
)
WIDTH = Statement(
    id="fig2.width",
    source=SOURCE,
    text="The width of the hidden layers has a negligible effect.",
    statistic=f"iterations to 10% of the initial gap, width 1 / width {WIDE}",
    threshold=f"in [{NEGLIGIBLE[0]:g}, {NEGLIGIBLE[1]:g}]",
    holds=lambda ratio: NEGLIGIBLE[0] <= ratio <= NEGLIGIBLE[1],
)
DEPTH = Statement(
    id="fig2.depth",
    source=SOURCE,
    text="At the same learning rate the deeper network is faster.",
    statistic="catch-up C(depth 3 over depth 2) at lr 1e-3",
    threshold="> 1",
    holds=lambda ratio: ratio > 1.0,
)


def plans(problem: Problem, seeds: Sequence[int]) -> list[Plan]:
    """Networks of both widths, the rule from their starts, and the norm-matched and balanced controls."""
    runs = []
    for seed in seeds:
        norm = {n: start_norm(problem, Run(depth=n, seed=seed)) for n in (2, 3)}
        for depth in (2, 3):
            for width in (1, WIDE):
                runs.append(Run(depth=depth, width=width, seed=seed, lr=LEARNING_RATE))
                runs.append(Run(depth=depth, width=width, seed=seed, lr=LEARNING_RATE, method="end_to_end"))
            runs.append(Run(depth=depth, width=WIDE, seed=seed, lr=LEARNING_RATE, norm=norm[depth]))
            runs.append(Run(depth=depth, seed=seed, lr=LEARNING_RATE, init="balanced"))
        runs.append(Run(depth=3, seed=seed, lr=LEARNING_RATE, norm=norm[2]))
    return [Plan(objective, runs, RECORD_EVERY) for objective in OBJECTIVES]


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts on the rule, the width and the depth."""
    found: list[Claim] = []
    for objective in OBJECTIVES:
        arms = _Arms(data, objective)
        for depth in (2, 3):
            where = f"depth {depth}, {objective}"
            for width in (1, WIDE):
                ratios = [arms.emulation(seed, depth, width, init="near_zero") for seed in setting.seeds]
                note = arms.divergence(depth=depth, width=width, norm=None)
                note += arms.divergence(depth=depth, width=width, method="end_to_end")
                found.append(_judged(RULE, f"{where}, width {width}: network against rule", ratios, setting, note))
            ratios = [arms.emulation(seed, depth, 1, init="balanced") for seed in setting.seeds]
            what = f"{where}: balanced network against rule"
            note = arms.divergence(depth=depth, init="balanced")
            note += arms.divergence(depth=depth, width=1, method="end_to_end")
            found.append(_judged(RULE_BALANCED, what, ratios, setting, note, control=True))
            for matched in (False, True):
                norm = np.isfinite if matched else None
                ratios = [[arms.width_effect(seed, depth, norm=norm)] for seed in setting.seeds]
                note = "Initial W_e of the wide network rescaled to the narrow one's norm. " if matched else ""
                note += arms.divergence(depth=depth, width=WIDE, norm=norm)
                what = f"{where}: width 1 against {WIDE}" + (", norm matched" if matched else "")
                found.append(_judged(WIDTH, what, ratios, setting, note, control=matched))
        for matched in (False, True):
            depths = [arms.depth_effect(seed, norm=np.isfinite if matched else None) for seed in setting.seeds]
            note = "Initial W_e of depth 3 rescaled to depth 2's norm. " if matched else ""
            note += arms.divergence(depth=3, width=1, norm=np.isfinite if matched else None)
            what = f"{objective}: depth 3 against 2" + (", norm matched" if matched else "")
            found.append(DEPTH.judge(what, depths, setting, note=note, control=matched))
    return found


def _judged(
    statement: Statement,
    comparison: str,
    ratios: Sequence[Sequence[Ratio]],
    setting: Setting,
    note: str = "",
    *,
    control: bool = False,
) -> Claim:
    """The verdict on ratios of times, with a word where one is only a bound."""
    if any(ratio.is_bound for row in ratios for ratio in row):
        note += " A number is a bound: one of the two did not reach its level by the horizon, or diverged before."
    values = [[ratio.value for ratio in row] for row in ratios]
    claim = statement.judge(comparison, values, setting, note=note, control=control)
    if claim.verdict == "holds" and len(ratios) % 2 == 0 and any(ratio.is_bound for row in ratios for ratio in row):
        unknown = "Of an even number of seeds one is only bounded, so that the median is not known."
        return statement.judge(comparison, values, setting, note=note, control=control, too_few=unknown)
    return claim


class _Arms:
    """The gap curves of one objective by what they are called in this figure."""

    def __init__(self, data: xr.Dataset, objective: str) -> None:
        self.data = select(data, objective=objective)
        self.steps = data["step"].values

    def curve(self, seed: int, **settings: object) -> np.ndarray:
        settings = {"method": "gd", "init": "near_zero", "norm": None, **settings}
        return np.asarray(gaps(select(self.data, seed=seed, **settings))[0])

    def divergence(self, **settings: object) -> str:
        """Sentences about networks, or arms of other settings, that diverged before the horizon, if any did."""
        settings = {"method": "gd", "init": "near_zero", **settings}
        steps = select(self.data, **settings)["diverged_at"].values
        late = sorted(int(step) for step in steps[steps <= self.steps[-1]])
        what = "rule" if settings["method"] == "end_to_end" else "network"
        return f"The {what} diverged at iteration {', '.join(f'{step:,}' for step in late)}. " if late else ""

    def _times(self, gap: np.ndarray, levels: Sequence[float]) -> list[float]:
        return [first_step(gap, self.steps, level * float(gap[0])) for level in levels]

    def emulation(self, seed: int, depth: int, width: int, *, init: str) -> list[Ratio]:
        """The ratios of times, network / rule."""
        network = self.curve(seed, depth=depth, width=width, init=init)
        rule = self.curve(seed, depth=depth, width=width, method="end_to_end")
        pairs = zip(self._times(network, LEVELS), self._times(rule, LEVELS), strict=True)
        return [ratio_of_times(a, b, float(self.steps[-1]), *EMULATES) for a, b in pairs]

    def width_effect(self, seed: int, depth: int, *, norm: object) -> Ratio:
        """The ratio of times to a tenth of the gap, width 1 / width 100."""
        curves = (self.curve(seed, depth=depth, width=1), self.curve(seed, depth=depth, width=WIDE, norm=norm))
        narrow, wide = (self._times(curve, LEVELS[-1:])[0] for curve in curves)
        return ratio_of_times(narrow, wide, float(self.steps[-1]), *NEGLIGIBLE)

    def depth_effect(self, seed: int, *, norm: object) -> float:
        """C(depth 3 over depth 2) for width 1."""
        deep = self.curve(seed, depth=3, width=1, norm=norm)
        return caught_up(deep, self.curve(seed, depth=2, width=1), self.steps)


def pictures(data: xr.Dataset) -> list[Picture]:
    """Per objective the gaps of networks (solid), the rule (dashed) and balanced networks (dotted)."""
    shown = []
    for objective in OBJECTIVES:
        part = select(data, objective=objective)
        curves = []
        for depth in (2, 3):
            matched = f"depth {depth}, width {WIDE}, norm matched"
            for label, settings, dash, width in (
                (f"depth {depth}, width 1", {"width": 1, "norm": None}, "solid", 2.5),
                (f"depth {depth}, width {WIDE}", {"width": WIDE, "norm": None}, "solid", 1.2),
                (f"depth {depth}, rule from width 1's start", {"width": 1, "method": "end_to_end"}, "dash", 2.5),
                (
                    f"depth {depth}, rule from width {WIDE}'s start",
                    {"width": WIDE, "method": "end_to_end"},
                    "dash",
                    1.2,
                ),
                (f"depth {depth}, balanced network", {"init": "balanced"}, "dot", 2.5),
                (matched, {"width": WIDE, "norm": np.isfinite}, "dot", 1.2),
            ):
                chosen = select(part, depth=depth, **{"method": "gd", "init": "near_zero", **settings})
                curves.append(Curve(label, gaps(chosen), color=depth, dash=dash, width=width))
        caption = (
            f"{objective}: loss minus optimal loss at lr {LEARNING_RATE:g}. Where dashes cover a solid line, the rule "
            "emulates the network; the median over seeds is drawn, the band spans them."
        )
        shown.append(Picture(caption, gap_figure(data["step"].values, curves, title=f"Figure 2, {objective} loss")))
    return shown


ITEM = Item(
    name="fig2",
    title="Figure 2: the end-to-end rule against the network",
    said=(
        "A single layer trained by the end-to-end rule (Claim 2) reliably emulates the deep linear network.",
        "The width of the hidden layers has a negligible effect on convergence.",
        "At the same learning rate, the deeper network is faster.",
    ),
    ran=(
        f"Linear networks of depth 2 and 3, width 1 and {WIDE}, near-zero start, lr {LEARNING_RATE:g}, l2 and l4 loss.",
        "A single layer under the rule for N = 2 and 3 at the same lr, from each network's own initial W_e.",
        "Controls: balanced factors of that W_e; initial W_e matched in norm between widths, and between depths.",
        f"Losses were recorded every {RECORD_EVERY} iterations; times between are interpolated in the logarithm.",
    ),
    statements=(RULE, RULE_BALANCED, WIDTH, DEPTH),
    work=of_sweeps("fig2", plans),
    claims=claims,
    pictures=pictures,
)
