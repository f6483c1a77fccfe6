r"""How long deep networks stay near zero, against the time that the theory predicts for a balanced mode.

The prediction is that of a start along its target. A balanced single-output start in another direction has to turn
first. Near zero its norm r and the angle theta to the target follow r' = N r^{2-2/N} s cos(theta) and
theta' = -r^{1-2/N} s sin(theta), so that r sin(theta)^N is constant, and the leading term of the time is that of a
start along the target times

    (N - 2) \int_0^{theta_0} sin(x)^{N-3} dx / sin(theta_0)^{N-2},

for an orthogonal start pi/2 at depth 3 and 2 at depth 4.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.integrate import quad

from overdepth.chain import balanced_factors, product
from overdepth.lab.curves import first_step, gaps, select
from overdepth.lab.problem import Problem
from overdepth.lab.run import Run
from overdepth.lab.sweeps import sweep
from overdepth.paper.beyond.imbalance import StartedRun, unknown_median, whitened_loss
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context
from overdepth.paper.item import Item, Picture
from overdepth.paper.picture import Curve, add_curve, blank_figure, thinned
from overdepth.theory import EscapeTime, LeastSquares, escape_time

LEARNING_RATE = 0.02
RECORD_EVERY = 20
SCALES = {3: (0.02, 0.05, 0.1), 4: (0.05, 0.1, 0.2)}
DRAWS, QUICK_DRAWS = 10, 2
FRACTION = 0.5
PREDICTION = "that of a balanced start along the target; NaN: no nearer to zero than half of it"
ALONG, BALANCED, NEAR_ZERO = "along the target", "balanced", "near zero"
DASHES = {ALONG: "dot", BALANCED: "dash", NEAR_ZERO: "solid"}

STATISTIC = f"time until W_e is half-way to its target, measured / predicted, median of {DRAWS} starts, every scale"
TWICE = (0.5, 2.0)
CLOSE = (0.8, 1.25)


def _within(low: float, high: float) -> Statement:
    return Statement(
        id="beyond.escape",
        source="ours",
        text="The balanced mode's escape time predicts how long deep networks stay near zero, to a factor of two.",
        statistic=STATISTIC,
        threshold=f"all in [{low:g}, {high:g}]",
        holds=lambda ratio: low <= ratio <= high,
    )


PREDICTED = _within(*TWICE)
EXACT = Statement(
    id="beyond.escape-along",
    source="ours",
    text="From balanced factors along the target the predicted escape time is exact.",
    statistic=STATISTIC,
    threshold="all in [0.95, 1.05]",
    holds=lambda ratio: 0.95 <= ratio <= 1.05,
)
DIRECTED = Statement(
    id="beyond.escape-direction",
    source="ours",
    text="For balanced factors in any direction, the time to turn accounts for the difference.",
    statistic=f"{STATISTIC}; the prediction's leading term times the factor of the start's direction",
    threshold=f"all in [{CLOSE[0]:g}, {CLOSE[1]:g}]",
    holds=lambda ratio: CLOSE[0] <= ratio <= CLOSE[1],
)
POWER = Statement(
    id="beyond.escape-power",
    source="ours",
    text="The escape time grows as the power of the initial norm that the theory names.",
    statistic="exponent fitted over three scales, measured / that of the predicted times, median of the starts",
    threshold="in [0.9, 1.1]",
    holds=lambda ratio: 0.9 <= ratio <= 1.1,
)


def direction_factor(cosine: float, depth: int) -> float:
    """How much longer a balanced start with this cosine to the target stays near zero than one along it; depth >= 3."""
    angle = math.acos(min(max(cosine, -1.0), 1.0))
    if angle < 1e-6:
        return 1.0
    integral, _ = quad(lambda x: math.sin(x) ** (depth - 3), 0.0, angle)
    return float((depth - 2) * integral / math.sin(angle) ** (depth - 2))


def _prediction(norm: float, target: float, depth: int) -> EscapeTime:
    """The escape time of a balanced start of that norm along the target; NaN if it is no smaller than half of that."""
    if not norm < FRACTION * target:
        return EscapeTime(math.nan, math.nan)
    return escape_time(norm, target, depth, fraction=FRACTION)


def work(context: Context) -> xr.Dataset:
    """The runs on whitened data, with their measured and predicted escape times; empty if data cannot be whitened."""
    problem, seeds = context.problem, [int(seed) for seed in context.seeds]
    loss = whitened_loss(problem)
    if loss is None:
        return xr.Dataset(attrs={"whitened": 0})
    settings = {
        "data": problem.checksum,
        "scaling": problem.scaling,
        "seeds": seeds,
        "steps": context.steps,
        "quick": context.quick,
    }
    return context.keep("escape", settings, lambda: _measured(context, loss, seeds))


def _measured(context: Context, loss: LeastSquares, seeds: Sequence[int]) -> xr.Dataset:
    white = Problem(loss.X.numpy(), loss.Y.numpy(), name=context.problem.name, scaling="whitened")
    draws = QUICK_DRAWS if context.quick else DRAWS
    runs, outer, arms = [], [], []
    for seed in seeds:
        for arm, run in _runs(loss, range(draws * seed, draws * (seed + 1))):
            runs.append(run)
            outer.append(seed)
            arms.append(arm)
    context.reporter.begin("escape, l2 on whitened data", len(runs), context.steps)
    data = sweep(
        white,
        runs,
        objective="l2",
        steps=context.steps,
        record_every=RECORD_EVERY,
        dtype=torch.float64,
        progress=context.reporter.advance,
    )
    context.reporter.advance(context.steps, len(runs))
    target = loss.minimizer
    starts = [product(run.start(1, white.d)) for run in runs]
    norms = [float(start.norm()) for start in starts]
    size = float(target.norm())
    cosines = [
        float((start * target).sum()) / (norm * size) if size else math.nan
        for start, norm in zip(starts, norms, strict=True)
    ]
    level = ((1 - FRACTION) * size) ** 2 / 2
    reached = [first_step(gap, data["step"].values, level) for gap in gaps(data)]
    times = [_prediction(norm, size, int(run.depth)) for norm, run in zip(norms, runs, strict=True)]
    factors = [direction_factor(cosine, int(run.depth)) for cosine, run in zip(cosines, runs, strict=True)]
    turning = [(factor - 1) * found.asymptotic for factor, found in zip(factors, times, strict=True)]
    data = data.isel(step=thinned(data["step"].values)).assign(
        escape=("run", np.array(reached) * LEARNING_RATE, {"long_name": "time to half-way, steps times lr"}),
        predicted=("run", [found.time for found in times], {"long_name": PREDICTION}),
        turning=("run", turning, {"long_name": "what turning to the target adds to that"}),
        start_norm=("run", norms, {"long_name": "norm of the initial W_e"}),
        start_cosine=("run", cosines, {"long_name": "cosine of the initial W_e and the target"}),
    )
    data["optimal_loss"].attrs.pop("attained", None)
    data = data.assign_coords(arm=("run", arms), outer_seed=("run", outer))
    return data.assign_attrs(whitened=1, draws=draws, target_norm=size)


def _runs(loss: LeastSquares, draws: Sequence[int]) -> list[tuple[str, Run]]:
    """The arms of one seed: ten draws near zero, the same balanced, and one start along the target."""
    found: list[tuple[str, Run]] = []
    size = loss.minimizer.norm()
    direction = loss.minimizer / size if size > 0 else torch.eye(*loss.shape, dtype=torch.float64)  # no direction then
    for depth, scales in SCALES.items():
        for scale in scales:
            drawn = [Run(depth=depth, scale=scale, seed=seed, lr=LEARNING_RATE) for seed in draws]
            sizes = [float(product(run.start(*loss.shape)).norm()) for run in drawn]
            found += [(NEAR_ZERO, run) for run in drawn]
            found += [
                (BALANCED, Run(depth=depth, scale=scale, seed=seed, lr=LEARNING_RATE, init="balanced"))
                for seed in draws
            ]
            factors = tuple(balanced_factors(float(np.median(sizes)) * direction, depth))
            along = StartedRun(depth=depth, scale=scale, seed=draws[0], lr=LEARNING_RATE, factors=factors)
            found.append((ALONG, along))
    return found


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts for either depth; starts along the target are the control."""
    if not data.attrs["whitened"]:
        why = "The features are linearly dependent, so that they cannot be whitened."
        return [statement.not_run("whitened data, l2", setting, why) for statement in ITEM.statements]
    few = f"{data.attrs['draws']} random starts; the statement is about {DRAWS}." if data.attrs["draws"] < DRAWS else ""
    found = []
    for depth in SCALES:
        for arm, statement, (low, high), turns in (
            (NEAR_ZERO, PREDICTED, TWICE, False),
            (BALANCED, PREDICTED, TWICE, False),
            (BALANCED, DIRECTED, CLOSE, True),
            (ALONG, EXACT, (0.95, 1.05), False),
        ):
            part = select(data, depth=depth, arm=arm)
            ratios = [_ratios(select(part, outer_seed=seed), low, high, turns=turns) for seed in setting.seeds]
            what, note = f"depth {depth}, {arm}", _missing(part)
            if arm == NEAR_ZERO:
                note += " A near-zero start is imbalanced, and its direction is random; the prediction knows neither."
            control = arm == ALONG
            least, most = [[row[i] for row in ratios] for i in (0, 1)]
            values = np.where(np.isinf(most), least, most).tolist()
            shortfall = ("" if control else few) or unknown_median(statement, least, most, low, high)
            found.append(statement.judge(what, values, setting, note=note, control=control, too_few=shortfall))
        for arm in (NEAR_ZERO, BALANCED):
            part = select(data, depth=depth, arm=arm)
            powers = [_power(select(part, outer_seed=seed)) for seed in setting.seeds]
            note = f"As the start goes to 0 the exponent is {2 / depth - 1:.3g}. {_missing(part)}"
            found.append(POWER.judge(f"depth {depth}, {arm}", powers, setting, note=note, too_few=few))
    return found


