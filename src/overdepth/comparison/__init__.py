"""Does depth help this model? A fair comparison of plain and over-parameterized training.

Needs the extra ``compare``.
"""

from __future__ import annotations

try:
    from overdepth.comparison.arm_result import ArmResult
    from overdepth.comparison.arms import Arm
    from overdepth.comparison.comparing import compare
    from overdepth.comparison.result import Comparison
    from overdepth.comparison.task import Task
    from overdepth.comparison.verdict import Verdict
except ModuleNotFoundError as error:
    if error.name is None or error.name.split(".")[0] == "overdepth":
        raise
    raise ModuleNotFoundError(
        f"overdepth.compare needs {error.name}, which is not installed; install the extra: pip install "
        f"'overdepth[compare]'.",
        name=error.name,
    ) from error

__all__ = ["Arm", "ArmResult", "Comparison", "Task", "Verdict", "compare"]
