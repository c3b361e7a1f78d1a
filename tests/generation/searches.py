"""What the tests of generation share: sources, and the comparison with transformers' own search."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from encdec_lightning import Generation
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation.engine import Engine
from encdec_lightning.generation.search import Hypothesis

START, PAD, END = 0, 1, 2


def sharpen(model: ComposedModel, factor: float = 3.0) -> ComposedModel:
    """Larger weights: tiny random models would give all tokens almost the same probability."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    config = model.generation_config
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = START, PAD, END
    return model.eval()


def sources(lengths: list[int], seed: int = 0) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(5, 100, (length,), generator=draw) for length in lengths]


def padded(model: ComposedModel, texts: list[Tensor]) -> dict[str, Tensor]:
    pad = getattr(model.config, "encoder", model.config.decoder).pad_token_id or 0
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(text) for text in texts])
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}


def ours(
    model: ComposedModel, texts: list[Tensor], options: Generation, length: int, places: int = 64, **more: Any
) -> Any:
    engine: Engine[int] = Engine(model, options, length, targets=places * options.targets_per_source, **more)
    found = dict(engine.stream(enumerate(texts)))
    return [found[number] for number in range(len(texts))]


def theirs(model: ComposedModel, texts: list[Tensor], options: Generation, length: int) -> list[list[Hypothesis]]:
    """Of `model.generate`, under its own scorer."""
    result = model.generate(
        **padded(model, texts), **options.arguments(length), return_dict_in_generate=True, output_scores=True
    )
    scores = getattr(result, "sequences_scores", torch.zeros(len(result.sequences)))
    ends = (
        set(model.generation_config.eos_token_id) if isinstance(model.generation_config.eos_token_id, list) else {END}
    )
    found = []
    for tokens, score in zip(result.sequences[:, 1:].tolist(), scores.tolist(), strict=True):
        end = next((at + 1 for at, token in enumerate(tokens) if token in ends), len(tokens))
        found.append(Hypothesis(tokens[:end], score))
    count = options.num_return_sequences
    return [found[at : at + count] for at in range(0, len(found), count)]


def assert_same(model: ComposedModel, texts: list[Tensor], options: Generation, length: int, *places: int) -> None:
    """Equal tokens and scores, with each number of places, else with 64; or, at a near-tie, a score no more than 1e-4 below.

    A near-tie in mid-search, between beams that stay and that go, can cost more at the end: then the two must be the
    same in float64.
    """
    wanted = theirs(model, texts, options, length)
    for room in places or (64,):
        if not _same(ours(model, texts, options, length, room), wanted, options):
            exact = copy.deepcopy(model).double()
            assert _same(ours(exact, texts, options, length, room), theirs(exact, texts, options, length), options)


def _same(got: list[list[Hypothesis]], wanted: list[list[Hypothesis]], options: Generation) -> bool:
    assert [len(mine) for mine in got] == [len(other) for other in wanted]
    for one, two in ((one, two) for pair in zip(got, wanted, strict=True) for one, two in zip(*pair, strict=True)):
        near = 1e-4 + 1e-6 * abs(two.score)  # what float32 holds of a score of hundreds
        if one.tokens != two.tokens and (options.num_beams == 1 or abs(one.score - two.score) >= near):
            return False
        if options.num_beams > 1 and one.score <= two.score - near:
            return False
    return True
