r"""The update rules of the methods beside gradient descent, as torch.optim and as TensorFlow 1 define them.

A rule turns the gradient g of a parameter into a direction u; the step is w <- (1 - lr decay) w - lr u. All operations
are elementwise, so that any number of runs goes through them at once.

=============  ==================================================  =====================================================
method         torch.optim's defaults                              with ``_tf1``: TensorFlow 1's, the paper's framework
=============  ==================================================  =====================================================
momentum       b <- 0.9 b + g; u = b                               the same
nesterov       b as above; u = g + 0.9 b                           the same
adagrad        s <- s + g^2 from 0; u = g / (sqrt(s) + 1e-10)      s from 0.1; u = g / sqrt(s), no epsilon
adadelta       rho 0.9, epsilon 1e-6, the step times lr            rho 0.95, epsilon 1e-8, the step times lr
rmsprop        s <- 0.99 s + 0.01 g^2 from 0;                      0.9 and 0.1, s from 1; u = g / sqrt(s + 1e-10)
               u = g / (sqrt(s) + 1e-8)
adam           0.9, 0.999; epsilon 1e-8 added to the root of the   epsilon 1e-8 added to the root of the raw second
               corrected second moment                             moment, the corrections multiplying the step
=============  ==================================================  =====================================================

adadelta: s <- rho s + (1 - rho) g^2; u = g sqrt(d + epsilon) / sqrt(s + epsilon); d <- rho d + (1 - rho) u^2.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from typing_extensions import override


class UpdateRule(ABC):
    """From gradients to directions; what it remembers of each parameter is passed in and changed in place."""

    starts: ClassVar[dict[str, float]]  # what is remembered, and what it is before the first step

    @abstractmethod
    def direction(self, grad: Tensor, memory: dict[str, Tensor], time: Tensor) -> Tensor:
        """The direction u.

        Args:
            grad: g, shape (runs, ...).
            memory: A tensor of the gradient's shape for every name in ``starts``.
            time: The number of this step, from 1, shape (runs, 1, ...).
        """


@dataclass(frozen=True)
class Momentum(UpdateRule):
    """Momentum 0.9, Nesterov's or the plain one."""

    starts: ClassVar[dict[str, float]] = {"velocity": 0.0}
    nesterov: bool = False
    factor: float = 0.9

    @override
    def direction(self, grad: Tensor, memory: dict[str, Tensor], time: Tensor) -> Tensor:
        velocity = memory["velocity"].mul_(self.factor).add_(grad)
        return grad.add(velocity, alpha=self.factor) if self.nesterov else velocity


@dataclass(frozen=True)
class Adagrad(UpdateRule):
    """The sum of all squares."""

    starts: ClassVar[dict[str, float]] = {"squares": 0.0}
    epsilon: float = 1e-10

    @override
    def direction(self, grad: Tensor, memory: dict[str, Tensor], time: Tensor) -> Tensor:
        squares = memory["squares"].addcmul_(grad, grad)
        return grad / squares.sqrt().add_(self.epsilon)


class AdagradTF1(Adagrad):
    """The same from 0.1, without epsilon."""

    starts: ClassVar[dict[str, float]] = {"squares": 0.1}


@dataclass(frozen=True)
class Adadelta(UpdateRule):
    """Squares of gradients, and of the steps before."""

    starts: ClassVar[dict[str, float]] = {"squares": 0.0, "steps": 0.0}
    rho: float = 0.9
    epsilon: float = 1e-6

    @override
    def direction(self, grad: Tensor, memory: dict[str, Tensor], time: Tensor) -> Tensor:
        squares = memory["squares"].mul_(self.rho).addcmul_(grad, grad, value=1 - self.rho)
        found = (memory["steps"] + self.epsilon).div_(squares + self.epsilon).sqrt_().mul_(grad)
        memory["steps"].mul_(self.rho).addcmul_(found, found, value=1 - self.rho)
        return found


@dataclass(frozen=True)
class RMSprop(UpdateRule):
    """A decaying mean of squares, epsilon beside its root."""

    starts: ClassVar[dict[str, float]] = {"squares": 0.0}
    alpha: float = 0.99
    epsilon: float = 1e-8

    @override
    def direction(self, grad: Tensor, memory: dict[str, Tensor], time: Tensor) -> Tensor:
        squares = memory["squares"].mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        return grad / squares.sqrt().add_(self.epsilon)


@dataclass(frozen=True)
class RMSpropTF1(RMSprop):
    """The same from 1, epsilon under the root."""

    starts: ClassVar[dict[str, float]] = {"squares": 1.0}
    alpha: float = 0.9
    epsilon: float = 1e-10

    @override
    def direction(self, grad: Tensor, memory: dict[str, Tensor], time: Tensor) -> Tensor:
        squares = memory["squares"].mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        return grad * (squares + self.epsilon).rsqrt_()


@dataclass(frozen=True)
class Adam(UpdateRule):
    """Decaying means of gradients and squares; epsilon beside the corrected root, or (``raw``) beside the raw one."""

    starts: ClassVar[dict[str, float]] = {"mean": 0.0, "squares": 0.0}
    raw: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    @override
    def direction(self, grad: Tensor, memory: dict[str, Tensor], time: Tensor) -> Tensor:
        mean = memory["mean"].mul_(self.beta1).add_(grad, alpha=1 - self.beta1)
        squares = memory["squares"].mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        first, second = 1 - self.beta1**time, (1 - self.beta2**time).sqrt()
        if self.raw:
            return mean * (second / first) / squares.sqrt().add_(self.epsilon)
        return mean / first / (squares.sqrt().div_(second).add_(self.epsilon))


RULES: dict[str, UpdateRule] = {
    "momentum": Momentum(),
    "nesterov": Momentum(nesterov=True),
    "adagrad": Adagrad(),
    "adadelta": Adadelta(),
    "rmsprop": RMSprop(),
    "adam": Adam(),
    "momentum_tf1": Momentum(),
    "nesterov_tf1": Momentum(nesterov=True),
    "adagrad_tf1": AdagradTF1(epsilon=0.0),
    "adadelta_tf1": Adadelta(rho=0.95, epsilon=1e-8),
    "rmsprop_tf1": RMSpropTF1(),
    "adam_tf1": Adam(raw=True),
}
