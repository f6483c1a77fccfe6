"""The arms of a comparison: plain training, and over-parameterized training in one of three forms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import cast

from overdepth._checks import check_choice, check_depth, check_positive, check_size
from overdepth.initialization import INITIALIZATIONS, Init

PLAIN, IN_MODEL, IN_OPTIMIZER, RULE = 0, 1, 2, 3
SHIFT = 500_000
"""How far apart the seeds of ``plain`` and of ``again`` are."""
_KEEP_THE_FUNCTION = ("balanced", "identity")
_WANTED = "plain, again, or FORM:DEPTH[:INIT[:SCALE]] such as form1:2, form2:3:near_identity:0.1, form3:2.5"


@dataclass(frozen=True)
class Arm:
    """One way to train, which gets a learning-rate search of its own.

    Attributes:
        name: In tables and messages.
        form: 0 plain; 1 factors in the model; 2 factors in the optimizer; 3 the end-to-end rule.
        depth: Number of factors N; any real number or ``math.inf`` for form 3.
        init: How factors start; ``balanced`` and ``identity`` keep the function. Not for form 3, which has none.
        scale: Of drawn factors, or "match"; see :func:`overdepth.overparameterize_`.
        lr_factor: What every learning rate is multiplied by, as by somebody who changes the step and calls it depth.
        seed_shift: Added to every seed; an arm with one shares neither starts nor batches with the others.
        control_of: The arm that this one is a control of, if it is one.

    Example:
        >>> from overdepth.comparison import Arm
        >>> Arm.parse("form1:2")
        Arm(name='form1:2', form=1, depth=2, init='balanced', scale=0.01, lr_factor=1.0, seed_shift=0, control_of='')
    """

    name: str
    form: int = PLAIN
    depth: float = 1
    init: Init = "balanced"
    scale: float | str = 0.01
    lr_factor: float = 1.0
    seed_shift: int = 0
    control_of: str = ""

    def __post_init__(self) -> None:
        of = f" of arm {self.name!r}"
        check_choice(self.form, f"form{of}", (PLAIN, IN_MODEL, IN_OPTIMIZER, RULE))
        check_depth(self.depth, qualified_name=f"depth{of}", allow_real=self.form in (PLAIN, RULE))
        if (self.depth > 1) != (self.form != PLAIN):
            raise ValueError(
                f"depth{of} is {self.depth:g}, expected {'1' if self.form == PLAIN else 'more than 1'}: depth 1 is the "
                f"plain model."
            )
        check_choice(self.init, f"init{of}", INITIALIZATIONS)
        if self.form in (PLAIN, RULE) and self.init != "balanced":
            raise ValueError(f"init{of} is {self.init!r}, but it has no factors that could be started; leave it out.")
        if self.scale != "match":
            check_positive(self.scale, f"scale{of}")
        check_positive(self.lr_factor, f"lr_factor{of}")

    @staticmethod
    def parse(text: str) -> Arm:
        """The arm of a short name.

        Args:
            text: ``plain``; ``again``, which is plain training on other seeds and shows what chance alone does; or
                ``form1:2``, ``form2:3:near_identity:0.1``, ``form3:2.5``.

        Raises:
            ValueError: If it is none of these.
        """
        if text == "plain":
            return Arm(text)
        if text == "again":
            return Arm(text, seed_shift=SHIFT)
        form, *rest = text.split(":")
        forms = {"form1": IN_MODEL, "form2": IN_OPTIMIZER, "form3": RULE}
        if form not in forms or not 1 <= len(rest) <= 3:
            raise ValueError(f"arm is {text!r}, expected {_WANTED}.")
        depth, init, scale = [*rest, *("", "balanced", "0.01")[len(rest) :]]
        check_choice(init, f"init of arm {text!r}", INITIALIZATIONS)
        number = _number(depth, "depth", text)
        return Arm(
            text,
            forms[form],
            int(number) if math.isfinite(number) and number == int(number) else number,
            cast(Init, init),
            scale if scale == "match" else _number(scale, "scale", text),
        )

    @property
    def matched_in_norm(self) -> Arm | None:
        """The same arm with drawn factors rescaled to the norms of the weights that they replace; None if they are."""
        if self.init in _KEEP_THE_FUNCTION or self.scale == "match":
            return None
        return replace(self, name=f"{self.name}, norm matched", scale="match", control_of=self.name)

    def settings(self) -> dict[str, object]:
        """All that decides what the arm does, as plain values."""
        fields = asdict(self)
        del fields["name"], fields["control_of"]
        return {**fields, "depth": str(self.depth)}


def parse_arms(arms: Sequence[str | Arm]) -> tuple[Arm, ...]:
    """Arms from short names, ``plain`` first.

    Raises:
        TypeError: If one is neither a name nor an arm.
        ValueError: If a name is unknown or given twice, or there is nothing to compare with ``plain``.
    """
    if isinstance(arms, str):
        raise TypeError(f"arms is {arms!r}, expected a list such as ['plain', 'form1:2'].")
    found: dict[str, Arm] = {"plain": Arm("plain")}
    for each in arms:
        if not isinstance(each, str | Arm):
            raise TypeError(f"arms holds a {type(each).__name__}, expected names such as 'form1:2', or Arm.")
        arm = Arm.parse(each) if isinstance(each, str) else each
        if arm.name in found and arm != found[arm.name]:
            raise ValueError(f"two arms are called {arm.name!r}; give each a name of its own.")
        found[arm.name] = arm
    check_size(len(found) - 1, "the number of arms besides 'plain'", remedy="; name one, such as form1:2")
    return tuple(found.values())


def _number(text: str, what: str, arm: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{what} of arm {arm!r} is {text!r}, expected a number; {_WANTED}.") from None
