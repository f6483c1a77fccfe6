"""The data set of a sweep is that of the engine in memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sweeps.sweeping import document, folder_of, loss, pieces, problem, run_in, sweep, sweep_file, work_of
from tests.sweeps.test_sweep_file import grids, plain_product, rules

import overdepth as od
from overdepth.lab import Run
from overdepth.lab.run import RUN_FIELDS
from overdepth.sweeps import parse
from overdepth.sweeps.plan import cut

NEW = {"finished"}
"""What the data set of a folder has beyond that of the engine."""

MIXED = """
data = "auto"
steps = 150
record_every = 40
[[grid]]
depth = [1, 2, 3]
lr = [1e-2, 0.3, 5.0]
[[grid]]
depth = 2
width = [2, 4]
weight_decay = [0.0, 0.1]
[[grid]]
method = "end_to_end"
depth = [1.5, 3, inf]
[[grid]]
method = ["adam", "adagrad_tf1"]
[[run]]
norm = 0.5
"""


def in_memory(data: od.lab.Problem, runs: list[Run], objective: str, **settings: Any) -> xr.Dataset:
    return od.lab.sweep(data, runs, objective=objective, **settings)


def assert_like(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Equal bit for bit in all that both have, and nothing unexpected beyond."""
    assert set(found.data_vars) == {*expected.data_vars, *NEW}
    xr.testing.assert_identical(found.drop_vars(list(NEW)).drop_attrs(deep=False), expected.drop_attrs(deep=False))
    for name in (
        "problem",
        "scaling",
        "checksum",
        "steps",
        "dtype",
        "batch_size",
        "overdepth_version",
        "torch_version",
    ):
        assert found.attrs[name] == expected.attrs[name]


@pytest.mark.parametrize("objective", ["l2", "l4"])
@pytest.mark.parametrize(("outputs", "seconds"), [(1, 60.0), (1, 0.0), (2, 0.0)])
def test_one_block_is_the_engines_sweep_bit_for_bit(
    objective: str, outputs: int, seconds: float, tmp_path: Path
) -> None:
    data = problem(outputs=outputs)
    file = parse(f'objective = "{objective}"\n' + MIXED)
    found = run_in(tmp_path / "out", file, data, seconds=seconds)
    runs = [row.run for row in file.rows]
    expected = in_memory(data, runs, objective, steps=150, record_every=40)
    assert_like(found, expected)
    assert np.isnan(found.loss.values).any()
    assert np.isfinite(found.diverged_at.values).any()
    assert found.finished.values.all()
    assert found.attrs["sweep_file"] == file.text
    assert bool(len(pieces(tmp_path / "out")) > 1) == (seconds == 0.0)


@pytest.mark.parametrize("objective", ["l2", "l4"])
def test_several_blocks_round_differently_at_most(objective: str, tmp_path: Path) -> None:
    data = problem()
    file = parse(f'dtype = "float64"\nobjective = "{objective}"\n' + MIXED)
    found = run_in(tmp_path / "out", file, data, block_runs=4)
    assert len(list((tmp_path / "out" / "blocks").iterdir())) == math.ceil(len(file.rows) / 4)
    expected = in_memory(
        data, [row.run for row in file.rows], objective, steps=150, record_every=40, dtype=file.settings.dtype
    )
    np.testing.assert_array_equal(found.diverged_at, expected.diverged_at)
    stays = np.isnan(expected.diverged_at.values)
    np.testing.assert_allclose(found.loss[stays], expected.loss[stays], rtol=1e-10)
    xr.testing.assert_identical(
        found.drop_vars(["loss", "finished"]).drop_attrs(deep=False),
        expected.drop_vars("loss").drop_attrs(deep=False),
    )


