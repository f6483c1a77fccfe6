"""The two large products of a step, in tiles whose predictions stay in the cache."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from overdepth.gemm import matmul, matmul_transposed
from overdepth.lab.examples import RowBlock
from overdepth.lab.objectives import Objective

TILE_BYTES = 2 * 2**20
"""Predictions are computed in tiles of runs x rows of about this size for each thread: a core's own cache."""

CUDA_TILE_BYTES = 2**28
"""The same on a GPU, which wants large products."""

TILE_ROWS = 512
"""Rows of a tile, or more where the runs are few: below, the products lose speed."""

RECORD_BYTES = 4 * 2**20
"""Losses are recorded from predictions of about this size at a time, in float64."""


def add_gradients(objective: Objective, weights: Tensor, blocks: Iterable[RowBlock], grad: Tensor) -> None:
    """The gradients at ``weights``, summed over all blocks of rows.

    Args:
        objective: Its derivative is taken.
        weights: C of all runs, shape (runs, k, d + e).
        blocks: Rows of the data.
        grad: Where the result goes, shape (runs, k, d).
    """
    first = True
    for block in blocks:
        run_tile, row_tile = tile_shape(weights, len(block.design))
        rows = [
            RowBlock(*parts)
            for parts in zip(
                torch.split(block.design, row_tile),
                torch.split(block.features, row_tile),
                torch.split(block.targets, row_tile, dim=1),
                strict=True,
            )
        ]
        for own, own_grad in zip(torch.split(weights, run_tile), torch.split(grad, run_tile), strict=True):
            flat, flat_grad = own.view(-1, own.shape[2]), own_grad.view(-1, own_grad.shape[2])
            for i, part in enumerate(rows):
                predictions = matmul_transposed(flat, part.design)
                objective.derivative_(predictions.view(len(own), -1, len(part.design)), part.targets)
                product = matmul(predictions, part.features)
                del predictions  # so that the next tile's take their place, which is in the cache
                if first and i == 0:
                    flat_grad.copy_(product)
                else:
                    flat_grad.add_(product)
        first = False


def tile_shape(weights: Tensor, rows: int) -> tuple[int, int]:
    """Runs and rows of a tile: a function of the shapes, the type, the device and the number of threads alone."""
    runs, k, _ = weights.shape
    on_cpu = weights.device.type == "cpu"
    size = TILE_BYTES * max(2, torch.get_num_threads()) if on_cpu else CUDA_TILE_BYTES
    entries = size // (k * weights.element_size())
    row_tiles = max(1, round(rows / max(TILE_ROWS, entries // runs)))
    row_tile = -(-rows // row_tiles)
    run_tiles = -(-runs // max(1, entries // row_tile))
    return -(-runs // run_tiles), row_tile
