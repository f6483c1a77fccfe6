"""The comparison as a user meets it: controls, bad input, what is kept, workers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.comparison.problems import linear, nan_loss, network, regression, squares, task
from torch import Tensor, nn

import overdepth as od
from overdepth.comparison import Arm, Comparison
from overdepth.comparison.executors import InProcess
from overdepth.comparison.jobs import Job
from overdepth.comparison.training import train
from overdepth.reporter import Reporter


def compared(**changes: Any) -> Comparison:
    given: dict[str, Any] = {
        "arms": ["form1:2"],
        "base": partial(torch.optim.SGD, lr=0.05),
        "lrs": [0.05, 0.1, 0.2],
        "steps": 40,
        "batch_size": 8,
        "controls": (),
    }
    functions: dict[str, Any] = {"build": linear, "loss_step": squares, "data": regression()}
    functions = {name: changes.pop(name, value) for name, value in functions.items()}
    return od.compare(functions["build"], functions["loss_step"], functions["data"], **{**given, **changes})


def well() -> tuple[Tensor, Tensor]:
    """A full-batch problem with two curvatures, on which a larger step is a gain up to a point."""
    x = torch.diag(torch.tensor([1.0, 0.3, 0.1])) * math.sqrt(3)
    return x, x @ torch.tensor([[1.0], [-2.0], [0.5]])


def test_an_identical_arm_makes_no_difference() -> None:
    found = compared(arms=[Arm("twin")], lrs=None, steps=60)
    verdict = found.verdicts["twin"]
    assert verdict.kind == "no difference"
    assert verdict.steps is not None
    assert verdict.steps.values == (1.0, 1.0, 1.0)
    assert verdict.loss is not None
    assert verdict.loss.values == (1.0, 1.0, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_arms_that_differ_by_chance_make_no_difference_in_95_of_100() -> None:
    """Plain training against plain training on other seeds, with searches of their own: 100 times, other seeds each."""
    x, y = regression()

    def repetition(number: int) -> str:
        def build() -> nn.Module:
            torch.manual_seed(torch.initial_seed() + 1_000 * number)
            return linear()

        def batches(seed: int) -> Iterator[tuple[Tensor, Tensor]]:
            generator = torch.Generator().manual_seed(seed + 1_000 * number)
            while True:
                rows = torch.randint(len(x), (8,), generator=generator)
                yield x[rows], y[rows]

        given = {"build": build, "data": batches, "batch_size": None, "lrs": [0.02, 0.06, 0.2], "steps": 30}
        return compared(**given, arms=["again"]).verdicts["again"].kind

    kinds = [repetition(number) for number in range(100)]
    assert kinds.count("no difference") >= 95


@pytest.mark.parametrize("lrs", [[0.1, 0.2, 0.4, 0.8, 1.6], None], ids=["given", "searched"])
def test_tuning_removes_what_a_doubled_learning_rate_gains(lrs: list[float] | None) -> None:
    data = well()
    arms = [Arm("doubled", lr_factor=2)]
    base = partial(torch.optim.SGD, lr=0.1)
    found = compared(
        data=data, batch_size=None, arms=arms, base=base, lrs=lrs, steps=100, controls=("untuned",), seeds=5
    )
    assert found.untuned["doubled"].kind == "faster"
    assert found.untuned["doubled"].steps is not None
    assert 1.5 < found.untuned["doubled"].steps.low
    assert found.verdicts["doubled"].kind == "no difference"


def near_one_start() -> nn.Module:
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.mul_(0.05).add_(0.3)
    return layer


def fourth_powers(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    found: Tensor = (model(batch[0]) - batch[1]).pow(4).mean()
    return found


def test_a_gain_that_is_there_is_found() -> None:
    """Ill-conditioned regression with the l4 loss, where depth is known to help."""
    given = {"build": near_one_start, "loss_step": fourth_powers, "data": well(), "batch_size": None}
    found = compared(**given, lrs=None, steps=200, seeds=5).verdicts["form1:2"]
    assert found.steps is not None
    assert found.steps.low > 1
    assert found.words.startswith("faster by ")


def test_the_controls_are_run_and_reported() -> None:
    arms = ["form1:2", "form2:2:near_zero:0.3", "form3:2.5", "again"]
    found = compared(build=network, arms=arms, lrs=[0.05, 0.1], controls=("untuned", "norm", "rms"))
    names = [result.arm.name for result in found.results]
    assert names == [
        "plain",
        "form1:2",
        "form2:2:near_zero:0.3",
        "form2:2:near_zero:0.3, norm matched",
        "form3:2.5",
        "again",
    ]
    assert set(found.verdicts) == set(names[1:])
    assert set(found.matched) == {"form1:2", "form2:2:near_zero:0.3", "form3:2.5"}
    assert set(found.untuned) == {"form1:2", "form2:2:near_zero:0.3", "form3:2.5", "again"}
    text = repr(found)
    assert "Untuned, all at your learning rate: " in text
    assert "Against plain training with steps as long: " in text
    assert "norm matched" in text
    content = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [arm["name"] for arm in content["arms"]] == names
    assert content["arms"][1]["step_time_ratio"] > 0
    assert found.table().count("\n") == len(names) + 1


def test_the_progress_ends_where_it_said() -> None:
    told: list[tuple[int, int]] = []
    begun: list[tuple[str, int, int]] = []
    reporter = Reporter(lambda *args: begun.append(args), lambda *args: told.append(args))
    compared(
        build=network, arms=["form1:2", "form1:2:near_zero"], controls=("untuned", "norm", "rms"), reporter=reporter
    )
    assert [steps for steps, _ in told] == sorted(steps for steps, _ in told)
    assert told[-1] == (begun[0][2], 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss_step": lambda m, b: 1.0}, "arm 'plain': loss_step returned a float, expected a scalar tensor"),
        (
            {"loss_step": nan_loss},
            "the loss is not finite in every arm ('plain', 'form1:2') at every learning rate tried",
        ),
        ({"lrs": [1e9]}, "the loss is not finite in every arm"),
        ({"data": lambda s: iter([regression()] * 7), "batch_size": None}, "arm 'plain', learning rate"),
        ({"build": partial(nn.BatchNorm1d, 3)}, "arm 'form1:2': nothing to over-parameterize in BatchNorm1d"),
        ({"budget": 1e-4}, "budget is 0.0001 s, but 40 steps of 3 trials and 3 seeds take at least"),
        ({"budget": 1e-4, "steps": None}, "of them in arm"),
        ({"steps": None}, "steps is None and so is budget; give the number of steps of a run, or seconds for all"),
        ({"steps": 0}, "steps is 0, expected an integer >= 1"),
        ({"seeds": 0}, "seeds is 0, expected an integer >= 1"),
        ({"lrs": []}, "the number of learning rates in lrs is 0"),
        ({"lrs": [-1.0]}, "a learning rate of lrs is -1.0, expected a finite number > 0"),
        ({"lrs": None, "trials": 2}, "trials is 2, but the search of arm 'plain' needs at least 3"),
        ({"arms": ["form9:2"]}, "arm is 'form9:2', expected plain, again, or FORM:DEPTH"),
        ({"controls": ("rsm",)}, "controls holds 'rsm', expected some of untuned, norm, rms"),
        ({"workers": 0}, "workers is 0, expected an integer >= 1"),
    ],
)
def test_bad_input_is_one_sentence_with_the_arm_and_the_remedy(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\.$") as caught:
        compared(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_arm_that_fails_alone_leaves_the_others_standing() -> None:
    found = compared(arms=[Arm("wild", lr_factor=1e9), "form1:2"])
    assert found.verdicts["wild"].kind == "unstable"
    assert found.verdicts["wild"].words.startswith("unstable: diverged at every learning rate tried, 0.05 to 0.2")
    assert found.verdicts["form1:2"].kind != "unstable"
    assert "diverged" in found.table()
    json.dumps(found.to_dict(), allow_nan=False)


class Interrupting:
    """Trains a while, then is interrupted as by Ctrl-C."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.calls = 0

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        self.calls += 1
        if self.calls == self.after:
            raise KeyboardInterrupt
        return squares(model, batch)


