"""The LightningModule of extracts: which sentences of a source are its summary."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from encdec_lightning.composition.composed_model import ComposedModel, check_composed
from encdec_lightning.composition.lora import merged
from encdec_lightning.composition.sentence_tokenizer import SentenceTokenizer
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.data.options import Extraction, Task
from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.extraction import choose
from encdec_lightning.kernels.fast_functions import fast_functions
from encdec_lightning.kernels.stand_in import runs_as_shipped
from encdec_lightning.records import Prediction
from encdec_lightning.training.optimizers import OptimizerFactory, default_optimizer
from encdec_lightning.training.options import Training
from encdec_lightning.training.task_module import TaskModule


class ExtractiveModule(TaskModule):
    """A `SentenceScorer`, learning which sentences of a source make its summary (Liu & Lapata, 2019, section 3.1).

    A batch's targets are labels, 1 for a sentence that is right, and what is counted as target tokens are sentences.
    """

    options_name = "extraction"
    options_class = Extraction

    def __init__(
        self,
        model: ComposedModel,
        tokenizers: Tokenizers,
        task: Task,
        training: Training | None = None,
        extraction: Extraction | None = None,
        optimizer: OptimizerFactory = default_optimizer,
    ) -> None:
        check_composed(model)
        if not model.scores_sentences:
            raise UserError("model.decoder", model.composition.decoder, "an extract needs an encoder alone; use null")
        super().__init__(model, tokenizers, task, training, optimizer)
        self.extraction = extraction or Extraction()

    def loss(self, batch: Batch, label_smoothing: float = 0.0) -> tuple[Tensor, int]:
        """Summed cross-entropy of a yes or no, (), in nats, and the number of sentences.

        With label smoothing a yes is one with the probability 1 - s/2, and so is a no: two words share s.
        """
        with fast_functions(batch.source_ids.device) if self._runs_as_shipped() else nullcontext():
            logits = self._logits(batch)
        logits, labels = (each.flatten().index_select(0, batch.target_positions) for each in (logits, batch.target_ids))
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        wanted = labels.to(precise) * (1 - label_smoothing) + label_smoothing / 2
        return functional.binary_cross_entropy_with_logits(precise, wanted, reduction="sum"), batch.target_tokens

    def predict_all(self, batches: list[Batch]) -> Iterator[Prediction]:
        """An extract for each pair: the sentences with the highest scores, a line each, in the order of the source."""
        for batch in batches:
            for pair, (text, _) in zip(batch.pairs, self.extracts(batch), strict=True):
                yield Prediction(pair.id, pair.source, pair.target, text, pair.other_targets)

    @torch.no_grad()
    def extracts(self, batch: Batch) -> list[tuple[str, float]]:
        """For each pair of a batch its extract, and the mean probability of the sentences in it."""
        probabilities = self._logits(batch).float().sigmoid().tolist()
        tokenizer = self.tokenizers.source_in_bulk
        assert isinstance(tokenizer, SentenceTokenizer)  # the model was configured with it
        split = tokenizer.sentences([pair.source for pair in batch.pairs])
        found = []
        for sentences, scores, seen in zip(split, probabilities, batch.lengths[:, 1].tolist(), strict=False):
            kept = sentences[:seen]
            own = scores[: len(kept)]  # a source of which the tokenizer makes nothing has none
            chosen = choose(kept, own, self.extraction.sentences, self.extraction.block_trigrams)
            score = sum(own[number] for number in chosen) / max(1, len(chosen))
            found.append(("\n".join(kept[number] for number in chosen), score))
        return found

    def _runs_as_shipped(self) -> bool:
        """Whether nobody has changed how the model runs, and nothing runs a part of it again in the backward pass."""
        again = any(getattr(each, "gradient_checkpointing", False) for each in self.model.modules())
        return torch.is_grad_enabled() and not again and runs_as_shipped(self.model)

    def _logits(self, batch: Batch) -> Tensor:
        """Of the sentences of a batch, (B, N)."""
        sentences = batch.target_ids.shape[1]
        mask = batch.source_mask
        logits: Tensor = self.model(batch.source_ids, mask, sentences=sentences).logits
        return logits

    def export(self, folder: Path, as_a_t5gemma: bool = False) -> None:
        """Write the encoder, which stock transformers opens, what scores its sentences, and the tokenizer.

        What LoRA has learnt is in the weights. `as_a_t5gemma` raises `UserError`.
        """
        if as_a_t5gemma:
            raise UserError("export", "t5gemma", "it has no decoder")
        merged(self.model).save_pretrained(folder)
        self.tokenizers.save_pretrained(folder)

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls,
        checkpoint_path: str | Path,
        map_location: torch.device | str = "cpu",
        task: Task | None = None,
        extraction: Extraction | None = None,
    ) -> Self:
        """Rebuild a module from a Lightning checkpoint alone, tokenizers included; nothing is unpickled.

        `task` and `extraction` replace those of the training. Raises `UserError` for a file that is none of ours.
        """
        return cls._rebuilt(checkpoint_path, map_location, task, extraction)
