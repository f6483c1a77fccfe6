"""What loggers get: the figures against NumPy, and when."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import linear_algebra as reference
from torch import nn

import overdepth as od
from overdepth.integrations import log_products, product_metrics, watch_products


def drawn(depth: int = 3) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    return od.overparameterize_(model, depth, init="near_identity", scale=0.3)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_metrics_against_numpy(depth: int) -> None:
    model = drawn(depth)
    metrics = product_metrics(model)
    assert len(metrics) == 6
    for name, factors in od.nn.named_factors(model):
        arrays = [reference.as_array(f) for f in factors]
        norm = np.linalg.norm(reference.product(arrays))
        relative = max(
            np.linalg.norm(d) / np.hypot(np.linalg.norm(upper.T @ upper), np.linalg.norm(lower @ lower.T))
            for d, lower, upper in zip(reference.imbalance(arrays), arrays, arrays[1:], strict=False)
        )
        mean = np.trace(reference.transfer_matrix(arrays)) / (arrays[-1].shape[0] * arrays[0].shape[1])
        assert metrics[f"overdepth/{name}/norm"] == pytest.approx(norm, rel=1e-5)
        assert metrics[f"overdepth/{name}/imbalance"] == pytest.approx(relative, rel=1e-5)
        assert metrics[f"overdepth/{name}/multiplier"] == pytest.approx(mean)
    assert all(type(value) is float for value in metrics.values())


def test_convolutions() -> None:
    model: Any = od.overparameterize_(nn.Conv2d(4, 6, 3, groups=2), 2, init="near_identity", scale=0.3)
    found = od.inspect(model)
    metrics = product_metrics(model)
    assert metrics["overdepth/weight/imbalance"] == pytest.approx(max(p.relative_imbalance for p in found), rel=1e-5)
    assert metrics["overdepth/weight/norm"] == pytest.approx(np.hypot(found[0].norm, found[1].norm), rel=1e-5)
    between = od.overparameterize_(nn.Conv2d(4, 6, 3), 3, init="orthogonal", factorization="kernel_between")
    assert list(product_metrics(between)) == ["overdepth/weight/norm"]


def test_low_precision_does_not_overflow() -> None:
    model: Any = od.overparameterize_(nn.Linear(64, 64), 2).half()
    with torch.no_grad():
        for factor in model.parametrizations.weight:
            factor.fill_(60.0)
    assert product_metrics(model)["overdepth/weight/norm"] == pytest.approx(64 * 64 * 3600.0)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_model_that_has_diverged_is_logged_as_such(number: float) -> None:
    model = drawn()
    with torch.no_grad():
        model[0].parametrizations.weight.factor1[0, 0] = number
    metrics = product_metrics(model)
    assert not np.isfinite(metrics["overdepth/0.weight/norm"])
    assert np.isnan(metrics["overdepth/0.weight/imbalance"])
    assert np.isnan(metrics["overdepth/0.weight/multiplier"])
    assert np.isfinite(metrics["overdepth/2.weight/multiplier"])


def test_a_sink_gets_one_dict() -> None:
    entries: list[dict[str, float]] = []
    returned = log_products(drawn(), entries.append)
    assert entries == [returned]
    assert "step" not in returned
    log_products(drawn(), entries.append, step=7)
    assert entries[1]["step"] == 7


def test_watching_an_optimizer() -> None:
    model = drawn()
    entries: list[dict[str, float]] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    handle = watch_products(model, entries.append, optimizer, every=3)
    for _ in range(7):
        optimizer.zero_grad()
        model(torch.ones(5, 6)).square().sum().backward()
        optimizer.step()
    assert [entry["step"] for entry in entries] == [0, 3, 6]
    assert entries[2]["overdepth/0.weight/norm"] != entries[0]["overdepth/0.weight/norm"]
    handle.remove()
    for _ in range(3):
        optimizer.step()
    assert len(entries) == 3


def test_a_folded_model_is_no_longer_watched() -> None:
    model = drawn()
    entries: list[dict[str, float]] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch_products(model, entries.append, optimizer, every=1)
    od.collapse_(model, optimizer=optimizer)
    optimizer.step()
    assert len(entries) == 1


class Recorder:
    """Stands in for a package: every call is kept."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


def test_the_recipes_of_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(# TensorBoard.*?)```", page, flags=re.DOTALL)
    board, flow, biases = (part for part in re.split(r"^# .*\n", block, flags=re.MULTILINE) if part)
    found: dict[str, Any] = {}
    for recipe, name in ((board, "writer"), (flow, "mlflow"), (biases, "wandb")):
        names: dict[str, Any] = {name: Recorder()}
        exec(recipe, names)  # noqa: S102 - our own text
        found[name] = log_products(drawn(), names["sink"], step=20), names[name].calls
    written, calls = found["writer"]
    assert calls == [("add_scalar", (name, value, 20), {}) for name, value in written.items()]
    assert len(calls) == 6
    written, calls = found["mlflow"]
    assert calls == [("log_metrics", (written,), {"step": 20})]
    assert "step" not in written
    written, calls = found["wandb"]
    assert calls == [("log", (written,), {})]
    assert written["step"] == 20


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no factors to log"):
        log_products(nn.Linear(2, 2), print)
    with pytest.raises(TypeError, match="sink is a list"):
        log_products(drawn(), [])  # type: ignore[arg-type]
    model = drawn()
    with pytest.raises(ValueError, match="every is 0"):
        watch_products(model, print, torch.optim.SGD(model.parameters(), lr=0.1), every=0)
