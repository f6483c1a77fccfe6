"""The robustness map: the same verdicts as the figures', cut where it says, and drawn as it was judged."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from overdepth.lab import Problem, RunCache, load_problem
from overdepth.lab.problem import SCALINGS, scaled
from overdepth.paper import fig3, robustness
from overdepth.paper.claim import Setting
from overdepth.paper.context import Context
from overdepth.paper.item import Picture

STEPS = 200


@pytest.fixture(scope="module")
def raw() -> Problem:
    found = load_problem("breast-cancer", scaling="none")
    return Problem(found.X[:120, :4], found.Y[:120], name="small")


@pytest.fixture(scope="module")
def context(raw: Problem, tmp_path_factory: pytest.TempPathFactory) -> Context:
    def load(scaling: str) -> Problem:
        if scaling == "maxabs":
            raise ValueError("that cannot be.")
        return scaled(raw, scaling)

    cache = RunCache(tmp_path_factory.mktemp("runs"))
    return Context(load("standard"), (0, 1), STEPS, load=load, cache=cache)


@pytest.fixture(scope="module")
def data(context: Context, tmp_path_factory: pytest.TempPathFactory) -> xr.Dataset:
    path = tmp_path_factory.mktemp("map") / "map.nc"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(robustness, "HORIZONS", (100,))
        robustness.ITEM.work(context).to_netcdf(path, engine="h5netcdf")
    return xr.load_dataset(path, engine="h5netcdf")


def test_horizons_end_with_the_last_iteration() -> None:
    assert robustness.horizons(100_000) == [10_000, 30_000, 100_000]
    assert robustness.horizons(5_000) == [5_000]
    assert robustness.horizons(50_000) == [10_000, 30_000, 50_000]


def test_cells_are_the_verdicts_of_runs_that_ended_there(context: Context, data: xr.Dataset) -> None:
    """A cell of a shorter horizon and of one seed is what the figure says of a run of that length with that seed."""
    for scaling, steps, seed in (("minmax", 100, 1), ("label5", 100, 0), ("standard", STEPS, 1)):
        problem = context.scaled(scaling)
        short = Context(problem, (seed,), steps)
        setting = Setting(problem.name, scaling, (seed,), steps, horizon=steps)
        column = data.sel(scaling=scaling, horizon=steps, seed=seed)
        expected = [c for c in fig3.claims(fig3.ITEM.work(short), setting) if not c.is_control]
        for claim in expected:
            row = (column["statement"] == claim.id) & (column["comparison"] == claim.comparison)
            verdict = {"holds": 1.0, "fails": 0.0}.get(claim.verdict, np.nan)
            np.testing.assert_equal(column["holds"].values[row.values], [verdict])
            if claim.value:
                np.testing.assert_allclose(column["value"].values[row.values], claim.value, rtol=0.02)


def test_runs_that_figures_share_are_run_once(context: Context) -> None:
    problem = context.scaled("standard")
    plans = [plan for figure in robustness.FIGURES for plan in figure.plans(problem, (0,))]
    begun: list[int] = []
    reporter = type(context.reporter)(begin=lambda *given: begun.append(int(given[1])))
    once = Context(problem, (0,), 10, reporter=reporter)
    together = robustness.swept(once, problem, robustness.FIGURES)
    distinct = {(p.objective, p.record_every, run) for p in plans for run in p.runs}
    assert sum(begun) == len(distinct) < sum(len(p.runs) for p in plans)
    for figure, found in zip(robustness.FIGURES, together, strict=True):
        alone = figure.item.work(Context(problem, (0,), 10))
        for name in ("depth", "lr", "seed", "norm", "objective", "method", "width", "init", "batch_size"):
            np.testing.assert_array_equal(found[name].values, alone[name].values)
        np.testing.assert_allclose(found["loss"].values, alone["loss"].values, rtol=1e-4)


def test_truncation_forgets_what_comes_later() -> None:
    loss = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, np.nan]])
    whole = xr.Dataset(
        {"loss": (("run", "step"), loss), "diverged_at": ("run", [np.nan, 150.0])}, coords={"step": [0, 100, 200]}
    )
    half = robustness.truncated(whole, 100)
    assert half["step"].values.tolist() == [0, 100]
    assert np.isnan(half["diverged_at"].values).all()
    assert robustness.truncated(whole, 200)["diverged_at"].values[1] == 150


def test_a_scaling_that_fails_is_left_out_and_named(data: xr.Dataset) -> None:
    assert data["scaling"].values.tolist() == list(SCALINGS)
    assert np.isnan(data.sel(scaling="maxabs")["holds"]).all()
    assert data.attrs["left_out"] == "maxabs: that cannot be."
    claims = robustness.claims(data, Setting("small", "standard", (0, 1), STEPS))
    assert all("maxabs undecided" in claim.note and "that cannot be." in claim.note for claim in claims)


def test_data_given_ready_made_are_mapped_as_they_are(raw: Problem) -> None:
    found = robustness.ITEM.work(Context(scaled(raw, "standard"), (0,), 20))
    assert np.isfinite(found.sel(scaling="standard")["holds"]).any()
    assert found.attrs["left_out"].count("needs the data as they were before") == len(SCALINGS) - 1
    own = robustness.ITEM.work(Context(raw, (0,), 20))
    assert own["scaling"].values.tolist() == [*SCALINGS, "none"]


def made(verdicts: dict[str, float]) -> xr.Dataset:
    """A map of one statement: at the full horizon the given verdicts, at a shorter one failure."""
    cells = np.zeros((1, len(verdicts), 2, 1))
    cells[0, :, 1, 0] = list(verdicts.values())
    return xr.Dataset(
        {"holds": (("row", "scaling", "horizon", "seed"), cells), "value": (("row",), [1.0])},
        coords={
            "statement": ("row", ["fig3.l4"]),
            "comparison": ("row", ["l4: depth 2 against depth 1"]),
            "scaling": list(verdicts),
            "horizon": [10_000, 100_000],
            "seed": [0],
        },
        attrs={"left_out": ""},
    )


@pytest.mark.parametrize(
    ("verdicts", "value", "verdict"),
    [
        ({"standard": 1.0, "minmax": 1.0}, 1.0, "holds"),
        ({"standard": 1.0, "minmax": 0.0}, 0.5, "fails"),
        ({"standard": 0.0, "minmax": np.nan}, 0.0, "fails"),
        ({"standard": 1.0, "minmax": np.nan}, 1.0, "inconclusive"),
        ({"standard": np.nan, "minmax": np.nan}, None, "inconclusive"),
    ],
)
def test_claims_are_about_every_cell_at_the_full_horizon(
    verdicts: dict[str, float], value: float | None, verdict: str
) -> None:
    claims = robustness.claims(made(verdicts), Setting("small", "standard", (0,), 100_000))
    (claim,) = (claim for claim in claims if claim.id == "robust.fig3.l4")
    assert (claim.value, claim.verdict) == (value, verdict)
    assert claim.scaling == "standard, minmax"


def test_every_statement_of_the_figures_has_a_row(data: xr.Dataset) -> None:
    claims = robustness.claims(data, Setting("small", "standard", (0, 1), STEPS))
    assert [claim.id for claim in claims] == [statement.id for statement in robustness.ITEM.statements]
    assert {f"robust.{s.id}" for f in robustness.FIGURES for s in f.item.statements} == {claim.id for claim in claims}
    assert {claim.verdict for claim in claims} == {"inconclusive"}  # short runs


def test_the_map_is_drawn_as_it_was_judged(data: xr.Dataset, tmp_path: Path) -> None:
    (picture,) = robustness.pictures(data)
    assert isinstance(picture, Picture)
    unknown, known = picture.figure.data
    table = np.asarray(known.z).reshape(data.sizes["row"], data.sizes["scaling"], data.sizes["horizon"])
    cells = data["holds"].transpose("row", "scaling", "horizon", "seed").values
    for place in np.ndindex(table.shape):
        decided = cells[place][np.isfinite(cells[place])]
        expected = decided.mean() if len(decided) else np.nan
        np.testing.assert_equal(table[place], np.float32(expected))
    assert (np.isnan(np.asarray(known.z)) == ~np.isnan(np.asarray(unknown.z))).all()
    assert len(picture.figure.to_json()) < 250_000
    assert functools.reduce(lambda a, b: a and b in picture.caption, ["100", "200"], True)
