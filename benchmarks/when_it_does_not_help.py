"""Where over-parameterization does not help: a ReLU network, well initialized, with a learning rate tuned for each arm.

    OVERDEPTH_DATA=path/to/data python benchmarks/when_it_does_not_help.py [--inputs standardized|raw] [--steps 469]

The network has three layers of weights and He's initialization, and every weight is trained as a product of 1, 2 or 3
balanced factors (``overdepth.optim.Factored``) under SGD, SGD with momentum and Adam. The start is the same function in
all arms, so that nothing but the path differs. The learning rate of an arm is searched on powers of sqrt(2), with seeds
of its own, until the best one has a worse one on either side; seeds that the search has not seen are then trained at
it, and depth N is compared with depth 1 seed by seed: same start, same batches. "Loss" is the lowest recorded mean
cross-entropy over the first 10,000 training images; a run that diverges has none. The default is one pass over MNIST.

``--inputs standardized`` gives the pixels together zero mean and unit variance, which He's initialization supposes;
``raw`` leaves them in [-0.5, 0.5], where they share a large mean.

Around it, what explains the outcome:

- how far the end-to-end rule is from a mere learning rate on these weights: the multipliers of Claim 1, and the cosine
  between the gradient and what the rule makes of it, at the start and after training;
- the trap: at one small learning rate for all, depth looks like a gain, and so does depth 1 with the learning rate of
  each weight multiplied by the mean multiplier;
- the rule itself (``EndToEndSGD``), without factors, at their learning rate;
- the plateau of chains that start near zero, on a linear problem (``overdepth.lab``);
- the time of a training step over that of depth 1, alternating in one process.

MNIST is read from ``mnist.npz`` (arrays ``x_train``, ``y_train``, as Keras has it) in the folder that OVERDEPTH_DATA
names; without it scikit-learn's digits stand in, and the first line says so. ``--quick`` is a small network and few
steps, to see that all runs. The last line is one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

import overdepth as od
from images import load
from measure import machine, ratio, timed
from overdepth._table import text_table
from overdepth.lab.curves import best_run, first_step, select
from relu_network import METHODS, QUICK, Experiment, Setting, by_the_rule, factored, plain, rate, rescaled

DEPTHS = (1, 2, 3)
SMALL_LR = 0.01
PLATEAU_LRS = (1e-2, 5e-2, 1e-1, 5e-1)


def main() -> int:
    """Runs the experiment and prints its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("auto", "mnist", "digits"), default="auto")
    parser.add_argument("--inputs", choices=("standardized", "raw"), default="standardized")
    parser.add_argument("--steps", type=int, help="of a run; default: 469")
    parser.add_argument("--batch", type=int, help="images a step; default: 128")
    parser.add_argument("--hidden", type=int, help="width of the hidden layers; default: 64")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    asked = {key: vars(options)[key] for key in ("steps", "batch", "hidden") if vars(options)[key] is not None}
    for key, value in asked.items():
        if value < 1:
            parser.error(f"--{key} is {value}, expected an integer >= 1.")
    try:
        data = load(options.data, options.inputs)
    except (OSError, ValueError, ImportError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    setting = (QUICK if options.quick else Setting())._replace(**asked)
    experiment = Experiment(data, setting)
    widths = [data.images.shape[1], setting.hidden, setting.hidden, 10]
    print(f"Data: {data.name}, {len(data.images)} images, {data.inputs}; network {'-'.join(map(str, widths))}")
    print(", ".join(f"{name} {value}" for name, value in setting._asdict().items()))
    figures: dict[str, object] = {
        "benchmark": "when_it_does_not_help",
        **machine(),
        "overdepth": od.__version__,
        "data": data.name,
        "inputs": data.inputs,
        "quick": options.quick,
        **setting._asdict(),
    }
    results, seconds = timed(lambda: _results(experiment))
    print(json.dumps({**figures, **results, "seconds": round(seconds)}, allow_nan=False))
    return 0


def _results(experiment: Experiment) -> dict[str, object]:
    tuned = {name: _tuned(experiment, name) for name in METHODS}
    trained = experiment.train(0, plain("SGD", tuned["SGD"]["1"]["lr"])).model
    return {
        "tuned": tuned,
        "small_lr": _at_small_lr(experiment),
        "rule": _by_the_rule(experiment, tuned["SGD"]),
        "multipliers": {
            "start": _multipliers(experiment, experiment.network(0), "at the start"),
            "trained": _multipliers(experiment, trained, "after training by SGD, depth 1, tuned"),
        },
        "plateau": _plateau(experiment.setting),
        "time_of_a_step": _times(experiment),
    }


def _tuned(experiment: Experiment, name: str) -> dict[str, dict[str, Any]]:
    """Every depth at its best learning rate, beside depth 1."""
    found: dict[str, dict[str, Any]] = {}
    losses: dict[int, list[float]] = {}
    rows = []
    for depth in DEPTHS:
        lr, searched, bracketed = _search(experiment, name, depth)
        losses[depth] = experiment.losses(factored(name, depth, lr))
        ratios = [deep / single for deep, single in zip(losses[depth], losses[1], strict=True)]
        found[str(depth)] = {
            "lr": lr,
            "bracketed": bracketed,
            "loss": _summary(losses[depth]),
            "over_depth_1": _summary(ratios),
            "outcome": _outcome(ratios) if depth > 1 else None,
            "search": {f"{each:g}": _summary(of) for each, of in searched.items()},
        }
        rows.append(
            [
                str(depth),
                f"{lr:g}" + ("" if bracketed else " (not bracketed)"),
                _shown(losses[depth]),
                _shown(ratios) if depth > 1 else "",
                _outcome(ratios) if depth > 1 else "",
                ", ".join(f"{each:g}: {_shown(of)}" for each, of in searched.items()),
            ]
        )
    header = ["depth", "tuned lr", "loss, median (range)", "over depth 1", "outcome", "search, other seeds"]
    _print(f"{name}, learning rate tuned for each depth", header, rows)
    return found


def _search(experiment: Experiment, name: str, depth: int) -> tuple[float, dict[float, list[float]], bool]:
    """The best learning rate, what was tried, and whether the best has a worse one on either side.

    Steps of 2 until it has, then of sqrt(2).
    """
    tried: dict[int, list[float]] = {}
    best, missing = 0, [0]
    for stride in (2, 1):
        missing = missing or [best - stride, best + stride]
        while missing and len(tried) < experiment.setting.searched:
            tried[missing[0]] = experiment.losses(factored(name, depth, rate(name, missing[0])), tuning=True)
            best = min(tried, key=lambda k: statistics.median(tried[k]))
            missing = [k for k in (best - stride, best + stride) if k not in tried]
    return rate(name, best), {rate(name, k): tried[k] for k in sorted(tried)}, not missing


def _at_small_lr(experiment: Experiment) -> dict[str, list[float | None]]:
    """SGD at one small learning rate for all, and depth 1 with that of each weight times its mean multiplier."""
    found, rows = {}, []
    for depth in DEPTHS:
        arms = {f"depth {depth}": factored("SGD", depth, SMALL_LR)}
        if depth > 1:
            arms[f"depth 1, lr x mean multiplier of depth {depth}"] = rescaled(depth, SMALL_LR)
        for label, make in arms.items():
            losses = experiment.losses(make)
            found[label] = _summary(losses)
            rows.append([label, _shown(losses)])
    _print(f"The trap: SGD at lr {SMALL_LR:g} for all", ["arm", "loss, median (range)"], rows)
    return found


def _by_the_rule(experiment: Experiment, tuned: dict[str, dict[str, Any]]) -> dict[str, list[float | None]]:
    """``EndToEndSGD`` beside ``Factored`` at the learning rate of the latter."""
    found, rows = {}, []
    for depth in DEPTHS[1:]:
        lr = tuned[str(depth)]["lr"]
        losses = experiment.losses(by_the_rule(depth, lr))
        found[str(depth)] = _summary(losses)
        rows.append([str(depth), f"{lr:g}", _shown(losses)])
    _print("The rule itself, at the factors' learning rate", ["depth", "lr", "loss, median (range)"], rows)
    return found


def _multipliers(experiment: Experiment, model: nn.Module, when: str) -> dict[str, dict[str, list[float]]]:
    """How far the rule is from a mere learning rate: mean, 10% and 90% of the multipliers, cosine with G."""
    model.zero_grad()
    experiment.loss(model).backward()  # type: ignore[no-untyped-call]
    found: dict[str, dict[str, list[float]]] = {}
    rows = []
    for name, p in model.named_parameters():
        if p.ndim < 2 or p.grad is None:
            continue
        found[name] = {}
        for depth in DEPTHS[1:]:
            spectrum = od.end_to_end_spectrum(p.detach(), depth)
            update = od.end_to_end_update(p.detach(), p.grad, depth)
            low, high = torch.quantile(spectrum, torch.tensor([0.1, 0.9])).tolist()
            cosine = F.cosine_similarity(update.flatten(), p.grad.flatten(), dim=0).item()
            values = [spectrum.mean().item(), low, high, cosine]
            found[name][str(depth)] = [float(f"{value:.3g}") for value in values]
            rows.append([name, str(depth), *(f"{value:.2f}" for value in values)])
    header = ["weight", "depth", "mean multiplier", "10%", "90%", "cosine with the gradient"]
    _print(f"What the rule does to a gradient, {when}", header, rows)
    return found


def _times(experiment: Experiment) -> dict[str, dict[str, float]]:
    """The time of a step under SGD over that of depth 1."""
    alone = experiment.step(plain("SGD", 1e-6))
    found, rows = {}, []
    for depth in DEPTHS[1:]:
        arms = {"Factored": factored("SGD", depth, 1e-6), "EndToEndSGD": by_the_rule(depth, 1e-6)}
        for label, make in arms.items():
            found[f"{label}, depth {depth}"] = ratio(experiment.step(make), alone, rounds=40)
            rows.append([f"{label}, depth {depth}", f"{found[f'{label}, depth {depth}']['ratio']:.2f}"])
    _print("Time of a step over that of depth 1, SGD", ["optimizer", "ratio"], rows)
    return found


def _plateau(setting: Setting) -> dict[str, dict[str, list[float | None]]]:
    """Chains on a linear problem with the l4 loss: the first step at which the loss is below 95% of the start's."""
    problem = od.lab.load_problem("breast-cancer")
    seeds = range(3)
    runs = od.lab.grid(depth=(*DEPTHS, 4), init=["near_zero", "near_identity"], lr=PLATEAU_LRS, seed=seeds)
    data = od.lab.sweep(problem, runs, objective="l4", steps=setting.plateau_steps, record_every=5)
    found: dict[str, dict[str, list[float | None]]] = {}
    rows = []
    for init in ("near_zero", "near_identity"):
        found[init] = {}
        for depth in (*DEPTHS, 4):
            steps, rates = [], []
            for seed in seeds:
                part = select(data, init=init, depth=depth, seed=seed)
                best = best_run(part)
                curve = part.loss.values[0 if best is None else best]
                moved = first_step(curve, data.step.values, 0.95 * curve[0])
                steps.append(math.inf if best is None or math.isnan(moved) else max(math.ceil(moved), 1))
                rates.append(math.nan if best is None else float(part.lr.values[best]))
            found[init][str(depth)] = _summary(steps)
            rows.append([init, str(depth), _shown(steps, "never"), ", ".join(f"{lr:g}" for lr in dict.fromkeys(rates))])
    title = f"First step below 95% of the start's loss, linear chains, {setting.plateau_steps} steps, breast-cancer, l4"
    _print(title, ["init", "depth", "step, median (range)", "best lr"], rows)
    return found


def _outcome(ratios: Sequence[float]) -> str:
    """What the seeds say together; a single one that disagrees makes it undecided."""
    if all(each < 1 for each in ratios):
        return "lower for every seed"
    return "higher for every seed" if all(each > 1 for each in ratios) else "seeds disagree"


def _summary(values: Sequence[float]) -> list[float | None]:
    """Median, smallest and largest, None where infinite: what the JSON holds."""
    numbers = (statistics.median(values), min(values), max(values))
    return [float(f"{number:.4g}") if math.isfinite(number) else None for number in numbers]


def _shown(values: Sequence[float], infinite: str = "diverged") -> str:
    shown = [
        infinite if number is None else f"{number:.3g}" if number < 100 else f"{number:.0f}"
        for number in _summary(values)
    ]
    return shown[0] if shown[1] == shown[2] else f"{shown[0]} ({shown[1]} to {shown[2]})"


def _print(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    print("\n".join(["", title, "", *text_table(header, rows)]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
