"""Sweeps of any size: described by a file, cut into pieces that survive whatever stops them. Extra ``lab``."""

from __future__ import annotations

from overdepth.sweeps.mistakes import SweepFileError
from overdepth.sweeps.sweep_file import SweepFile, parse, read

__all__ = ["SweepFile", "SweepFileError", "parse", "read"]
