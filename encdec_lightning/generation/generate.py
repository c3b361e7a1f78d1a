"""`generate`: the sequences that a model's own `generate` gives."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from threading import RLock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.composition.cross_attending import family
from encdec_lightning.composition.lora import merged
from encdec_lightning.data.batches.batch import Batch
from encdec_lightning.errors import UserError
from encdec_lightning.generation.engine import Engine
from encdec_lightning.generation.options import Generation
from encdec_lightning.generation.search import Hypothesis
from encdec_lightning.generation.special_tokens import Tokens
from encdec_lightning.generation.support import (
    check_writes,
    checked,
    longest_sequence,
    obstacle,
    source_limit,
    target_limit,
    why_not_quantized,
)

TARGETS = 256
"""Targets under way at once, unless the caller says another number."""

_announced: set[str] = set()
"""Warnings that this process has seen."""

_alone = RLock()
"""Held where a model's mode, or torch's global random numbers, are others for a while: one thread at a time."""

Key = TypeVar("Key")
Streamer = Callable[[Iterable[tuple[Key, Tensor]]], Iterator[tuple[Key, list[Hypothesis]]]]
"""What gives (key, its targets) for each (key, ids of a source)."""


def generate(
    model: ComposedModel,
    batch: Batch,
    generation: Generation | None = None,
    *,
    max_target_length: int | None = None,
    generator: torch.Generator | None = None,
) -> list[list[Hypothesis]]:
    """The targets of each example of a batch, in its order; see `stream`. Memory is taken for these examples alone."""
    generation = generation or Generation()
    lengths = batch.lengths[:, 0].tolist()
    sources = [(number, batch.source_ids[number, : lengths[number]]) for number in range(batch.examples)]
    sources.sort(key=lambda source: -len(source[1]))
    start: Streamer[int] = streamer(
        model, generation, longest_source=max(lengths, default=0), max_target_length=max_target_length,
        targets=min(TARGETS, batch.examples * generation.targets_per_source), generator=generator, stacklevel=3,
    )  # fmt: skip
    found = dict(start(sources))
    return [found[number] for number in range(batch.examples)]


def stream(
    model: ComposedModel,
    sources: Iterable[tuple[Key, Tensor]],
    generation: Generation,
    *,
    max_target_length: int | None = None,
    targets: int = TARGETS,
    generator: torch.Generator | None = None,
    scores: bool = True,
) -> Iterator[tuple[Key, list[Hypothesis]]]:
    """(key, its targets) for each (key, ids of a source (S,)), as they are done, `targets` of them under way at most.

    The sources may be a generator without end: no more of them are taken than are under way. In fp32 the sequences are
    those of the model's own `generate`, whatever sources share the memory; sampling alone draws other numbers, from
    `generator` or torch's global one. Under autocast the weights are cast once. Dropout is off. Targets end at
    `generation.max_length`, else `max_target_length`, else where the decoder's positions end; a decoder that reads the
    source as a prefix needs one of the two. Without `scores` a greedy search saves the normalization over the
    vocabulary, and its scores are 0; a model's own `generate` keeps no logits, and all its scores are 0.

    Models that the engine cannot run go through their own `generate`, and a warning says why, once. Raises `UserError`
    for what no model could do: empty sources, sources or targets longer than the positions.
    """
    start: Streamer[Key] = streamer(
        model, generation, max_target_length=max_target_length, targets=targets, generator=generator, scores=scores,
        stacklevel=3,
    )  # fmt: skip
    return start(sources)


def streamer(
    model: ComposedModel,
    generation: Generation,
    *,
    longest_source: int | None = None,
    max_target_length: int | None = None,
    targets: int = TARGETS,
    generator: torch.Generator | None = None,
    scores: bool = True,
    stacklevel: int = 2,
) -> Streamer[Key]:
    """`stream` for many streams, one after the other: the weights are cast once, when this is called.

    Where sources have `longest_source` tokens at most, more decoders with a window of attention need no other way.

    A stream may stop anywhere: what it leaves unfinished is dropped when the next begins. Each thread needs a streamer
    of its own; a second stream beside one that has not ended raises `UserError`, or makes that one raise it.
    """
    check_writes(model)
    model = merged(model)
    longest = target_limit(model, generation, max_target_length, longest_source)
    unfit = None if generation.quantize is None else why_not_quantized(model.device.type)
    if unfit is not None:
        raise UserError("quantize", generation.quantize, unfit)
    limit = source_limit(model, longest)
    if longest_source is not None:
        limit = longest_source if limit is None else min(limit, longest_source)
    why = obstacle(model, longest_sequence(model, longest, longest_source))
    if why is not None:
        name = family(model.config.decoder)
        sentence = f"transformers' own generate runs {name}, slower: {why}"
        if sentence not in _announced:
            _announced.add(sentence)
            warnings.warn(sentence, stacklevel=stacklevel)
        places = max(1, targets // generation.targets_per_source)
        return lambda sources: _by_transformers(
            model, checked(sources, limit), generation, longest, places, generator, scores
        )
    engine: Engine[Key] = Engine(model, generation, longest, targets, working_dtype(model), generator, scores)
    return lambda sources: engine.stream(checked(sources, limit))


def working_dtype(model: ComposedModel) -> torch.dtype | None:
    """What the weights are cast to, once: autocast's type where it is on, unless a family brings its own."""
    device = model.device.type
    if not torch.is_autocast_enabled(device) or model.mixes_dtypes:
        return None
    return torch.get_autocast_dtype(device)


