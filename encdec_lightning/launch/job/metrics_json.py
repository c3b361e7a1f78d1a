"""What `metrics.json` says of a training, its scores left out."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from encdec_lightning.composition.foreign import hub_place
from encdec_lightning.composition.lora import is_factor
from encdec_lightning.composition.options import Composition
from encdec_lightning.data.datamodule import Seq2SeqDataModule
from encdec_lightning.training.callbacks.checkpoints import best_keeper
from encdec_lightning.training.callbacks.throughput import Throughput
from encdec_lightning.training.task_module import TaskModule

DATA_COUNTS = ("skipped", "dropped_by_preprocessing", "too_long_dropped")
"""Pairs that were left out of a split, by reason."""


def _revisions(composition: Composition) -> Iterator[tuple[str, str]]:
    """The commit of each side's checkpoint that is the Hub's, as it lies in the Hub's cache here."""
    for role in ("encoder", "decoder"):
        checkpoint = getattr(composition, role)
        if checkpoint is None or os.path.isdir(checkpoint):
            continue
        hub_id, revision = hub_place(checkpoint)
        for name in (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, CONFIG_NAME):
            with suppress(HFValidationError):  # the name of no checkpoint
                found = try_to_load_from_cache(hub_id, name, **revision)
                if isinstance(found, str):
                    yield f"checkpoint/{role}", Path(found).parent.name
                    break


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
        **dict(_revisions(module.model.composition)),
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
