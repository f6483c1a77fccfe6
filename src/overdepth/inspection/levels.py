"""A spectrum with many equal values: the different ones, and how often each occurs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POINTS = 101
_MOST = 2**22  # sums of two spectra that are held at a time


@dataclass(frozen=True)
class Levels:
    """Eigenvalues and their multiplicities.

    Attributes:
        values: Shape (n,), float64.
        counts: Shape (n,), how often each occurs; not all 0.
    """

    values: Tensor
    counts: Tensor

    @classmethod
    def of(cls, values: Tensor, zeros: int = 0) -> Levels:
        """Values that occur once each, and so many zeros."""
        ones = torch.ones_like(values)
        if zeros:
            values = torch.cat([values, values.new_zeros(1)])
            ones = torch.cat([ones, ones.new_tensor([float(zeros)])])
        return cls(values, ones)

    def plus(self, other: Levels) -> Levels:
        """The spectrum of A G + G B: all sums, each as often as its terms occur together."""
        a, b = self, other
        if len(a.values) * len(b.values) > _MOST:
            a, b = a._thinned(), b._thinned()
        values = (a.values[:, None] + b.values).flatten()
        return Levels(values, (a.counts[:, None] * b.counts).flatten())

    def scaled(self, factor: float) -> Levels:
        """All values times a factor."""
        return Levels(self.values * factor, self.counts)

    def with_others(self, other: Levels) -> Levels:
        """Both together."""
        return Levels(torch.cat([self.values, other.values]), torch.cat([self.counts, other.counts]))

    @property
    def smallest(self) -> float:
        """The smallest value."""
        return float(self.values.min())

    @property
    def largest(self) -> float:
        """The largest value."""
        return float(self.values.max())

    @property
    def mean(self) -> float:
        """The mean over all directions."""
        return float((self.values * self.counts).sum() / self.counts.sum())

    @property
    def zeros(self) -> float:
        """The fraction that is exactly zero."""
        return float(self.counts[self.values == 0].sum() / self.counts.sum())

    def curve(self) -> tuple[float, ...]:
        """The value at so many evenly spaced places of the falling order, the largest and the smallest included."""
        values, order = self.values.sort(descending=True)
        reached = self.counts[order].cumsum(0)
        at = torch.arange(POINTS, device=values.device) * reached[-1] / (POINTS - 1)
        index = torch.searchsorted(reached, at).clamp_max(len(values) - 1)
        return tuple(values[index].tolist())

    def _thinned(self) -> Levels:
        """Every so manieth value, the ends included, standing for its neighbours: for the curve, not for the ends."""
        values, order = self.values.sort()
        chosen = torch.linspace(0, len(values) - 1, int(_MOST**0.5), device=values.device).round().long()
        reached = self.counts[order].cumsum(0)[chosen]
        return Levels(values[chosen], reached.diff(prepend=reached.new_zeros(1)))
