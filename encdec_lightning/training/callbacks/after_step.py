"""A checkpoint of a step, saved when all that belongs to the step is done: its validation too, where one follows."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from encdec_lightning.training.callbacks.checkpoints import LastCheckpoint


class CheckpointAfterStep(Checkpoint):
    """Saves a checkpoint after an optimizer step for which `is_due` says so, on every rank.

    A fit that goes on from a checkpoint of the step's last batch would skip the validation that follows the step: the
    checkpoint waits for it, and is not needed where `LastCheckpoint` saves then, as it always does at the end of a fit.
    Lightning calls a `Checkpoint` after all other callbacks, so that it saves their states of after the validation.

    Args:
        checkpoint: the file that the state is saved in.
    """

    def __init__(self, checkpoint: Path) -> None:
        self._checkpoint = checkpoint
        self._waits = False

    @abstractmethod
    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Whether to save after the step that has just ended, the same on all ranks."""

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """At the end of a step, save or wait."""
        if not ends_step(trainer, batch_idx):
            return
        self._waits = self.is_due(trainer)
        if self._waits and not (is_last_step(trainer) or validation_follows(trainer, batch_idx)):
            self._save(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The validation of the step is done."""
        if self._waits and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        self._waits = False
        now = (self._checkpoint, trainer.global_step)
        lasts = [each for each in trainer.checkpoint_callbacks if isinstance(each, LastCheckpoint)]
        if all(each.after_step != now for each in lasts):
            trainer.save_checkpoint(self._checkpoint)


def ends_step(trainer: lightning.Trainer, index: int) -> bool:
    """Whether the micro-batch of this number was the last one of an optimizer step."""
    return (index + 1) % trainer.accumulate_grad_batches == 0


def is_last_of_epoch(trainer: lightning.Trainer) -> bool:
    """Whether the batch that is at work is its epoch's last one."""
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def is_last_step(trainer: lightning.Trainer) -> bool:
    """Whether the fit ends after this step; Lightning then validates first where it can."""
    last_epoch = trainer.current_epoch + 1 == trainer.max_epochs
    return trainer.should_stop or trainer.global_step == trainer.max_steps or (is_last_of_epoch(trainer) and last_epoch)


def validation_follows(trainer: lightning.Trainer, index: int) -> bool:
    """Whether Lightning validates after this batch; no, where it does so by the clock, which no checkpoint stops."""
    loop, every, by_epoch = trainer.fit_loop.epoch_loop, trainer.val_check_batch, trainer.check_val_every_n_epoch
    if not trainer.enable_validation or every is None:
        return False
    if by_epoch is not None and (trainer.current_epoch + 1) % by_epoch:
        return False
    if every == math.inf:
        return is_last_of_epoch(trainer)
    counted = loop.total_batch_idx if by_epoch is None else index
    return (counted + 1) % every == 0
