"""Draws the pictures of the pages in docs/theory, one a page, from what ``overdepth`` computes, for wide and
narrow screens.

    python -m docs.pictures [--out DIR] [NAME ...]

Without names all of them, in some seconds. Seeds are fixed, and no date is written.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from docs.drawing import BLUE, GREEN, RED, SKY, STYLE, descend, label, norm, normal, panels, save, stack
from docs.theorem_pictures import THEOREM_PICTURES
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

import overdepth as od
from overdepth import theory

PAGES = Path(__file__).parent / "theory"


def transfer_operator() -> Figure:
    """Claim 1's eigenvalues over pairs of singular values, and the spectrum along the dial of imbalance."""
    fig, (left, right) = panels(2)
    sigma = torch.linspace(0.02, 2, 40, dtype=torch.float64).flip(0)
    eigenvalues = od.end_to_end_spectrum(sigma.diag(), depth=3)
    filled = left.contourf(sigma, sigma, eigenvalues, levels=[0, 0.5, 1, 2, 3, 4, 5, 6, 7, 8], cmap="cividis")
    fig.colorbar(filled, ax=left, label="eigenvalue of T")
    label(left, "singular value σ_r", "singular value σ_s", "balanced, N = 3: direction u_r v_sᵀ")
    weight = torch.tensor([[1.0, 0, 0], [0, 0.3, 0]], dtype=torch.float64)
    dial = torch.linspace(-2, 2, 121, dtype=torch.float64)
    chains = [theory.factors_with_imbalance(weight, 2, float(d)) for d in dial]
    spectra = torch.stack([od.transfer_operator(chain).spectrum() for chain in chains])
    right.plot(dial, spectra[:, 1:], "-", color=SKY, label=["the other five", *4 * [None]])
    right.plot(dial, spectra[:, 0], "-", color=RED, linewidth=2, label="λ_min(T)")
    right.legend(loc="upper center")
    label(right, "imbalance d (0: balanced)", "eigenvalues of T", "N = 2, the same 2 × 3 product, σ = 1 and 0.3")
    return fig


def imbalance() -> Figure:
    """What gradient descent and weight decay do to the imbalance."""
    fig, (left, right) = panels(2)
    loss = theory.matrix_distance(torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64)))
    start = theory.factors_with_imbalance(0.5 * loss.minimizer + 0.2, 3, [1.0, -0.5])
    before, grad = od.imbalance(start), loss.gradient(od.product(start))

    def moved(lr: float, steps: int) -> float:
        after = od.imbalance(descend(start, loss, lr, steps)[-1])
        return norm([a - b for a, b in zip(after, before, strict=True)])

    lrs = [0.1 / 2**i for i in range(8)]
    formula = [norm(theory.imbalance_drift(start, grad, lr)) for lr in lrs]
    left.loglog(lrs, formula, "-", color=BLUE, label="one step, formula: ∝ lr²")
    left.loglog(lrs, [moved(lr, 1) for lr in lrs], "o", color=BLUE, label="one step, measured")
    left.loglog(lrs, [moved(lr, round(2 / lr)) for lr in lrs], "s-", color=RED, label="until time 2: ∝ lr")
    left.legend()
    label(left, "learning rate lr", "‖D − D(0)‖_F", "what descent adds, without decay")
    times = torch.linspace(0, 4, 9)
    for decay, colour in ((0.0, "black"), (0.1, BLUE), (0.5, RED)):
        flowed = [norm(theory.decayed_imbalance(start, float(t), decay)) for t in times]
        stepped = [norm(od.imbalance(chain)) for chain in descend(start, loss, 0.02, 200, decay)[::25]]
        right.semilogy(times, flowed, "-", color=colour, label=f"weight decay {decay:g}")
        right.semilogy(times, stepped, "o", color=colour)
    right.legend(loc="lower left")
    label(right, "time lr × steps", "‖D‖_F", "flow (lines), descent with lr = 0.02 (dots)")
    return fig


def rates() -> Figure:
    """The flow below its envelopes, and the frozen prediction, from two starts."""
    loss = theory.matrix_distance(torch.tensor([[2.0, 0.5], [0.0, 1.0]], dtype=torch.float64))
    one = torch.eye(2, dtype=torch.float64)
    starts = (theory.factors_with_imbalance(0.4 * one, 2, 1.0), od.balanced_factors(loss.minimizer + 0.55 * one, 2))
    fig, axes = panels(2)
    for ax, start, title in zip(axes, starts, ("short of the minimizer, D = I", "beyond it, balanced"), strict=True):
        gap, times = float(loss.gap(od.product(start))), torch.linspace(0, 3, 91, dtype=torch.float64)
        found = theory.certify(start, strong_convexity=1, smoothness=1, gap=gap, target=loss.minimizer)
        ax.semilogy(times, theory.flow(start, loss, times).gap, label="gap of the flow")
        ax.semilogy(times, found.envelope(times), "--", color=BLUE, label="certified envelope")
        ax.semilogy(times, found.adaptive_envelope(times), "-", color=BLUE, label="adaptive envelope")
        ax.semilogy(times, found.frozen(times), ":", color=RED, linewidth=2, label="frozen prediction, no bound")
        label(ax, "time", "gap f(W(t)) − f*", title)
    axes[0].legend(loc="lower left")
    return fig


