"""Does depth help this model? A fair comparison of plain and over-parameterized training.

Needs the extra ``compare``.
"""

from __future__ import annotations

from overdepth._extras import missing_extra

try:
    from overdepth.comparison.arm_result import ArmResult
    from overdepth.comparison.arms import Arm
    from overdepth.comparison.comparing import compare
    from overdepth.comparison.result import Comparison
    from overdepth.comparison.task import Task
    from overdepth.comparison.verdict import Verdict
except ModuleNotFoundError as error:
    missing_extra(error, "overdepth.compare", "compare")

__all__ = ["Arm", "ArmResult", "Comparison", "Task", "Verdict", "compare"]