def test_an_interrupt_loses_nothing_and_a_second_call_goes_on(tmp_path: Path) -> None:
    loss = Interrupting(after=40 * 8 + 17)
    with pytest.raises(KeyboardInterrupt):
        compared(loss_step=loss, out=tmp_path / "out", controls=("rms",))
    kept = set((tmp_path / "out" / "trials").iterdir())
    assert len(kept) == 8
    assert all(path.suffix == ".npz" for path in kept)
    counted = Interrupting(after=10**9)
    resumed = compared(loss_step=counted, out=tmp_path / "out", controls=("rms",))
    whole_loss = Interrupting(after=10**9)
    whole = compared(loss_step=whole_loss, controls=("rms",))
    assert counted.calls <= whole_loss.calls - 8 * 40 + 50  # but for the steps that are timed
    for one, other in zip(resumed.results, whole.results, strict=True):
        assert one.lrs == other.lrs
        for a, b in zip(one.finals, other.finals, strict=True):
            assert a is not None
            assert b is not None
            assert np.array_equal(a.losses, b.losses)
    third = Interrupting(after=10**9)
    again = compared(loss_step=third, out=tmp_path / "out", controls=("rms",))
    assert third.calls < 10  # the arms are made, nothing is trained
    assert repr(again) == repr(resumed)


