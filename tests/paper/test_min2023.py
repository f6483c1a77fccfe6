"""The statements of Min, Vidal & Mallada: what their statistics find, that they can fail, and the pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from overdepth.chain import imbalance, product
from overdepth.lab import load_problem
from overdepth.paper.claim import Claim, Setting
from overdepth.paper.context import Context
from overdepth.paper.item import Item
from overdepth.paper.kept import KeptData
from overdepth.paper.min2023 import ITEMS, factorial, rates, width
from overdepth.paper.min2023.envelopes import MEANINGS, POINTS, counts, family_data, followed, largest_ratio
from overdepth.paper.min2023.frozen_width import FALL, SIZE, frozen_run
from overdepth.paper.min2023.printed import printed_rate
from overdepth.paper.min2023.starts import FAMILIES, SCALES, Drawn, Family, drawn
from overdepth.paper.rates import Start, study
from overdepth.theory import flow, frozen_rate, margin, matrix_distance
from overdepth.transfer import transfer_operator

SEEDS = (0,)
BY_NAME = {family.name: family for family in FAMILIES}


def context(kept: KeptData | None = None) -> Context:
    return Context(load_problem("breast-cancer"), SEEDS, 1, quick=True, kept=kept)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, xr.Dataset]:
    """Of every item with --quick, read back from NetCDF."""
    found = {}
    for item in ITEMS:
        path = tmp_path_factory.mktemp("min2023") / f"{item.name}.nc"
        item.work(context()).to_netcdf(path, engine="h5netcdf")
        found[item.name] = xr.load_dataset(path, engine="h5netcdf")
    return found


def judged(item: Item, data: xr.Dataset, seeds: tuple[int, ...] = SEEDS) -> list[Claim]:
    return item.claims(data, Setting(item.drawn, "none", seeds, 1, horizon=0))


def repeated(data: xr.Dataset, dim: str, times: int) -> xr.Dataset:
    """As if that many more starts had been drawn."""
    return data.isel({dim: np.tile(np.arange(data.sizes[dim]), times)})


# --- starts ----------------------------------------------------------------------------------------------------------


def test_the_initializations_take_turns_and_depend_on_seed_and_number_alone() -> None:
    for family in FAMILIES:
        starts = [drawn(family, number, 3) for number in range(2 * len(family.inits))]
        assert [start.init for start in starts] == list(family.inits) * 2
        again = drawn(family, 1, 3)
        assert all(torch.equal(a, b) for a, b in zip(again.factors, starts[1].factors, strict=True))
        other = drawn(family, 1, 4)
        shapes = [[factor.shape for factor in start.factors] for start in (other, again)]
        assert shapes[0] != shapes[1] or not torch.equal(other.factors[0], again.factors[0])
        for start in starts:
            low, high = SCALES[start.init]
            assert low <= start.scale <= high
            assert tuple(product(start.factors).shape) in family.shapes
            assert len(start.factors) in family.depths


def test_homogeneous_starts_are_homogeneous_and_no_diagonal_matrices() -> None:
    for number in range(12):
        factors = drawn(BY_NAME["homogeneous"], number, 0).factors
        size = sum(float(factor.square().sum()) for factor in factors)
        for matrix in imbalance(factors):
            rest = matrix - matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
            assert float(rest.abs().max()) < 1e-12 * size
        middle = factors[1]
        assert float((middle - middle.diagonal().diag_embed()).abs().max()) > 1e-3 * float(middle.abs().max())


def test_a_target_nearby_gives_a_margin() -> None:
    near = [start for number in range(60) if (start := drawn(BY_NAME["two-layer"], number, 0)).near]
    assert {start.data for start in near} == {True, False}
    for start in near:
        loss = start.objective.loss
        distance = float(torch.linalg.matrix_norm(product(start.factors) - loss.minimizer))
        least = float(torch.linalg.svdvals(loss.minimizer)[-1])
        assert distance < least * math.sqrt(loss.strong_convexity / loss.smoothness)


# --- the statistic ---------------------------------------------------------------------------------------------------


def test_the_largest_ratio_is_what_it_says() -> None:
    gaps, envelope = np.array([1.0, 0.5, 0.01]), np.array([2.0, 0.6, 0.04])
    assert largest_ratio(gaps, envelope, 0.0) == pytest.approx(0.5 / 0.6, rel=1e-7)
    assert largest_ratio(gaps, envelope / 4, 0.0) > 1
    assert largest_ratio(np.array([1e-20]), np.array([1e-30]), 1e-9) == 0  # below the integrator's error
    assert largest_ratio(np.array([1e-2]), np.array([0.0]), 1e-9) == math.inf
    assert largest_ratio(np.array([0.0]), np.array([0.0]), 0.0) == 0


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_ratios_above_one_are_the_violations_that_the_study_counts(family: Family) -> None:
    found = (followed(drawn(family, number, 1), family) for number in range(100))
    followed_one = next(one for one in found if one.curves is not None)
    number = next(n for n in range(100) if not followed(drawn(family, n, 1), family).row["vacuous"])
    start = drawn(family, number, 1)
    (result,) = study([Start("one", start.factors)], start.objective)
    row, curves = followed_one.row, followed_one.curves
    assert curves is not None
    np.testing.assert_array_equal(curves["gap"], result.curves["gap"][np.isfinite(result.curves["gap"])])
    assert result.violations == 0
    assert 0 < row["largest_ratio"] <= 1
    assert 0 < row["largest_ratio_best"] <= 1
    assert row["certified_rate"] <= result.certified_rate * (1 + 1e-12)
    assert row["certified_rate"] <= row["measured_rate"]
    plain = curves["gap"][1:] / curves["certified"][1:]
    assert row["largest_ratio"] == pytest.approx(plain.max(), rel=1e-4)


def margin_of(start: Drawn) -> float:
    loss = start.objective.loss
    gap = float(loss.gap(product(start.factors)))
    return margin(loss.minimizer, gap, strong_convexity=loss.strong_convexity, covariance=loss.covariance)


def test_balanced_factors_far_from_the_target_are_vacuous_although_rounding_makes_an_imbalance() -> None:
    family = BY_NAME["scalar"]
    starts = [start for n in range(120) if (start := drawn(family, n, 0)).init == "balanced" and not start.near]
    imbalances = [max(float(matrix.abs().max()) for matrix in imbalance(start.factors)) for start in starts]
    far = [start for start, size in zip(starts, imbalances, strict=True) if size > 0 and margin_of(start) == 0]
    assert far
    assert all(followed(start, family).row["vacuous"] for start in far)


def test_the_printed_rates_are_those_of_the_errata() -> None:
    ones = [torch.ones(1, 1, dtype=torch.float64)] * 3
    assert printed_rate("scalar chain", ones, 1.0) == pytest.approx(3 ** (4 / 3))
    assert transfer_operator(ones).min_eigenvalue() == pytest.approx(3.0)
    wide = [torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0]]), torch.tensor([[2.0]])]
    assert printed_rate("homogeneous", wide, 8.0) == pytest.approx(3 * 8 ** (4 / 3))
    two = [torch.diag(torch.tensor([10.0, 1.0])), torch.tensor([[0.1, 0.0]])]
    assert printed_rate("two layers", two, 1.0) == pytest.approx(math.hypot(98.99, 2.0))  # Delta_+ is 0
    assert math.isnan(printed_rate("three layers", ones, 1.0))


# --- the items -------------------------------------------------------------------------------------------------------


def test_the_items_name_the_statements() -> None:
    ids = {statement.id for item in ITEMS for statement in item.statements}
    names = ("scalar", "two-layer", "three-layer", "homogeneous", "factorial", "ntk-width")
    assert ids == {f"min2023.{name}" for name in names}
    assert [item.name for item in ITEMS] == ["min2023-rates", "min2023-factorial", "min2023-width"]


def test_few_starts_decide_nothing(data: dict[str, xr.Dataset]) -> None:
    for item in ITEMS:
        found = judged(item, data[item.name])
        assert {claim.verdict for claim in found} == {"inconclusive"}
        assert {claim.id for claim in found} == {statement.id for statement in item.statements}


def test_enough_starts_below_their_envelopes_hold_and_one_above_fails(data: dict[str, xr.Dataset]) -> None:
    many = repeated(data["min2023-rates"], "start", 30)
    found = judged(rates.ITEM, many)
    assert {claim.verdict for claim in found} == {"holds"}
    assert sum(claim.is_control for claim in found) == len(FAMILIES)
    chosen = np.flatnonzero((many["family"].values == "three-layer") & (many["vacuous"].values == 0))
    broken = many.copy(deep=True)
    broken["largest_ratio"][chosen[7]] = 1.01
    verdicts = {c.id: (c.verdict, c.value) for c in judged(rates.ITEM, broken) if not c.is_control}
    assert verdicts["min2023.three-layer"] == ("fails", 1.01)
    assert [verdict for verdict, _ in verdicts.values()].count("holds") == 3


def test_vacuous_starts_do_not_count(data: dict[str, xr.Dataset]) -> None:
    many = repeated(data["min2023-rates"], "start", 30)
    many["vacuous"] = many["vacuous"].where(many["family"] != "scalar", 1)
    scalar = [claim for claim in judged(rates.ITEM, many) if claim.id == "min2023.scalar"]
    assert {(claim.verdict, claim.value) for claim in scalar} == {("inconclusive", None)}
    total, vacuous = counts(many, BY_NAME["scalar"])
    assert total == vacuous > 0
    assert rates.pictures(many)


def test_a_flow_above_a_wrong_envelope_is_found() -> None:
    """The rate as printed is too large, and the same statistic says so."""
    found = family_data(BY_NAME["scalar"], 0, 5)
    kept = found["vacuous"].values == 0
    assert int(kept.sum()) == 5
    assert (found["largest_ratio"].values[kept] <= 1).all()
    assert (found["largest_ratio_printed"].values[kept] > 1).any()
    assert set(MEANINGS) <= set(found)
    assert found["example_gap"].shape == (1, POINTS)
    seen = np.isfinite(found["example_time"].values[0])
    example = {name: found[f"example_{name}"].values[0, seen] for name in ("gap", "best", "certified")}
    assert (example["gap"] <= example["best"] * (1 + 1e-6) + 1e-12).all()
    assert (example["best"] <= example["certified"] * (1 + 1e-9)).all()


def test_unit_gaps_make_the_factorial(data: dict[str, xr.Dataset]) -> None:
    for depth in (2, 5, 9):
        factors = factorial.chain(depth, np.random.default_rng(depth))
        squares = np.sort([float(factor) ** 2 for factor in factors])
        np.testing.assert_allclose(np.diff(squares), 1)
        assert transfer_operator(factors).min_eigenvalue() >= math.factorial(depth - 1)
    many = repeated(data["min2023-factorial"], "start", 12)
    assert [claim.verdict for claim in judged(factorial.ITEM, many)] == ["holds", "holds"]
    assert "by construction" in judged(factorial.ITEM, many)[0].note
    wrong = many.copy(deep=True)
    wrong["product"] = wrong["product"] * wrong["depth"]  # N! instead
    wrong["largest_ratio"][3] = 1.5
    assert [claim.verdict for claim in judged(factorial.ITEM, wrong)] == ["fails", "fails"]


def test_the_ratio_of_the_rates_is_that_of_a_plain_integration() -> None:
    found = frozen_run(2, 20, 5)
    generator = torch.Generator().manual_seed(5)
    target, lower, upper = (
        torch.randn(rows, columns, generator=generator, dtype=torch.float64)
        for rows, columns in ((SIZE, SIZE), (20, SIZE), (SIZE, 20))
    )
    start, loss = [lower / 20**0.25, upper / 20**0.25], matrix_distance(target)
    predicted = 2 * frozen_rate(start)
    times = np.linspace(0, 2, 801) * -math.log(FALL) / predicted
    gaps = flow(start, loss, times, rtol=1e-8)["gap"].values
    fallen = int(np.flatnonzero(gaps <= FALL * gaps[0])[0])
    assert found.ratio == pytest.approx(-math.log(FALL) / times[fallen] / predicted, rel=0.01)
    assert found.gaps[0] == 1
    assert found.gaps[-1] <= FALL < found.gaps[-2]
    with pytest.raises(ValueError, match="at least 2"):
        frozen_run(1, 3, 0)


def test_the_prediction_has_to_be_accurate_when_wide_and_only_then() -> None:
    def made(narrow: float, wide: float) -> xr.Dataset:
        rows = [(d, w, narrow if w < 300 else wide) for d, widths in width.WIDTHS.items() for w in widths]
        depths, widths, ratios = (np.array(column) for column in zip(*rows, strict=True))
        columns = {"depth": depths, "width": widths, "ratio": ratios, "seed": 0 * depths, "certified": 0 * depths}
        return xr.Dataset({name: ("run", values) for name, values in columns.items()})

    for narrow, wide, expected in ((9.0, 1.1, "HH"), (9.0, 1.3, "FH"), (1.1, 1.1, "HF"), (0.5, 0.7, "FH")):
        verdicts = [claim.verdict[0].upper() for claim in judged(width.ITEM, made(narrow, wide))]
        assert "".join(verdicts) == 2 * expected


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name)
def test_pictures_draw_from_stored_data(item: Item, data: dict[str, xr.Dataset]) -> None:
    pictures = item.pictures(data[item.name])
    assert 1 <= len(pictures) <= 4
    assert sum(len(picture.figure.to_json()) for picture in pictures) < 250_000
    for picture in pictures:
        assert picture.caption
        assert any(np.isfinite(np.asarray(trace.y, dtype=np.float64)).any() for trace in picture.figure.data)


def test_kept_data_are_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = KeptData(tmp_path)
    monkeypatch.setattr(factorial, "DEPTHS", (2, 3))
    first = factorial.ITEM.work(context(kept))
    monkeypatch.setattr(factorial, "study", None)
    xr.testing.assert_equal(first, factorial.ITEM.work(context(kept)))
