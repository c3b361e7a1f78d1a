"""Texts for batches of sources."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from transformers import PreTrainedModel

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.generation.memory import ElasticStreamer
from encdec_lightning.generation.options import Generation
from encdec_lightning.records import Prediction

MOST = 256  # targets under way, on every device: their number decides the last bits, and what is drawn


def predict(
    model: PreTrainedModel,
    tokenizers: Tokenizers,
    batches: Iterable[Batch],
    generation: Generation,
    max_target_length: int,
    generator: torch.Generator | None = None,
) -> Iterator[Prediction]:
    """A prediction for each pair of all the batches, as they are done: the best target, or the first draw."""
    examples = [
        (pair, ids[:length])
        for batch in batches
        for pair, ids, length in zip(batch.pairs, batch.source_ids, batch.lengths[:, 0].tolist(), strict=False)
    ]
    examples.sort(key=lambda example: -len(example[1]))
    start: ElasticStreamer[int] = ElasticStreamer(
        model, generation, longest_source=max((len(ids) for _, ids in examples), default=0),
        max_target_length=max_target_length, most=MOST, generator=generator, scores=False,
    )  # fmt: skip
    for number, hypotheses in start([(number, ids) for number, (_, ids) in enumerate(examples)]):
        pair = examples[number][0]
        (text,) = tokenizers.decode([hypotheses[0].tokens])
        yield Prediction(pair.id, pair.source, pair.target, text, pair.other_targets)
