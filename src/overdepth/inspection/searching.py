"""The products that are already in a model."""

from __future__ import annotations

from torch import nn

from overdepth.inspection.adapters import find_adapters
from overdepth.inspection.attention import find_attention
from overdepth.inspection.chains import KINDS, Findings
from overdepth.inspection.factored import find_factored
from overdepth.inspection.inspections import Inspection
from overdepth.inspection.products import measured
from overdepth.inspection.stacked import find_stacked
from overdepth.inspection.tied import find_tied
from overdepth.nn.kinds import check_module


def inspect(model: nn.Module) -> Inspection:
    """The products of matrices that a model holds already, their imbalance and what they make of a learning rate.

    Found are, without any training or input: the query-key and value-output pairs of attention, head by head
    (``torch.nn.MultiheadAttention``; modules with a linear layer each for query, key and value, as in Hugging Face's
    models, grouped-query heads by group; GPT-2's ``c_attn``); linear layers that follow each other directly, in
    ``torch.nn.Sequential`` or where ``torch.fx`` can follow the forward; LoRA pairs; weights that
    :func:`overdepth.overparameterize_` made products. What looks like a product and cannot be read is listed with the
    reason. The model stays as it is.

    For each: D_j = W_{j+1}^T W_{j+1} - W_j W_j^T, the rank and condition of the product, and the eigenvalues of the
    transfer operator, by which gradient descent on the factors multiplies its learning rate in each direction of the
    product. They are computed in float64: exactly for two factors of any size and for small products, else as bounds
    (``multipliers.is_exact``).

    Args:
        model: Any module with its weights in memory.

    Returns:
        A table when printed; rows (:class:`overdepth.inspection.Product`) when iterated; ``.figure()``,
        ``.save_page(path)`` and ``.to_dict()``.

    Raises:
        TypeError: If it is no module.
        ValueError: If a factor has no finite numbers (meta device, NaN, infinity), by its name.

    Example:
        >>> import torch, overdepth as od
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
        >>> for layer in model:
        ...     _ = torch.nn.init.eye_(layer.weight)
        >>> found = od.inspect(model)
        >>> found[0].factors, found[0].relative_imbalance, round(found[0].multipliers.mean, 6)
        (('0.weight', '1.weight'), 0.0, 1.666667)

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Equation 7 and Claim 1; Min, Vidal & Mallada, ICML 2023, for
        factors that are not balanced.
    """
    check_module(model)
    findings = Findings()
    find_factored(model, findings)
    find_adapters(model, findings)
    find_attention(model, findings)
    find_stacked(model, findings)
    find_tied(model, findings)
    place = {name: index for index, (name, _) in enumerate(model.named_modules())}

    def order(index: int) -> tuple[int, int, int]:
        chain = findings.chains[index]
        first = chain.factors[0].parameter.rpartition(".")[0]
        return KINDS.index(chain.kind), place.get(first, len(place)), index

    chains = [findings.chains[index] for index in sorted(range(len(findings.chains)), key=order)]
    return Inspection(
        type(model).__name__, tuple(map(measured, chains)), dict(findings.left_out), tuple(findings.remarks)
    )
