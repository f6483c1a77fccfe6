"""The view of the two points: paths over the loss, losses over time, effective learning rates, momentum."""

from __future__ import annotations

import functools

import numpy as np
import plotly.graph_objects as go
import torch

from overdepth.explorer.controls import Choice, Control, Slider, Values, decades, evenly
from overdepth.explorer.drawing import INK, Picture, Shown, add_mark, figure, fit_decades
from overdepth.explorer.two_points import CLOSE, STARTS, TOWARDS, Path, Setting, TwoPoints, losses, run
from overdepth.paper.picture import Curve, add_curve, thinned
from overdepth.paper.section7_runs import fewest_steps
from overdepth.theory.rule_field import field_of

PLAIN, RULE, NETWORK = 0, 2, 1  # colours
ARROWS = (15, 11)
GRID = (67, 49)
LARGEST = 1e30
"""Beyond it a loss is not drawn; single precision ends soon."""
STEEP = 12.0
"""Decades of the loss that the contours tell apart."""

CONTROLS: tuple[Control, ...] = (
    Slider("depth", "depth N", tuple(range(1, 9)), 2),
    Slider("p", "power p of the loss", (2, 4, 6, 8), 4),
    Slider("y1", "large label y₁", (1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 200, 300), 30),
    Slider("y2", "small label y₂", (*decades(-1, 0), 1.5, 2, 3, 5), 1),
    Slider("eps", "start ε", decades(-4, 0), 0.01),
    Slider("lr", "rule: learning rate / Appendix B's", (*decades(-2, 0)[:-1], *evenly(1, 3, 0.1)), 1),
    Slider("network_lr", "network: learning rate / stable", (*decades(-2, 0)[:-1], *evenly(1, 3, 0.1)), 1),
    Choice(
        "init",
        "initialization",
        {TOWARDS: "towards the labels"} | {name: name.replace("_", " ") for name in STARTS[1:]},
        TOWARDS,
    ),
    Slider("imbalance", "imbalance / balanced layer's square", (*evenly(-4, -0.5, 0.5), *evenly(0, 10, 0.5)), 0),
    Slider("seed", "seed", tuple(range(10)), 0),
    Slider("steps", "updates", (10, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000), 300),
    Choice(
        "field", "arrows", {"rule": "the rule's steps", "gradient": "plain descent's steps", "none": "none"}, "rule"
    ),
)


def setting_of(values: Values) -> Setting:
    """The setting that the controls' values stand for."""
    return Setting(
        power=int(values["p"]),
        depth=int(values["depth"]),
        y1=float(values["y1"]),
        y2=float(values["y2"]),
        eps=float(values["eps"]),
        lr=float(values["lr"]),
        network_lr=float(values["network_lr"]),
        init=str(values["init"]),
        imbalance=float(values["imbalance"]),
        seed=int(values["seed"]),
        steps=int(values["steps"]),
    )


def show(values: Values) -> Shown:
    """The view.

    Raises:
        ValueError: If the labels or the start do not fit together.
    """
    found = run(setting_of(values))
    pictures = [
        Picture(
            "Paths over the loss",
            "Over the contours of log10(loss). Arrows show directions alone, all equally long.",
            paths(found, str(values["field"])),
        ),
        Picture("Loss over time", "A line ends where both labels are fitted.", over_time(found)),
        Picture(
            "Effective learning rates",
            "Learning rate times entry of the preconditioner. The first updates make the weight large, and with it the "
            "rate of w₂ (solid) and w₁ (dashed). Plain descent's is constant.",
            effective(found),
        ),
        Picture("Parts of the network's steps", _momentum_caption(found.setting.depth), momentum(found)),
    ]
    return Shown(_text(found), pictures)


def paths(found: TwoPoints, field: str) -> go.Figure:
    """The runs in the plane, over the loss's contours and a field of arrows."""
    setting = found.setting
    picture = figure(x="w₁", y="w₂", log_y=False)
    picture.add_trace(_contours(setting.y1, setting.y2, setting.power))
    if field != "none":
        picture.add_trace(_arrows(setting, setting.depth if field == "rule" else 1))
    for path, name, color, dash, width in runs(found):
        kept = _seen(len(path.weights))
        curve = Curve(name, path.weights[None, kept, 1], color=color, dash=dash, width=width)
        add_curve(picture, path.weights[kept, 0], curve, mode="lines+markers")
        picture.data[-1].update(marker={"size": 5})
    add_mark(picture, setting.y1, setting.y2, "labels")
    (left, right), (low, high) = _window(setting.y1, setting.y2)
    picture.update_xaxes(range=[left, right])
    picture.update_yaxes(range=[low, high])
    return picture


