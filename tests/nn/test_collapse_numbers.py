"""Folded weights are the products rounded once, and the report says by how much and what was saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.reference import linear_algebra as ref
from torch import nn

import overdepth as od


def expected_weight(factors: od.nn.Factors, kind: str, shape: tuple[int, ...], groups: int) -> ref.Array:
    """The end-to-end weight in NumPy float64, group by group."""
    arrays = [ref.as_array(f) for f in factors]
    if kind == "composed":  # y = K2 * (K1 * x): taps add up
        first, second = (a.reshape(groups, -1, *a.shape[1:]) for a in arrays)
        result = np.zeros((groups, shape[0] // groups, *shape[1:]))
        for u in range(second.shape[-1]):
            for v in range(first.shape[-1]):
                result[..., u + v] += second[..., u] @ first[..., v]
        return result.reshape(shape)
    chains = [list(chain) for chain in zip(*arrays, strict=True)] if groups > 1 else [arrays]
    if kind == "kernel_first":
        return np.stack([ref.product(chain) for chain in chains]).reshape(shape)
    return np.stack([np.einsum("op,pqt,qi->oit", c[2], c[1], c[0]) for c in chains]).reshape(shape)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("kind", "depth", "groups"),
    [("kernel_first", 2, 1), ("kernel_first", 4, 3), ("kernel_between", 3, 1), ("kernel_between", 3, 3),
     ("composed", 2, 1), ("composed", 2, 3)],
)  # fmt: skip
def test_a_folded_weight_is_the_float64_product_rounded_once(
    kind: Any, depth: int, groups: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    layer = nn.Conv1d(18, 24, 5, groups=groups, dtype=dtype)
    od.overparameterize_(layer, depth, init="near_zero", scale=0.3, factorization=kind)
    ((_, factors),) = od.nn.named_factors(layer)
    expected = expected_weight(factors, kind, (24, 18 // groups, 5), groups)
    in_own_dtype = layer.weight.detach().clone()
    (entry,) = od.collapse_(layer).weights
    if dtype == torch.float64:
        np.testing.assert_allclose(ref.as_array(layer.weight), expected, rtol=0, atol=1e-14 * np.abs(expected).max())
    else:
        assert torch.equal(layer.weight, torch.from_numpy(expected).to(dtype))
        # float32 rounds every sum; two bfloat16 factors are summed in float32 and rounded once as well.
        assert dtype != torch.float32 or not torch.equal(layer.weight, in_own_dtype)
    folded, multiplied = ref.as_array(layer.weight), ref.as_array(in_own_dtype)
    eps = torch.finfo(dtype).eps
    largest, error = np.abs(folded).max(), np.abs(folded - multiplied).max()
    assert entry.max_abs_error == pytest.approx(error, rel=2 * eps)
    assert entry.max_rel_error == pytest.approx(error / largest, rel=4 * eps)
    assert entry.error_in_eps == pytest.approx(error / largest / eps, rel=4 * eps)


@pytest.mark.parametrize("kind", ["kernel_first", "kernel_between", "composed"])
def test_folded_weights_lie_in_memory_as_the_plain_ones(kind: Any) -> None:
    """Safetensors refuse others, and kernels are slower on them."""
    layer = nn.Conv2d(4, 6, 5, groups=2)
    od.overparameterize_(layer, 3, init="near_zero", factorization=kind)
    od.collapse_(layer)
    assert layer.weight.stride() == nn.Conv2d(4, 6, 5, groups=2).weight.stride()


def test_a_weight_larger_than_a_block_is_folded_as_a_whole() -> None:
    """Long sides are folded in pieces."""
    torch.manual_seed(2)
    for layer in (nn.Linear(9001, 3, bias=False), nn.Linear(3, 9001, bias=False)):
        od.overparameterize_(layer, 3)
        ((_, factors),) = od.nn.named_factors(layer)
        expected = ref.product([ref.as_array(f) for f in factors])
        od.collapse_(layer)
        assert torch.equal(layer.weight, torch.from_numpy(expected).float())


def test_the_report_counts_what_is_saved() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.Conv2d(4, 8, 3, groups=2), nn.Conv1d(4, 6, 3))
    chosen: dict[str, Any] = {"2": {"depth": 3, "factorization": "kernel_between"}, "0": {"width": 5}}
    od.overparameterize_(model, select=lambda module, name: chosen.get(name, True))
    total = sum(p.numel() for p in model.parameters())
    report = od.collapse_(model)
    saved = {
        "0.weight": 5 * 6 + 4 * 5 - 4 * 6,
        "1.weight": 2 * (4 * 2 * 9 + 4 * 4) - 8 * 2 * 9,
        "2.weight": 4 * 4 + 6 * 4 * 3 + 6 * 6 - 6 * 4 * 3,
    }
    assert {w.name: w.parameters_saved for w in report.weights} == saved
    assert {w.name: w.multiply_adds_saved for w in report.weights} == saved  # every entry meets one position once
    assert {w.name: w.shape for w in report.weights} == {k: tuple(model.get_parameter(k).shape) for k in saved}
    assert report.parameters_saved == sum(saved.values()) == total - sum(p.numel() for p in model.parameters())
    assert report.multiply_adds_saved == sum(saved.values())
    text = str(report)
    assert all(name in text for name in saved)
    assert f"3 weights folded, {report.parameters_saved} parameters saved" in text
    assert report.output_error is None


def test_a_weight_that_became_zero_has_no_relative_error() -> None:
    layer = od.overparameterize_(nn.Linear(3, 4))
    with torch.no_grad():
        for _, factors in od.nn.named_factors(layer):
            for factor in factors:
                factor.zero_()
    (entry,) = od.collapse_(layer).weights
    assert entry.max_abs_error == entry.max_rel_error == entry.error_in_eps == 0