def test_arms_and_seeds_may_be_added(tmp_path: Path) -> None:
    compared(out=tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "trials").iterdir()}
    found = compared(out=tmp_path, arms=["form1:2", "form2:3"], seeds=4)
    assert list(found.verdicts) == ["form1:2", "form2:3"]
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "trials").iterdir()}
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 41}, "other settings: steps was 40 and is 41; name another folder with out, or delete it."),
        ({"lrs": [0.05, 0.1]}, "lrs was [0.05, 0.1, 0.2] and is [0.05, 0.1]"),
        ({"base": torch.optim.Adam}, 'base was "SGD()" and is "Adam()"'),
        ({"base": partial(torch.optim.SGD, momentum=0.9)}, 'base was "SGD()" and is "SGD(momentum=0.9)"'),
        ({"batch_size": 16}, "batch_size was 8 and is 16"),
        ({"data": regression(noise=0.6)}, "model, data and loss was"),
        ({"build": network}, "model, data and loss was"),
        ({"loss_step": lambda m, b: 2 * squares(m, b)}, "model, data and loss was"),
    ],
)
def test_changed_settings_are_refused_with_the_difference(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    compared(out=tmp_path, seeds=1, steps=40)
    kept = sorted((tmp_path / "trials").iterdir())
    with pytest.raises(ValueError, match=r"\.$") as caught:
        compared(**{"out": tmp_path, "seeds": 1, **changes})
    assert message in str(caught.value)
    assert sorted((tmp_path / "trials").iterdir()) == kept


@pytest.mark.parametrize("loss_step", [nan_loss, lambda model, batch: model(batch[0])], ids=["nan", "no scalar"])
def test_after_a_mistake_that_was_mended_the_same_folder_serves(loss_step: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not finite in every arm|expected a scalar"):
        compared(out=tmp_path, seeds=1, steps=40, loss_step=loss_step)
    assert list(compared(out=tmp_path, seeds=1, steps=40).verdicts)


def test_foreign_folders_are_refused_and_damage_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files; name another folder with out, or empty it"):
        compared(out=tmp_path)
    with pytest.raises(ValueError, match="is a file; name a folder with out"):
        compared(out=tmp_path / "thesis.tex")
    found = compared(out=tmp_path / "out", seeds=1)
    for path in sorted((tmp_path / "out" / "trials").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:100])
    again = compared(out=tmp_path / "out", seeds=1)
    assert caplog.text.count("cannot be read") == 3
    assert again.results[0].lrs == found.results[0].lrs
    (tmp_path / "out" / "settings.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"settings\.json cannot be read; delete"):
        compared(out=tmp_path / "out", seeds=1)


def test_finished_runs_are_kept_when_the_budget_runs_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [0]

    def stop() -> bool:
        asked[0] += 1
        return asked[0] > 70

    monkeypatch.setattr("overdepth.comparison.comparing.deadline", lambda _: stop)
    with pytest.raises(
        RuntimeError, match=r"the budget of 1000 s ran out at arm 'form1:2'; what is finished is kept in"
    ) as e:
        compared(budget=1000, out=tmp_path)
    assert "raise the budget, or lower steps or trials" in str(e.value)
    assert len(list((tmp_path / "trials").iterdir())) >= 3


def test_a_budget_alone_decides_the_steps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two arms, a trial and a final run each, a millisecond a step: 4 ms for each step of a run."""
    monkeypatch.setattr("overdepth.comparison.budget._step_seconds", lambda *_: 1e-3)
    monkeypatch.setattr("overdepth.comparison.comparing.deadline", lambda _: lambda: False)
    found = compared(steps=None, budget=0.2, out=tmp_path, seeds=1, lrs=[0.1])
    assert found.settings.steps == 45
    again = compared(steps=None, budget=0.3, out=tmp_path, seeds=1, lrs=[0.1])
    assert again.settings.steps == 45
    with pytest.raises(
        ValueError, match=r"budget is 0\.01 s, but 20 steps of 1 trials and 1 seeds take at least 0\.08 s"
    ):
        compared(steps=None, budget=0.01, seeds=1, lrs=[0.1])


@pytest.mark.slow
def test_worker_processes_give_the_same(tmp_path: Path) -> None:
    given = {"build": network, "lrs": None, "controls": ("rms",), "seeds": 2}
    one, two = compared(**given), compared(**given, workers=2)
    for a, b in zip(one.results, two.results, strict=True):
        assert a.lrs == b.lrs
        for x, y in zip(a.finals, b.finals, strict=True):
            assert x is not None
            assert y is not None
            assert x.losses == pytest.approx(y.losses, rel=1e-6)
    with pytest.raises(
        ValueError, match=r"cannot be sent to worker processes .*; use functions of a module, or workers=1"
    ):
        compared(build=lambda: nn.Linear(3, 1), workers=2)


def test_an_executor_needs_one_method() -> None:
    found = list(InProcess(task()).run([Job("final", Arm("plain"), 0.1, 0, 20)], lambda _: None, lambda: False))
    alone = train(task(), Job("final", Arm("plain"), 0.1, 0, 20))
    assert np.array_equal(found[0][1].losses, alone.losses)


def test_the_library_itself_needs_torch_alone() -> None:
    import subprocess
    import sys

    extras = {"optuna", "plotly", "scipy", "typer"}
    code = f"import sys, overdepth; assert not {extras} & set(sys.modules); overdepth.compare; sys.modules['optuna']"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith("overdepth.comparison")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs optuna.*pip install 'overdepth\[compare\]'"):
        _ = od.compare
