"""The products that overdepth made."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import overdepth as od


def test_weights_of_an_over_parameterized_model() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    od.overparameterize_(model, 3, init="near_identity", scale=0.1)
    found = od.inspect(model)
    multipliers = od.nn.learning_rate_multipliers(model)
    assert [(p.name, p.kind, p.depth) for p in found] == [
        ("0.weight", "over-parameterized", 3), ("2.weight", "over-parameterized", 3),
    ]  # fmt: skip
    for product, (name, factors) in zip(found, od.nn.named_factors(model), strict=True):
        operator = od.transfer_operator(list(factors))
        assert product.multipliers.mean == pytest.approx(multipliers[name])
        assert product.multipliers.smallest == pytest.approx(operator.min_eigenvalue(), abs=1e-9)
        assert product.multipliers.largest == pytest.approx(operator.max_eigenvalue())
        wide = [f.detach().double() for f in factors]
        assert product.imbalance == pytest.approx([float(d.norm()) for d in od.imbalance(wide)])
        spectrum = od.end_to_end_spectrum(od.product(wide), 3)
        assert product.balanced_multipliers.largest == pytest.approx(float(spectrum.max()))
        assert product.balanced_multipliers.mean == pytest.approx(float(spectrum.mean()))
    parameters = dict(model.named_parameters())
    assert all(name in parameters for p in found for name in p.factors)


def test_balanced_factors_are_balanced() -> None:
    model = od.overparameterize_(nn.Linear(40, 50), 3)
    (product,) = od.inspect(model)
    assert product.relative_imbalance < 1e-6
    assert product.multipliers.is_exact
    assert product.multipliers.curve == product.balanced_multipliers.curve


def test_groups_of_a_convolution() -> None:
    model: Any = od.overparameterize_(nn.Conv2d(4, 6, 3, groups=2), 2)
    found = od.inspect(model)
    assert [(p.part, p.shape) for p in found] == [("group 0", (3, 18)), ("group 1", (3, 18))]
    assert found[1].factors[0] == "parametrizations.weight.factor0[1]"
    assert "kernel of shape 6 x 2 x 3 x 3" in found[0].notes[0]
    with torch.no_grad():
        weight = model.weight.double()
    assert found[1].norm == pytest.approx(float(weight[3:].norm()), rel=1e-6)
    assert "2 groups" in repr(found)


def test_kernels_on_both_sides_are_no_chain() -> None:
    model = od.overparameterize_(nn.Conv2d(4, 6, 3), 3, init="orthogonal", factorization="kernel_between")
    found = od.inspect(model)
    assert len(found) == 0
    assert "no chain of matrices" in found.left_out["weight"]


def test_tied_weights_come_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    od.overparameterize_(model)
    (product,) = od.inspect(model)
    assert product.notes == ("tied to '2.weight'",)
