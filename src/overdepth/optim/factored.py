"""Over-parameterized training with the factors in the optimizer: the model never changes."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from overdepth._checks import with_float64
from overdepth.chain import check_width, multiply
from overdepth.gemm import matmul
from overdepth.initialization import INITIALIZATIONS, Init
from overdepth.layouts import MatrixLayout, Start
from overdepth.optim.chain_rule import chain_rule
from overdepth.optim.checks import check_gradient, check_group, parameter_name

OnChange = Literal["error", "split"]
ON_CHANGE: tuple[OnChange, ...] = get_args(OnChange)

_OWN = ("depth", "width", "init", "scale", "groups", "on_change", "allow_rank_loss")  # options that are not the base's


class Factored(Optimizer):
    """Any optimizer on the factors of each weight, which live here: the model holds their product.

    Each weight W of a depth N > 1 is split into factors at construction. A step applies the chain rule to the gradient
    of W, lets the base optimizer step the factors, and writes the product back. The factors see the data only through
    W, so W follows the path it would follow in an over-parameterized model (:func:`overdepth.overparameterize_`) with
    the same base, step by step, to rounding. What clips the gradient's norm between ``backward`` and ``step`` sees
    the gradient of W here, and those of the factors there: only then the two differ.

    ``param_groups`` hold the model's parameters and the base's options, so that schedulers, ``GradScaler`` and
    clipping work as ever. ``state[p]`` holds ``factors`` and the base's state of each (``base``); parameters of depth
    1 have the base's own state.

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
        self._base = _make_base(base, base_options)
        self._generator = generator
        self._seen: dict[Tensor, tuple[Any, ...]] = {}
        own = dict(zip(_OWN, (depth, width, init, scale, groups, on_change, allow_rank_loss), strict=True))
        super().__init__(params, {**self._base.defaults, **own})

    def factors(self, parameter: Tensor) -> list[Tensor]:
        """The factors W_1, ..., W_N of a parameter, themselves; one of depth 1 is its own.

        Raises:
            KeyError: If the optimizer does not hold it.
        """
        for group in self.param_groups:
            if any(p is parameter for p in group["params"]):
                return _listed(self.state[parameter]) if group["depth"] > 1 else [parameter]
        raise KeyError(f"the optimizer holds no parameter of shape {tuple(parameter.shape)} that is this one.")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group and splits its weights; checked as at construction."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        made: list[tuple[Tensor, list[Tensor]]] = []
        try:
            _check(group)
            for index, p in enumerate(group["params"]):
                if group["depth"] > 1:
                    made.append((p, self._split(p, group, parameter_name(group, index), warn=True)))
            factors = dict(made)
            held = [f for p in group["params"] for f in factors.get(p, [p])]
            options = {k: v for k, v in group.items() if k not in ("params", "param_names", *_OWN)}
            self._base.add_param_group({"params": held, **options})
        except BaseException:
            self.param_groups.pop()
            raise
        for p in group["params"]:
            self._link(p, factors.get(p))
        keeps = Start(group["init"]).keeps_the_weight and not group["allow_rank_loss"]
        with torch.no_grad():
            for p, chain in made:
                if keeps:
                    self._seen[p] = _fingerprint(p)  # the product to rounding; making an optimizer writes nothing
                else:
                    self._write(p, chain)
        if made and not Start(group["init"]).keeps_the_weight:
            warnings.warn(
                f"init {group['init']!r} draws new factors: {len(made)} weights were overwritten by their products.",
                stacklevel=4,
            )

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
        moved: list[tuple[Tensor, list[Tensor], dict[str, Any]]] = []
        for group, base_group in zip(self.param_groups, self._base.param_groups, strict=True):
            for key in base_group:
                if key not in ("params", "param_names"):
                    base_group[key] = group[key]  # schedulers write to ours
            for index, p in enumerate(group["params"]):
                if p.grad is not None:
                    check_gradient(p.grad, parameter_name(group, index))
                    if group["depth"] > 1:
                        moved.append((p, _listed(self.state[p]), group))
        chains = [(p.grad, chain, group["groups"]) for p, chain, group in moved if p.grad is not None]
        for (_, chain, _), gradients in zip(moved, chain_rule(chains), strict=True):
            for factor, gradient in zip(chain, gradients, strict=True):
                factor.grad = gradient
        try:
            self._base.step()
        finally:
            for _, chain, _ in moved:
                for factor in chain:
                    factor.grad = None
        for p, chain, _ in moved:
            self._write(p, chain)

    def state_dict(self) -> dict[str, Any]:
        """The state with the factors and the base's state of each nested in that of their parameter."""
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state; the model's weights must be, or become before the next step, those it was saved with."""
        super().load_state_dict(state_dict)
        for state in self.state.values():  # torch takes the tensors of a state_dict themselves, and we write to them
            for held in (state, state.get("factors", {}), *state.get("base", {}).values()):
                held.update({key: value.clone() for key, value in held.items() if isinstance(value, Tensor)})
        self._relink()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_base": self._base, "_generator": self._generator, "_seen": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_base" in self.__dict__:
            self._relink()

    def _split(self, p: Tensor, group: dict[str, Any], name: str, *, warn: bool) -> list[Tensor]:
        layout = _layout(p, group)
        if layout.width < layout.enough_width and not group["allow_rank_loss"]:
            raise ValueError(
                f"width of {name} is {layout.width}, below {layout.enough_width}, from which on no expressiveness is "
                f"lost; widen it, or say allow_rank_loss=True."
            )
        start = Start(group["init"], group["scale"], truncate=group["allow_rank_loss"], generator=self._generator)
        factors = [f.to(p.device) for f in layout.initial(with_float64(p.detach()), start)]
        lost = layout.null_directions(factors) if warn and group["init"] == "balanced" else 0
        if lost:
            what = "rank-deficient" if bool(p.any()) else "zero"
            warnings.warn(
                f"{name} is {what}: {lost} of its singular values are 0 to rounding, and a balanced start leaves what "
                f"is null on both sides without any gradient; use init='identity' for it.",
                stacklevel=5,
            )
        return factors

    def _link(self, p: Tensor, factors: Sequence[Tensor] | None) -> None:
        """Lets our state show the factors and the base's state, the very dicts that the base writes to."""
        if factors is None:
            self.state[p] = self._base.state[p]
            return
        self.state[p] = {
            "factors": {str(j): f for j, f in enumerate(factors)},
            "base": {str(j): self._base.state[f] for j, f in enumerate(factors)},
        }

    def _relink(self) -> None:
        """Gives the base what our state holds, after our state was replaced."""
        self._base.state = defaultdict(dict)
        for group, base_group in zip(self.param_groups, self._base.param_groups, strict=True):
            held: list[Tensor] = []
            for index, p in enumerate(group["params"]):
                if group["depth"] > 1:
                    if "factors" not in self.state[p]:
                        raise ValueError(
                            f"the state of {parameter_name(group, index)} holds no factors; load one that was saved by "
                            f"Factored with a depth of {group['depth']}."
                        )
                    chain, states = _listed(self.state[p]), self.state[p]["base"]
                    for j, factor in enumerate(chain):
                        self._base.state[factor] = states.setdefault(str(j), {})
                    held += chain
                else:
                    self._base.state[p] = self.state[p]
                    held.append(p)
            base_group["params"] = held
        self._seen.clear()

    def _write(self, p: Tensor, chain: Sequence[Tensor]) -> None:
        p.copy_(multiply(chain, matmul).reshape(p.shape))
        self._seen[p] = _fingerprint(p)

    def _look_for_changes(self) -> None:
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                if group["depth"] == 1 or p.grad is None or self._seen.get(p) == _fingerprint(p):
                    continue
                if p in self._seen or not _is_product(p, self.state[p]):
                    self._changed(p, group, parameter_name(group, index))

    def _changed(self, p: Tensor, group: dict[str, Any], name: str) -> None:
        if group["on_change"] == "error":
            raise RuntimeError(
                f"{name} is no longer the product of its factors: something else wrote to it (load_state_dict of the "
                f"model, an average, an initialization). Restore it, load the optimizer's state_dict of the same "
                f"moment, or pass on_change='split' to split it anew."
            )
        old = _listed(self.state[p])
        chain = self._split(p, group, name, warn=False)
        for factor, values in zip(old, chain, strict=True):
            factor.data = values
            self._base.state[factor].clear()


