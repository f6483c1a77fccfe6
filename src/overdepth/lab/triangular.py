"""The triangular factor of a tall matrix whose rows come in blocks."""

from __future__ import annotations

import numpy as np

from overdepth.lab.problem import Array


def stacked_triangle(triangle: Array | None, rows: Array) -> Array:
    """R of the QR decomposition of the matrix that has ``rows`` below those that ``triangle`` is the factor of.

    Applied block by block this is a sequential TSQR (Demmel, Grigori, Hoemmen & Langou 2012, arXiv 0808.2664): R^T R
    is the Gram matrix of all rows, found without squaring their condition number.

    Args:
        triangle: R of the rows before, at most (columns, columns); None if there were none.
        rows: Shape (rows, columns).

    Returns:
        R, shape (min(all rows, columns), columns).
    """
    stacked = rows if triangle is None else np.vstack([triangle, rows])
    return np.asarray(np.linalg.qr(stacked, mode="r"))
