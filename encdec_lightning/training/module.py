"""The LightningModule of the sequence-to-sequence task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from encdec_lightning.composition.adapter.t5gemma import as_t5gemma
from encdec_lightning.composition.composed_model import ComposedModel, check_composed
from encdec_lightning.composition.lora import merged
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.data.options import Task
from encdec_lightning.errors import UserError
from encdec_lightning.generation.export_config import stock_config
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.predict import predict
from encdec_lightning.records import Prediction
from encdec_lightning.training.fsdp import whole
from encdec_lightning.training.loss import TrainingLoss, token_losses
from encdec_lightning.training.optimizers import OptimizerFactory, default_optimizer
from encdec_lightning.training.options import Training
from encdec_lightning.training.task_module import TaskModule


class Seq2SeqModule(TaskModule):
    """A composed model, learning to write targets for sources."""

    options_name = "generation"
    options_class = Generation

    def __init__(
        self,
        model: ComposedModel,
        tokenizers: Tokenizers,
        task: Task,
        training: Training | None = None,
        generation: Generation | None = None,
        optimizer: OptimizerFactory = default_optimizer,
    ) -> None:
        check_composed(model)
        if model.scores_sentences:
            raise UserError("model.decoder", None, "an encoder alone writes no text; use an ExtractiveModule")
        super().__init__(model, tokenizers, task, training, optimizer)
        self.generation = generation or Generation()
        self._training_loss = TrainingLoss(model)

    def loss(self, batch: Batch, label_smoothing: float = 0.0) -> tuple[Tensor, int]:
        """Summed cross-entropy, (), and the number of target tokens."""
        if torch.is_grad_enabled():
            return self._training_loss(batch, label_smoothing), batch.target_tokens
        losses = token_losses(self.model, batch, label_smoothing)
        return losses.sum(), losses.numel()

    def predict_all(self, batches: list[Batch]) -> Iterator[Prediction]:
        """Generate a text for each pair; draws come from a generator of their own, the same every time.

        Where the model is sharded all ranks must call this together; each then goes on alone, with whole weights.
        """
        generator = torch.Generator(self.model.device).manual_seed(0) if self.generation.do_sample else None
        model = whole(self.model)
        return predict(model, self.tokenizers, batches, self.generation, self.task.max_target_length, generator)

    def export(self, folder: Path, as_a_t5gemma: bool = False) -> None:
        """Write the model and its tokenizers so that stock transformers opens them, and generates as it was tested.

        What LoRA has learnt is in its weights.

        Raises `UserError` for a model that cannot be written as a T5Gemma.
        """
        own = self.model.generation_config
        self.model.generation_config = stock_config(self.model, self.generation, self.task.max_target_length)
        try:
            model = merged(self.model)
            (as_t5gemma(model) if as_a_t5gemma else model).save_pretrained(folder)
        finally:
            self.model.generation_config = own
        self.tokenizers.save_pretrained(folder)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str = "cpu",
        task: Task | None = None,
        generation: Generation | None = None,
    ) -> Self:
        """Rebuild a module from a Lightning checkpoint alone, tokenizers included; nothing is unpickled.

        `task` and `generation` replace those of the training. Raises `UserError` for a file that is none of ours.
        """
        return cls._rebuilt(checkpoint_path, map_location, task, generation)
