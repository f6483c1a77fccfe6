"""What the functions of the theory check of their arguments."""

from __future__ import annotations

import torch
from torch import Tensor


def check_margin(margin: Tensor | float | None, current: Tensor) -> Tensor:
    """The margin in float64; the current value if there is none.

    Raises:
        ValueError: If one is negative or NaN.
    """
    if margin is None:
        return current
    given = torch.as_tensor(margin, dtype=torch.float64)
    if not bool((given >= 0).all()):
        raise ValueError(f"margin is {margin!r}, expected a number >= 0: a lower bound of a singular value.")
    return given