def _make_base(base: Any, options: Mapping[str, Any]) -> Optimizer:
    """The base optimizer, without any parameter."""
    if not isinstance(base, type) or not issubclass(base, Optimizer):
        raise TypeError(f"base is {base!r}, expected an optimizer class such as torch.optim.AdamW.")
    if base in (torch.optim.LBFGS, torch.optim.SparseAdam):
        why = "evaluates the loss many times a step" if base is torch.optim.LBFGS else "needs sparse gradients"
        raise ValueError(f"base is {base.__name__}, which {why}; Factored gives dense gradients of one evaluation.")
    optimizer: Optimizer = base([torch.zeros(1, 1)], **options)
    optimizer.param_groups.clear()
    return optimizer


def _check(group: dict[str, Any]) -> None:
    check_group(group, allow_real=False)
    check_width(group["width"], default=1)
    for name, allowed in (("init", INITIALIZATIONS), ("on_change", ON_CHANGE)):
        if group[name] not in allowed:
            raise ValueError(f"{name} is {group[name]!r}, expected one of {', '.join(allowed)}.")


def _layout(p: Tensor, group: dict[str, Any]) -> MatrixLayout:
    return MatrixLayout(tuple(p.shape), group["depth"], group["width"], group["groups"])


def _listed(state: Mapping[str, Any]) -> list[Tensor]:
    held = state["factors"]
    return [held[str(j)] for j in range(len(held))]


def _fingerprint(p: Tensor) -> tuple[Any, ...]:
    """Changes whenever somebody writes to a tensor, through ``.data`` too."""
    return p.data_ptr(), p.dtype, repr(float(p.sum())), repr(float(p.reshape(-1)[:: max(p.numel() // 64, 1)].sum()))


def _is_product(p: Tensor, state: Mapping[str, Any]) -> bool:
    """Whether a weight is the product of its factors to rounding, as after both were loaded."""
    product = multiply(_listed(state), matmul).reshape(p.shape).to(p.dtype)
    tolerance = 32 * torch.finfo(p.dtype).eps * float(product.abs().max())
    return bool(((product - p).abs() <= tolerance).all())
