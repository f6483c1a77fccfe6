"""Figure 5, right: a convolutional network on MNIST whose dense layers are products of two matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from overdepth.lab.curves import select
from overdepth.paper.claim import Claim, Setting, Statement
from overdepth.paper.context import Context
from overdepth.paper.item import Item
from overdepth.paper.network import forms
from overdepth.paper.network.curves import (
    INSENSITIVE,
    MEASURES,
    WINDOW,
    Measure,
    acceleration,
    sensitivity,
    times_by_std,
    tuned,
)
from overdepth.paper.network.mnist import DIGITS, MNIST
from overdepth.paper.network.penalty import MEANINGS, PENALTIES, Penalty
from overdepth.paper.network.pictures import pictures
from overdepth.paper.network.study import FULL, SHORT, extent_of, seeds_of, work
from overdepth.paper.network.training import HORIZON, Arm

SOURCE = "Arora, Cohen & Hazan 2018, Figure 5 (right)"
SCALING = "pixels in [-0.5, 0.5]"
FORMS_TOLERANCE = 1e-9

FASTER = Statement(
    id="fig5.cnn",
    source=SOURCE,
    text="Two matrices in the place of each dense layer's one accelerate the training considerably.",
    statistic=f"catch-up C over the plain network, batch loss (mean of the last {WINDOW}), lr tuned per model",
    threshold=">= 1.5",
    holds=lambda ratio: ratio >= 1.5,
)
INSENSITIVE_TO_STD = Statement(
    id="fig5.cnn-std",
    source=SOURCE,
    text="The acceleration does not depend on the new matrices' standard deviation.",
    statistic=(
        "iterations to the plain network's final batch loss "
        f"(mean of the last {WINDOW}), largest / smallest over the standard deviations"
    ),
    threshold=f"<= {INSENSITIVE:g}",
    holds=lambda ratio: ratio <= INSENSITIVE,
)
SAME_IN_BOTH_FORMS = Statement(
    id="fig5.cnn-forms",
    source=SOURCE,
    text="Factors in the model and factors in the optimizer train the same network.",
    statistic=f"largest relative difference of the batch loss over the first {forms.STEPS} iterations, float64",
    threshold=f"<= {FORMS_TOLERANCE:g}",
    holds=lambda difference: difference <= FORMS_TOLERANCE,
)


def claims(data: xr.Dataset, setting: Setting) -> list[Claim]:
    """The verdicts for each place of the penalty, on the cross-entropy and on the total loss."""
    setting = replace(setting, data=str(data.attrs["images"]), steps=data.sizes["step"])
    found: list[Claim] = []
    for measure in MEASURES:
        for penalty in PENALTIES:
            found.append(_faster(data, measure, penalty, "plain", setting))
            found.append(_faster(data, measure, penalty, "matched", setting))
    found += [_insensitive(data, measure, penalty, setting) for measure in MEASURES for penalty in PENALTIES]
    return found + _forms(data, setting)


def _faster(data: xr.Dataset, measure: Measure, penalty: Penalty, reference: Arm, setting: Setting) -> Claim:
    ratios = [acceleration(data, measure, penalty, reference, seed) for seed in setting.seeds]
    rates = dict.fromkeys(
        f"({tuned(data, measure, reference, seed):g}, {tuned(data, measure, penalty, seed):g})"
        for seed in setting.seeds
    )
    note = f"Chosen lr (plain, two matrices): {', '.join(rates)}."
    if measure == "total_loss":
        note += " The total losses contain different penalties, which are large before the weights have shrunk."
    control = reference == "matched"
    what = "plain from the same initial products" if control else "plain"
    comparison = f"{MEASURES[measure]}, {MEANINGS[penalty]}: two matrices against {what}"
    return FASTER.judge(comparison, ratios, setting, note=_on_digits(note, data), control=control)


def _insensitive(data: xr.Dataset, measure: Measure, penalty: Penalty, setting: Setting) -> Claim:
    ratios = [sensitivity(data, measure, penalty, seed) for seed in setting.seeds]
    seed = setting.seeds[0]
    lr = tuned(data, measure, penalty, seed)
    shown = []
    for std, time in times_by_std(data, measure, penalty, seed).items():
        diverged = (select(data, arm=penalty, seed=seed, lr=lr, std=std)["diverged_at"].values > 0).any()
        shown.append(f"{std:g}: {f'{time:,.0f}' if time == time else 'diverged' if diverged else 'never'}")
    note = f"Iterations by standard deviation (seed {seed}, lr {lr:g}): {', '.join(shown)}."
    if any(ratio.is_bound for ratio in ratios):
        note += " The number is a lower bound: some did not reach the loss within the horizon."
    comparison = f"{MEASURES[measure]}, {MEANINGS[penalty]}: standard deviations against each other"
    samples = [ratio.value for ratio in ratios]
    return INSENSITIVE_TO_STD.judge(comparison, samples, setting, note=_on_digits(note, data))


def _forms(data: xr.Dataset, setting: Setting) -> list[Claim]:
    found = []
    steps = data.sizes["forms_step"]
    few = "" if steps >= forms.STEPS else f"{steps} iterations; the statement is about {forms.STEPS}."
    for penalty in data["forms_penalty"].values.tolist():
        losses = data["forms_loss"].sel(forms_penalty=penalty)
        first, second = (losses.sel(form=form).values for form in (1, 2))
        largest = (np.abs(first - second) / np.abs(first)).max(axis=-1)
        found.append(
            SAME_IN_BOTH_FORMS.judge(
                f"{MEANINGS[penalty]}: factors in the model (form 1) against factors in the optimizer (form 2)",
                largest.tolist(),
                replace(setting, steps=steps, horizon=0),
                note="At the tutorial's lr 0.01, with the same dropout masks.",
                control=True,
                too_few=few,
            )
        )
    return found


def _on_digits(note: str, data: xr.Dataset) -> str:
    if data.attrs["images"] != DIGITS:
        return note
    return f"{note} Scikit-learn's 1,797 digits, enlarged to 28 x 28 pixels, stand in for MNIST: another experiment."


@dataclass(frozen=True)
class NetworkItem(Item):
    """An item that brings its own data and length."""

    def setting(self, context: Context) -> Setting:
        """MNIST, as long as the context asks for; the claims say so where other images stood in."""
        return Setting(MNIST, SCALING, seeds_of(context), extent_of(context).steps, HORIZON)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


ITEM = NetworkItem(
    name="network",
    title="Figure 5, right: a convolutional network",
    said=(
        "On MNIST, with the convolutional network of the TensorFlow 1 tutorial, a product of two matrices in the place "
        "of each dense layer's matrix accelerates the training considerably, with 15% more parameters.",
        "The acceleration stays for other learning rates and other standard deviations of the new matrices.",
    ),
    ran=(
        "The tutorial's network: two convolutions, dense layers 3136 to 512 to 10, dropout 0.5, momentum 0.9, batches "
        "of 64 in order, learning rate times 0.95 after every epoch, 5e-4 times half the squared norm of the dense "
        "layers in the loss.",
        "Two matrices: 3136 to 512 to 512, and 512 to 10 to 10, the new ones drawn like the old. The paper does not "
        "say where the penalty then falls, so there are three: on the products, on all factors, on the old matrices.",
        "Control: one matrix a layer, started at the products of those two matrices, tuned alike.",
        f"With --full: {HORIZON:,} iterations (10 epochs), learning rates {_listed(FULL.rates)}, then standard "
        f"deviations {_listed(FULL.stds)} at the best learning rate: hours, continued where they were interrupted.",
        f"Else: {SHORT.steps} iterations, one seed, learning rates {_listed(SHORT.rates)}, standard deviations "
        f"{_listed(SHORT.stds)}, which decides nothing.",
        "Learning rates are chosen by the smoothed loss that is compared, at the last iteration.",
    ),
    statements=(FASTER, INSENSITIVE_TO_STD, SAME_IN_BOTH_FORMS),
    work=work,
    claims=claims,
    pictures=pictures,
    part="network",
    needs="MNIST",
    minutes=(6.0, 0.5),
)
