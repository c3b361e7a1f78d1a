"""Texts for a batch of sources."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batch import Batch
from encdec_lightning.generation.generate import generate
from encdec_lightning.generation.options import Generation
from encdec_lightning.records import Prediction


def predict(
    model: PreTrainedModel,
    tokenizers: Tokenizers,
    batch: Batch,
    generation: Generation,
    max_target_length: int,
    generator: torch.Generator | None = None,
) -> list[Prediction]:
    """One prediction for each pair of the batch, in its order, none for none: the best target, or the first draw."""
    found = generate(model, batch, generation, max_target_length=max_target_length, generator=generator)
    texts = tokenizers.decode([hypotheses[0].tokens for hypotheses in found]) if found else []
    return [Prediction(pair.id, pair.source, pair.target, text) for pair, text in zip(batch.pairs, texts, strict=True)]
