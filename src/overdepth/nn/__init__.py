"""Form 1, in the model: weights as products of trainable factors, folded back when training is done."""

from __future__ import annotations

from overdepth.nn.checkpoints import factored_state_dict, plain_state_dict
from overdepth.nn.factoring import overparameterize_, plan
from overdepth.nn.factors import Execution, Factors
from overdepth.nn.folding import collapse, collapse_, verify_collapse
from overdepth.nn.penalty import end_to_end_penalty, learning_rate_multipliers, named_factors
from overdepth.nn.plans import Plan, Select
from overdepth.nn.reports import CollapseError, CollapseReport

__all__ = [
    "CollapseError",
    "CollapseReport",
    "Execution",
    "Factors",
    "Plan",
    "Select",
    "collapse",
    "collapse_",
    "end_to_end_penalty",
    "factored_state_dict",
    "learning_rate_multipliers",
    "named_factors",
    "overparameterize_",
    "plain_state_dict",
    "plan",
    "verify_collapse",
]
