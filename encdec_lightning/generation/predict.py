"""Texts for a batch of sources."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batch import Batch
from encdec_lightning.generation.options import Generation
from encdec_lightning.records import Prediction


@torch.no_grad()
def predict(
    model: PreTrainedModel, tokenizers: Tokenizers, batch: Batch, generation: Generation, max_target_length: int
) -> list[Prediction]:
    """One prediction for each pair of the batch, in its order, none for none. The model must be in evaluation mode."""
    generated = model.generate(
        input_ids=batch.source_ids,
        attention_mask=batch.source_mask,
        **generation.arguments(max_target_length),
    )
    return [
        Prediction(pair.id, pair.source, pair.target, text)
        for pair, text in zip(batch.pairs, tokenizers.decode(generated)[: len(batch.pairs)], strict=True)
    ]
