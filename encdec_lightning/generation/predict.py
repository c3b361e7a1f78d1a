"""Texts for batches of sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from transformers import PreTrainedModel

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.generation.generate import stream
from encdec_lightning.generation.options import Generation
from encdec_lightning.records import Prediction


def predict(
    model: PreTrainedModel,
    tokenizers: Tokenizers,
    batches: Iterable[Batch],
    generation: Generation,
    max_target_length: int,
    generator: torch.Generator | None = None,
) -> Iterator[Prediction]:
    """A prediction for each pair of all the batches, as they are done: the best target, or the first draw."""
    sources = [
        (pair, ids[:length])
        for batch in batches
        for pair, ids, length in zip(batch.pairs, batch.source_ids, batch.source_lengths.tolist(), strict=False)
    ]
    sources.sort(key=lambda source: -len(source[1]))
    done = stream(model, sources, generation, max_target_length=max_target_length, generator=generator, scores=False)
    for pair, hypotheses in done:
        (text,) = tokenizers.decode([hypotheses[0].tokens])
        yield Prediction(pair.id, pair.source, pair.target, text)
