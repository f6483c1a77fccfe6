"""The lab: problems, objectives, and the engine that trains hundreds of linear networks at once.

Needs the extra ``lab``.
"""

from __future__ import annotations

from overdepth._extras import missing_extra

try:
    from overdepth.lab.cache import RunCache
    from overdepth.lab.datasets import DATASETS, load_problem
    from overdepth.lab.memory import runs_that_fit, working_set
    from overdepth.lab.objectives import Objective, objective
    from overdepth.lab.optimum import Optimum, optimal_loss
    from overdepth.lab.problem import SCALINGS, Problem
    from overdepth.lab.rows import RowProblem, open_rows
    from overdepth.lab.run import METHODS, Run, grid
    from overdepth.lab.sweeps import sweep
except ModuleNotFoundError as error:
    missing_extra(error, "overdepth.lab", "lab")

__all__ = [
    "DATASETS",
    "METHODS",
    "SCALINGS",
    "Objective",
    "Optimum",
    "Problem",
    "RowProblem",
    "Run",
    "RunCache",
    "grid",
    "load_problem",
    "objective",
    "open_rows",
    "optimal_loss",
    "runs_that_fit",
    "sweep",
    "working_set",
]
