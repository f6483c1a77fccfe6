"""The result of a sweep as one page: best learning rates, curves, heat maps, where runs diverged.

Everything is drawn from the data set alone, by small functions: the file is opened (:mod:`.reading`), runs are put in
order (:mod:`.runs`), grouped and tuned (:mod:`.best`), laid on a grid (:mod:`.grids`), drawn (:mod:`.curves`,
:mod:`.maps`), and put on a page (:mod:`.page`).
"""

from __future__ import annotations

from overdepth.sweeps.show.best import Best, best_rates
from overdepth.sweeps.show.page import Drawn, draw, write
from overdepth.sweeps.show.reading import Source, open_results
from overdepth.sweeps.show.runs import Runs, panels, read_runs

__all__ = ["Best", "Drawn", "Runs", "Source", "best_rates", "draw", "open_results", "panels", "read_runs", "write"]
