"""Visible speed: real tokens and examples per second."""

from __future__ import annotations

import time
from typing import Any

import lightning

from encdec_lightning.data.batch import Batch


class Throughput(lightning.Callback):
    """Logs `train/tokens_per_second` (source and target, without padding) and `train/examples_per_second`.

    Both are of this process since the last log, with validation and checkpoints left out; times the number of ranks.
    """

    def __init__(self) -> None:
        self._seconds, self._tokens, self._examples = 0.0, 0, 0
        self._started = 0.0
        self.total_seconds, self.total_tokens, self.total_examples = 0.0, 0, 0

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Batch, index: int) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Batch, index: int
    ) -> None:
        """Stop it, count the batch, log as often as the Trainer does."""
        seconds = time.perf_counter() - self._started
        self._seconds += seconds
        self._tokens += batch.tokens
        self._examples += batch.examples
        self.total_seconds += seconds
        self.total_tokens += batch.tokens
        self.total_examples += batch.examples
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (index + 1) % every == 0 or index == 0:
            ranks = trainer.world_size
            rates = {"tokens": self._tokens, "examples": self._examples}
            for name, count in rates.items():
                module.log(f"train/{name}_per_second", count * ranks / self._seconds, batch_size=1)
            module.log("tokens/s", self._tokens * ranks / self._seconds, prog_bar=True, logger=False, batch_size=1)
            self._seconds, self._tokens, self._examples = 0.0, 0, 0
