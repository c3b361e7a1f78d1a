"""What `metrics.json` says of a training, its scores left out."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import lightning

from encdec_lightning.composition.lora import is_factor
from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.training.callbacks.checkpoints import best_keeper
from encdec_lightning.training.callbacks.throughput import Throughput
from encdec_lightning.training.task_module import TaskModule

DATA_COUNTS = ("skipped", "dropped_by_preprocessing", "too_long_dropped")
"""Pairs that were left out of a split, by reason."""


def training_metrics(trainer: lightning.Trainer, module: TaskModule, data: Seq2SeqDataModule) -> dict[str, Any]:
    """What `metrics.json` says of the training itself."""
    metrics: dict[str, Any] = {
        "train/steps": trainer.global_step,
        "train/precision": str(trainer.precision),
        "train/devices": trainer.world_size,
        "parameters": sum(each.numel() for name, each in module.named_parameters() if not is_factor(name)),
        **{
            f"data/{split}_{name}": data.examples(split).meta[name]
            for split in ("train", "validation")
            for name in ("examples", "fingerprint", *DATA_COUNTS)
        },
        "train/micro_batches": data.micro_batches,
        "python": platform.python_version(),
        **{f"version/{name}": version(name) for name in ("encdec_lightning", "torch", "transformers", "lightning")},
    }
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Throughput) and callback.totals.seconds:
            metrics["train/seconds"] = callback.totals.seconds
            metrics["train/examples"] = callback.totals.examples
            metrics["train/tokens_per_second"] = callback.totals.tokens_per_second
            metrics["train/flops"] = callback.totals.flops
            metrics["train/mfu"] = callback.totals.mfu
    keeper = best_keeper(trainer)
    if keeper is not None and keeper.best_model_score is not None:
        metrics[f"best/{keeper.monitor}"] = float(keeper.best_model_score)
    return metrics
