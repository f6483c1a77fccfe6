"""The user's own sweep: found, read, refused in one sentence, and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import overdepth as od
from overdepth.explorer import own_sweep
from overdepth.explorer.own_sweep import color_of, curves, final, further, groups, show
from overdepth.explorer.sweep_files import data_sets, read_sweep, varying

DEFAULTS = {control.key: control.default for control in own_sweep.CONTROLS}


@pytest.fixture(scope="module")
def sweep() -> xr.Dataset:
    problem = od.lab.load_problem("breast-cancer")
    runs = od.lab.grid(depth=[1, 2], lr=[1e-3, 1e-2, 100.0], seed=[0, 1])
    return od.lab.sweep(problem, runs, objective="l4", steps=300, record_every=50)


@pytest.fixture
def folder(sweep: xr.Dataset, tmp_path: Path) -> Path:
    sweep.to_netcdf(tmp_path / "results.nc", engine="h5netcdf")
    return tmp_path


def test_a_folder_and_its_file_are_the_same(folder: Path, sweep: xr.Dataset) -> None:
    for place in (folder, folder / "results.nc"):
        (path,) = data_sets(str(place)).values()
        xr.testing.assert_equal(read_sweep(path), sweep)


def test_a_report_offers_its_data_sets(sweep: xr.Dataset, tmp_path: Path) -> None:
    for name in ("fig3", "results", "fig2"):
        sweep.to_netcdf(tmp_path / f"{name}.nc", engine="h5netcdf")
    assert list(data_sets(str(tmp_path))) == ["results", "fig2", "fig3"]
    (choice,) = further({**DEFAULTS, "sweep": str(tmp_path)})
    assert choice.key == "item"
    assert choice.default == "results"
    assert show({**DEFAULTS, "sweep": str(tmp_path), "item": "fig2"}).pictures


def test_a_zarr_store_is_read_where_zarr_is(sweep: xr.Dataset, tmp_path: Path) -> None:
    pytest.importorskip("zarr")
    sweep.to_zarr(tmp_path / "results.zarr", zarr_format=2)  # version 3 warns of its strings
    (path,) = data_sets(str(tmp_path)).values()
    assert read_sweep(path).sizes == sweep.sizes


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    array = tmp_path / "results.zarr" / "loss"
    array.mkdir(parents=True)
    (array / ".zarray").write_text(json.dumps({"filters": [{"id": "pickle"}]}), encoding="utf-8")
    with pytest.raises(ValueError, match=r"cannot be read as NetCDF or Zarr"):
        read_sweep(tmp_path / "results.zarr")


def test_a_file_that_changed_is_read_again(folder: Path, sweep: xr.Dataset) -> None:
    path = folder / "results.nc"
    before = read_sweep(path)
    assert read_sweep(path) is before
    sweep.isel(run=[0]).to_netcdf(folder / "other.nc", engine="h5netcdf")
    (folder / "other.nc").replace(path)
    assert read_sweep(path).sizes["run"] == 1


def test_what_is_no_sweep_is_refused(tmp_path: Path, sweep: xr.Dataset) -> None:
    with pytest.raises(ValueError, match=r"does not exist; give the folder"):
        data_sets(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"holds no \.nc file"):
        data_sets(str(tmp_path))
    (tmp_path / "bad.nc").write_bytes(b"not at all")
    with pytest.raises(ValueError, match=r"cannot be read as NetCDF or Zarr; write it again"):
        read_sweep(tmp_path / "bad.nc")
    xr.Dataset({"loss": ("time", np.zeros(3))}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"is no sweep: loss\(run, step\) has dimensions"):
        read_sweep(tmp_path / "other.nc")
    sweep.drop_vars("diverged_at").to_netcdf(tmp_path / "less.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"diverged_at\(run\) is missing"):
        read_sweep(tmp_path / "less.nc")
    sweep.isel(run=[]).to_netcdf(tmp_path / "empty.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"has 0 runs"):
        read_sweep(tmp_path / "empty.nc")
    assert further({**DEFAULTS, "sweep": str(tmp_path / "nowhere")}) == []


def test_colours_follow_what_differs(sweep: xr.Dataset) -> None:
    assert varying(sweep, ["depth", "width", "lr", "seed"]) == ["depth", "lr", "seed"]
    assert color_of(sweep, "auto") == "depth"
    assert color_of(sweep.isel(run=sweep.depth == 1), "auto") == "lr"
    assert [(label, color) for label, color, _, _ in groups(sweep, "depth")] == [("depth 1", 1), ("depth 2", 2)]
    with pytest.raises(ValueError, match=r"has no 'width'; choose one of"):
        color_of(sweep.drop_vars("width"), "width")


def test_a_setting_that_was_not_set_has_a_line_of_its_own(sweep: xr.Dataset) -> None:
    (only,) = groups(sweep, "norm")
    assert only[0] == "norm not set"
    assert only[3].sizes["run"] == sweep.sizes["run"]


def test_the_best_of_every_seed_is_drawn(sweep: xr.Dataset) -> None:
    picture = curves(sweep, "depth", best=True)
    lines = [trace for trace in picture.data if trace.name]
    assert [line.name for line in lines] == ["depth 1", "depth 2"]
    gap = (sweep.loss - sweep.optimal_loss).isel(step=-1)
    best = gap.where(sweep.depth == 1, drop=True).groupby("seed").min()
    assert float(np.asarray(lines[0].y)[-1]) == pytest.approx(float(best.median()), rel=1e-5)


def test_diverged_runs_leave_the_last_picture(sweep: xr.Dataset) -> None:
    assert np.isfinite(sweep.diverged_at.values).any()
    for trace in final(sweep, "depth", "lr").data:
        if trace.name:
            assert np.isnan(np.asarray(trace.y, dtype=float)[-1])  # lr 100


def test_two_objectives_are_two_dashes(sweep: xr.Dataset) -> None:
    other = sweep.assign_coords(objective=("run", ["l2"] * sweep.sizes["run"]))
    both = xr.concat([sweep, other], dim="run")
    assert [(label, dash) for label, _, dash, _ in groups(both, "depth")][:2] == [
        ("depth 1, l2", "solid"),
        ("depth 1, l4", "dash"),
    ]


@pytest.mark.parametrize("runs", ["best", "all"])
@pytest.mark.parametrize("x", ["lr", "seed", "depth"])
def test_the_view(folder: Path, runs: str, x: str) -> None:
    shown = show({**DEFAULTS, "sweep": str(folder), "runs": runs, "x": x})
    assert "**12** runs on breast-cancer, 4 of them diverged. They differ in depth, seed, lr." in shown.text
    assert len(shown.pictures) == 2


def test_without_a_path_the_view_says_how_to_give_one() -> None:
    assert "Give the folder" in show(DEFAULTS).text
