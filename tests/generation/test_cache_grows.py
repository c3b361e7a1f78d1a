"""The cache has room for the texts that are written, not for the longest that may be; results do not depend on it."""

from __future__ import annotations

import copy

import pytest
import searches
import torch
from cases import some

from encdec_lightning import Generation
from encdec_lightning.generation import cache as caching
from encdec_lightning.generation.engine import Engine

TEXTS = searches.sources([5, 12, 9, 3, 7, 16, 4])
MODELS = [("decoder", "bert"), ("decoder", "gpt2"), ("decoder", "bart"), ("prefix", "gpt2"), ("prefix", "llama")]


def written(engine: Engine[int]) -> list[object]:
    found = dict(engine.stream(enumerate(TEXTS)))
    return [found[number] for number in range(len(TEXTS))]


def columns(engine: Engine[int]) -> set[int]:
    layers = engine.runner.cache.self_attention_cache.layers
    return {each.shape[2] for layer in layers for each in (layer.stored_keys, layer.stored_values)}


@pytest.mark.parametrize(("role", "family"), MODELS)
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("first", some([1, 2, 5], 1))
def test_results_are_equal_to_the_bit_whatever_room_there_was(
    probe, role: str, family: str, beams: int, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores too; sources enter while others are under way, and longer prefixes come after shorter ones."""
    model = searches.sharpen(copy.deepcopy(probe(role, family)))
    model.generation_config.eos_token_id = [searches.END, *range(20, 40)]
    options, longest = Generation(num_beams=beams, min_length=2), 20
    monkeypatch.setattr(caching, "FIRST_STEPS", 1000)
    expected = written(Engine(model, options, longest, targets=3 * beams))
    monkeypatch.setattr(caching, "FIRST_STEPS", first)
    engine: Engine[int] = Engine(model, options, longest, targets=3 * beams)
    assert written(engine) == expected
    assert written(engine) == expected  # in the room that is now there
    assert len(columns(engine)) == 1


def test_room_doubles_and_never_is_more_than_the_longest_text_needs(probe, monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = searches.sharpen(copy.deepcopy(probe("decoder", "bert"))), dict[int, None]()
    monkeypatch.setattr(caching, "FIRST_STEPS", 8)
    engine: Engine[int] = Engine(model, Generation(num_beams=2, min_length=39), 40, targets=6)
    reorder = engine.runner.reorder

    def noted(parents: torch.Tensor) -> None:
        reorder(parents)
        seen.update(dict.fromkeys(columns(engine)))

    monkeypatch.setattr(engine.runner, "reorder", noted)
    written(engine)
    assert list(seen) == [1 + 2 * 8, 2 * (1 + 2 * 8), 4 * (1 + 2 * 8), 1 + 2 * 39]
