"""An end that all ranks reach together, at the end of an optimizer step, when one of them is asked to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor, distributed

from encdec_lightning.signals import TERMINATION
from encdec_lightning.training.callbacks.after_step import CheckpointAfterStep


class EndTogether(CheckpointAfterStep):
    """After SIGTERM on any rank, saves a checkpoint at the end of the step on every rank and raises `Terminated`.

    Ranks that left at different steps would wait for one another for ever. Where a validation follows the step, the
    fit ends after it instead. Lightning's own handler is set aside: it communicates wherever the signal meets it.

    On GPUs the ranks agree on it one step later, so that no step waits for an answer.

    Args:
        checkpoint: the file that the state is saved in.
        deferred: whether the ranks agree one step later; none: on GPUs only.
    """

    def __init__(self, checkpoint: Path, deferred: bool | None = None) -> None:
        super().__init__(checkpoint)
        self._deferred = deferred
        self._ending = False
        self._answer: tuple[Tensor, torch.cuda.Event | None] | None = None

    def on_sanity_check_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take SIGTERM from Lightning."""
        TERMINATION.take_over()

    def on_test_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Take SIGTERM from Lightning."""
        TERMINATION.take_over()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """From here on a request to end waits for the end of a step."""
        TERMINATION.take_over()
        TERMINATION.deferred = True

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """End after a validation."""
        if self._ending:
            TERMINATION.check()

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Ask all ranks at the end of a step."""
        self._ending = self._agreed(trainer)
        TERMINATION.asked = TERMINATION.asked or self._ending  # perhaps by another rank's signal
        return self._ending

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End where nothing more belongs to the step."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self._ending and not self._waits:
            TERMINATION.check()

    def _agreed(self, trainer: lightning.Trainer) -> bool:
        """Whether a rank was asked to end, the same on all ranks."""
        if trainer.world_size == 1:
            return TERMINATION.asked
        asked = torch.full((), float(TERMINATION.asked), device=trainer.strategy.root_device)
        distributed.all_reduce(asked, op=distributed.ReduceOp.MAX)
        event = None
        if asked.is_cuda:
            asked = asked.to("cpu", non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        answer, self._answer = self._answer, (asked, event)
        if not (event is not None if self._deferred is None else self._deferred):
            answer = self._answer
        if answer is None:
            return False
        if answer[1] is not None:
            answer[1].synchronize()
        return bool(answer[0])

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Ending is safe from here on."""
        TERMINATION.deferred = False
