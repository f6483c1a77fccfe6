"""Over-parameterized training with the factors in the optimizer: the model never changes."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from overdepth.chain import multiply
from overdepth.gemm import matmul
from overdepth.initialization import Init
from overdepth.layouts import Start, null_remark
from overdepth.optim.bookkeeping import (
    OWN,
    OnChange,
    base_defaults,
    check_options,
    check_saved,
    copy_options,
    fingerprint,
    group_for_base,
    is_product,
    layout_of,
)
from overdepth.optim.chain_rule import chain_rule
from overdepth.optim.checks import parameter_name, warn_user, with_gradients


class Factored(Optimizer):
    """Any optimizer on the factors of each weight, which live here: the model holds their product.

    Each weight W of a depth N > 1 is split into factors at construction. A step applies the chain rule to the gradient
    of W, lets the base optimizer step the factors, and writes the product back. The factors see the data only through
    W, so W follows the path it would follow in an over-parameterized model (:func:`overdepth.overparameterize_`) with
    the same base, step by step, to rounding. What clips the gradient's norm between ``backward`` and ``step`` sees
    the gradient of W here, and those of the factors there: only then the two differ.

    ``param_groups`` hold the model's parameters and the base's options, so that schedulers, ``GradScaler`` and
    clipping work as ever. From the first step on ``state[p]`` holds ``factors`` and the base's state of each
    (``base``); parameters of depth 1 have the base's own state.

    Args:
        params: Parameters, named parameters or groups (:func:`overdepth.optim.param_groups` makes them). Groups may
            override the options of the base, and all below but ``generator``. Biases and other vectors need
            ``depth=1``, and are given to the base as they are. A weight is the matrix of its first axis against
            all others.
        base: An optimizer class, such as ``torch.optim.AdamW``; not ``LBFGS``, which needs a closure.
        depth: Number of factors N, an integer >= 1.
        width: Hidden width. Default: the smaller side, which loses no expressiveness.
        init: ``balanced`` and ``identity`` keep the weight; the others overwrite it at construction, with a warning.
        scale: Of drawn factors; see :func:`overdepth.overparameterize_`.
        groups: Blocks of rows that have factors of their own, for grouped convolutions.
        on_change: If a weight was changed by others between two steps (a checkpoint loaded into the model, an average
            swapped in): ``error`` refuses the step, ``split`` splits the new weight as at construction and drops the
            base's state of its factors.
        allow_rank_loss: Allow a width below the smaller side; ``balanced`` then keeps the nearest weight of that rank.
        generator: Source of the random numbers.
        **base_options: Options of the base, such as ``lr``.

    Raises:
        TypeError: If the base is no optimizer class or refuses an option, or a parameter is sparse or sharded.
        ValueError: If an argument is out of its range, or a parameter of depth above 1 is no matrix or not finite.

    Example:
        >>> import torch, overdepth as od
        >>> layer = torch.nn.Linear(4, 2, bias=False)
        >>> optimizer = od.optim.Factored(layer.parameters(), torch.optim.AdamW, depth=3, lr=1e-3)
        >>> layer(torch.ones(3, 4)).square().mean().backward()
        >>> optimizer.step()
        >>> [tuple(f.shape) for f in optimizer.factors(layer.weight)]
        [(2, 4), (2, 2), (2, 2)]

    References:
        Arora, Cohen & Hazan, ICML 2018, arXiv 1802.06509.
    """

    def __init__(
        self,
        params: Any,
        base: type[Optimizer],
        *,
        depth: int = 2,
        width: int | None = None,
        init: Init = "balanced",
        scale: float | str = 0.01,
        groups: int = 1,
        on_change: OnChange = "error",
        allow_rank_loss: bool = False,
        generator: torch.Generator | None = None,
        **base_options: Any,
    ) -> None:
        defaults = base_defaults(base, base_options)
        self._base: Optimizer | None = None
        self._new: list[tuple[dict[str, Any], dict[Tensor, list[Tensor]]]] = []
        self._chains: dict[Tensor, list[Tensor]] = {}
        self._seen: dict[Tensor, tuple[Any, ...]] = {}
        self._written: set[Tensor] = set()
        self._generator = generator
        own = dict(zip(OWN, (depth, width, init, scale, groups, on_change, allow_rank_loss), strict=True))
        super().__init__(params, {**defaults, **own})
        self._base = base([group_for_base(group, made) for group, made in self._new], **base_options)
        self._take_new()

    def factors(self, parameter: Tensor) -> list[Tensor]:
        """The factors W_1, ..., W_N of a parameter, themselves; one of depth 1 is its own.

        Raises:
            KeyError: If the optimizer does not hold it.
        """
        for group in self.param_groups:
            if any(p is parameter for p in group["params"]):
                return list(self._chains.get(parameter, [parameter]))
        raise KeyError(f"the optimizer holds no parameter of shape {tuple(parameter.shape)} that is this one.")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group and splits its weights; checked as at construction."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            check_options(group)
            made = {}
            for index, p in enumerate(group["params"]):
                if group["depth"] > 1:
                    made[p] = self._split(p, group, parameter_name(group, index), warn=True)
            if made and not Start(group["init"]).keeps_the_weight:
                warn_user(f"init {group['init']!r} draws new factors: {len(made)} weights become their products.")
            if self._base is not None:
                self._base.add_param_group(group_for_base(group, made))
        except BaseException:  # a warning that is an error too
            self.param_groups.pop()
            raise
        self._new.append((group, made))
        if self._base is not None:
            self._take_new()

    @torch.no_grad()
    def _take_new(self) -> None:
        """Takes over the weights of new groups, when nothing can be refused any more."""
        for group, made in self._new:
            for p, chain in made.items():
                self._chains[p] = chain
                layout = layout_of(p, group)
                if Start(group["init"]).keeps_the_weight and layout.width >= layout.enough_width:
                    self._seen[p] = fingerprint(p)  # the product to rounding: making an optimizer writes nothing
                else:
                    self._write(p)
        self._new.clear()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of the base on the factors.

        Raises:
            RuntimeError: If a gradient is sparse or complex, or a weight was changed by others
                (``on_change="error"``).
            TypeError: If a closure is given.
        """
        if closure is not None:
            raise TypeError("Factored takes no closure: call backward(), then step().")
        self._look_for_changes()
        base = self._optimizer
        moved: list[Tensor] = []
        chains = []
        for group, base_group in zip(self.param_groups, base.param_groups, strict=True):
            copy_options(group, base_group)  # schedulers write to ours
            for p, grad in with_gradients(group):
                if group["depth"] > 1:
                    moved.append(p)
                    chains.append((grad, self._chains[p], group["groups"]))
        for p, gradients in zip(moved, chain_rule(chains), strict=True):
            for factor, gradient in zip(self._chains[p], gradients, strict=True):
                factor.grad = gradient
        untouched = {p: [f.clone() for f in self._chains[p]] for p in moved if p not in self._written}
        try:
            base.step()
        finally:
            for p in moved:
                for factor in self._chains[p]:
                    factor.grad = None
        for group, base_group in zip(self.param_groups, base.param_groups, strict=True):
            copy_options(base_group, group)  # some bases count in theirs
        for p in moved:
            before = untouched.get(p)  # a first step that moves nothing leaves the weight to the last bit
            if before is None or not all(map(torch.equal, before, self._chains[p])):
                self._write(p)
        self._show()

    def state_dict(self) -> dict[str, Any]:
        """The state with the factors and the base's state of each nested in that of their parameter."""
        self._show()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state; the model's weights must be, or become before the next step, those it was saved with."""
        check_saved(state_dict)
        super().load_state_dict(state_dict)
        for state in self.state.values():  # torch takes the tensors of a state_dict themselves, and we write to them
            for held in (state, state.get("factors", {}), *state.get("base", {}).values()):
                held.update({key: value.clone() for key, value in held.items() if isinstance(value, Tensor)})
        self._relink()
        with torch.no_grad():
            for p, chain in self._chains.items():
                if self.state[p].get("written") and is_product(p, chain):
                    self._write(p)  # to the last bit

    def __getstate__(self) -> dict[str, Any]:
        self._show()
        kept: dict[str, Any] = {"_base": self._base, "_generator": self._generator}
        empty: dict[str, Any] = {"_new": [], "_chains": {}, "_seen": {}, "_written": set()}  # made again from the state
        return {**super().__getstate__(), **kept, **empty}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if self.__dict__.get("_base") is not None:
            self._relink()

    @property
    def _optimizer(self) -> Optimizer:
        if self._base is None:
            raise RuntimeError("this optimizer was not made to its end.")
        return self._base

    def _split(self, p: Tensor, group: dict[str, Any], name: str, *, warn: bool) -> list[Tensor]:
        layout = layout_of(p, group)
        layout.check_width(name, allow_rank_loss=group["allow_rank_loss"])
        start = Start(group["init"], group["scale"], truncate=group["allow_rank_loss"], generator=self._generator)
        factors = layout.started(p, start, name)
        lost = layout.null_directions(factors) if warn and group["init"] == "balanced" else 0
        if lost:
            warn_user(null_remark(name, p, lost))
        return factors

    def _show(self) -> None:
        """Lets our state show the factors and the base's state, the very dicts that the base writes to.

        Not before the first step: torch's distributed checkpoints make a step of their own on an optimizer that has
        no state, to learn what a state has.
        """
        known = self._optimizer.state
        for group in self.param_groups:
            for p in group["params"]:
                if group["depth"] > 1:
                    chain = self._chains[p]
                    self.state[p] = {
                        "written": int(p in self._written),  # or still as it was split
                        "factors": {str(j): f for j, f in enumerate(chain)},
                        "base": {str(j): known[f] for j, f in enumerate(chain)},
                    }
                elif known.get(p):
                    self.state[p] = known[p]

    def _relink(self) -> None:
        """Gives the base what our state holds, after our state was replaced."""
        base = self._optimizer
        base.state = defaultdict(dict)
        self._chains.clear()
        self._seen.clear()
        self._written.clear()
        for group, base_group in zip(self.param_groups, base.param_groups, strict=True):
            held: list[Tensor] = []
            for p in group["params"]:
                if group["depth"] > 1:
                    chain, states = self._listed(p), self.state[p]["base"]
                    self._chains[p] = chain
                    if self.state[p].get("written"):
                        self._written.add(p)
                    for j, factor in enumerate(chain):
                        base.state[factor] = states.setdefault(str(j), {})
                    held += chain
                else:
                    if p in self.state:
                        base.state[p] = self.state[p]
                    held.append(p)
            base_group["params"] = held

    def _listed(self, p: Tensor) -> list[Tensor]:
        held = self.state[p]["factors"]
        return [held[str(j)] for j in range(len(held))]

    def _write(self, p: Tensor) -> None:
        p.copy_(multiply(self._chains[p], matmul).reshape(p.shape))
        self._seen[p] = fingerprint(p)
        self._written.add(p)

    def _look_for_changes(self) -> None:
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                if group["depth"] == 1 or p.grad is None:
                    continue
                found = fingerprint(p)
                if self._seen.get(p) == found:
                    continue
                if is_product(p, self._chains[p]):  # written anew, moved, or loaded: the same to rounding
                    self._follow(p)
                    self._seen[p] = found
                else:
                    self._changed(p, group, parameter_name(group, index))

    def _follow(self, p: Tensor) -> None:
        """Takes the factors and what the base knows of them to where the weight went, and to its dtype."""
        for factor in self._chains[p]:
            if (factor.dtype, factor.device) != (p.dtype, p.device):
                factor.data = factor.to(p.device, p.dtype)
                known = self._optimizer.state[factor]
                for key, value in known.items():
                    if isinstance(value, Tensor) and key != "step" and value.dtype.is_floating_point:
                        known[key] = value.to(p.device, p.dtype)

    def _changed(self, p: Tensor, group: dict[str, Any], name: str) -> None:
        if group["on_change"] == "error":
            raise RuntimeError(
                f"{name} is no longer the product of its factors: something else wrote to it (load_state_dict of the "
                f"model, an average, an initialization). Restore it, load the optimizer's state_dict of the same "
                f"moment, or pass on_change='split' to split it anew."
            )
        for factor, values in zip(self._chains[p], self._split(p, group, name, warn=False), strict=True):
            factor.data = values
            self._optimizer.state[factor].clear()
