"""The engine's matrix product, with oneDNN and without."""

from __future__ import annotations

import pytest
import torch

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