def _diverged(part: xr.Dataset) -> NDArray[np.bool_]:
    """Whether a run diverged before it escaped."""
    found: NDArray[np.bool_] = np.isnan(part["escape"].values) & np.isfinite(part["diverged_at"].values)
    return found


def _missing(part: xr.Dataset) -> str:
    """Sentences on the runs without a measured or a predicted time, if there are any."""
    diverged = _diverged(part)
    counts = {
        "runs did not escape within the horizon": np.isnan(part["escape"].values) & ~diverged,
        "runs diverged before they escaped": diverged,
        "starts are too large for the target to predict a time": np.isnan(part["predicted"].values),
    }
    said = [f"{is_so.sum()} of {part.sizes['run']} {what}." for what, is_so in counts.items() if is_so.any()]
    return " ".join(said)


def _ratios(part: xr.Dataset, low: float, high: float, *, turns: bool) -> tuple[list[float], list[float]]:
    """Per scale the smallest and largest that the median over draws of measured / predicted time can be.

    Of a run that did not escape within the horizon a lower bound is known. NaN where a run diverged, where nothing is
    predicted, and where the bounds leave open whether the median lies in [low, high].
    """
    horizon = float(part["step"].values[-1]) * LEARNING_RATE
    least, most = [], []
    for scale in np.unique(part["scale"].values):
        own = select(part, scale=scale)
        times, expected = own["escape"].values, (own["predicted"] + (own["turning"] if turns else 0.0)).values
        bounds = [math.nan, math.nan]
        if not (_diverged(own).any() or np.isnan(expected).any()):
            bounds = [float(np.median(np.where(np.isnan(times), t, times) / expected)) for t in (horizon, np.inf)]
        sides = [(value >= low) + (value > high) for value in bounds]
        least.append(bounds[0] if sides[0] == sides[1] else math.nan)
        most.append(bounds[1] if sides[0] == sides[1] else math.nan)
    return least, most