def flow() -> Figure:
    """Two forms of the flow, gradient descent beside it, and the distance against the learning rate."""
    X = normal(0, 100, 4)
    loss = theory.least_squares(theory.whiten(X).data, X @ normal(1, 4, 3) + 0.1 * normal(2, 100, 3))
    start = od.balanced_factors(0.1 * normal(3, 3, 4), depth=3)
    fig, (left, right) = panels(2)
    times = torch.linspace(0, 4, 81, dtype=torch.float64)
    left.plot(times, theory.flow(start, loss, times).gap, label="flow of the layers")
    left.plot(
        times[::4], theory.flow(start, loss, times[::4], kind="end_to_end").gap, "o", color=SKY, label="Theorem 1"
    )
    for lr, colour in ((0.2, RED), (0.1, BLUE)):
        gaps = [float(loss.gap(od.product(chain))) for chain in descend(start, loss, lr, round(4 / lr))]
        left.plot(np.linspace(0, 4, len(gaps)), gaps, "--", color=colour, label=f"gradient descent, lr {lr:g}")
    left.legend()
    label(left, "time lr × steps", "gap f(W) − f*", "depth 3, near zero")
    lrs = [0.08, 0.04, 0.02, 0.01, 0.005]
    found = theory.discretization_gap(start, loss, lrs, time=2.0, batch_size=4, seeds=range(32))
    noise = found.noise.mean("seed")
    slope = np.polyfit(np.log(lrs), np.log(noise), 1)[0]
    right.loglog(lrs, noise, "s--", color=RED, label=f"noise of batches of 4: slope {slope:.2f}")
    right.loglog(lrs, found.distance, "o-", color=BLUE, label=f"full gradient: slope {found.attrs['order']:.2f}")
    right.legend(loc="center right", bbox_to_anchor=(1, 0.62))
    right.set_xticks(lrs, [f"{lr:g}" for lr in lrs])
    right.xaxis.set_minor_formatter(NullFormatter())
    label(right, "learning rate lr", "distance at time 2, ‖·‖_F", "from the flow to gradient descent")
    return fig


def modes() -> Figure:
    """One mode at depths 1 to 4, and at depth 2 with an imbalance."""
    fig, (left, right) = panels(2)
    times = torch.linspace(0, 24, 241, dtype=torch.float64)
    for depth in (1, 2, 3, 4):
        path = theory.deep_mode(times, [0.001 ** (1 / depth)] * depth, 1.0)
        (drawn,) = left.plot(times, path, label=f"depth {depth}")
        left.plot(theory.escape_time(0.001, 1.0, depth).time, 0.5, "o", color=drawn.get_color())
    left.legend(loc="lower right")
    label(left, "time", "mode u(t), target s = 1", "balanced, u(0) = 0.001; dots: escape_time")
    times = torch.linspace(0, 6, 121, dtype=torch.float64)
    for lam in (0.0, 0.5, 2.0, 4.0):
        a = math.sqrt((lam + math.sqrt(lam**2 + 4 * 0.01**2)) / 2)
        error = 1 - theory.two_layer_mode(times, a, 0.01 / a, 1.0)
        right.semilogy(times, error, label=f"a² − b² = {lam:g}: final rate {math.sqrt(4 + lam**2):.2f}")
    right.set_ylim(1e-14, 2)
    right.legend(loc="lower left")
    label(right, "time", "error s − u(t)", "depth 2, u(0) = ab = 0.01")
    return fig


