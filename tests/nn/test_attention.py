"""Attention with its projections as factors, and the transformer layers with fast paths that read weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.nn.agreement import assert_close, check_agreement, products_made, tensors, twins
from torch import Tensor, nn

import overdepth as od

E, H = 8, 2
VARIANTS: list[dict[str, Any]] = [
    {},
    {"bias": False},
    {"add_bias_kv": True},
    {"add_zero_attn": True},
    {"kdim": 6, "vdim": 5},
    {"kdim": 6, "vdim": 5, "bias": False, "add_zero_attn": True},
    {"vdim": 4, "add_bias_kv": True},
]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def fast_paths(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the fused kernels that ran."""
    ran: list[str] = []
    for name in ("_native_multi_head_attention", "_transformer_encoder_layer_fwd"):
        fused = getattr(torch, name)

        def spied(*args: Any, _fused: Any = fused, _name: str = name, **keywords: Any) -> Any:
            ran.append(_name)
            return _fused(*args, **keywords)

        monkeypatch.setattr(torch, name, spied)
    return ran  # type: ignore[return-value]


def names(module: nn.Module) -> list[str]:
    return [name for name, _ in od.nn.named_factors(module)]


# --- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 4])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("options", VARIANTS)
def test_attention(options: dict[str, Any], batch_first: bool, depth: int) -> None:
    layer = nn.MultiheadAttention(E, H, batch_first=batch_first, **options)
    over, plain = twins(layer, depth)
    separate = "vdim" in options
    assert names(over) == [*(f"{p}_proj_weight" for p in ("qkv" if separate else ["in"])), "out_proj.weight"]
    lengths, batch = (4, 5, 5), 3
    shapes = [(batch, n) if batch_first else (n, batch) for n in lengths]
    widths = (E, options.get("kdim", E), options.get("vdim", E))
    q, k, v = (random(*s, w, seed=i) for i, (s, w) in enumerate(zip(shapes, widths, strict=True)))
    padding = torch.zeros(batch, 5, dtype=torch.bool)
    padding[1, 3:] = True
    causal = torch.ones(4, 5, dtype=torch.bool).triu(1)
    check_agreement(over, plain, q, k, v, chains=False)
    check_agreement(over, plain, q, k, v, need_weights=False, chains=False)
    check_agreement(over, plain, q, k, v, average_attn_weights=False, key_padding_mask=padding, chains=False)
    check_agreement(over, plain, q, k, v, attn_mask=causal, need_weights=False, chains=False)


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 5}, {"add_bias_kv": True}])
def test_unbatched_attention(options: dict[str, Any]) -> None:
    over, plain = twins(nn.MultiheadAttention(E, H, **options), 2)
    check_agreement(
        over, plain, random(4, E), random(5, options.get("kdim", E)), random(5, options.get("vdim", E)), chains=False
    )


