"""Validation by optimizer steps; Lightning counts batches."""

from __future__ import annotations

import lightning


class ValidateEvery(lightning.Callback):
    """Validates after so many optimizer steps, whatever number of micro-batches the data plan gives a step.

    Needs a Trainer with `check_val_every_n_epoch=None`.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Set the Trainer's interval; the DataModule, set up before, has set its accumulation."""
        if stage == "fit" and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            trainer.val_check_interval = self.steps * trainer.accumulate_grad_batches
