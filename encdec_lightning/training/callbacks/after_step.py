"""A checkpoint of a step, saved when all that belongs to the step is done: its validation too, where one follows."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn

from encdec_lightning.training.callbacks.checkpoints import LastCheckpoint
from encdec_lightning.training.callbacks.steps import ends_step, is_last_of_epoch, is_last_step, validation_follows


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
        fits = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if self._waits and fits and not is_last_of_epoch(trainer):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The same where an epoch ends; Lightning's callbacks may look at its validation here only."""
        if self._waits:
            self._save(trainer)

    def _save(self, trainer: lightning.Trainer) -> None:
        self._waits = False
        now = (self._checkpoint, trainer.global_step)
        lasts = [each for each in trainer.checkpoint_callbacks if isinstance(each, LastCheckpoint)]
        if all(each.after_step != now for each in lasts):
            trainer.save_checkpoint(self._checkpoint)