@pytest.mark.parametrize("batch", [0, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_the_fast_path_of_inference_sees_the_products(bias: bool, batch: int, fast_paths: list[str]) -> None:
    over, plain = twins(nn.MultiheadAttention(E, H, batch_first=True, bias=bias), 3)
    x = random(batch, 4, E)
    over.eval(), plain.eval()
    with torch.no_grad():
        for keywords in ({}, {"need_weights": False}, {"average_attn_weights": False}):
            fast_paths.clear()
            expected = tensors(plain(x, x, x, **keywords))
            taken = len(fast_paths)
            found = tensors(over(x, x, x, **keywords))
            assert len(fast_paths) == 2 * taken
            assert taken == (1 if bias and batch else taken)
            for a, b in zip(found, expected, strict=True):
                assert_close(a, b)
    check_agreement(over.train(), plain.train(), x, x, x, chains=False)


def test_every_product_is_made_once_a_call() -> None:
    for options in ({}, {"kdim": 6, "vdim": 5}):
        over, _ = twins(nn.MultiheadAttention(E, H, **options), 2)
        args = random(4, 1, E), random(5, 1, options.get("kdim", E)), random(5, 1, options.get("vdim", E))
        with products_made() as made:
            over(*args)
        assert set(made.values()) == {1}
        assert len(made) == len(names(over))


def test_a_forward_that_fails_leaves_no_products_behind() -> None:
    over, plain = twins(nn.MultiheadAttention(E, H), 2)
    x = random(4, 2, E)
    with pytest.raises((AssertionError, RuntimeError)):
        over(x, x[:, :, :-1], x)
    with torch.no_grad():
        for module, scale in ((over, 2.0), (plain, 4.0)):  # two factors, doubled
            for p in module.parameters():
                if p.ndim == 2:
                    p.mul_(scale)
    check_agreement(over, plain, x, x, x, chains=False)


@pytest.mark.parametrize("chosen", [["", False], [False, "out_proj"]])
def test_projections_are_chosen_one_by_one(chosen: list[Any]) -> None:
    layer = nn.MultiheadAttention(E, H).double()
    over: Any = od.overparameterize_(copy.deepcopy(layer), 2, select=lambda _, name: name in chosen)
    assert names(over) == (["in_proj_weight"] if "" in chosen else ["out_proj.weight"])
    x = random(4, 3, E)
    assert_close(over(x, x, x)[0], layer(x, x, x)[0])


def test_attention_keeps_its_classes() -> None:
    over: Any = od.overparameterize_(nn.MultiheadAttention(E, H))
    assert isinstance(over, nn.MultiheadAttention)
    assert isinstance(over.out_proj, nn.modules.linear.NonDynamicallyQuantizableLinear)
    assert over.in_proj_weight.shape == (3 * E, E)
    assert over.q_proj_weight is None


def test_a_subclass_of_attention_with_its_own_forward() -> None:
    class Halved(nn.MultiheadAttention):
        def forward(self, *args: Any, **keywords: Any) -> Any:
            output, weights = super().forward(*args, **keywords)
            return output / 2, weights

    over, plain = twins(Halved(E, H), 3)
    x = random(4, 3, E)
    check_agreement(over, plain, x, x, x, chains=False)


# --- transformer layers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("depth", [2, 3])
def test_encoder_layer(depth: int, activation: str, norm_first: bool, fast_paths: list[str]) -> None:
    layer = nn.TransformerEncoderLayer(
        E, H, 12, dropout=0.0, activation=activation, norm_first=norm_first, batch_first=True
    )
    over, plain = twins(layer, depth)
    assert names(over) == ["self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight"]
    x = random(3, 4, E)
    check_agreement(over, plain, x, chains=False)
    over.eval(), plain.eval()
    assert_close(over(x), plain(x))
    with torch.no_grad():
        fast_paths.clear()
        expected = plain(x)
        assert fast_paths == ["_transformer_encoder_layer_fwd"]
        assert_close(over(x), expected)
        assert fast_paths == ["_transformer_encoder_layer_fwd"] * 2


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.parametrize("masked", [False, True])
def test_encoder_with_nested_tensors(masked: bool) -> None:
    layer = nn.TransformerEncoderLayer(E, H, 12, dropout=0.0, batch_first=True)
    over, plain = twins(nn.TransformerEncoder(layer, 2), 2)
    x = random(3, 4, E)
    mask = torch.zeros(3, 4, dtype=torch.bool)
    mask[1, 2:] = mask[2, 3:] = masked
    check_agreement(over, plain, x, src_key_padding_mask=mask, chains=False)
    over.eval(), plain.eval()
    with torch.no_grad():
        assert_close(over(x, src_key_padding_mask=mask), plain(x, src_key_padding_mask=mask))


def test_transformer() -> None:
    layer = nn.Transformer(E, H, 1, 1, 12, dropout=0.0, batch_first=True)
    over, plain = twins(layer, 2)
    assert len(names(over)) == 4 + 6
    check_agreement(over, plain, random(2, 4, E), random(2, 3, E, seed=1), chains=False)
    over.eval(), plain.eval()
    with torch.no_grad():
        x, y = random(2, 4, E), random(2, 3, E, seed=1)
        assert_close(over(x, y), plain(x, y))


def test_attention_is_not_chained_by_force() -> None:
    with pytest.raises(ValueError, match=r"'self_attn\.in_proj_weight' cannot be chained"):
        od.overparameterize_(nn.TransformerEncoderLayer(E, H, 12), execution="chained")
    layer = nn.TransformerEncoderLayer(E, H, 12)
    od.overparameterize_(layer, execution="chained", select=lambda _, name: name.startswith("linear"))
    assert names(layer) == ["linear1.weight", "linear2.weight"]
