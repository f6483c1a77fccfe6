"""Gradient flow from chosen starts beside what is proved about it: ``overdepth rates``."""

from __future__ import annotations

from overdepth.paper.rates.objective import Objective, from_problem, towards
from overdepth.paper.rates.page import write_report
from overdepth.paper.rates.saved import SavedChain, read_chain, read_target
from overdepth.paper.rates.starts import PRESETS, Start, drawn_start, drawn_target
from overdepth.paper.rates.study import Result, study

__all__ = [
    "PRESETS",
    "Objective",
    "Result",
    "SavedChain",
    "Start",
    "drawn_start",
    "drawn_target",
    "from_problem",
    "read_chain",
    "read_target",
    "study",
    "towards",
    "write_report",
]
