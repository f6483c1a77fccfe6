"""A callback for Lightning: over-parameterize before the optimizer is built, log, save plain checkpoints, fold.

Needs the extra ``lightning``; works with ``lightning`` and with ``pytorch_lightning``, whichever the program imported
first.
"""

from __future__ import annotations

import importlib
import logging
import sys
from typing import TYPE_CHECKING, Any

from torch import nn

from overdepth._checks import check_size
from overdepth._extras import missing_extra
from overdepth.integrations.metrics import check_held, log_products
from overdepth.integrations.plain_checkpoints import PlainStateDicts, factors_of, plain_state_dicts, restore_factors
from overdepth.nn.factoring import overparameterize_
from overdepth.nn.folding import collapse_
from overdepth.nn.penalty import named_factors

if TYPE_CHECKING:
    from lightning.pytorch import Callback
else:
    _PACKAGES = ("lightning.pytorch", "pytorch_lightning")
    _IMPORTED = [name for name in _PACKAGES if name in sys.modules] or _PACKAGES
    for _name in _IMPORTED:
        try:
            Callback = importlib.import_module(_name).Callback
            break
        except ModuleNotFoundError as error:
            _missing = error
    else:
        missing_extra(_missing, "overdepth.integrations.lightning", "lightning")

__all__ = ["OverparameterizeCallback"]

KEY = "overdepth_factors"
_HOOK = "configure_model"
_log = logging.getLogger(__name__)


class OverparameterizeCallback(Callback):
    """Trains a LightningModule over-parameterized, and hands it back plain.

    - The weights become products right after ``configure_model``, before a checkpoint is restored and before
      ``configure_optimizers``, which therefore sees the factors.
    - The norm, imbalance and multiplier of every product go to all of the trainer's loggers.
    - Checkpoints hold the plain ``state_dict``, so that ``load_from_checkpoint`` needs nothing of overdepth, and beside
      it (unless only weights are saved) the factors, so that ``trainer.fit(..., ckpt_path=...)`` goes on exactly.
    - At the end of ``fit`` the model is folded: what is tested and exported is the plain model.

    Args:
        depth: Number of factors.
        part: Name of the submodule to over-parameterize; the whole module if it is None.
        log_every: Optimizer steps between two entries in the log; None for none.
        fold: Whether to fold at the end of ``fit``.
        **options: What else :func:`overdepth.overparameterize_` takes, such as ``select`` or ``init``.

    Raises:
        ValueError: If ``log_every`` is no integer >= 1. While fitting: what :func:`overdepth.overparameterize_` raises,
            and if ``configure_optimizers`` returns optimizers without the factors.

    Example:
        >>> import pytest; _ = pytest.importorskip("lightning")
        >>> from overdepth.integrations.lightning import OverparameterizeCallback
        >>> callback = OverparameterizeCallback(depth=2, log_every=100)  # Trainer(callbacks=[callback])
    """

    def __init__(
        self,
        depth: int = 2,
        *,
        part: str | None = None,
        log_every: int | None = 50,
        fold: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        if log_every is not None:
            check_size(log_every, "log_every", remedy=", or None for no log")
        self.depth, self.part, self.log_every, self.fold, self.options = depth, part, log_every, fold, options
        self._plain: PlainStateDicts | None = None
        self._logged = -1

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Arranges for the factors to be made once the module has all of its layers."""
        if stage != "fit":
            return
        self._logged = -1
        configure = pl_module.configure_model

        def configure_model() -> None:  # the last moment before a checkpoint is restored and optimizers are built
            pl_module.__dict__.pop(_HOOK, None)
            configure()
            self._overparameterize(pl_module)

        pl_module.__dict__[_HOOK] = configure_model

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Checks that the optimizers hold the factors."""
        check_held(pl_module, trainer.optimizers, f"configure_optimizers of {type(pl_module).__name__}")

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Logs where training begins."""
        self._log(trainer, pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Logs every so many optimizer steps."""
        if self.log_every is not None and trainer.global_step % self.log_every == 0:
            self._log(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Logs where training ended."""
        self._log(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Puts the factors beside the plain state_dict."""
        factors = factors_of(pl_module)
        if factors:
            checkpoint[KEY] = factors

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Gives the factors back, where the model has factors and the checkpoint has them."""
        if next(named_factors(pl_module), None) is None:
            return
        if KEY in checkpoint:
            restore_factors(pl_module, checkpoint[KEY], "the checkpoint", same_product=False)
        else:
            _log.warning("the checkpoint holds the plain model alone: its weights were split into new factors.")

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Folds, after every other callback has seen the end of training."""
        if self.fold:
            collapse_(pl_module)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Takes every hook off the module."""
        pl_module.__dict__.pop(_HOOK, None)
        if self._plain is not None:
            self._plain.remove()
            self._plain = None

    def _overparameterize(self, pl_module: Any) -> None:
        if next(named_factors(pl_module), None) is None:
            target: nn.Module = pl_module if self.part is None else pl_module.get_submodule(self.part)
            overparameterize_(target, self.depth, **self.options)
        self._plain = plain_state_dicts(pl_module)

    def _log(self, trainer: Any, pl_module: Any) -> None:
        step = int(trainer.global_step)
        if self.log_every is None or step == self._logged or not trainer.is_global_zero or not trainer.loggers:
            return
        self._logged = step

        def sink(metrics: dict[str, float]) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(metrics, step=step)

        log_products(pl_module, sink)
