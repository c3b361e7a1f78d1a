"""The LightningModule of the sequence-to-sequence task."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from encdec_lightning.composition.adapter.t5gemma import as_t5gemma
from encdec_lightning.composition.assembly import rebuild
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.foreign import check_values
from encdec_lightning.composition.lora import merged
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.data.options import Task
from encdec_lightning.generation.export_config import stock_config
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.predict import predict
from encdec_lightning.kernels.attention_interface import use_attention
from encdec_lightning.records import Prediction
from encdec_lightning.training.checkpoint import check_fit, load_checkpoint, pack_folder, taken_from, unpack_folder
from encdec_lightning.training.fsdp import whole
from encdec_lightning.training.loss import TrainingLoss, token_losses
from encdec_lightning.training.optimizers import OptimizerFactory, default_optimizer
from encdec_lightning.training.options import Training
from encdec_lightning.training.resuming import prepare_to_resume
from encdec_lightning.training.task_module import TaskModule


class Seq2SeqModule(TaskModule):
    """A composed model, learning to write targets for sources."""

    def __init__(
        self,
        model: ComposedModel,
        tokenizers: Tokenizers,
        task: Task,
        training: Training | None = None,
        generation: Generation | None = None,
        optimizer: OptimizerFactory = default_optimizer,
    ) -> None:
        super().__init__(model, task, training or Training(), optimizer)
        self.generation = generation or Generation()
        self.tokenizers = tokenizers
        tokenizers.configure(model)
        use_attention(model)
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add all that `load_from_checkpoint` needs beside the weights, as plain values and tensors."""
        checkpoint["encdec_lightning"] = {
            "model": self.model.config.to_dict(),
            "generation_config": self.model.generation_config.to_dict(),
            "tokenizers": pack_folder(self.tokenizers.save_pretrained),
            "task": asdict(self.task),
            "training": asdict(self.training_options),
            "generation": asdict(self.generation),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise `UserError` for a checkpoint of another model, before a fit goes on from it."""
        prepare_to_resume(self, checkpoint)

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
        checkpoint = load_checkpoint(checkpoint_path, map_location)
        kept = checkpoint["encdec_lightning"]
        with taken_from(checkpoint_path, "model"):
            check_values("model", str(checkpoint_path), kept["model"])
            model = rebuild(kept["model"])
            model.generation_config = type(model.generation_config).from_dict(kept["generation_config"])
        with taken_from(checkpoint_path, "tokenizers"):
            tokenizers = unpack_folder(kept["tokenizers"], Tokenizers.load)
        with taken_from(checkpoint_path, "options"):
            task, training = task or Task(**kept["task"]), Training.of(kept["training"])
            generation = generation or Generation(**kept["generation"])
        module = cls(model, tokenizers, task, training, generation)
        check_fit(checkpoint_path, module, checkpoint["state_dict"])
        dtypes = {each.dtype for each in checkpoint["state_dict"].values() if each.is_floating_point()}
        if len(dtypes) == 1:  # of a training in bf16-true, 16-true or 64-true
            module.to(*dtypes)
        module.load_state_dict(checkpoint["state_dict"])
        return module