def over_time(found: TwoPoints) -> go.Figure:
    """The losses of all runs."""
    picture = figure(x="update", y="loss", log_x=True)
    seen: list[float] = []
    for path, name, color, dash, width in runs(found):
        kept = _seen(len(path.weights))
        values = losses(path.weights[kept], found.setting)
        add_curve(picture, kept + 1.0, Curve(name, values[None], color=color, dash=dash, width=width))
        seen += [value for value in (values.min(), values.max()) if 0 < value < LARGEST]
    fit_decades(picture, 0.5 * min(seen), 2.0 * max(seen))
    return picture


def effective(found: TwoPoints) -> go.Figure:
    """Learning rate times entries of the preconditioner, over the updates."""
    picture = figure(x="update", y="effective learning rate", log_x=True)
    for path, name, color, _, _ in runs(found):
        kept = _seen(len(path.rates))
        rates = path.rates[kept]
        both = path is not found.plain and found.setting.depth > 1
        label = f"{name}: w₂" if both else name
        add_curve(picture, kept + 1.0, Curve(label, rates[None, :, 1], color=color, width=2.5))
        if both:
            add_curve(picture, kept + 1.0, Curve(f"{name}: w₁", rates[None, :, 0], color=color, dash="dash", width=1.5))
            picture.data[-1].showlegend = False
    return picture


def runs(found: TwoPoints) -> list[tuple[Path, str, int, str, float]]:
    """The runs with their names and looks; the picture's most important one is drawn last."""
    both = [(found.plain, "plain descent", PLAIN, "solid", 1.2)]
    both.append((found.network, f"network, N = {found.setting.depth}", NETWORK, "solid", 2.0))
    if found.rule is not None:
        both.append((found.rule, f"end-to-end rule, N = {found.setting.depth}", RULE, "solid", 3.0))
    return both


def momentum(found: TwoPoints) -> go.Figure:
    """How long the parts of every step of the network are."""
    picture = figure(x="update", y="length of the part", log_x=True)
    path = found.network
    exact = found.setting.depth == 2
    parts = [
        ("current gradient" if exact else "along the gradient", path.adaptive, 1, "solid"),
        ("past gradients: momentum" if exact else "along the weight: momentum", path.momentum, 2, "solid"),
        ("the start's term", path.dropped, 0, "dot"),
    ]
    for name, values, color, dash in parts:
        if len(values):
            kept = _seen(len(values))
            add_curve(picture, kept + 1.0, Curve(name, values[None, kept], color=color, dash=dash, width=2.4))
    return picture


def _seen(count: int) -> np.ndarray:
    """Which of so many updates are drawn."""
    return thinned(np.arange(count, dtype=np.float64))


def _momentum_caption(depth: int) -> str:
    if depth == 1:
        return "Depth 1 has no part along the weight: every step is the gradient's."
    if depth == 2:
        return (
            "The parts of the network's steps, exactly as Observation 1 unrolls them: the current gradient, past "
            "gradients, and the start's term, which the paper drops."
        )
    return (
        "The parts of the network's steps: along the gradient (an adaptive learning rate) and along the weight, which "
        "past gradients made (momentum; Claim 2)."
    )


@functools.lru_cache(maxsize=32)
def _contours(y1: float, y2: float, power: int) -> go.Contour:
    (left, right), (low, high) = _window(y1, y2)
    w1, w2 = np.linspace(left, right, GRID[0]), np.linspace(low, high, GRID[1])
    loss = ((w1[None, :] - y1) ** power + (w2[:, None] - y2) ** power) / power
    logs = np.log10(np.maximum(loss, loss.max() * 10.0**-STEEP))
    return go.Contour(
        x=w1.astype(np.float32),
        y=w2.astype(np.float32),
        z=logs.astype(np.float32),
        colorscale="Greys",
        opacity=0.5,
        ncontours=18,
        line={"width": 0.5},
        showscale=False,
        hoverinfo="skip",
    )


