"""Forms 2 and 3, in the optimizer: factors that live in its state, and the end-to-end rule."""

from __future__ import annotations

from overdepth.optim.end_to_end_sgd import EndToEndSGD
from overdepth.optim.factored import Factored
from overdepth.optim.groups import ParamGroups, param_groups
from overdepth.optim.wrapper import end_to_end

__all__ = ["EndToEndSGD", "Factored", "ParamGroups", "end_to_end", "param_groups"]
