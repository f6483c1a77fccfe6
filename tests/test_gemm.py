"""The engine's matrix product, with oneDNN and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from overdepth import gemm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("has_onednn", [gemm._HAS_ONEDNN, False])
@pytest.mark.parametrize(("n", "p", "q"), [(1, 1, 1), (3, 129, 17), (75, 129, 300), (40, 700, 8)])
def test_it_is_the_product_with_the_transpose(
    dtype: torch.dtype, has_onednn: bool, n: int, p: int, q: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gemm, "_HAS_ONEDNN", has_onednn)
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(n, p, generator=generator, dtype=dtype)
    b = torch.randn(q, p + 3, generator=generator, dtype=dtype)[:, :p]  # rows need not be contiguous
    exact = a.double() @ b.double().T
    bound = p * torch.finfo(dtype).eps * (a.double().abs() @ b.double().abs().T)  # of any order of summation
    assert bool(((gemm.matmul_transposed(a, b).double() - exact).abs() <= bound).all())


def test_what_is_not_finite_stays_in_its_row() -> None:
    a = torch.randn(4, 130)
    a[1, 2], a[3, 4] = torch.nan, torch.inf
    result = gemm.matmul_transposed(a, torch.randn(50, 130))
    assert torch.isfinite(result).all(dim=1).tolist() == [True, False, True, False]


class _Layouts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects whether the factors of oneDNN's products are free of gaps."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dense: list[bool] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_linear_pointwise" in str(func):
            self.dense += [x.is_contiguous() or x.mT.is_contiguous() for x in args[:2]]
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not gemm._HAS_ONEDNN, reason="this build of torch has no oneDNN")
def test_onednn_never_meets_a_matrix_with_gaps_for_which_it_is_a_thousand_times_slower() -> None:
    wide = torch.randn(40, 50)
    with _Layouts() as layouts:
        for a in (wide, wide[:, 3:33], wide[:30].mT, wide[2:, 1:31].mT):
            for b in (wide[:, : a.shape[1]], torch.randn(a.shape[1], 9).mT, torch.randn(30, 60)[:, : a.shape[1]]):
                torch.testing.assert_close(gemm.matmul_transposed(a, b), a @ b.T)
    assert len(layouts.dense) == 24
    assert all(layouts.dense)