def _power(part: xr.Dataset) -> float:
    """Median over draws of the fitted exponent, measured / predicted; NaN if half of them lack an escape time.

    NaN too if a start has no prediction.
    """
    if np.isnan(part["predicted"].values).any():
        return math.nan
    found = []
    for seed in np.unique(part["seed"].values):
        own = select(part, seed=seed)
        norms = np.log(own["start_norm"].values)
        slopes = [np.polyfit(norms, np.log(own[name].values), 1)[0] for name in ("escape", "predicted")]
        found.append(slopes[0] / slopes[1])
    known = [ratio for ratio in found if math.isfinite(ratio)]
    return float(np.median(known)) if 2 * len(known) > len(found) else math.nan


def pictures(data: xr.Dataset) -> list[Picture]:
    """Measured and predicted times against the norm of the start."""
    if not data.attrs["whitened"]:
        return []
    figure = blank_figure("Escape from near zero", x="norm of the initial W_e", y="time to half-way", log_x=True)
    seeds = np.unique(data["outer_seed"].values)
    for depth, scales in SCALES.items():
        for arm, dash in DASHES.items():
            part = select(data, depth=depth, arm=arm)
            norms = np.array([np.median(select(part, scale=scale)["start_norm"]) for scale in scales])
            times = np.array([[_median_time(part, scale, seed) for scale in scales] for seed in seeds])
            curve = Curve(f"depth {depth}, {arm}", times, color=depth, dash=dash)
            add_curve(figure, norms, curve, mode="lines+markers")
        drawn = select(data, depth=depth)["start_norm"].values
        size = data.attrs["target_norm"]
        largest = min(drawn.max(), 0.99 * FRACTION * size)
        if largest > drawn.min():
            fine = np.geomspace(drawn.min(), largest, 50)
            line = np.array([[_prediction(float(norm), size, depth).time for norm in fine]])
            add_curve(figure, fine, Curve(f"depth {depth}, predicted", line, color=0, width=1.2))
    caption = (
        "l2 on whitened data: the time (steps times learning rate) until half of the way to the target is done, "
        f"against the norm of the initial W_e; medians over {data.attrs['draws']} starts at three scales. Grey: "
        "predicted for balanced factors along the target."
    )
    return [Picture(caption, figure)]


def _median_time(part: xr.Dataset, scale: float, seed: int) -> float:
    times = select(part, scale=scale, outer_seed=seed)["escape"].values
    median = float(np.median(np.where(np.isnan(times), np.inf, times)))
    return median if math.isfinite(median) else math.nan


def _scales(depth: int) -> str:
    return ", ".join(f"{scale:g}" for scale in SCALES[depth])


ITEM = Item(
    name="escape",
    title="Escape from near zero",
    said=(
        "Near zero a deep network waits: the theory gives the time in closed form for balanced factors along their "
        "target. How well does it predict networks as they are started, imbalanced and in a random direction?",
    ),
    ran=(
        f"Linear networks of depth 3 and 4, width 1, on the whitened data with l2 loss, lr {LEARNING_RATE:g}, float64; "
        f"standard deviations {_scales(3)} at depth 3 and {_scales(4)} at depth 4, {DRAWS} starts each.",
        "Near-zero starts, and balanced factors of the same W_e. Control: balanced factors along the target.",
    ),
    statements=(PREDICTED, EXACT, DIRECTED, POWER),
    work=work,
    claims=claims,
    pictures=pictures,
    part="beyond",
    minutes=(1.0, 0.1),
)
