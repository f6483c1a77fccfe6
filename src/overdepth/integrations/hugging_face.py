"""A callback for the Trainer of transformers: over-parameterize, log, save plain checkpoints, resume exactly, fold.

Needs the extra ``trainer`` (transformers and accelerate).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from overdepth._checks import check_size
from overdepth._extras import missing_extra
from overdepth.integrations.metrics import Sink, check_held, log_products
from overdepth.integrations.plain_checkpoints import PlainStateDicts, factors_of, plain_state_dicts, restore_factors
from overdepth.nn.factoring import overparameterize_
from overdepth.nn.folding import collapse_
from overdepth.nn.penalty import named_factors

try:
    from safetensors.torch import load_file, save_file
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    missing_extra(error, "overdepth.integrations.hugging_face", "trainer")

if TYPE_CHECKING:
    import torch

__all__ = ["OverparameterizeCallback"]

FILE = "overdepth_factors.safetensors"
_log = logging.getLogger(__name__)


class OverparameterizeCallback(TrainerCallback):
    """Trains the model of a ``transformers.Trainer`` over-parameterized, and hands it back plain.

    - The weights become products at the end of ``Trainer(...)``, before it builds its optimizer; one that was given by
      ``optimizers=`` gets the factors in the weights' places.
    - What is saved is the plain model, by ``save_model`` and in every checkpoint: ``from_pretrained`` reads it without
      overdepth. The factors lie beside it, in ``overdepth_factors.safetensors``, so that
      ``trainer.train(resume_from_checkpoint=...)`` goes on exactly.
    - The norm, imbalance and multiplier of every product go to ``trainer.state.log_history``, and to whatever
      ``report_to`` names if ``callback.sink = trainer.log`` is said after the trainer was made.
    - At the end of training the model is folded.

    Args:
        depth: Number of factors.
        log_every: Optimizer steps between two entries in the log; None for none.
        fold: Whether to fold at the end of training.
        sink: Gets each entry, a dict; ``trainer.state.log_history`` if it is None.
        resume_from: The checkpoint folder whose factors training goes on with. Default: the one of that step in
            ``output_dir``.
        **options: What else :func:`overdepth.overparameterize_` takes, such as ``select`` or ``init``.

    Raises:
        ValueError: If ``log_every`` is no integer >= 1. In the trainer: what :func:`overdepth.overparameterize_`
            raises, if the optimizer does not hold the factors, and if those of a checkpoint are missing or of another.

    Example:
        >>> import pytest; _ = pytest.importorskip("transformers")
        >>> from overdepth.integrations.hugging_face import OverparameterizeCallback
        >>> callback = OverparameterizeCallback(depth=2, log_every=100)  # Trainer(..., callbacks=[callback])
    """

    def __init__(
        self,
        depth: int = 2,
        *,
        log_every: int | None = 50,
        fold: bool = True,
        sink: Sink | None = None,
        resume_from: str | Path | None = None,
        **options: Any,
    ) -> None:
        if log_every is not None:
            check_size(log_every, "log_every", remedy=", or None for no log")
        self.depth, self.log_every, self.fold, self.sink, self.options = depth, log_every, fold, sink, options
        self.resume_from = resume_from
        self._plain: PlainStateDicts | None = None
        self._logged = -1

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Over-parameterizes the model before there is an optimizer, or together with the given one."""
        model: nn.Module = kwargs["model"]
        if next(named_factors(model), None) is None:
            optimizer: torch.optim.Optimizer | None = kwargs.get("optimizer")
            overparameterize_(model, self.depth, optimizer=optimizer, **self.options)
        self._plain = plain_state_dicts(model)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Checks the optimizer, and gives a resumed model its factors back."""
        model: nn.Module = kwargs["model"]
        if next(named_factors(model), None) is None:
            raise ValueError(
                "the model that is to be trained has no factors: it was folded at the end of an earlier train(), or "
                "comes from model_init. Make a new Trainer, or call overdepth.overparameterize_ in model_init."
            )
        check_held(model, [kwargs["optimizer"]], "the Trainer's optimizer")
        if state.global_step > 0:
            self._resume(model, Path(args.output_dir), int(state.global_step))
        self._logged = -1
        self._log(model, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs every so many optimizer steps."""
        if self.log_every is not None and state.global_step % self.log_every == 0:
            self._log(kwargs["model"], state, control)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the factors beside the plain model."""
        folder = _checkpoint(Path(args.output_dir), int(state.global_step))
        factors = factors_of(kwargs["model"])
        if not args.should_save or not factors:
            return
        if folder.is_dir():
            save_file({key: value.contiguous() for key, value in factors.items()}, folder / FILE)
        else:
            _log.warning("there is no folder %s to save the factors in: training cannot go on from it exactly.", folder)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Logs once more, and folds."""
        model: nn.Module = kwargs["model"]
        self._log(model, state, control)
        if self.fold:
            collapse_(model)
            if self._plain is not None:
                self._plain.remove()

    def _resume(self, model: nn.Module, output: Path, step: int) -> None:
        folder = _checkpoint(output, step) if self.resume_from is None else Path(self.resume_from)
        file = folder / FILE
        if not file.is_file():
            raise ValueError(
                f"training goes on from step {step}, but {folder} holds no {FILE}; name the checkpoint's folder by "
                f"OverparameterizeCallback(resume_from=...)."
            )
        restore_factors(model, load_file(file), str(file), same_product=True)

    def _log(self, model: nn.Module, state: Any, control: Any) -> None:
        step = int(state.global_step)
        if self.log_every is None or step == self._logged or not state.is_world_process_zero:
            return
        self._logged = step
        if self.sink is None:
            log_products(model, state.log_history.append, step=step)
        else:
            wanted = control.should_log
            log_products(model, self.sink)
            control.should_log = wanted  # ``trainer.log`` takes it back, and the loss would never be logged


def _checkpoint(output: Path, step: int) -> Path:
    """Where the Trainer keeps the checkpoint of a step."""
    return output / f"checkpoint-{step}"