@settings(max_examples=10)
@given(
    objectives=st.lists(st.sampled_from(["l2", "l4", "l6"]), min_size=1, max_size=2, unique=True),
    tables=st.lists(grids() | rules(), min_size=1, max_size=2),
    steps=st.integers(1, 9),
    record_every=st.integers(1, 5),
    batch_size=st.none() | st.integers(1, 9),
    seconds=st.sampled_from([0.0, 60.0]),
)
def test_valid_files_run(
    tmp_path_factory: pytest.TempPathFactory,
    objectives: list[str],
    tables: list[dict[str, Any]],
    steps: int,
    record_every: int,
    batch_size: int | None,
    seconds: float,
) -> None:
    data = problem(examples=9)
    shared = {"steps": steps, "record_every": record_every}
    if batch_size:
        shared["batch_size"] = batch_size
    file = parse(document({"data": "auto", "objective": objectives, **shared}, tables))
    found = run_in(tmp_path_factory.mktemp("sweep") / "out", file, data, seconds=seconds)
    expected = list(dict.fromkeys(plain_product(objectives, tables)))
    parts = [
        in_memory(data, [run for name, run in expected if name == objective], objective, **shared)
        for objective in objectives
    ]
    whole = xr.concat([part.assign_coords(run=part.run) for part in parts], "run", combine_attrs="override")
    np.testing.assert_array_equal(found.loss.values, whole.loss.values)
    np.testing.assert_array_equal(found.diverged_at.values, whole.diverged_at.values)
    np.testing.assert_array_equal(found.optimal_loss.values, whole.optimal_loss.values)
    for name in (*RUN_FIELDS, "objective"):
        np.testing.assert_array_equal(found[name].values, whole[name].values)


def test_a_list_of_objectives_through_the_command(tmp_path: Path) -> None:
    path = sweep_file(tmp_path)
    assert sweep(path, "--out", tmp_path / "out") == 0
    with xr.open_dataset(tmp_path / "out" / "results.nc") as data:
        assert dict(data.sizes) == {"run": 36, "step": 16}
        assert list(data.objective.values) == ["l2"] * 18 + ["l4"] * 18
        assert {*RUN_FIELDS, "objective"} <= set(data.coords)
        assert data.loss.dims == ("run", "step")
        assert data.loss.attrs["long_name"] == "training loss"
        table = od.lab.load_problem(tmp_path / "data.csv", target=["y"])
        for objective in ("l2", "l4"):
            own = data.loss.values[data.objective.values == objective]
            runs = od.lab.grid(depth=[1, 2, 3], lr=[1e-2, 1e-1, 2.0], seed=[0, 1])
            expected = in_memory(table, runs, objective, steps=300, record_every=20)
            np.testing.assert_array_equal(own, expected.loss.values)
        gap = data.loss - data.optimal_loss  # the usual question: the best learning rate of a depth
        best = gap.isel(step=-1).groupby("depth").min()
        assert np.isfinite(best.values).all()


def test_rows_are_cut_into_blocks_of_one_objective_and_near_equal_size() -> None:
    data = problem()
    file = parse('objective = ["l2", "l4"]\n' + MIXED)
    for block_runs in (1, 3, 7, 100):
        blocks = cut(file.rows, data, block_runs)
        assert sorted(i for block in blocks for i in block.index) == list(range(len(file.rows)))
        assert [block.number for block in blocks] == list(range(len(blocks)))
        sizes = [len(block.index) for block in blocks]
        assert max(sizes) <= block_runs
        assert max(sizes) - min(sizes) <= 1
        assert all({file.rows[i].objective for i in block.index} == {block.objective} for block in blocks)


def test_what_is_not_known_yet_is_told(tmp_path: Path) -> None:
    from overdepth.sweeps.results import optima, write_results

    data = problem()
    file = parse(MIXED)
    complete = run_in(tmp_path / "out", file, data, seconds=0.0)
    folder = folder_of(tmp_path / "out")
    last = folder.pieces(0)[-1]
    last.path.unlink()
    work = work_of(file, data)
    write_results(work, folder, optima(work))
    with xr.open_dataset(folder.results) as found:
        known = found.step.values <= last.first
        dead = np.isfinite(complete.diverged_at.values) & (complete.diverged_at.values <= last.first)
        assert not known.all()
        # The state before the last piece is gone, so that nothing before it would be reused; it is still shown as known
        assert np.isnan(found.loss.values[:, ~known]).all()
        assert (found.finished.values <= dead).all()


def test_losses_are_stored_in_full(tmp_path: Path) -> None:
    path = sweep_file(tmp_path)
    assert sweep(path, "--out", tmp_path / "out") == 0
    assert loss(tmp_path / "out").dtype == np.float64
