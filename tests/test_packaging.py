"""The wheel as a user gets it: small, complete, typed, and of use without any extra."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import overdepth as od

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
MOST_BYTES = 1_000_000

CORE = """
import sys, importlib.abc
import torch._dynamo  # which looks at what is installed

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {extras}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
"""
EXTRAS = {
    "scipy", "xarray", "pandas", "plotly", "typer", "rich", "sklearn", "h5py", "h5netcdf", "jinja2", "pyarrow",
    "optuna", "marimo", "ray", "jax", "optax", "lightning", "transformers", "kaleido", "zarr", "matplotlib",
    "platformdirs",
}  # fmt: skip
USER = """
import torch
import overdepth as od

model: torch.nn.Module = od.overparameterize_(torch.nn.Linear(4, 3), depth=2)
plain = od.collapse_(model)
reveal_type(od.product([torch.eye(2)]))
reveal_type(od.transfer_operator([torch.eye(2), torch.eye(2)]))
od.product(3)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(  # noqa: S603 - our own build
        [sys.executable, "-m", "build", "--outdir", folder, ROOT], check=True, capture_output=True, timeout=280
    )
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel's package alone, beside what is installed here."""
    folder = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--target",
        str(folder),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    return folder


def run(folder: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(  # noqa: S603
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False
    )


def test_the_wheel_is_small_and_has_every_file_that_the_package_reads(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    assert wheel.name == f"overdepth-{od.__version__}-py3-none-any.whl"
    assert wheel.stat().st_size <= MOST_BYTES
    inside = set(zipfile.ZipFile(wheel).namelist())
    source = ROOT / "src"
    expected = {
        str(path.relative_to(source))
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    assert expected <= inside
    assert {name for name in inside if not name.startswith(("overdepth/", "overdepth-"))} == set()


def test_the_source_distribution_can_be_tested(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as stored:
        names = {name.partition("/")[2] for name in stored.getnames()}
    assert {"Makefile", "constraints.txt", "pyproject.toml", "tests/conftest.py", "docs/index.md", "README.md"} <= names
    assert not [name for name in names if name.endswith((".nc", ".npz"))]


def test_it_runs_from_where_it_was_installed(installed: Path, tmp_path: Path) -> None:
    found = run(installed, "-c", "import overdepth; print(overdepth.__file__)", cwd=tmp_path)
    assert Path(found.stdout.strip()).parent == installed / "overdepth"
    assert run(installed, "-m", "overdepth", "--version", cwd=tmp_path).stdout == f"overdepth {od.__version__}\n"
    preset = run(installed, "-m", "overdepth", "sweep", "fig3", "--dry-run", cwd=tmp_path)
    assert preset.returncode == 0, preset.stderr


def test_without_extras_the_three_forms_work_and_the_rest_names_its_extra(installed: Path, tmp_path: Path) -> None:
    script = (
        CORE.format(extras=EXTRAS)
        + """
import torch, overdepth as od
model = od.overparameterize_(torch.nn.Linear(4, 3), depth=2)
od.collapse_(model)
weight = torch.nn.Parameter(torch.ones(3, 4))
factored = od.optim.Factored([weight], torch.optim.SGD, depth=2, lr=0.1)
for optimizer in (factored, od.optim.EndToEndSGD([weight], lr=0.1)):
    optimizer.zero_grad()
    weight.sum().backward()
    optimizer.step()
for use in (lambda: od.lab.sweep, lambda: od.theory.certify, lambda: od.compare, lambda: od.optax.scale_by_end_to_end):
    try:
        use()
    except ModuleNotFoundError as error:
        print(error)
from overdepth.cli import main
print(main(["sweep"]))
"""
    )
    done = run(installed, "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition("pip install ")[2] for line in lines[:4]] == [
        "'overdepth[lab]'.",
        "'overdepth[lab]'.",
        "'overdepth[compare]'.",
        "'overdepth[optax]'.",
    ]
    assert lines[4] == "2"
    assert "install the extra: pip install 'overdepth[lab]'." in done.stderr


def test_a_users_project_sees_the_types(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER, encoding="utf-8")
    environment = {**os.environ, "MYPYPATH": str(installed)}
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "--cache-dir", tmp_path, "user.py"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout
    assert 'Revealed type is "torch._tensor.Tensor"' in said
    assert 'Revealed type is "overdepth.transfer.TransferOperator"' in said
    assert 'Argument 1 to "product" has incompatible type "int"' in said
    assert "Found 1 error in 1 file" in said
