"""A checkpoint every few minutes, so that a process killed without notice loses no more than these."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import lightning

from encdec_lightning.training.callbacks.after_step import CheckpointAfterStep

LOOKS = 4  # at the clock, within the time between two checkpoints


class TimedCheckpoint(CheckpointAfterStep):
    """Saves a checkpoint at the end of an optimizer step when the last one is older than `minutes`, on every rank.

    Rank 0's clock counts. Ranks talk about it a few times between two checkpoints, not in every step: at the measured
    speed, each knows the step at which they look at the clock next.

    Args:
        checkpoint: the file that the state is saved in.
        minutes: how old the last checkpoint may be.
    """

    def __init__(self, checkpoint: Path, minutes: float) -> None:
        super().__init__(checkpoint)
        self._seconds = 60 * minutes
        self._saved, self._saved_step, self._look_at = 0.0, 0, 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """The time begins."""
        self._restart(trainer)

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Another checkpoint will do as well."""
        self._restart(trainer)

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Look at the clock, or choose the step of the next look."""
        step = trainer.global_step
        if step < self._look_at:
            return False
        passed = trainer.strategy.broadcast(time.monotonic() - self._saved)
        if passed < self._seconds:
            speed = (step - self._saved_step) / max(passed, 1e-3)  # steps a second
            rest = min(self._seconds - passed, self._seconds / LOOKS)
            self._look_at = step + max(1, int(speed * rest))
        return bool(passed >= self._seconds)

    def _restart(self, trainer: lightning.Trainer) -> None:
        self._saved, self._saved_step = time.monotonic(), trainer.global_step
        self._look_at = trainer.global_step + 1