def _arrows(setting: Setting, depth: int) -> go.Scatter:
    """The directions of -F, in the picture's own proportions, one length."""
    (left, right), (low, high) = _window(setting.y1, setting.y2)
    size = np.array([right - left, high - low])
    w1, w2 = np.meshgrid(np.linspace(left, right, ARROWS[0] + 2)[1:-1], np.linspace(low, high, ARROWS[1] + 2)[1:-1])
    base = np.stack([w1.ravel(), w2.ravel()], axis=1)
    grads = (base - np.array([setting.y1, setting.y2])) ** (setting.power - 1)
    rows, gradient_rows = (torch.from_numpy(part)[:, None, :] for part in (base, grads))
    field = -field_of(rows, gradient_rows, depth)[:, 0].numpy() / size
    norm = np.linalg.norm(field, axis=1, keepdims=True)
    length = 0.55 / ARROWS[0]
    tips = base + size * length * np.divide(field, norm, out=np.zeros_like(field), where=norm > 0)
    gap = np.full(len(base), np.nan)
    x, y = (np.stack([base[:, i], tips[:, i], gap], axis=1).ravel().astype(np.float32) for i in (0, 1))
    name = "end-to-end rule's field" if depth > 1 else "gradient's field"
    marker = {"symbol": "arrow", "angleref": "previous", "size": [0, 7, 0] * len(base), "color": INK}
    return go.Scatter(
        x=x, y=y, mode="lines+markers", name=name, line={"color": INK, "width": 1}, marker=marker, opacity=0.6,
        hoverinfo="skip",
    )  # fmt: skip


def _window(y1: float, y2: float) -> tuple[tuple[float, float], tuple[float, float]]:
    return (-0.2 * y1, 2.1 * y1), (-0.3 * y2, 1.5 * y2)


def _text(found: TwoPoints) -> str:
    setting, plan, rule = found.setting, found.plan, found.rule
    network, plain = _outcome(found.network, setting), _outcome(found.plain, setting)
    outcomes = f"the network {network}; plain descent {'too' if plain == network else plain}."
    if plain == network == _unfitted(setting):
        outcomes = f"within {setting.steps} updates neither the network nor plain descent does."
    rates = f"Learning rates: plain {found.plain_lr:.3g}, network {found.network_lr:.3g}"
    if plan is None or rule is None:
        why = (
            "with the square loss both coordinates of plain descent are equally fast, and there is nothing to gain"
            if setting.power == 2
            else "depth 1 is plain descent itself"
        )
        if plain == network == _unfitted(setting):
            outcomes = f"neither the network nor plain descent fits both labels within {setting.steps} updates."
        return f"{outcomes[0].upper()}{outcomes[1:]} {rates}. Appendix B does not apply: {why}."
    needed = ""
    error, tolerance = setting.y2 - float(found.plain.weights[0, 1]), CLOSE * setting.y2
    if found.plain_lr * abs(error) ** (setting.power - 2) < 1 and error > tolerance and found.plain.fitted is None:
        least = fewest_steps(error, found.plain_lr, setting.power, tolerance)
        needed = f" Plain descent needs at least {least:,} updates for w₂."
    side = "above" if plan.converges else "below"
    return (
        f"The end-to-end rule **{_outcome(rule, setting)}**; {outcomes}{needed} Appendix B, to first order: the rule "
        f"is faster by **{plan.ratio:.3g}** or more; ε is {side} the threshold {plan.threshold:.2g} from which w₂ "
        f"converges. {rates}, rule {setting.lr * plan.lr_end_to_end:.3g}: the factors cannot take its first step."
    )


def _outcome(path: Path, setting: Setting) -> str:
    if path.fitted is not None:
        return f"fits both labels to {CLOSE:.0%} of y₂ after {path.fitted} updates"
    if path.diverged:
        return f"diverges after {len(path.weights) - 1} updates"
    return _unfitted(setting)


def _unfitted(setting: Setting) -> str:
    return f"does not fit both labels within {setting.steps} updates"
