"""Where the tutorial's penalty falls when a dense matrix becomes a product, which the paper does not say."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from overdepth.nn import end_to_end_penalty, named_factors
from overdepth.paper.network.model import Network

WEIGHT = 5e-4

Penalty = Literal["product", "factors", "old"]
PENALTIES: tuple[Penalty, ...] = get_args(Penalty)
MEANINGS: dict[Penalty, str] = {
    "product": "penalty on the products",
    "factors": "penalty on all factors",
    "old": "penalty on the old matrices alone",
}


def plain_penalty(model: Network) -> Tensor:
    """Half the squared norm of the dense weights and biases."""
    return half_squares([layer.weight for layer in model.dense]) + bias_penalty(model)


def factored_penalty(model: Network, where: Penalty) -> Tensor:
    """Half the squared norm of the dense biases and of the matrices that ``where`` names, of an over-parameterized one.

    Args:
        model: With two factors in the place of each dense weight.
        where: ``product``: the products; ``factors``: both factors; ``old``: the factors of the old shapes.
    """
    if where == "product":
        return end_to_end_penalty(model) + bias_penalty(model)
    chains = [list(factors) for _, factors in named_factors(model)]
    return half_squares([f for chain in chains for f in (chain if where == "factors" else chain[:1])]) + bias_penalty(
        model
    )


def bias_penalty(model: Network) -> Tensor:
    """Half the squared norm of the dense biases."""
    return half_squares([layer.bias for layer in model.dense])


def half_squares(tensors: list[Tensor]) -> Tensor:
    """Half the sum of all squares."""
    return torch.stack([t.square().sum() for t in tensors]).sum() / 2