def frozen() -> Figure:
    """The gap against the frozen prediction at four widths, and the page's table."""
    fig, (left, right) = panels(2)
    loss = theory.matrix_distance(normal(4, 3, 3))
    clock = torch.linspace(0, 8, 81, dtype=torch.float64)
    for width in (300, 30, 10, 3):
        start = [normal(7, width, 3) / width**0.25, normal(8, 3, width) / width**0.25]
        gaps = theory.flow(start, loss, clock / (theory.frozen_rate(start) * loss.pl)).gap
        left.semilogy(clock, gaps / gaps[0], label=f"width {width}")
    left.semilogy(clock, torch.exp(-clock), "-", color=SKY, label="frozen prediction")
    left.set_ylim(1e-8, 1e3)
    left.legend(loc="upper right", ncols=2)
    label(left, "λ_min(T(0)) × pl × time", "gap(t) / gap(0)", "depth 2, one seed a width")
    rows = re.findall(r"^\| (\d+) \|(.*)", (PAGES / "frozen.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for depth, colour, marker in ((2, BLUE, "o"), (3, RED, "s")):
        cells = [(float(width) * (0.9 + depth / 25), row.split("|")[2 * depth - 4]) for width, row in rows]
        table = [[x, *map(float, re.findall(r"[\d.]+", cell))] for x, cell in cells if cell.strip()]
        at, middle, low, high = np.array(table).T
        whiskers = [middle - low, high - middle]
        right.errorbar(at, middle, whiskers, fmt=f"{marker}-", color=colour, capsize=3, label=f"depth {depth}")
    right.axhline(1, color=SKY)
    right.set(xscale="log", yscale="log")
    right.legend()
    label(right, "width", "measured rate / frozen rate", "median and range of 5 seeds")
    return fig


def geometry() -> Figure:
    """Steps of equal length at diagonal weights, and the level lines of the decay's potential."""
    fig, axes = panels(3, 9.0, 3.3)
    angles = torch.linspace(0, 2 * math.pi, 33, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()])
    steps, marks = torch.diag_embed(circle.T), torch.tensor([0.1, 0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
    for ax, depth, scale, title in zip(axes, (2, math.inf), (2, 1), ("depth 2", "infinite depth"), strict=False):
        for at in torch.cartesian_prod(marks, marks):
            squares = theory.riemannian_inner(at.diag().expand_as(steps), steps, steps, depth)
            ball = at[:, None] + 0.11 * circle / (squares * scale).sqrt()
            ax.fill(*ball, facecolor=SKY, edgecolor=BLUE, linewidth=0.8, linestyle="-")
        ax.set(aspect="equal", xlim=(0, 2.4), ylim=(0, 2.4))
        label(ax, "singular value σ₁", "singular value σ₂", f"{title}: steps of equal length")
    grid = 1.4 * torch.linspace(0, 1, 101, dtype=torch.float64) ** 2
    points = torch.diag_embed(torch.cartesian_prod(grid, grid))
    for depth, colour in ((1, "black"), (2, BLUE), (3, RED), (6, GREEN)):
        potential = theory.decay_potential(points, depth, 2 / depth).reshape(101, 101)
        axes[2].contour(grid, grid, potential, levels=[1.0], colors=[colour])
        axes[2].plot([], [], "-", color=colour, label=f"N = {depth}")
    axes[2].set(aspect="equal", xlim=(0, 1.4), ylim=(0, 1.4))
    axes[2].legend(loc="upper right")
    label(axes[2], "singular value σ₁", "singular value σ₂", "weight decay: Σ σᵢ^(2/N) = 1")
    return fig


def no_regularizer() -> Figure:
    """The field of a constant gradient with the closed curve, and its line integral over the depth."""
    fig, (left, right) = panels(2)
    e = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    axis = torch.linspace(-1.1, 1.1, 12, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    field = theory.vector_field(grid[:, None, :], lambda w: e, depth=5)[:, 0]
    left.quiver(*grid.T, *field.T, color=BLUE, width=0.006)
    curve = theory.closed_curve(e, 0.35, 1.0)
    line = curve.points[:, 0]
    left.plot(*torch.cat([line, line[:1]]).T, "-", color=RED)
    for at in (32, 96, 160, 224):  # the middle of each piece
        arrow = {"arrowstyle": "-|>", "color": RED, "mutation_scale": 16}
        left.annotate("", xytext=tuple(line[at - 1].tolist()), xy=tuple(line[at + 1].tolist()), arrowprops=arrow)
    left.set(aspect="equal")
    label(left, "w₁, along the gradient e", "w₂", "field F at N = 5 and the curve Γ, r = 0.35, R = 1")
    depths = np.linspace(1, 8, 71)
    right.plot(depths, [theory.curve_integral_exact(0.35, 1.0, n) for n in depths], label="Lemma 3")
    found = [theory.curve_integral(lambda w: e, curve, n) for n in range(1, 9)]
    right.plot(range(1, 9), found, "o", color=RED, label="quadrature along Γ")
    right.axhline(0, color="grey", linewidth=0.8)
    right.legend(loc="upper left")
    label(right, "depth N", "line integral of F along Γ", "zero for N = 1 and 2 only")
    return fig


def momentum() -> Figure:
    """The kernel of a run that starts with the wrong sign, and what its steps are made of."""
    fig, (left, right) = panels(2)
    x, lr = normal(0, 100, 3), 0.08
    y = x @ torch.tensor([1.0, 0.5, -1.0], dtype=torch.float64)
    first, second = torch.tensor([[-0.5, -0.3, 0.2]], dtype=torch.float64), torch.tensor([0.8], dtype=torch.float64)
    grads = torch.zeros(0, 3, dtype=torch.float64)
    for _ in range(20):
        grad = x.T @ (x @ (second[-1] * first[-1]) - y) / len(x)
        w1, w2 = first[-1] - lr * second[-1] * grad, second[-1] - lr * (grad @ first[-1])
        first, second, grads = torch.vstack([first, w1]), torch.hstack([second, w2]), torch.vstack([grads, grad])
    kernel = theory.momentum_kernel(first, second, grads, lr)
    t, tau = np.tril_indices(20, -1)
    colours, norms = mpl.colormaps["PuOr_r"].resampled(16), mpl.colors.BoundaryNorm(np.linspace(-4, 4, 17), 16)
    drawn = left.scatter(
        tau, t, c=1000 * kernel.momentum[t, tau], marker="s", s=52, linewidths=0, cmap=colours, norm=norms
    )
    fig.colorbar(drawn, ax=left, label="1000 × coefficient μ(t, τ)", ticks=range(-4, 5))
    left.set(aspect="equal", yticks=range(0, 20, 5))
    label(left, "past gradient τ", "step t", "the kernel: |w₂| shrinks, then grows")
    parts = kernel.parts(grads)
    right.plot(parts.current.norm(dim=1), label="current gradient")
    right.plot(parts.start.norm(dim=1), label="start: what the paper drops")
    right.plot(parts.momentum.norm(dim=1), label="past gradients: momentum")
    right.plot(0.1 * second, label="w₂ / 10")
    right.set_ylim(0, 0.15)
    right.legend(loc="upper center")
    label(right, "step t", "norms of the summands of a step", "what w(t+1) − w(t) is made of")
    return fig


def acceleration() -> Figure:
    """The speed-up measured and predicted, and the threshold."""
    fig, (left, right) = panels(2)
    for eps1, colour, marker in ((0.02, BLUE, "o"), (0.05, RED, "s")):
        plans = [theory.plan_two_point(y1, 1.0, eps1) for y1 in (10, 15, 20, 30, 40, 60, 80)]
        fast = [theory.run_two_point(p.targets, p.start, p.lr_end_to_end, depth=2).second_steps or 0 for p in plans]
        slow = [theory.run_two_point(p.targets, p.start, 0.999 * p.lr_gd).second_steps or 0 for p in plans]
        ratios = np.array(slow) / np.array(fast)
        left.loglog([p.ratio for p in plans], ratios, marker, color=colour, label=f"ε₁ = {eps1:g}, y₁ = 10 to 80")
    left.loglog([40, 1300], [40, 1300], color="black", label="as predicted")
    left.legend()
    label(left, "predicted: y₁ / 4ε₁", "measured: steps of descent / of the rule", "acceleration of w₂")
    products = np.geomspace(0.063, 4, 60)
    plans = [theory.plan_two_point(100.0, 1.0, product / 100) for product in products]
    runs = [theory.run_two_point(p.targets, p.start, p.lr_end_to_end, depth=2) for p in plans]
    right.loglog(products, [run.steps or math.nan for run in runs], color=BLUE)
    right.axvspan(0.03, 100 * plans[0].threshold, color=SKY, alpha=0.4, linewidth=0)
    right.axvline(100 * plans[0].paper_threshold, color="grey")
    right.set_xlim(0.03, 4)
    words: dict[str, Any] = {"va": "center", "transform": right.get_xaxis_transform()}
    right.text(0.043, 0.5, "diverges below 1/16", rotation=90, ha="center", **words)
    right.text(0.28, 0.1, "the paper's condition:\nbeyond 1/4", **words)
    label(right, "ε₁ y₁ (y₁ = 100, y₂ = 1)", "steps of the rule until both fit", "the threshold")
    return fig


PICTURES = [transfer_operator, imbalance, rates, flow, modes, frozen, geometry, no_regularizer, momentum, acceleration]
DRAW: dict[str, Callable[[], Figure]] = {
    draw.__name__.replace("_", "-"): draw for draw in (*PICTURES, *THEOREM_PICTURES)
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws the pictures that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DRAW))
    parser.add_argument("--out", type=Path, default=PAGES / "pictures", help="folder of the SVG files")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.names) - set(DRAW):
        parser.error(f"no picture {min(unknown)!r}; choose from {', '.join(DRAW)}")
    (chosen.out / "narrow").mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        for name in chosen.names or DRAW:
            figure = DRAW[name]()
            size = save(figure, chosen.out / f"{name}.svg")
            save(stack(figure), chosen.out / "narrow" / f"{name}.svg")
            print(f"{name}.svg: {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
