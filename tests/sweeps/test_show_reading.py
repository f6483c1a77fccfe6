"""What is opened, and what is refused in one sentence."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from tests.sweeps.made import made, swept, write

from overdepth.cli import main
from overdepth.sweeps.show import Source, open_results, panels, read_runs

ROWS = [{"depth": float(depth), "lr": lr, "seed": seed} for depth in (1, 2) for lr in (0.1, 0.2) for seed in (0, 1)]


def zarr(path: Path, data: xr.Dataset, version: int) -> Path:
    data.to_zarr(path, mode="w", zarr_format=version)
    return path


def refusal(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["show", str(path)]) == 2
    message = capsys.readouterr().err
    assert message.startswith("overdepth: ")
    assert message.count("\n") == 1
    return message


def gaps(path: Path) -> np.ndarray:
    with open_results(path) as results:
        (source,) = results.sources
        return read_runs(source).gap


def test_a_file_and_its_folder_are_the_same(tmp_path: Path) -> None:
    data = swept(steps=40)
    file = write(tmp_path / "sweep" / "results.nc", data)
    assert gaps(file).tolist() == gaps(file.parent).tolist()
    final = data.loss.values[:, -1] - data.optimal_loss.values
    expected = np.where(np.isfinite(data.diverged_at.values), np.inf, final)
    np.testing.assert_array_equal(gaps(file), expected)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_folder_is_opened(version: int, tmp_path: Path) -> None:
    data = made([{**row, "gap": i + 1.0} for i, row in enumerate(ROWS)])
    path = zarr(tmp_path / "results.zarr", data, version)
    assert gaps(path).tolist() == gaps(tmp_path).tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert main(["show", str(path)]) == 0
    assert (tmp_path / "results.html").is_file()


def test_losses_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made([{**row, "gap": i + 1.0} for i, row in enumerate(ROWS)])
    monkeypatch.setattr("overdepth.sweeps.show.reading.BLOCK", 3 * data.sizes["step"])
    rows = np.array([7, 0, 3, 4])
    with open_results(write(tmp_path / "a.nc", data.transpose())) as results:
        np.testing.assert_array_equal(results.sources[0].losses(rows), data.loss.values[rows])


def test_a_report_is_drawn_item_by_item(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    for name in ("fig3", "fig2"):
        write(folder / f"{name}.nc", made(ROWS))
    write(folder / "theorem1.nc", xr.Dataset({"residual": ("case", [1.0])}))
    (folder / "index.html").write_text("the report's own page", encoding="utf-8")
    with open_results(folder) as results:
        assert [source.name for source in results.sources] == ["fig2", "fig3"]
        assert len(results.left_out) == 1
        assert "theorem1.nc has no variable 'loss'" in results.left_out[0]
    assert main(["show", str(folder)]) == 0
    assert (folder / "index.html").read_text(encoding="utf-8") == "the report's own page"
    page = (folder / "show.html").read_text(encoding="utf-8")
    assert page.count('class="panel"') == 2
    assert "Left out: " in page


def test_an_unfinished_sweep_is_assembled(tmp_path: Path) -> None:
    with open_results(tmp_path, assemble=lambda folder: made(ROWS)) as results:
        assert len(read_runs(results.sources[0])) == len(ROWS)
    with pytest.raises(ValueError, match=r"holds no results\.nc"), open_results(tmp_path, assemble=lambda _: None):
        pass


def test_a_folder_without_a_result(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"overdepth sweep SWEEP.toml --out {tmp_path} --resume" in refusal(tmp_path, capsys)
    assert "does not exist; give the folder of a sweep" in refusal(tmp_path / "missing", capsys)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data.drop_vars("optimal_loss"), "has no variable 'optimal_loss', so it is no result of a sweep"),
        (lambda data: data.drop_vars("lr"), "has no coordinate 'lr'"),
        (lambda data: data.drop_vars("step"), "has no coordinate 'step'"),
        (lambda data: data.assign(diverged_at=data.loss), "has diverged_at(run, step) instead of diverged_at(run)"),
        (lambda data: data.assign(loss=data.loss.astype(str)), "has a variable 'loss' that is no number"),
        (lambda data: data.isel(run=[]), "holds no runs"),
        (lambda data: data.isel(step=[]), "holds no runs"),
    ],
)
def test_another_kind_of_data(change: Any, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refusal(write(tmp_path / "results.nc", change(made(ROWS))), capsys)
    assert expected in message
    assert "results.nc" in message


def test_a_file_that_is_cut_short(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "results.nc", swept(steps=20))
    content = file.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        message = refusal(tmp_path, capsys)
        assert "cut short or damaged" in message
        assert "--resume" in message
    assert [path.name for path in tmp_path.iterdir()] == ["results.nc"]


def test_a_flipped_byte_is_at_most_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = made(ROWS * 50)
    data["loss"].encoding = {"zlib": True, "chunksizes": (50, 5), "fletcher32": True}
    file = tmp_path / "results.nc"
    file.write_bytes(bytes(data.to_netcdf(engine="h5netcdf")))
    content = file.read_bytes()
    wrong = 0
    for start in range(2000, len(content), 997):
        broken = bytearray(content)
        broken[start] ^= 0xFF
        file.write_bytes(broken)
        status = main(["show", str(file)])
        printed = capsys.readouterr().err
        assert status in (0, 2)
        assert printed.count("\n") == (status == 2)
        wrong += status == 2
    assert wrong


@pytest.mark.parametrize("content", [b"", b"plain text", b"CDF\x01 an old NetCDF", b"\x89HDF\r\n\x1a\n" + bytes(50)])
def test_a_file_of_another_kind(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_bytes(content)
    assert "notes.txt cannot be read as NetCDF or Zarr" in refusal(tmp_path / "notes.txt", capsys)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
@pytest.mark.parametrize("version", [2, 3])
def test_a_codec_that_executes_is_refused(version: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zarr(tmp_path / "results.zarr", made(ROWS), version)
    name = ".zarray" if version == 2 else "zarr.json"
    metadata = json.loads((path / "loss" / name).read_text(encoding="utf-8"))
    if version == 2:
        metadata["filters"] = [{"id": "pickle", "protocol": 5}]
    else:
        metadata["codecs"].append({"name": "numcodecs.pickle", "configuration": {}})
    (path / "loss" / name).write_text(json.dumps(metadata), encoding="utf-8")
    assert re.search(r"codec '(numcodecs\.)?pickle' in loss/\S+ is not one of plain data", refusal(path, capsys))


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::RuntimeWarning")
def test_a_link_in_a_zarr_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zarr(tmp_path / "results.zarr", made(ROWS), 3)
    shutil.move(path / "loss", tmp_path / "elsewhere")
    (path / "loss").symlink_to(tmp_path / "elsewhere")
    assert "loss is a link, which may lead anywhere" in refusal(path, capsys)


def test_without_zarr_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (tmp_path / "results.zarr").mkdir()
    (tmp_path / "results.zarr" / "zarr.json").write_text("{}", encoding="utf-8")
    assert "pip install 'overdepth[zarr]'" in refusal(tmp_path, capsys)


def test_losses_that_differ_are_never_compared() -> None:
    rows = [{**row, "objective": name} for row in ROWS for name in ("l2", "l4")]
    found = panels(read_runs(Source("", Path(), made(rows))))
    assert [(settings["objective"], len(part)) for settings, part in found] == [("l2", 8), ("l4", 8)]
