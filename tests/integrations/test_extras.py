"""What is needed is imported where it is used, and its extra is named where it is missing."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("lightning", ("lightning.pytorch", "pytorch_lightning"), "lightning"),
        ("hugging_face", ("transformers",), "trainer"),
        ("hugging_face", ("safetensors.torch",), "trainer"),
    ],
)
def test_a_missing_package_names_its_extra(
    module: str, missing: tuple[str, ...], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"overdepth.integrations.{module}", raising=False)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ModuleNotFoundError, match=rf"needs .*install the extra: pip install 'overdepth\[{extra}\]'"):
        importlib.import_module(f"overdepth.integrations.{module}")


def test_inspection_and_loggers_need_torch_alone() -> None:
    program = (
        "import sys, torch, overdepth as od\n"
        "before = set(sys.modules)\n"
        "print(od.inspect(torch.nn.MultiheadAttention(4, 2)))\n"
        "od.integrations.log_products(od.overparameterize_(torch.nn.Linear(4, 2)), print)\n"
        "late = {'plotly', 'jinja2', 'lightning', 'transformers', 'safetensors', 'pandas', 'scipy'}\n"
        "assert not late & {name.split('.')[0] for name in set(sys.modules) - before}\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=200)  # noqa: S603
