"""The end-to-end rule in front of any optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.optim import Optimizer

from overdepth._checks import check_choice
from overdepth.optim.checks import check_base, check_group, check_movable, with_gradients
from overdepth.optim.preconditioning import preconditioned
from overdepth.optim.rules import STATELESS, Method

_OWN = ("depth", "method", "groups", "allow_frozen_directions")


def end_to_end(
    params: Any,
    base: Any,
    *,
    depth: float = 2,
    method: Method = "auto",
    groups: int = 1,
    allow_frozen_directions: bool = False,
    **base_options: Any,
) -> Optimizer:
    """The end-to-end rule in front of any optimizer class: the base sees preconditioned gradients.

    The result is an optimizer of the base's class (to ``isinstance``), with its options, state and state_dict. An
    adaptive base divides much of the preconditioner's scale out again; what it cannot divide out is the rotation.
    It is not the base on factors: that is :class:`overdepth.optim.Factored`.

    Args:
        params: Parameters, named parameters or groups (:func:`overdepth.optim.param_groups` makes them), which may
            override depth, method and groups; biases and other vectors need ``depth=1``.
        base: An optimizer class, such as ``torch.optim.Adam``; not ``LBFGS``, which evaluates gradients itself.
        depth: N, any real number >= 1, or ``math.inf``.
        method: How the rule is computed, not ``tracked``; see :mod:`overdepth.optim.rules`.
        groups: Blocks of rows that are matrices of their own, for grouped convolutions.
        allow_frozen_directions: As in :class:`overdepth.optim.EndToEndSGD`.
        **base_options: Options of the base, such as ``lr``.

    Raises:
        TypeError: If the base is no optimizer class or refuses an option, or a parameter is sparse or sharded.
        ValueError: If an argument is out of its range, or a parameter of depth above 1 is no matrix or not finite.

    Example:
        >>> import torch, overdepth as od
        >>> layer = torch.nn.Linear(4, 2, bias=False)
        >>> optimizer = od.optim.end_to_end(layer.parameters(), torch.optim.Adam, depth=2, lr=1e-3)
        >>> isinstance(optimizer, torch.optim.Adam)
        True
    """
    why = "evaluates gradients itself, where no rule can stand in front of them."
    check_base(base, {torch.optim.LBFGS: why})
    own = dict(zip(_OWN, (depth, method, groups, allow_frozen_directions), strict=True))
    known: Any = base
    made: Any = _class(known)
    optimizer: Optimizer = made(params, own, base_options)
    return optimizer


@cache
def _class(base: Any) -> type[Optimizer]:
    # torch wraps the step of a class that has been used, to call hooks, which ours does already.
    plain = getattr(base.step, "__wrapped__", base.step) if getattr(base.step, "hooked", False) else base.step

    class EndToEnd(base):  # type: ignore[misc]
        __doc__ = base.__doc__

        def __init__(self, params: Any, own: dict[str, Any], options: dict[str, Any]) -> None:
            self._own_defaults = own
            super().__init__(params, **options)
            self.defaults.update(own)

        def add_param_group(self, param_group: dict[str, Any]) -> None:
            for name, value in self._own_defaults.items():
                param_group.setdefault(name, value)
            super().add_param_group(param_group)
            group = self.param_groups[-1]
            try:
                check_group(group, allow_real=True)
                if group["method"] == "tracked":
                    raise ValueError("method 'tracked' keeps a basis in the state, which is the base's here.")
                check_choice(group["method"], "method", STATELESS)
                if group["depth"] > 1:
                    check_movable(group)
            except BaseException:  # a warning that is an error too
                self.param_groups.pop()
                raise

        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            kept: list[tuple[Any, Any]] = []
            try:
                with torch.no_grad():
                    for group in self.param_groups:
                        if group["depth"] > 1:
                            kept += _put_preconditioned(group)
                plain(self)
            finally:
                for p, grad in kept:
                    p.grad = grad
            return loss

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            """Takes a state of the plain base too, whose groups have no depths."""
            groups = zip(state_dict["param_groups"], self.param_groups, strict=False)
            filled = [{**{name: mine[name] for name in _OWN}, **theirs} for theirs, mine in groups]
            filled += state_dict["param_groups"][len(filled) :]
            state = copy.deepcopy(state_dict["state"])  # torch would take the very tensors, and write to them
            super().load_state_dict({**state_dict, "state": state, "param_groups": filled})

        def __getstate__(self) -> dict[str, Any]:
            return {**super().__getstate__(), "_own_defaults": self._own_defaults}

        def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
            return _rebuild, (base,), self.__getstate__()

    EndToEnd.__name__ = f"EndToEnd{base.__name__}"
    EndToEnd.__qualname__ = EndToEnd.__name__
    return EndToEnd


def _put_preconditioned(group: dict[str, Any]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Puts preconditioned gradients in the places of a group's; returns these, or changes nothing."""
    held = with_gradients(group)
    steps = preconditioned([p for p, _ in held], [grad for _, grad in held], group)
    for (p, _), step in zip(held, steps, strict=True):
        p.grad = step
    return held


def _rebuild(base: Any) -> Optimizer:
    cls: Any = _class(base)
    optimizer: Optimizer = cls.__new__(cls)
    return optimizer
