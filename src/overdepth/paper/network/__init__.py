"""Figure 5, right: the convolutional network of the TensorFlow 1 tutorial on MNIST, over-parameterized."""

from __future__ import annotations

from overdepth.paper.network.item import ITEM

__all__ = ["ITEM"]
