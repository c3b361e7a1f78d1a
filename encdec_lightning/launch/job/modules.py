"""The LightningModule and the DataModule that a config asks for: texts are written, or extracts are made."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch

from encdec_lightning.composition.compose import compose
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.config import Config
from encdec_lightning.data.datamodule import ExtractiveDataModule, Seq2SeqDataModule
from encdec_lightning.launch.slots.build import OPTIMIZER, build_partial
from encdec_lightning.training.extractive_module import ExtractiveModule
from encdec_lightning.training.module import Seq2SeqModule


def new_module(config: Config, tokenizers: Tokenizers) -> Seq2SeqModule | ExtractiveModule:
    """A module with a model that starts as its checkpoints say. Raises `UserErrors` where it cannot be built."""
    model = compose(**asdict(config.model), tokenizers=tokenizers)
    optimizer = build_partial("optimizer", config.optimizer, OPTIMIZER)
    if model.scores_sentences:
        return ExtractiveModule(model, tokenizers, config.task, config.training, config.extraction, optimizer)
    return Seq2SeqModule(model, tokenizers, config.task, config.training, config.generation, optimizer)


def loaded_module(
    path: Path, config: Config, device: torch.device | str = "cpu", with_task: bool = False
) -> Seq2SeqModule | ExtractiveModule:
    """The module of a checkpoint with the config's options of its kind, and with its task if that is wanted."""
    task = config.task if with_task else None
    if config.model.scores_sentences:
        return ExtractiveModule.load_from_checkpoint(path, device, task, config.extraction)
    return Seq2SeqModule.load_from_checkpoint(path, device, task, config.generation)


def new_data(config: Config, tokenizers: Tokenizers) -> Seq2SeqDataModule:
    """The data of a config's task."""
    if config.model.scores_sentences:
        return ExtractiveDataModule(config.task, tokenizers, config.loading, config.extraction)
    return Seq2SeqDataModule(config.task, tokenizers, config.loading)
