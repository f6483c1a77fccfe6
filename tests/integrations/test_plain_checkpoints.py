"""state_dicts of the plain model while there are factors, and the factors beside them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import overdepth as od
from overdepth.integrations.plain_checkpoints import factors_of, plain_state_dicts, restore_factors


def plain() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def factored(**options: Any) -> Any:
    model = od.overparameterize_(plain(), 2, **options)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)  # out of balance
    return model


def test_the_state_dict_is_the_plain_models() -> None:
    model = factored()
    expected = od.nn.plain_state_dict(model.state_dict(), model)
    with plain_state_dicts(model):
        state = model.state_dict()
        assert list(state) == list(expected) == list(plain().state_dict())
        assert all(torch.equal(state[key], expected[key]) for key in expected)
        plain().load_state_dict(state)
    assert "0.parametrizations.weight.factor0" in model.state_dict()


def test_a_part_of_a_larger_model() -> None:
    outer = nn.ModuleDict({"inner": factored(), "head": nn.Linear(3, 2)})
    keys = list(nn.ModuleDict({"inner": plain(), "head": nn.Linear(3, 2)}).state_dict())
    before = factors_of(outer)
    with plain_state_dicts(outer["inner"]):
        state = outer.state_dict()
        assert sorted(state) == sorted(keys)
        outer.load_state_dict(state)
    for key, value in od.nn.plain_state_dict(factors_of(outer), outer).items():
        torch.testing.assert_close(value, od.nn.plain_state_dict(before, outer)[key])


@pytest.mark.parametrize("strict", [True, False])
def test_plain_and_factored_checkpoints_load(strict: bool) -> None:
    model, other = factored(), factored()
    with torch.no_grad():
        other[0].parametrizations.weight.factor0.mul_(2)
    exact = factors_of(other)
    x = torch.randn(4, 6)
    expected = other(x)
    with plain_state_dicts(model), plain_state_dicts(other):
        state = other.state_dict()
        given = dict(state)
        result = model.load_state_dict(state, strict=strict)
        assert not result.missing_keys
        assert not result.unexpected_keys
        assert list(state) == list(given)  # the caller's dict stays as it is
        torch.testing.assert_close(model(x), expected)
        assert all(float(d.norm()) < 1e-5 for d in od.imbalance([f.detach() for f in model[0].parametrizations.weight]))
    with plain_state_dicts(model):
        model.load_state_dict(other.state_dict(), strict=strict)
    assert all(torch.equal(value, exact[key]) for key, value in factors_of(model).items())


def test_what_is_wrong_with_a_checkpoint_is_still_said() -> None:
    model = factored()
    with plain_state_dicts(model):
        state = model.state_dict()
        del state["2.bias"]
        with pytest.raises(RuntimeError, match="Missing key"):
            model.load_state_dict(state)
        with pytest.raises(RuntimeError, match="Unexpected key"):
            model.load_state_dict({**model.state_dict(), "3.weight": torch.ones(2)})
        with pytest.raises(ValueError, match=r"'0\.weight' has shape"):
            model.load_state_dict({**model.state_dict(), "0.weight": torch.ones(2, 2)})


def test_copies_and_folded_models() -> None:
    model = factored()
    with plain_state_dicts(model):
        other = copy.deepcopy(model)
        assert list(other.state_dict()) == list(plain().state_dict())
        folded, _ = od.collapse(model)
        assert list(folded.state_dict()) == list(plain().state_dict())
        folded.load_state_dict(folded.state_dict())
        od.collapse_(model)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), folded.parameters(), strict=True))


def test_factors_are_restored_to_the_bit() -> None:
    saved = {key: value.clone() for key, value in factors_of(factored()).items()}
    model = od.overparameterize_(plain(), 2)
    restore_factors(model, saved, "the file", same_product=False)
    assert all(torch.equal(value, saved[key]) for key, value in factors_of(model).items())
    restore_factors(model, saved, "the file", same_product=True)


def test_factors_of_another_model_are_refused() -> None:
    model = factored()
    before = {key: value.clone() for key, value in factors_of(model).items()}
    with pytest.raises(ValueError, match=r"the file and the model have factors of different weights.*factor2"):
        restore_factors(model, factors_of(od.overparameterize_(plain(), 3)), "the file", same_product=False)
    wide = od.overparameterize_(plain(), 2, width=9)
    with pytest.raises(ValueError, match=r"has shape .* in the file.*same width"):
        restore_factors(model, factors_of(wide), "the file", same_product=False)
    doubled = {key: 2 * value for key, value in before.items()}
    with pytest.raises(ValueError, match=r"another product than '0\.weight'"):
        restore_factors(model, doubled, "the file", same_product=True)
    assert all(torch.equal(value, before[key]) for key, value in factors_of(model).items())
