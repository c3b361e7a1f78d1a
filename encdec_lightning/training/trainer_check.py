"""Whether a Trainer fits the module and its data, looked at before the first step of a fit."""

from __future__ import annotations

import lightning

from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.errors import UserError
from encdec_lightning.training.options import NO_FP16_WEIGHTS


def check_trainer(trainer: lightning.Trainer) -> None:
    """Raise `UserError` for weights in fp16, or for steps or epochs that do not fit the data's plan."""
    if trainer.precision == "16-true":
        raise UserError("Trainer.precision", "16-true", NO_FP16_WEIGHTS)
    planned = getattr(getattr(trainer, "datamodule", None), "micro_batches", None)
    if planned is not None and planned != trainer.accumulate_grad_batches:
        expected = f"it must equal Loading.accumulate ({planned})"
        raise UserError("Trainer.accumulate_grad_batches", trainer.accumulate_grad_batches, expected)
    limit = 0 if trainer.fast_dev_run else trainer.limit_train_batches  # type: ignore[attr-defined]
    if planned is not None and isinstance(limit, int) and limit % planned:
        expected = f"it must be a multiple of the {planned} micro-batches of an optimizer step"
        raise UserError("Trainer.limit_train_batches", limit, expected)


def check_targets(module: lightning.LightningModule, scores_sentences: bool) -> None:
    """Raise `UserError` for a DataModule of ours whose targets are not what the module learns."""
    data = getattr(module.trainer, "datamodule", None)
    if isinstance(data, Seq2SeqDataModule) and data.gives_labels != scores_sentences:
        right = "an ExtractiveDataModule" if scores_sentences else "a Seq2SeqDataModule"
        raise UserError("datamodule", type(data).__name__, f"this module, {type(module).__name__}, needs {right}")
