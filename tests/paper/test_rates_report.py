"""``overdepth rates``: what lies in its folder, what is compared, and what is refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

import overdepth as od
from overdepth.cli import main
from overdepth.paper.rates import PRESETS, Start, drawn_start, drawn_target, from_problem, study, towards
from overdepth.paper.rates.saved import read_chain, read_target
from overdepth.theory.certificate import Certificate

FIRST = np.array([[2.0, 0.0, 1.0], [0.0, 1.5, 0.0]])
SECOND = np.array([[1.0, 0.2], [0.0, 0.5]])
TARGET = np.array([[2.5, 0.1, 1.0], [0.0, 1.0, 0.2]])


def rates(*arguments: object) -> int:
    return main(["rates", *map(str, arguments)])


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("preset") / "rates"
    assert rates("--preset", "imbalance", "--rows", 2, "--columns", 2, "--out", out) == 0
    return out


def test_a_preset_writes_its_figures(preset: Path) -> None:
    found = json.loads((preset / "rates.json").read_text(encoding="utf-8"))
    names = [one["start"] for one in found]
    assert names[:2] == ["near zero", "balanced, same product"]
    assert [name.split(",")[0] for name in names[2:5]] == ["imbalance 0.5", "imbalance 2", "imbalance 8"]
    assert {one["violations"] for one in found} == {0}
    assert all(one["converged"] for one in found)
    for one, size in zip(found[2:5], (0.5, 2.0, 8.0), strict=True):
        assert one["bound"] == "two layers"
        assert one["alpha"] == pytest.approx(size, rel=1e-3)  # sqrt(size^2 + 4 margin^2), the margin being 0
        assert 0 < one["certified_rate"] <= one["mean_rate"]
        assert one["step_size"] > 0
    near_zero, balanced = found[:2]
    assert near_zero["alpha"] < 1e-3
    assert balanced["alpha"] < 1e-3
    assert "Vacuous" in balanced["explanation"]
    assert balanced["step_size"] is None
    assert found[-1]["above_frozen"] > 0  # the frozen prediction is no bound
    assert found[-1]["margin"] == pytest.approx(0.5)


def test_the_curves_are_in_order(preset: Path) -> None:
    with xr.open_dataset(preset / "curves.nc") as data:
        assert set(data.dims) == {"start", "time"}
        assert "no bound" in data.frozen.attrs["long_name"]
        followed = data.gap.notnull()
        assert followed.sum("time").min() > 200
        room = 1e-8 * np.sqrt(data.envelope) + 1e-12
        assert bool((data.adaptive_envelope <= data.envelope + room).all())
        assert bool(((data.gap <= data.adaptive_envelope * (1 + 1e-6) + 1e-13) | ~followed).all())
        first = data.isel(time=0)
        for name in ("envelope", "adaptive_envelope", "frozen"):
            np.testing.assert_allclose(first[name], first.gap, rtol=1e-12)
        assert bool((followed.astype(int).diff("time") <= 0).all())  # until it is followed no more
        last = data.gap.min("time")
        assert bool((last <= 1.0001e-10 * first.gap).all())
        assert bool((last >= 1e-12 * first.gap).all())


def test_the_page_says_it_all_and_loads_nothing(preset: Path) -> None:
    page = (preset / "index.html").read_text(encoding="utf-8")
    assert page.count('class="plot"') >= 8  # all starts together, and each
    assert "overdepth rates --preset imbalance --rows 2 --columns 2" in page
    assert "no bound" in page
    assert "none: vacuous" in page
    for pattern in ('src="http', "src='http", '<link rel="stylesheet" href="http', "@import"):
        assert pattern not in page
    own = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert set(re.findall(r'href="([^"#]+)"', own)) == {"data:,", "rates.json", "curves.nc"}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (3, 1)])
def test_no_preset_violates_its_envelopes(name: str, shape: tuple[int, int]) -> None:
    target = drawn_target(*shape, seed=1)
    results = study(PRESETS[name].starts(target, 1), towards(target, "drawn"))
    assert [result.violations for result in results] == [0] * len(results)
    assert all(result.horizon.converged for result in results)
    if name == "imbalance":
        assert all(not result.certificate.is_vacuous for result in results[2:])
    if name == "depth":
        powers = [result.certificate.alpha for result in results[1::2]]
        np.testing.assert_allclose(powers, [1, 2, 6], rtol=0.01)  # (N - 1)!


def test_violations_are_counted_and_not_assumed(monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = Certificate.envelope
    monkeypatch.setattr(Certificate, "envelope", lambda self, times: envelope(self, 1.3 * times))
    target = drawn_target(2, 2, 0)
    start = drawn_start((2, 2), imbalance=8.0)
    assert study([start], towards(target, "drawn"))[0].violations > 50


def test_a_balanced_start_that_cannot_arrive_is_told() -> None:
    """Balanced factors keep the sign of the determinant; without a word the page would show rounding."""
    target = drawn_target(2, 2, 0)
    mirrored = target.clone()
    mirrored[0].neg_()
    starts = [Start(name, od.balanced_factors(0.1 * weight, 2)) for name, weight in (("a", mirrored), ("b", target))]
    cannot, can = study(starts, towards(target, "drawn"), time=1.0)
    assert "ends on a saddle" in cannot.note
    assert cannot.certificate.is_vacuous
    assert can.note == ""
    for preset in PRESETS.values():
        results = study(preset.starts(target, 5), towards(target, "drawn"), time=1e-3)
        assert [result.note for result in results] == [""] * len(results)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
@pytest.mark.parametrize("names", [("W1", "W2"), ("net.0.weight", "net.2.weight"), ("factors.9", "factors.10")])
def test_a_saved_chain(kind: str, names: tuple[str, str], tmp_path: Path) -> None:
    arrays = {names[1]: SECOND, "target": TARGET, names[0]: FIRST}
    path = save(tmp_path / f"chain.{kind}", arrays)
    chain = read_chain(path)
    assert chain.names == list(names)
    torch.testing.assert_close(od.product(chain.factors), torch.tensor(SECOND @ FIRST))
    assert rates(path, "--out", tmp_path / "rates", "--time", 0.5) == 0
    found = json.loads((tmp_path / "rates" / "rates.json").read_text(encoding="utf-8"))
    assert [one["start"] for one in found] == [f"chain.{kind}"]
    assert found[0]["target"] == f"from chain.{kind}"
    assert found[0]["time"] == 0.5
    assert found[0]["gap"] == pytest.approx(np.sum((SECOND @ FIRST - TARGET) ** 2) / 2)
    assert found[0]["violations"] == 0


def test_the_target_of_a_chain_may_be_a_file_or_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain = save(tmp_path / "chain.npz", {"W1": FIRST, "W2": SECOND})
    target = save(tmp_path / "target.npz", {"minimizer": TARGET})
    assert rates(chain, "--target", target, "--out", tmp_path / "a", "--time", 0.1) == 0
    assert "W* is from target.npz" in capsys.readouterr().out
    assert rates(chain, "--seed", 3, "--out", tmp_path / "b", "--time", 0.1) == 0
    assert "W* is drawn with seed 3" in capsys.readouterr().out
    assert "drawn with seed 3" in (tmp_path / "b" / "index.html").read_text(encoding="utf-8")


def test_a_single_matrix_is_a_chain_that_attains_its_bound(tmp_path: Path) -> None:
    path = save(tmp_path / "chain.npz", {"W": TARGET + 1, "target": TARGET})
    assert rates(path, "--out", tmp_path / "rates") == 0
    (found,) = json.loads((tmp_path / "rates" / "rates.json").read_text(encoding="utf-8"))
    assert found["bound"] == "single layer"
    assert found["violations"] == 0
    assert found["mean_rate"] == pytest.approx(found["certified_rate"], rel=1e-6)


def test_least_squares_on_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    table = tmp_path / "table.csv"
    np.savetxt(table, rng.normal(size=(50, 3)) * [1, 1, 1], delimiter=",", header="a,b,y", comments="")
    base = ("--data", table, "--target", "y", "--init", "balanced", "--imbalance", 2)
    assert rates(*base, "--out", tmp_path / "white") == 0
    assert "X whitened; W* is the least squares solution on table" in capsys.readouterr().out
    assert rates(*base, "--no-whiten", "--out", tmp_path / "raw") == 0
    white, raw = (json.loads((tmp_path / name / "rates.json").read_text())[0] for name in ("white", "raw"))
    assert white["pl"] == pytest.approx(2.0)
    assert raw["pl"] < 2.0
    for found in (white, raw):
        assert found["bound"] == "two layers"
        assert found["violations"] == 0
        assert found["certified_rate"] <= found["mean_rate"]


def test_the_flow_is_not_followed_into_rounding(tmp_path: Path) -> None:
    assert rates("--init", "balanced", "--imbalance", 2, "--time", 1e6, "--out", tmp_path / "rates") == 0
    with xr.open_dataset(tmp_path / "rates" / "curves.nc") as data:
        assert float(data.time[-1]) == 1e6
        assert int(data.gap.notnull().sum()) > 150
    (found,) = json.loads((tmp_path / "rates" / "rates.json").read_text(encoding="utf-8"))
    assert found["violations"] == 0
    assert found["converged"]


def test_a_start_that_never_moves_is_followed_and_said_to_be_vacuous() -> None:
    zero = Start("zero", [torch.zeros(2, 2, dtype=torch.float64)] * 2)
    (result,) = study([zero], towards(drawn_target(2, 2, 0), "drawn"), time=3.0)
    assert result.certificate.is_vacuous
    assert result.mean_rate == 0
    assert not result.horizon.converged


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({}, "holds no factors; save them as matrices named W1"),
        ({"target": TARGET}, "holds no factors"),
        ({"W1": FIRST, "b1": SECOND[0]}, "'W1' and 'b1' have the same number"),
        ({"W1": FIRST, "b2": SECOND[0]}, "'b2' has shape (2,), expected a matrix (out, in); save the matrices"),
        ({"W1": FIRST, "other": SECOND}, "'other' has no number, which tells the order"),
        ({"W1": SECOND, "W2": FIRST}, "'W2' of shape (2, 3) cannot act on the output of 'W1' of shape (2, 2)"),
        ({"W1": FIRST + np.inf, "W2": SECOND}, "'W1' has non-finite entries"),
        ({"W1": FIRST, "W2": SECOND, "target": FIRST.T}, "has shape (2, 3), the minimizer (3, 2)"),
        ({"W1": FIRST, "target": FIRST}, "is a minimizer already; give another target"),
    ],
)
def test_a_chain_that_is_none_is_refused(
    arrays: dict[str, np.ndarray], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(tmp_path / "chain.npz", arrays)
    assert rates(path, "--out", tmp_path / "rates") == 2
    refused(capsys, expected, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["missing.npz"], "missing.npz does not exist or is no file"),
        (["chain.pt"], "chain.pt ends in '.pt', expected .npz or .safetensors"),
        (["--preset", "fast"], "--preset is 'fast', expected one of imbalance, depth, near_zero"),
        (["--preset", "depth", "--depth", "3"], "--preset and --depth both say where to start; leave one out"),
        (["x.npz", "--preset", "depth"], "a chain and --preset both say where to start"),
        (["x.npz", "--init", "balanced"], "a chain and --init both say where to start"),
        (["x.npz", "--rows", "2"], "--rows is 2, but the chain, target or data have a shape already"),
        (["--scaling", "none"], "--scaling and --whiten are about data; give --data, or leave them out."),
        (["--no-whiten"], "--scaling and --whiten are about data"),
        (["--rows", "0"], "--rows is 0, expected an integer >= 1"),
        (["--init", "zero"], "--init is 'zero', expected one of near_zero"),
        (["--depth", "0"], "--depth is 0, expected an integer >= 1"),
        (["--scale", "-1"], "--scale is -1.0, expected a finite number > 0"),
        (["--imbalance", "nan"], "--imbalance is nan, expected finite numbers"),
        (["--time", "0"], "--time is 0, expected a finite number > 0"),
        (["--time", "nan"], "--time is nan, expected a finite number > 0"),
        (["--seed", "-1"], "--seed is -1, expected an integer from 0"),
        (["--target", "target.csv"], "target.csv ends in '.csv'"),
        (["--data", "mnist"], "data set 'mnist' is unknown"),
        (["--timez", "3"], "--timez"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str],
    expected: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rates(*arguments, "--out", tmp_path / "rates") == 2
    refused(capsys, expected, tmp_path)


def test_data_without_full_rank_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    features = np.random.default_rng(0).normal(size=(9, 2))
    np.savez(tmp_path / "data.npz", X=features[:, [0, 1, 1]], y=features[:, 0])
    for whitening in ("--whiten", "--no-whiten"):
        assert rates("--data", tmp_path / "data.npz", "--target", "y", whitening, "--out", tmp_path / "rates") == 2
        refused(capsys, "full column rank", tmp_path)


def test_damaged_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("npz", "safetensors"):
        (tmp_path / f"chain.{kind}").write_bytes(b"no such format at all")
        assert rates(tmp_path / f"chain.{kind}", "--out", tmp_path / "rates") == 2
        refused(capsys, "is truncated, damaged, or no", tmp_path)


def test_a_file_with_several_arrays_and_no_target(tmp_path: Path) -> None:
    path = save(tmp_path / "target.npz", {"a": FIRST, "b": SECOND})
    with pytest.raises(ValueError, match=r"holds no array named 'target' \(its arrays: a, b\)"):
        read_target(path)


def test_a_missing_package_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "chain.safetensors", {"W1": FIRST})
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert rates(path, "--out", tmp_path / "rates") == 2
    refused(capsys, "needs safetensors, which is not installed; run pip install safetensors", tmp_path)


def test_a_chain_with_a_target_and_data_say_two_things(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save(tmp_path / "chain.npz", {"W1": FIRST, "target": TARGET})
    assert rates(path, "--data", "breast-cancer", "--out", tmp_path / "rates") == 2
    refused(capsys, "holds a target and --data has one of its own", tmp_path)


def test_foreign_files_are_refused_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.tex").write_text("", encoding="utf-8")
    assert rates("--out", tmp_path) == 2
    assert "holds other files" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_failures_and_interrupts_have_their_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status, expected in (
        (RuntimeError("DOP853 gave up"), 1, "DOP853 gave up; try a shorter --time or a smaller chain."),
        (KeyboardInterrupt(), 130, "interrupted; nothing was written."),
    ):

        def fail(*_: object, error: BaseException = error, **__: object) -> None:
            raise error

        monkeypatch.setattr("overdepth.commands.rates.study", fail)
        assert rates("--out", tmp_path / "rates") == status
        refused(capsys, expected, tmp_path)


def test_help_starts_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rates", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "Example: overdepth rates --preset imbalance --out rates" in printed
    assert printed.index("Example") < printed.index("Options")
    assert "imbalance, depth, near_zero" in printed


def test_the_objective_of_data_is_the_papers() -> None:
    problem = od.lab.load_problem("breast-cancer")
    objective = from_problem(problem, whitened=False)
    weight = torch.zeros(1, 30, dtype=torch.float64)
    expected = float(np.sum(problem.Y**2) / (2 * problem.m))
    assert float(objective.loss.value(weight)) == pytest.approx(expected, rel=1e-10)


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        save_file({name: torch.tensor(array) for name, array in arrays.items()}, path)
    return path


def refused(capsys: pytest.CaptureFixture[str], expected: str, folder: Path) -> None:
    message = capsys.readouterr().err
    assert expected in message
    assert message.startswith("overdepth: ")
    assert message.count("\n") == 1
    assert not (folder / "rates").exists()
