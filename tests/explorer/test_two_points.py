"""The runs of the two points, against autograd, the library's own run and the rule itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import overdepth as od
from overdepth.explorer.two_point_pictures import CONTROLS, show
from overdepth.explorer.two_points import STARTS, Setting, descend, follow_rule, losses, network_rate, run, start
from overdepth.theory import plan_two_point, run_two_point

DEFAULTS = {control.key: control.default for control in CONTROLS}


def by_autograd(factors: list[torch.Tensor], lr: float, setting: Setting, steps: int) -> np.ndarray:
    """Weights of gradient descent on the factors."""
    layers = [factor.clone().requires_grad_() for factor in factors]
    labels = torch.tensor([[setting.y1, setting.y2]], dtype=torch.float64)
    found = []
    for _ in range(steps + 1):
        weight = od.product(layers)
        found.append(weight.detach()[0].numpy().copy())
        loss = ((weight - labels) ** setting.power).sum() / setting.power
        for layer, grad in zip(layers, torch.autograd.grad(loss, layers), strict=True):
            layer.data -= lr * grad
    return np.array(found)


@pytest.mark.parametrize("init", STARTS)
@pytest.mark.parametrize(("depth", "power", "imbalance"), [(1, 4, 0.0), (2, 4, 0.0), (3, 2, 1.5), (4, 6, -0.5)])
def test_the_network_is_gradient_descent_on_its_factors(init: str, depth: int, power: int, imbalance: float) -> None:
    setting = Setting(power=power, depth=depth, y1=3.0, eps=0.3, init=init, imbalance=imbalance, seed=4, steps=30)
    factors = start(setting)
    lr = 0.3 * network_rate(setting)
    path = descend(factors, lr, setting)
    count = len(path.weights) - 1
    assert count > 5
    np.testing.assert_allclose(path.weights, by_autograd(factors, lr, setting, count), rtol=1e-9, atol=1e-12)


def test_a_start_has_the_product_and_the_imbalance_that_are_set() -> None:
    setting = Setting(depth=3, imbalance=2.0)
    weight = od.product(start(setting))
    np.testing.assert_allclose(weight[0].numpy(), [setting.eps, setting.eps * setting.y2 / setting.y1], rtol=1e-9)
    unit = float(weight.norm()) ** (2 / 3)
    for matrix in od.imbalance(start(setting)):
        assert float(matrix) == pytest.approx(2.0 * unit, rel=1e-6)


def test_effective_rates_are_the_transfer_operators() -> None:
    setting = Setting(depth=3, y1=5.0, eps=0.2, imbalance=1.0, steps=0)
    factors = start(setting)
    path = descend(factors, 0.1, setting)
    dense = od.transfer_operator(factors).to_dense()
    np.testing.assert_allclose(path.rates[0], 0.1 * dense.diagonal().numpy(), rtol=1e-9)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_rules_path_and_rates(depth: int) -> None:
    setting = Setting(depth=depth, y1=10.0, eps=0.05, steps=200)
    plan = plan_two_point(10.0, 1.0, 0.05, depth=depth)
    path = follow_rule(list(plan.start), plan.lr_end_to_end, setting)
    alone = run_two_point(plan.targets, plan.start, plan.lr_end_to_end, depth=depth, max_steps=200)
    assert path.fitted == alone.steps
    np.testing.assert_allclose(path.weights[-1], alone.weight, rtol=1e-12)
    weight = torch.from_numpy(path.weights[3])[None]
    for i in (0, 1):
        column = od.end_to_end_update(weight, torch.eye(2, dtype=torch.float64)[i][None], depth)
        assert path.rates[3, i] == pytest.approx(plan.lr_end_to_end * float(column[0, i]), rel=1e-9)


def test_the_parts_add_up_to_the_steps_at_depth_two() -> None:
    setting = Setting(y1=5.0, eps=0.1, steps=40)
    path = descend(start(setting), network_rate(setting), setting)
    steps = np.linalg.norm(np.diff(path.weights, axis=0), axis=1)
    together = path.adaptive + path.momentum + path.dropped
    assert (together >= steps[: len(together)] * (1 - 1e-9)).all()  # the triangle inequality
    assert (path.momentum[1:] > 0).all()
    assert path.momentum[0] == 0  # no gradient came before


def test_half_of_what_is_stable_converges_and_thrice_that_does_not() -> None:
    for depth in (1, 2, 3, 4):
        for power in (2, 4, 6):
            setting = Setting(depth=depth, power=power, y1=3.0, y2=0.3, eps=0.1, steps=1000)
            factors, lr = start(setting), network_rate(setting)
            ends = [losses(descend(factors, scale * lr, setting).weights[-1], setting) for scale in (1.0, 1000.0)]
            assert ends[0] < 1e-2 * losses(od.product(factors)[0].numpy(), setting)
            assert ends[1] > ends[0]


def test_the_rule_is_faster_by_more_than_appendix_b_promises() -> None:
    found = run(Setting(y1=10.0, eps=0.05, steps=1000))
    assert found.plan is not None
    assert found.rule is not None
    assert found.rule.fitted is not None
    assert found.plain.fitted is None
    slow = run_two_point((10.0, 1.0), found.plan.start, found.plain_lr, max_steps=100_000)
    assert slow.steps is not None
    assert slow.steps / found.rule.fitted > found.plan.ratio


def test_divergence_is_noticed() -> None:
    path = descend(start(Setting()), 1.0, Setting())
    assert path.diverged
    assert np.isfinite(path.weights).all()


@pytest.mark.parametrize("settings", [{"y2": 5.0, "y1": 1.5}, {"y1": 0.5, "eps": 0.7, "y2": 0.1}])
def test_labels_that_do_not_fit_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected y2 < y1 and eps < y1; raise y1"):
        run(Setting(**settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "fits both labels to 5% of y₂ after 116 updates"),
        ({"depth": 1}, "depth 1 is plain descent itself"),
        ({"p": 2}, "there is nothing to gain"),
        ({"network_lr": 3, "imbalance": 10}, "Appendix B, to first order"),
        ({"eps": 0.0001}, "ε is below the threshold"),
    ],
)
def test_the_view_says_how_it_went(settings: dict[str, float], said: str) -> None:
    shown = show({**DEFAULTS, **settings})
    assert said in shown.text
    assert len(shown.pictures) == 4
    assert all(len(picture.figure.data) for picture in shown.pictures)


def test_arrows_point_where_the_rule_goes() -> None:
    figure = show({**DEFAULTS, "y1": 10}).pictures[0].figure
    arrows = next(trace for trace in figure.data if "field" in str(trace.name))
    x, y = (np.asarray(part).reshape(-1, 3)[:, :2] for part in (arrows.x, arrows.y))
    weight = torch.tensor([[float(x[40, 0]), float(y[40, 0])]], dtype=torch.float64)
    grad = (weight - torch.tensor([[10.0, 1.0]])) ** 3
    step = -od.end_to_end_update(weight, grad, 2)[0].numpy()
    drawn = np.array([x[40, 1] - x[40, 0], y[40, 1] - y[40, 0]])
    assert drawn @ step / np.linalg.norm(drawn) / np.linalg.norm(step) == pytest.approx(1.0, abs=1e-3)
