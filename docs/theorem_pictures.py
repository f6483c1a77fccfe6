"""The pictures of the rule's theorems and of the rates; :mod:`docs.pictures` draws them with the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from docs.drawing import BLUE, GREEN, RED, SKY, descend, label, normal, panels
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import overdepth as od
from overdepth import theory


def end_to_end() -> Figure:
    """Paths of a weight with two inputs at three depths, and how far the layers are from the rule."""
    fig, (left, right) = panels(2)
    covariance = torch.tensor([1.0, 0.1], dtype=torch.float64).sqrt().diag()
    loss = theory.least_squares(math.sqrt(2) * covariance, math.sqrt(2) * covariance @ torch.ones(2, 1).double())
    start = torch.tensor([[0.05, 0.3]], dtype=torch.float64)
    grid = torch.linspace(-0.1, 1.4, 61, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)[:, None, :]
    heights = torch.stack([loss.gap(point) for point in points]).reshape(61, 61)
    left.contour(grid, grid, heights.mT, levels=[0.002, 0.01, 0.03, 0.08, 0.2, 0.4], colors=[SKY], linewidths=0.7)
    times = torch.cat([torch.zeros(1), torch.logspace(-1, 2, 60)])
    for depth, colour in ((1, "black"), (2, BLUE), (4, RED)):
        rule = theory.flow(start, loss, times, kind="end_to_end", depth=depth).weight
        left.plot(rule[:, 0, 0], rule[:, 0, 1], "-", color=colour, label=f"depth {depth}")
        if depth > 1:
            layers = theory.flow(od.balanced_factors(start, depth), loss, times).weight[::6]
            left.plot(layers[:, 0, 0], layers[:, 0, 1], "o", color=colour, markersize=4)
    left.set(aspect="equal", xlim=(-0.1, 1.4), ylim=(-0.1, 1.4))
    left.legend(loc="lower right")
    label(left, "w₁, the steep direction", "w₂", "rule (lines) and layers (dots)")
    target, clock = theory.matrix_distance(torch.diag(torch.tensor([2.0, 1.0]).double())), torch.linspace(0, 4, 81)
    weight = 0.3 * torch.eye(2, dtype=torch.float64) + 0.05
    for name, factors, style in (
        ("balanced", od.balanced_factors(weight, 3), "-"),
        ("imbalance 0.1", theory.factors_with_imbalance(weight, 3, 0.1), "--"),
        ("imbalance 1", theory.factors_with_imbalance(weight, 3, 1.0), "-."),
    ):
        product = theory.flow(factors, target, clock).weight.values
        rule = theory.flow(weight, target, clock, kind="end_to_end", depth=3).weight.values
        distance = np.linalg.norm(product - rule, axis=(1, 2))
        right.semilogy(clock[1:], distance[1:].clip(1e-16), style, label=name)
    right.legend(loc="center right")
    label(right, "time", "‖product − rule‖_F", "depth 3: balance is needed")
    return fig


def spectrum() -> Figure:
    """Multipliers over one singular value, and of a pair."""
    fig, (left, right) = panels(2)
    sigma = torch.linspace(0, 2, 101, dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    for depth, style in ((1, "-"), (2, "--"), (3, "-."), (10, ":")):
        alone = torch.stack([_multiplier(s, s, depth) for s in sigma])
        left.plot(sigma, alone / depth, style, label=f"depth {depth}")
        pair = torch.stack([_multiplier(one, s, depth) for s in sigma])
        right.plot(sigma, pair / depth, style, label=f"depth {depth}")
    left.legend(loc="upper left")
    label(left, "singular value σ", "multiplier of u vᵀ, over that of σ = 1", "one direction")
    right.set_ylim(0, 2.6)
    label(right, "singular value σ_s", "multiplier, over that of σ_s = 1", "a pair, σ_r = 1")
    return fig


def single_output() -> Figure:
    """What the rule makes of a circle of gradients, and by which angle it turns them."""
    fig, (left, right) = panels(2)
    angles = torch.linspace(0, 2 * math.pi, 181, dtype=torch.float64)
    weight = torch.tensor([[math.cos(0.6), math.sin(0.6)]], dtype=torch.float64)
    left.annotate("", xytext=(0, 0), xy=tuple(2.6 * weight[0]), arrowprops={"arrowstyle": "-|>", "color": SKY})
    left.text(float(2.7 * weight[0, 0]), float(2.7 * weight[0, 1]), "w", color=SKY)
    for depth, style in ((1, "-"), (2, "--"), (3, "-."), (4, ":")):
        made = torch.cat([od.end_to_end_update(weight, torch.stack([a.cos(), a.sin()])[None], depth) for a in angles])
        left.plot(made[:, 0], made[:, 1], style, label=f"depth {depth}")
        along, across = angles[:91].cos() * depth, angles[:91].sin()
        turned = torch.rad2deg(angles[:91] - torch.atan2(across, along))
        right.plot(torch.rad2deg(angles[:91]), turned, style, label=f"depth {depth}")
    left.set(aspect="equal", xlim=(-3.8, 3.8), ylim=(-3, 3))
    label(left, "first input", "second input", "updates of gradients of length 1")
    right.set_xticks(range(0, 181, 45))
    right.legend(loc="lower left")
    label(right, "angle of the gradient to w (degrees)", "turned by (degrees)", "towards the line of w")
    return fig


def infinite_depth() -> Figure:
    """The distance of the divided rule from its limit, and the limit's multipliers."""
    fig, (left, right) = panels(2)
    u, v = (torch.linalg.qr(normal(seed, 3, 3)).Q for seed in (1, 2))
    grad, depths = normal(3, 3, 3), [2, 3, 5, 10, 20, 50, 100, 200, 500, 1000]
    for smallest, style in ((0.3, "-"), (0.03, "--"), (0.003, "-.")):
        weight = u @ torch.tensor([1.0, 0.5, smallest], dtype=torch.float64).diag() @ v
        limit = od.end_to_end_update(weight, grad, math.inf)
        off = [float((od.end_to_end_update(weight, grad, n) / n - limit).norm() / limit.norm()) for n in depths]
        left.loglog(depths, off, style, marker="o", markersize=3, label=f"σ = 1, 0.5, {smallest:g}")
    left.legend(loc="lower left")
    label(left, "depth N", "relative distance to the limit", "the rule divided by N")
    sigma, one = torch.linspace(0, 1, 201, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for depth, style in ((2, "-"), (5, "--"), (20, "-."), (math.inf, ":")):
        pair = torch.stack([_multiplier(one, s, depth) for s in sigma])
        name = "infinite depth" if math.isinf(depth) else f"depth {depth}"
        right.plot(sigma, pair / (1 if math.isinf(depth) else depth), style, label=name)
    right.set_ylim(0, 1.05)
    right.legend(loc="lower right")
    label(right, "singular value σ_s", "multiplier / N", "a pair, σ_r = 1")
    return fig


def two_layers() -> Figure:
    """The bound against the truth for random factors, and along the dial of imbalance."""
    fig, (left, right) = panels(2)
    sizes = np.random.default_rng(0).integers(1, 6, size=(150, 3))
    chains = [[normal(2 * i, h, d) * 2.0 ** (i % 5 - 2), normal(2 * i + 1, k, h)] for i, (d, h, k) in enumerate(sizes)]
    _compare(left, chains, theory.two_layer_rate)
    label(left, "λ_min(T)", "bound", "150 random pairs of factors")
    dial = torch.linspace(-2, 2, 81)
    for columns, colour, name in ((2, BLUE, "2 × 2"), (3, RED, "2 × 3")):
        weight = torch.tensor([1.0, 0.5], dtype=torch.float64).diag() @ torch.eye(2, columns, dtype=torch.float64)
        made = [theory.factors_with_imbalance(weight, 2, float(d)) for d in dial]
        truth = [od.transfer_operator(chain).min_eigenvalue() for chain in made]
        right.plot(dial, truth, "-", color=colour, label=f"λ_min(T), {name}")
        right.plot(dial[::4], [theory.two_layer_rate(chain) for chain in made[::4]], "o", color=colour, markersize=3)
    right.plot([], [], "o", color="grey", markersize=3, label="bound")
    right.set_ylim(0, 3.2)
    right.legend(loc="upper center")
    label(right, "imbalance d", "λ_min(T)", "one product, σ = 1 and 0.5")
    return fig


def three_layers() -> Figure:
    """The bound against the truth for random factors, and for three numbers."""
    fig, (left, right) = panels(2)
    sizes = np.random.default_rng(1).integers(1, 4, size=(150, 2))
    chains = [
        [
            2.0 ** (i % 3) * normal(3 * i, 4, int(d)),
            normal(3 * i + 1, 4, 4) / 2,
            2.0 ** (i % 4) * normal(3 * i + 2, int(k), 4),
        ]
        for i, (d, k) in enumerate(sizes)
    ]
    _compare(left, chains, theory.three_layer_rate)
    label(left, "λ_min(T)", "bound", "150 random chains of three factors")
    dial = torch.linspace(0, 2, 41)
    weight = torch.full((1, 1), 0.1, dtype=torch.float64)
    made = [theory.factors_with_imbalance(weight, 3, [-float(d), float(d)]) for d in dial]
    right.plot(dial, [od.transfer_operator(chain).min_eigenvalue() for chain in made], "-", label="T")
    right.plot(dial, [theory.three_layer_rate(chain) for chain in made], "--", label="three layers, no margin")
    right.plot(dial, [theory.single_io_rate(chain) for chain in made], "-.", label="single input and output")
    right.legend(loc="upper left")
    label(right, "imbalance: w₁² = w₃² = w₂² + d", "T", "three numbers, w = 0.1")
    return fig


def scalar_chains() -> Figure:
    """The exact rate and the closed bound over the margin, and the factorial."""
    fig, (left, right) = panels(2)
    margins = torch.linspace(0, 1, 101, dtype=torch.float64)
    for squares, colour in (((1.0, 1.0, 1.0, 0.0), BLUE), ((2.0, 1.0, 0.5, 0.0), RED), ((2.0, 1.0, 0.0, 0.0), GREEN)):
        weights = torch.tensor(squares, dtype=torch.float64).sqrt()
        gaps = ", ".join(f"{s:g}" for s in squares[:3])
        left.plot(margins, theory.scalar_rate(weights, margins), "-", color=colour, label=f"imbalances {gaps}")
        closed = theory.scalar_rate_bound(weights, margins[::5])
        left.plot(margins[::5], closed, "o", color=colour, markersize=3)
    left.legend(loc="upper left")
    label(left, "margin", "rate", "four numbers: exact (lines), closed (dots)")
    depths = range(2, 10)
    for gap, style in ((0.5, "-"), (1.0, "--"), (2.0, "-.")):
        rates = [float(theory.scalar_rate((gap * torch.arange(n).double()).sqrt(), margin=0.0)) for n in depths]
        right.semilogy(depths, rates, style, marker="o", markersize=3, label=f"gaps of {gap:g}")
    right.plot(depths, [math.factorial(n - 1) for n in depths], "x", color="grey", label="(N − 1)!")
    right.legend(loc="upper left")
    label(right, "depth N", "rate at margin 0", "equal gaps between the squares")
    return fig


def homogeneous() -> Figure:
    """The rate over the margin for three shapes, and over the imbalance for three depths."""
    fig, (left, right) = panels(2)
    margins = torch.linspace(0, 1, 51)
    for shape, style, name in (((3, 3), "-", "square"), ((3, 5), "--", "wide, k < d"), ((5, 3), "-.", "tall, k > d")):
        weight = 0.5 * torch.eye(*shape, dtype=torch.float64)
        chain = theory.factors_with_imbalance(weight, 3, [1.0, 0.5])
        left.plot(margins, [theory.homogeneous_rate(chain, float(m)) for m in margins], style, label=name)
    left.legend(loc="upper left")
    label(left, "margin of σ_min", "rate", "depth 3, imbalances 1 and 0.5")
    dial = torch.linspace(0, 1.5, 41)
    weight = 0.5 * torch.eye(2, dtype=torch.float64)
    for depth, style in ((2, "-"), (3, "--"), (4, "-.")):
        made = [theory.factors_with_imbalance(weight, depth, [float(d)] * (depth - 1)) for d in dial]
        right.plot(dial, [theory.homogeneous_rate(chain, 0.1) for chain in made], style, label=f"depth {depth}")
    right.legend(loc="upper left")
    label(right, "imbalance between neighbours", "rate", "square products, margin 0.1")
    return fig


def discretization() -> Figure:
    """Descent at three learning rates beside the flow, and at the proved step below its envelope."""
    fig, (left, right) = panels(2)
    loss = theory.matrix_distance(torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64)))
    start = theory.factors_with_imbalance(0.1 * torch.eye(2, dtype=torch.float64), 2, 1.0)
    times = torch.linspace(0, 4, 81, dtype=torch.float64)
    left.semilogy(times, theory.flow(start, loss, times).gap, "-", label="flow")
    for lr, style in ((0.3, ":"), (0.1, "-."), (0.03, "--")):
        path = descend(start, loss, lr, round(4 / lr))
        at = [lr * step for step in range(len(path))]
        left.semilogy(at, _gaps(loss, path), style, label=f"descent, lr {lr:g}")
    left.legend(loc="lower left")
    label(left, "time lr × steps", "gap", "descent is Euler's method")
    found = theory.certify(
        start, strong_convexity=1.0, smoothness=1.0, gap=float(loss.gap(od.product(start))), target=loss.minimizer
    )
    step = found.step_size or math.nan
    steps = torch.arange(0, round(4 / step), max(1, round(4 / step) // 200))
    path = descend(start, loss, step, int(steps[-1]))
    right.semilogy(steps * step, _gaps(loss, [path[int(s)] for s in steps]), "-", label=f"descent, lr {step:.4f}")
    right.semilogy(steps * step, found.discrete_envelope(steps), "--", label="proved for these steps")
    right.semilogy(steps * step, found.envelope(steps * step), "-.", label="proved for the flow")
    right.legend(loc="lower left")
    label(right, "time lr × steps", "gap", "at the proved step size")
    return fig


def _multiplier(first: Tensor, second: Tensor, depth: float) -> Tensor:
    """Claim 1's eigenvalue of a pair of singular values."""
    return od.end_to_end_spectrum(torch.stack([first, second]).diag(), depth, rank_rtol=0.0)[
        (0, 1) if first >= second else (1, 0)
    ]


def _compare(ax: Axes, chains: Sequence[list[Tensor]], bound: Callable[[list[Tensor]], float]) -> None:
    """The bound of each chain against the truth, on logarithmic scales; what is not positive is left out."""
    truth = np.array([od.transfer_operator(chain).min_eigenvalue() for chain in chains])
    bounds = np.array([bound(chain) for chain in chains])
    shown = bounds > 1e-3
    ax.loglog(truth[shown], bounds[shown], "o", color=BLUE, markersize=3, alpha=0.7)
    ends = [truth[shown].min(), truth[shown].max()]
    ax.loglog(ends, ends, "-", color="black", linewidth=0.8)


def _gaps(loss: theory.Loss, path: Sequence[list[Tensor]]) -> list[float]:
    return [float(loss.gap(od.product(factors))) for factors in path]


THEOREM_PICTURES = [
    end_to_end,
    spectrum,
    single_output,
    infinite_depth,
    two_layers,
    three_layers,
    scalar_chains,
    homogeneous,
    discretization,
]