def _by_transformers(
    model: ComposedModel,
    sources: Iterable[tuple[Key, Tensor]],
    generation: Generation,
    longest: int,
    places: int,
    generator: torch.Generator | None,
    scores: bool,
) -> Iterator[tuple[Key, list[Hypothesis]]]:
    """The same by `model.generate`, `places` sources at a time. Draws are seeded from `generator`, if there is one."""
    arguments = generation.arguments(longest)
    special, waiting, is_beam_search = Tokens.of(model), iter(sources), generation.num_beams > 1
    while group := list(islice(waiting, places)):
        texts = [ids.to(model.device) for _, ids in group]
        ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=model.source_pad_id)
        lengths = torch.tensor([len(text) for text in texts], device=model.device)
        mask = (torch.arange(ids.shape[1], device=model.device) < lengths[:, None]).long()
        with _alone, _evaluating(model), torch.random.fork_rng(enabled=generator is not None):
            if generator is not None:
                torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator, device=generator.device)))
            result = model.generate(
                input_ids=ids, attention_mask=mask, **arguments,
                return_dict_in_generate=True, output_scores=scores and is_beam_search,
                output_logits=scores and not is_beam_search,
            )  # fmt: skip
        found = [_cut(tokens, special.end) for tokens in result.sequences[:, 1:].tolist()]
        values = [0.0] * len(found)
        if scores:
            values = (result.sequences_scores if is_beam_search else _summed(result, found)).tolist()
        hypotheses = [Hypothesis(*each) for each in zip(found, values, strict=True)]
        count = generation.num_return_sequences
        for number, (key, _) in enumerate(group):
            yield key, hypotheses[number * count : (number + 1) * count]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode; then each of its modules is again in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def _cut(tokens: list[int], end: tuple[int, ...]) -> list[int]:
    """A target up to its end token."""
    return tokens[: next((at + 1 for at, token in enumerate(tokens) if token in end), len(tokens))]


def _summed(result: Any, found: list[list[int]]) -> Tensor:
    """Summed log-probabilities as the engine has them: the model's, before anything was cut off or forbidden.

    One step at a time, as the logits of all of them would be there twice more.
    """
    written = result.sequences[:, -len(result.logits) :].split(1, dim=1)
    steps = zip(result.logits, written, strict=True)
    gained = torch.cat([logits.log_softmax(dim=1).gather(1, tokens) for logits, tokens in steps], dim=1)
    real = torch.tensor([[at < len(tokens) for at in range(gained.shape[1])] for tokens in found], device=gained.device)
    sums: Tensor = gained.masked_fill(~real, 0).sum(dim=1)
    return sums
