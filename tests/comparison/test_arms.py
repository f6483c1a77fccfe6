"""Arms: their short names, and what they make of a model and an optimizer."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from tests.comparison.problems import network, task
from torch import nn

from overdepth.comparison.arms import Arm, parse_arms
from overdepth.comparison.jobs import Job
from overdepth.comparison.making import make
from overdepth.comparison.training import train
from overdepth.optim import EndToEndSGD, Factored


@pytest.mark.parametrize(
    ("text", "form", "depth", "init", "scale"),
    [
        ("plain", 0, 1, "balanced", 0.01),
        ("form1:2", 1, 2, "balanced", 0.01),
        ("form2:3:near_identity", 2, 3, "near_identity", 0.01),
        ("form1:3:near_zero:0.5", 1, 3, "near_zero", 0.5),
        ("form2:2:orthogonal:match", 2, 2, "orthogonal", "match"),
        ("form3:2.5", 3, 2.5, "balanced", 0.01),
        ("form3:inf", 3, math.inf, "balanced", 0.01),
    ],
)
def test_short_names(text: str, form: int, depth: float, init: str, scale: float | str) -> None:
    arm = Arm.parse(text)
    assert (arm.name, arm.form, arm.depth, arm.init, arm.scale) == (text, form, depth, init, scale)
    assert isinstance(arm.depth, int) == (depth != 2.5 and math.isfinite(depth))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("form4:2", "arm is 'form4:2', expected plain, again, or FORM:DEPTH"),
        ("form1", "arm is 'form1', expected"),
        ("form1:two", "depth of arm 'form1:two' is 'two', expected a number"),
        ("form1:1", "depth of arm 'form1:1' is 1, expected more than 1"),
        ("form1:2.5", "depth of arm 'form1:2.5' is 2.5, expected an integer"),
        ("form1:2:zeros", "init of arm 'form1:2:zeros' is 'zeros', expected one of near_zero"),
        ("form3:2:near_zero", "has no factors that could be started; leave it out"),
        ("form1:2:near_zero:-1", "scale of arm 'form1:2:near_zero:-1' is -1.0, expected a finite number > 0"),
    ],
)
def test_what_is_no_arm_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"\.$") as caught:
        Arm.parse(text)
    assert message in str(caught.value)


def test_plain_is_always_there_and_first() -> None:
    assert [arm.name for arm in parse_arms(["form1:2", "plain"])] == ["plain", "form1:2"]
    with pytest.raises(ValueError, match="besides 'plain' is 0, expected an integer >= 1; name one"):
        parse_arms(["plain"])
    with pytest.raises(ValueError, match="two arms are called 'x'; give each a name of its own"):
        parse_arms([Arm("x", lr_factor=2), Arm("x", lr_factor=3)])
    with pytest.raises(TypeError, match="expected a list such as"):
        parse_arms("form1:2")


@pytest.mark.parametrize("arm", ["form1:2", "form2:2", "form2:3", "form3:2", "form3:2.5", "form1:3:identity"])
def test_arms_that_keep_the_function_start_where_plain_training_does(arm: str) -> None:
    given = task(build=network)
    losses = [train(given, Job("final", Arm.parse(name), 0.01, 0, 1)).losses[0] for name in ("plain", arm)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_form_1_and_form_2_are_the_same_path_and_form_3_nearly_so() -> None:
    given = task(build=network)
    first, second, third = (
        train(given, Job("final", Arm.parse(arm), 0.01, 0, 20)).losses for arm in ("form1:2", "form2:2", "form3:2")
    )
    plain = train(given, Job("final", Arm("plain"), 0.01, 0, 20)).losses
    assert second == pytest.approx(first, rel=1e-4)
    assert abs(third - first).max() < 0.2 * abs(plain - first).max()


@pytest.mark.parametrize(
    ("base", "arm", "kind"),
    [
        (torch.optim.SGD, "form3:2", EndToEndSGD),
        (partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1), "form3:2", EndToEndSGD),
        (partial(torch.optim.SGD, momentum=0.9, dampening=0.5), "form3:2", torch.optim.SGD),
        (torch.optim.Adam, "form3:2", torch.optim.Adam),
        (torch.optim.Adam, "form2:2", Factored),
        (torch.optim.Adam, "form1:2", torch.optim.Adam),
    ],
)
def test_the_optimizer_of_a_form(base: Any, arm: str, kind: type) -> None:
    made = make(task(base=base, build=network), Arm.parse(arm), 0.01, 0)
    assert isinstance(made.optimizer, kind)
    assert {group["lr"] for group in made.optimizer.param_groups} == {0.01}


@pytest.mark.parametrize("form", ["form1:2", "form2:2", "form3:2"])
def test_every_form_takes_the_same_layers(form: str) -> None:
    """The head too, which ``param_groups`` would leave out; and what ``select`` says."""

    def moved(select: Any) -> list[bool]:
        given = task(build=network, select=select)
        one, other = (make(given, Arm.parse(arm), 0.1, 0) for arm in ("plain", form))
        batch = given.data
        for made in (one, other):
            given.loss_step(made.model, batch).backward()  # type: ignore[no-untyped-call]
            made.optimizer.step()
        pairs = zip(one.weights(), other.weights(), strict=True)
        return [not torch.allclose(a, b) for a, b in pairs if a.ndim > 1]

    assert moved(None) == [True, True]
    assert moved(lambda layer, name: name == "2") == [False, True]


def test_lengths_of_a_form_are_those_of_its_products() -> None:
    given = task(build=network)
    found = train(given, Job("final", Arm.parse("form1:2"), 0.05, 0, 7, keeps_lengths=True))
    assert found.lengths is not None
    assert found.lengths.shape == (7, 4)
    again = train(given, Job("matched", Arm("plain"), 0.3, 0, 7, lengths=found.lengths, keeps_lengths=False))
    assert again.status == "done"
    made = make(given, Arm("plain"), 0.3, 0)
    start = [weight.clone() for weight in made.weights()]
    given.loss_step(made.model, given.data).backward()  # type: ignore[no-untyped-call]
    assert len(start) == found.lengths.shape[1]


def test_steps_of_given_lengths_have_them() -> None:
    """The recorder, on the run that the matcher steers, reads what the matcher was given."""
    from overdepth.comparison.batches import batches
    from overdepth.comparison.lengths import LengthMatcher, LengthRecorder

    given = task(build=network)
    wanted = train(given, Job("final", Arm.parse("form1:3"), 0.05, 0, 5, keeps_lengths=True)).lengths
    assert wanted is not None
    made = make(given, Arm("plain"), 0.3, 0)
    recorder, matcher = LengthRecorder(made), LengthMatcher(made, wanted)
    for step, batch in zip(range(5), batches(given, 0), strict=False):
        made.optimizer.zero_grad()
        given.loss_step(made.model, batch).backward()  # type: ignore[no-untyped-call]
        recorder.before()
        matcher.before()
        made.optimizer.step()
        matcher.after(step)
        recorder.after(step)
    assert recorder.table() == pytest.approx(wanted, rel=1e-3, abs=1e-7)


def test_the_norm_matched_arm_starts_at_the_norm_of_the_plain_one() -> None:
    arm = Arm.parse("form2:2:near_zero:0.3")
    matched = arm.matched_in_norm
    assert matched is not None
    assert matched.control_of == arm.name
    norms = [float(make(task(), each, 0.01, 0).weights()[0].norm()) for each in (Arm("plain"), matched, arm)]
    assert norms[1] == pytest.approx(norms[0])
    assert norms[2] != pytest.approx(norms[0], rel=0.1)
    assert Arm.parse("form1:2").matched_in_norm is None
    assert Arm.parse("form1:2:near_zero:match").matched_in_norm is None


def test_a_model_without_matrices_names_the_arm() -> None:
    given = task(build=partial(nn.BatchNorm1d, 3))
    for arm in ("form1:2", "form2:2", "form3:2"):
        with pytest.raises(ValueError, match=f"^arm '{arm}': nothing to over-parameterize in BatchNorm1d.*\\.$"):
            make(given, Arm.parse(arm), 0.1, 0)
