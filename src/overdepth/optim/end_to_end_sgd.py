"""Theorem 1 as an optimizer: gradient descent that carries the preconditioner of a product, and no factors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from overdepth._checks import check_choice, check_nonnegative, check_positive, working_dtype
from overdepth.optim.checks import as_matrices, check_group, check_movable, with_gradients
from overdepth.optim.preconditioning import preconditioned
from overdepth.optim.rules import METHODS, Method

DecayMode = Literal["factors", "product"]
DECAY_MODES: tuple[DecayMode, ...] = get_args(DecayMode)
Normalization = Literal["none", "spectral", "rms"]
NORMALIZATIONS: tuple[Normalization, ...] = get_args(Normalization)


class EndToEndSGD(Optimizer):
    r"""Gradient descent on W by the end-to-end rule: what N balanced factors of W would do to their product.

    .. math:: W \leftarrow d(W) - \eta \sum_{j=1}^N [W W^T]^{(N-j)/N} \, G \, [W^T W]^{(j-1)/N}

    with the decay d of ``weight_decay_mode``. At infinite depth the sum is divided by N, and its limit is taken. The
    model does not change; without momentum and tracking there is no state. Depth 1 without weight decay is
    ``torch.optim.SGD``, bit for bit. Momentum acts on the preconditioned gradient.

    A weight that is zero does not move at depth 2 or more, nor does a direction of it that is null on both sides:
    a warning says so at construction. Start such weights otherwise, or use ``Factored(init="identity")``.

    Args:
        params: Parameters, named parameters or groups (:func:`overdepth.optim.param_groups` makes them). Groups may
            override every option below; biases and other vectors need ``depth=1``. A weight is the matrix of its
            first axis against all others.
        lr: Learning rate, a number > 0 or a tensor.
        depth: N, any real number >= 1, or ``math.inf``.
        momentum: Momentum factor.
        nesterov: Nesterov's momentum.
        weight_decay: lambda, decoupled from the gradient.
        weight_decay_mode: ``factors``: W is multiplied by (1 - lr lambda)^N, as if every factor decayed;
            ``product``: by (1 - lr lambda). At infinite depth both are the latter.
        maximize: Ascend instead.
        normalize: Of the step before the learning rate, so that learning rates carry over between depths and widths:
            ``rms`` gives its entries a root mean square of 1, ``spectral`` the spectral norm sqrt(k / d).
        method: How the rule is computed; see :mod:`overdepth.optim.rules`. ``tracked`` keeps for each matrix its
            ``basis``, of the smaller side squared, and the bound ``error`` of its relative error in ``state[p]``.
        groups: Blocks of rows that are matrices of their own, for grouped convolutions.
        allow_frozen_directions: Allow infinite depth for weights that are not square or single-output, of which
            parts then cannot move.

    Raises:
        TypeError: If a parameter is sparse or sharded.
        ValueError: If an argument is out of its range, or a parameter of depth above 1 is no matrix or not finite.

    Example:
        >>> import torch, overdepth as od
        >>> layer = torch.nn.Linear(4, 2, bias=False)
        >>> optimizer = od.optim.EndToEndSGD(layer.parameters(), lr=0.1, depth=2.5, momentum=0.9)
        >>> layer(torch.ones(3, 4)).square().mean().backward()
        >>> optimizer.step()

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509, Theorem 1; for ``spectral``: Yang, Simon & Bernstein 2023,
        arXiv 2310.17813.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        *,
        depth: float = 2,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        weight_decay_mode: DecayMode = "factors",
        maximize: bool = False,
        normalize: Normalization = "none",
        method: Method = "auto",
        groups: int = 1,
        allow_frozen_directions: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "depth": depth,
            "momentum": momentum,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "weight_decay_mode": weight_decay_mode,
            "maximize": maximize,
            "normalize": normalize,
            "method": method,
            "groups": groups,
            "allow_frozen_directions": allow_frozen_directions,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group, checked as at construction."""
        super().add_param_group(param_group)
        try:
            _check(self.param_groups[-1])
        except BaseException:  # a warning that is an error too
            self.param_groups.pop()
            raise
        if self.param_groups[-1]["momentum"] != 0:  # so that a compiled step finds from the first what it finds later
            for p in self.param_groups[-1]["params"]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p, memory_format=torch.preserve_format)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a state; the bases of ``tracked`` keep their precision, whatever that of the parameters."""
        super().load_state_dict(state_dict)
        saved = (i for group in state_dict["param_groups"] for i in group["params"])
        for p, i in zip((p for group in self.param_groups for p in group["params"]), saved, strict=True):
            for name in ("basis", "error"):
                if name in state_dict["state"].get(i, {}):
                    self.state[p][name] = state_dict["state"][i][name].detach().to(p.device, copy=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        held = with_gradients(group)
        if not held:
            return
        params = [p for p, _ in held]
        grads = [-grad if group["maximize"] else grad for _, grad in held]
        steps = grads if group["depth"] == 1 else self._preconditioned(params, grads, group)
        if group["momentum"] != 0:
            steps = self._with_momentum(params, steps, group)
        if group["normalize"] != "none":
            groups = group["groups"] if group["depth"] > 1 else 1
            steps = [_normalized(s, group["normalize"], groups) for s in steps]
        if group["weight_decay"] != 0:
            torch._foreach_mul_(params, decay_factor(group))
        if isinstance(group["lr"], Tensor):
            for p, s in zip(params, steps, strict=True):
                p.sub_(s * group["lr"])
        else:
            torch._foreach_add_(params, steps, alpha=-group["lr"])

    def _preconditioned(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        tracked = group["method"] == "tracked"
        return preconditioned(params, grads, group, [self.state[p] for p in params] if tracked else None)

    def _with_momentum(self, params: list[Tensor], steps: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        buffers = []
        for p, s in zip(params, steps, strict=True):
            state = self.state[p]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = s.detach().clone()
            else:
                if state["momentum_buffer"].dtype != s.dtype or state["momentum_buffer"].device != s.device:
                    state["momentum_buffer"] = state["momentum_buffer"].to(s)  # the model moved
                state["momentum_buffer"].mul_(group["momentum"]).add_(s)
            buffers.append(state["momentum_buffer"])
        if not group["nesterov"]:
            return buffers
        return list(torch._foreach_add(steps, buffers, alpha=group["momentum"]))


def decay_factor(group: dict[str, Any]) -> Any:
    """What W is multiplied by: (1 - lr lambda)^N, or (1 - lr lambda)."""
    single = 1 - group["lr"] * group["weight_decay"]
    of_factors = group["weight_decay_mode"] == "factors" and math.isfinite(group["depth"])
    if of_factors and group["depth"] % 1 != 0:  # below 0 such a power is not real: the weight is gone
        single = single.clamp_min(0) if isinstance(single, Tensor) else max(single, 0.0)
    return single ** group["depth"] if of_factors else single


def _normalized(step: Tensor, normalize: Normalization, groups: int) -> Tensor:
    """The step with a root mean square of 1, or the spectral norm sqrt(k / d); vectors have the former."""
    wide = step.to(working_dtype(step.dtype))
    matrices = as_matrices(wide, groups) if step.ndim > 1 else wide[None, None]
    largest = matrices.abs().amax((-2, -1), keepdim=True)
    matrices = matrices / torch.where(largest > 0, largest, 1.0)  # no square of it leaves the range of its type
    if normalize == "rms" or step.ndim < 2:
        size = matrices.square().mean((-2, -1), keepdim=True).sqrt()
    else:
        k, d = matrices.shape[-2:]
        size = torch.linalg.matrix_norm(matrices, 2, keepdim=True) / math.sqrt(k / d)
    return (matrices / torch.where(size > 0, size, 1.0)).reshape(step.shape).to(step.dtype)


def _check(group: dict[str, Any]) -> None:
    check_group(group, allow_real=True)
    lr = group["lr"]
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise ValueError(f"lr is a tensor of shape {tuple(lr.shape)}, expected one number.")
    if not isinstance(lr, Tensor) or not lr.is_meta:
        check_positive(float(lr) if isinstance(lr, Tensor) else lr, "lr")
    for name in ("momentum", "weight_decay"):
        check_nonnegative(group[name], name)
    if group["nesterov"] and group["momentum"] <= 0:
        raise ValueError(f"nesterov needs a momentum > 0, got {group['momentum']!r}.")
    for name, allowed in (("weight_decay_mode", DECAY_MODES), ("normalize", NORMALIZATIONS), ("method", METHODS)):
        check_choice(group[name], name, allowed)
    if group["depth"] > 1:
        check_movable(group)
