"""Weight decay on the product, and what the factors make of a learning rate."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from overdepth._checks import working_dtype
from overdepth.layouts import MatrixLayout
from overdepth.nn.classes import factored_weights, qualified
from overdepth.nn.factors import Factors
from overdepth.transfer import transfer_operator


def named_factors(module: nn.Module) -> Iterator[tuple[str, Factors]]:
    """The qualified name and the factors of every over-parameterized weight, tied ones once.

    Factors are iterable, W_1 first, and can be written to, for an initialization of one's own.

    Example:
        >>> import torch, overdepth as od
        >>> model = od.overparameterize_(torch.nn.Linear(8, 4), depth=3)
        >>> for name, factors in od.nn.named_factors(model):
        ...     for factor in factors:
        ...         _ = torch.nn.init.trunc_normal_(factor, std=0.1)
        >>> name, len(factors)
        ('weight', 3)
    """
    seen = set()
    for prefix, _, name, factors in factored_weights(module):
        if factors not in seen:
            seen.add(factors)
            yield qualified(prefix, name), factors


def end_to_end_penalty(module: nn.Module) -> Tensor:
    """Half the squared Frobenius norm of every over-parameterized weight, summed: tied weights count once.

    Add ``weight_decay * end_to_end_penalty(model)`` to the loss where decay should act on the products instead of the
    factors, and set the optimizer's own ``weight_decay`` of the factors to 0.

    Returns:
        A differentiable scalar.

    Raises:
        ValueError: If the module has no factors.

    Example:
        >>> import torch, overdepth as od
        >>> model = od.overparameterize_(torch.nn.Linear(8, 4))
        >>> penalty = od.nn.end_to_end_penalty(model)
        >>> torch.allclose(penalty, model.weight.square().sum() / 2)
        True
    """
    terms = []
    for _, factors in named_factors(module):
        wide = [f.to(working_dtype(f.dtype)) for f in factors]  # squares overflow float16
        terms.append(factors.layout.product(wide).square().sum() / 2)
    if not terms:
        raise ValueError("the model has no factors; for a plain model use the optimizer's weight_decay.")
    return torch.stack([t.to(terms[0].device) for t in terms]).sum()


def learning_rate_multipliers(module: nn.Module) -> dict[str, float]:
    """By how much the factors multiply a learning rate, on average over all directions of each weight.

    A gradient step with ``lr`` on the factors moves the product, to first order in ``lr``, by ``lr * T(G)`` with the
    transfer operator T of the factors, whose eigenvalues (Claim 1 where they are balanced) multiply the learning rate
    direction by direction. This is their mean. A learning rate that was tuned for the plain model carries over best
    when it is divided by about that; single directions differ from the mean, which is the point of the method.

    Returns:
        The mean eigenvalue by the weight's qualified name; of grouped convolutions the mean over groups. Kernels that
        are not factored ``kernel_first`` are left out.

    Example:
        >>> import torch, overdepth as od
        >>> model = torch.nn.Linear(4, 4, bias=False)
        >>> _ = torch.nn.init.eye_(model.weight)
        >>> od.nn.learning_rate_multipliers(od.overparameterize_(model, depth=3))
        {'weight': 3.0}

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Claim 1.
    """
    chained = {name: factors for name, factors in named_factors(module) if isinstance(factors.layout, MatrixLayout)}
    return {name: mean_multiplier(factors) for name, factors in chained.items()}


def mean_multiplier(factors: Factors) -> float:
    """The mean eigenvalue of one weight's transfer operator, over all groups; for factors of a ``MatrixLayout``."""
    chains = zip(*(f.reshape(-1, *f.shape[-2:]) for f in factors), strict=True)
    means = [transfer_operator(chain).mean_eigenvalue() for chain in chains]
    return round(sum(means) / len(means), 12)
