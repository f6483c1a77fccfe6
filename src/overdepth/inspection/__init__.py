"""What products of matrices a model holds already, and how far they are from balance; torch alone."""

from __future__ import annotations

from overdepth.inspection.inspections import Inspection
from overdepth.inspection.measures import Multipliers
from overdepth.inspection.products import Product
from overdepth.inspection.searching import inspect

__all__ = ["Inspection", "Multipliers", "Product", "inspect"]
