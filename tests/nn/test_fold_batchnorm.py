"""Batch norms that fold into the convolution in front of them, and those that must not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor, nn

import overdepth as od

NORMS: dict[int, Any] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
CONVOLUTIONS: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def trained(model: nn.Module, axes: int = 2, channels: int = 4) -> tuple[nn.Module, Tensor]:
    """The model in float64 and eval mode with statistics and scales that are no identity, and an input for it."""
    generator = torch.Generator().manual_seed(0)
    model.double().train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d) and module.affine:
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.num_features, generator=generator) + 0.5)
                module.bias.copy_(torch.randn(module.num_features, generator=generator))
    for _ in range(3):
        model(3 * torch.randn(6, channels, *[6] * axes, generator=generator, dtype=torch.float64) + 1)
    return model.eval(), torch.randn(2, channels, *[6] * axes, generator=generator, dtype=torch.float64)


def fold_and_compare(model: nn.Module, x: Tensor, **keywords: Any) -> od.CollapseReport:
    """Factors, folds with the batch norms and holds the outputs against those before."""
    expected = model(x)
    od.overparameterize_(model, 2)
    report = od.collapse_(model, fold_batchnorm=True, **keywords)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12 * float(expected.detach().abs().max()))
    return report


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kinds", [CONVOLUTIONS, TRANSPOSED])
def test_a_batch_norm_folds_into_every_convolution(kinds: dict[int, Any], axes: int, bias: bool, affine: bool) -> None:
    torch.manual_seed(axes)
    layers = [kinds[axes](4, 6, 3, bias=bias), NORMS[axes](6, affine=affine, eps=0.1), nn.ReLU()]
    model, x = trained(nn.Sequential(*layers), axes)
    report = fold_and_compare(model, x)
    assert report.batchnorms == (("0", "1"),)
    assert "1 folded into 0" in str(report)
    assert list(model.state_dict()) == ["0.weight", "0.bias"]
    assert [type(m).__name__ for m in model.modules()][1:] == [kinds[axes].__name__, "Identity", "ReLU"]
    assert all(p.is_leaf for p in model.parameters())
    assert model[0].weight.requires_grad  # type: ignore[index]
    assert model[0].bias.requires_grad or not (bias or affine)  # type: ignore[index]


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("kinds", [CONVOLUTIONS, TRANSPOSED])
def test_groups_fold_too(kinds: dict[int, Any], groups: int) -> None:
    model, x = trained(nn.Sequential(kinds[2](4, 8, 3, groups=groups, padding=1), nn.BatchNorm2d(8)))
    assert fold_and_compare(model, x).batchnorms == (("0", "1"),)


def test_all_pairs_of_a_network_fold_and_a_second_call_does_nothing() -> None:
    def block(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(4, channels, 3, stride, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, 4, 1, padding_mode="reflect"), nn.BatchNorm2d(4),
        )  # fmt: skip

    model, x = trained(nn.Sequential(block(8, 2), nn.Sequential(nn.Identity(), block(6, 1))))
    report = fold_and_compare(model, x)
    assert report.batchnorms == (
        ("0.0", "0.1"), ("0.3", "0.4"), ("1.1.0", "1.1.1"), ("1.1.3", "1.1.4"),
    )  # fmt: skip
    assert not any("running" in key for key in model.state_dict())
    assert od.collapse_(model, fold_batchnorm=True) == od.CollapseReport()


def test_a_model_without_factors_folds_its_batch_norms_alone() -> None:
    model, x = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    expected = model(x)
    report = od.collapse_(model, fold_batchnorm=True)
    assert (report.weights, report.batchnorms) == ((), (("0", "1"),))
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


def test_it_is_not_done_unasked() -> None:
    model, _ = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    keys = list(model.state_dict())
    od.overparameterize_(model)
    assert od.collapse_(model).batchnorms == ()
    assert list(model.state_dict()) == keys


# --- what is left alone ----------------------------------------------------------------------------------------------


class Wired(nn.Module):
    """Two convolutions, a batch norm, and a forward that connects them."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **norm: Any) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4, **norm)
        self.wired = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.wired(self, x)


def used_by_two(m: Any, x: Tensor) -> Tensor:
    h = m.conv(x)
    return m.norm(h) + h  # type: ignore[no-any-return]


