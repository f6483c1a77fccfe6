"""A seat in the tools that people train with: loggers, and checkpoints of the plain model while there are factors.

torch alone. :mod:`overdepth.integrations.lightning` needs Lightning (extra ``lightning``),
:mod:`overdepth.integrations.hugging_face` transformers and accelerate (extra ``trainer``).
"""

from __future__ import annotations

from overdepth.integrations.metrics import log_products, product_metrics, watch_products
from overdepth.integrations.plain_checkpoints import PlainStateDicts, plain_state_dicts

__all__ = ["PlainStateDicts", "log_products", "plain_state_dicts", "product_metrics", "watch_products"]
