"""Holds an over-parameterized layer against the plain layer whose weights are the products of its factors."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import overdepth as od
from overdepth.nn import Factors

ROUTES = ("chained", "folded", "auto")
ROUNDING = 1e-12  # float64, sums of a few dozen terms of one size


def everything(module: nn.Module, name: str) -> bool:
    """Selects all that ``select`` is asked about."""
    return True


def twins(layer: nn.Module, depth: int, *, seed: int = 0, **options: Any) -> tuple[nn.Module, nn.Module]:
    """(over, plain) in float64: dense random factors, and the plain layer with their products as weights."""
    plain = copy.deepcopy(layer).double()
    settings: dict[str, Any] = {"init": "near_zero", "scale": 0.5, "select": everything} | options
    generator = torch.Generator().manual_seed(seed)
    over = od.overparameterize_(copy.deepcopy(plain), depth, generator=generator, **settings)
    with torch.no_grad():
        for name, factors in od.nn.named_factors(over):
            assert len(factors) == depth
            plain.get_parameter(name).copy_(factors.layout.product(list(factors)))
    return over, plain


def check_agreement(
    over: nn.Module,
    plain: nn.Module,
    *args: Any,
    routes: tuple[str, ...] = ROUTES,
    chains: bool = True,
    **keywords: Any,
) -> None:
    """Outputs, and gradients of inputs, factors and all else, on every route.

    Args:
        over: The over-parameterized layer.
        plain: Its twin.
        *args: Of the forward; floating-point tensors get gradients.
        routes: Which executions are tried.
        chains: Whether the layer has a chained route, on which no product may be made.
        **keywords: Of the forward.
    """
    expected, expected_grads, cotangents = _outputs_and_gradients(plain, args, keywords, None)
    for route in routes:
        for _, factors in od.nn.named_factors(over):
            factors.execution = route  # type: ignore[assignment]
        with products_made() as made:
            found, grads, _ = _outputs_and_gradients(over, args, keywords, cotangents)
        if chains and route != "auto":
            assert (sum(made.values()) == 0) == (route == "chained")
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)
        wanted = dict(expected_grads)
        for name, factors in od.nn.named_factors(over):
            prefix, _, attribute = name.rpartition(".")
            leaves = [f.detach().requires_grad_() for f in factors]
            along = wanted.pop(name)  # the chain rule: J^T of the plain weight's gradient
            chain = torch.autograd.grad(factors.layout.product(leaves), leaves, along)
            start = f"{prefix}." if prefix else ""
            wanted |= {f"{start}parametrizations.{attribute}.factor{j}": g for j, g in enumerate(chain)}
        assert grads.keys() == wanted.keys()
        for name, gradient in grads.items():
            assert_close(gradient, wanted[name], name)


def assert_close(actual: Tensor, expected: Tensor, what: str = "output") -> None:
    """Same shape, and equal to rounding of the largest entry."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        actual, expected, rtol=0, atol=ROUNDING * max(largest, 1e-3), equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


@contextlib.contextmanager
def products_made() -> Iterator[Mapping[Factors, int]]:
    """Counts how often each weight is multiplied out."""
    made: dict[Factors, int] = {}
    plain = Factors.forward

    def counting(self: Factors) -> Tensor:
        made[self] = made.get(self, 0) + 1
        return plain(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Factors, "forward", counting)
        yield made


def tensors(output: Any) -> list[Tensor]:
    """The tensors of a tuple of outputs, or the one."""
    return [o for o in (output if isinstance(output, tuple) else (output,)) if o is not None]


def _outputs_and_gradients(
    module: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any], cotangents: list[Tensor] | None
) -> tuple[list[Tensor], dict[str, Tensor], list[Tensor]]:
    """Outputs, gradients by name (inputs as numbers), and the random cotangents that were used."""
    leaves = [a.detach().clone().requires_grad_() if _differentiable(a) else a for a in args]
    module.zero_grad()
    outputs = tensors(module(*leaves, **keywords))
    if cotangents is None:
        generator = torch.Generator().manual_seed(99)
        cotangents = [torch.randn(o.shape, generator=generator, dtype=o.dtype) for o in outputs]
    torch.autograd.backward(outputs, cotangents)
    gradients = {name: _gradient(p) for name, p in module.named_parameters()}
    gradients |= {str(i): _gradient(leaf) for i, leaf in enumerate(leaves) if _differentiable(leaf)}
    return outputs, gradients, cotangents


def _differentiable(argument: object) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point()


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad.clone()