LEFT_ALONE: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "a convolution that feeds two users": used_by_two,
    "a convolution that is called twice": lambda m, x: m.norm(m.conv(m.conv(x))),
    "a batch norm that is called twice": lambda m, x: m.norm(m.other(m.norm(m.conv(x)))),
    "something between": lambda m, x: m.norm(F.relu(m.conv(x))),
    "the convolution behind": lambda m, x: m.conv(m.norm(x)),
    "a sum of two convolutions": lambda m, x: m.norm(m.conv(x) + m.other(x)),
}


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_a_batch_norm_that_is_not_directly_and_only_behind_is_left_alone(name: str) -> None:
    model, x = trained(Wired(LEFT_ALONE[name]))
    keys = list(model.state_dict())
    assert fold_and_compare(model, x).batchnorms == ()
    assert list(model.state_dict()) == keys


def test_a_batch_norm_without_running_statistics_is_left_alone() -> None:
    model, x = trained(Wired(lambda m, x: m.norm(m.conv(x)), track_running_stats=False))
    assert fold_and_compare(model, x).batchnorms == ()


def test_tied_convolutions_stay_tied() -> None:
    """Folding into one of them would part them."""
    wired = Wired(lambda m, x: m.other(m.norm(m.conv(x))))
    wired.other = nn.Conv2d(4, 4, 3, padding=1)
    wired.other.weight = wired.conv.weight
    model, x = trained(wired)
    assert fold_and_compare(model, x).batchnorms == ()
    assert wired.other.weight is wired.conv.weight


@pytest.mark.parametrize("norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_a_convolution_with_a_parametrization_of_torch_is_left_alone(norm: Any) -> None:
    layers = [norm(nn.Conv2d(4, 6, 3)), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4)]
    model, x = trained(nn.Sequential(*layers))
    expected = model(x)
    od.overparameterize_(model, select=lambda module, name: name == "2")
    assert od.collapse_(model, fold_batchnorm=True).batchnorms == (("2", "3"),)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)


# --- other traps -----------------------------------------------------------------------------------------------------


class Aliased(nn.Module):
    """A batch norm that is registered twice; the forward goes through the second name."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Sequential(nn.Conv2d(4, 6, 3), self.norm)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.body(x)
        return result


def test_a_batch_norm_under_two_names_is_not_applied_twice() -> None:
    model, x = trained(Aliased())
    report = fold_and_compare(model, x)
    if report.batchnorms:
        assert list(model.state_dict()) == ["body.0.weight", "body.0.bias"]


def test_looking_at_the_model_leaves_nothing_on_it() -> None:
    model, x = trained(Wired(lambda m, x: m.norm(m.conv(x)) * torch.full((1,), 2.0)))
    attributes = set(model.__dict__)
    assert fold_and_compare(model, x).batchnorms == (("conv", "norm"),)
    assert set(model.__dict__) == attributes


def test_the_optimizer_holds_the_folded_weights_and_no_batch_norm() -> None:
    model, x = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 3, 3)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    od.overparameterize_(model, optimizer=optimizer)
    od.collapse_(model, optimizer=optimizer, fold_batchnorm=True)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert held == [id(p) for p in model.parameters()]
    before = model(x).square().mean()
    before.backward()
    optimizer.step()
    assert model(x).square().mean() < before


def test_what_was_frozen_stays_frozen() -> None:
    model, x = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    model.requires_grad_(requires_grad=False)
    expected = model(x)
    od.collapse_(model, fold_batchnorm=True)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=1e-12)
    assert not any(p.requires_grad for p in model.parameters())


# --- refusals --------------------------------------------------------------------------------------------------------


def refused(model: nn.Module, match: str) -> None:
    od.overparameterize_(model)
    keys = list(model.state_dict())
    attributes = [set(m.__dict__) for m in model.modules()]
    with pytest.raises(ValueError, match=match):
        od.collapse_(model, fold_batchnorm=True)
    assert list(model.state_dict()) == keys
    assert [set(m.__dict__) for m in model.modules()] == attributes
    assert len(od.collapse_(model).weights) == 2


def test_training_mode_is_refused_and_nothing_is_folded() -> None:
    model, _ = trained(Wired(lambda m, x: m.norm(m.conv(x))))
    refused(model.train(), "'norm' is in training mode")


def test_one_batch_norm_in_training_mode_is_enough() -> None:
    model, _ = trained(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 3, 3), nn.BatchNorm2d(3)))
    model[3].train()  # type: ignore[index]
    refused(model, "'3' is in training mode")


def test_a_model_that_cannot_be_traced_is_refused_and_nothing_is_folded() -> None:
    model, _ = trained(Wired(lambda m, x: m.norm(m.conv(x)) if x.sum() > 1e9 else m.conv(x)))
    refused(model, r"cannot trace Wired.*fold_batchnorm=False")
