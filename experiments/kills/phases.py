"""Tells, through the file $PHASES, what a run is doing; the campaign kills it there."""

from __future__ import annotations

import os
from pathlib import Path
from types import FunctionType
from typing import Any

import lightning

from encdec_lightning.evaluation.exact_match import ExactMatch


def tell(phase: str) -> None:
    """Append a line, which is there at once; rank 0 does."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    with Path(os.environ["PHASES"]).open("a", encoding="utf-8") as file:
        file.write(f"{phase}\n")


class Phases(lightning.Callback):
    """The phases of a fit and of a test."""

    def setup(self, trainer: lightning.Trainer, *_: Any, **__: Any) -> None:
        """From now on, the moment at which a checkpoint's file is written: after the pieces, if there are some."""
        written_by: Any = trainer.strategy.checkpoint_io
        plain = written_by.save_checkpoint

        def save(*arguments: Any, **options: Any) -> None:
            tell("writing")
            plain(*arguments, **options)

        if not isinstance(vars(written_by).get("save_checkpoint"), FunctionType):
            written_by.save_checkpoint = save

    def on_train_batch_start(self, *_: Any) -> None:
        """A step."""
        tell("training")

    def on_validation_batch_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        """A batch of a validation."""
        if not trainer.sanity_checking:
            tell("validating")

    def on_save_checkpoint(self, *_: Any) -> None:
        """A checkpoint is about to be written."""
        tell("saving")

    def on_test_batch_start(self, *_: Any) -> None:
        """The texts of the test are generated next."""
        tell("generating")

    def on_test_end(self, *_: Any) -> None:
        """Results and export are written next."""
        tell("exporting")


class Scoring(ExactMatch):
    """Exact match that tells when it scores."""

    def statistics(self, prediction: Any) -> Any:
        """As before."""
        tell("scoring")
        return super().statistics(prediction)
