"""From the gradient of a product to those of its factors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from overdepth.chain import factor_gradients
from overdepth.gemm import matmul
from overdepth.optim.checks import as_matrices, equal_shapes


def chain_rule(chains: Sequence[tuple[Tensor, Sequence[Tensor], int]]) -> list[list[Tensor]]:
    """The gradient (W_N ... W_{j+1})^T G (W_{j-1} ... W_1)^T of every factor of every chain.

    Args:
        chains: (gradient of the weight in its own shape, factors W_1 ... W_N, groups).

    Returns:
        Gradients in the shapes of the factors.
    """
    results: list[list[Tensor]] = [[] for _ in chains]
    keys = (((*(f.shape for f in fs), groups, g.dtype, g.device), g.numel()) for g, fs, groups in chains)
    for indices in equal_shapes(keys):
        grads = [as_matrices(chains[i][0], chains[i][2]) for i in indices]
        if len(indices) == 1:
            (i,) = indices
            grad = grads[0] if chains[i][2] > 1 else grads[0][0]
            results[i] = factor_gradients(chains[i][1], grad, matmul)
        else:
            stacked = [torch.stack(same) for same in zip(*(_batched(chains[i]) for i in indices), strict=True)]
            found = factor_gradients(stacked, torch.stack(grads), matmul)
            for n, i in enumerate(indices):
                results[i] = [g[n].reshape(f.shape) for g, f in zip(found, chains[i][1], strict=True)]
    return results


def _batched(chain: tuple[Tensor, Sequence[Tensor], int]) -> list[Tensor]:
    _, factors, groups = chain
    return [f.reshape(groups, *f.shape[-2:]) for f in factors]
