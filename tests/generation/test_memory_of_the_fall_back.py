"""What `model.generate` keeps where the engine cannot run a model: nothing in vain, and all of it counted."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import searches
import tiny
import torch

from encdec_lightning import Generation, compose
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation import memory
from encdec_lightning.generation.generate import stream
from encdec_lightning.generation.memory import ElasticStreamer, targets_that_fit

pytestmark = pytest.mark.filterwarnings("ignore:transformers' own generate")
TEXTS = searches.sources([6, 4, 9])
OPTIONS = {
    "greedy": Generation(),
    "beams": Generation(num_beams=3, num_return_sequences=2),
    "drawn": Generation(do_sample=True, num_return_sequences=2),
}


@pytest.fixture(scope="module")
def plain(files: tiny.Files) -> ComposedModel:
    torch.manual_seed(0)
    return searches.sharpen(compose(files.bert, files.gpt2))


@pytest.fixture
def model(plain: ComposedModel) -> ComposedModel:
    """One that the engine cannot run."""
    made = copy.deepcopy(plain)
    made.generation_config.repetition_penalty = 1.2
    return made


def found(model: ComposedModel, options: Generation, scores: bool) -> list[Any]:
    drawn = torch.Generator().manual_seed(0)
    done = stream(model, enumerate(TEXTS), options, max_target_length=8, generator=drawn, scores=scores)
    return [hypotheses for _, hypotheses in sorted(done)]


@pytest.mark.parametrize("kind", OPTIONS)
def test_without_scores_nothing_of_the_steps_is_kept(
    model: ComposedModel, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, given = found(model, OPTIONS[kind], scores=True), []
    theirs = model.generate

    def noted(**arguments: Any) -> Any:
        given.append((arguments["output_scores"], arguments["output_logits"]))
        return theirs(**arguments)

    monkeypatch.setattr(model, "generate", noted)
    got = found(model, OPTIONS[kind], scores=False)
    assert [[each.tokens for each in one] for one in got] == [[each.tokens for each in one] for one in expected]
    assert {each.score for one in got for each in one} == {0.0}
    found(model, OPTIONS[kind], scores=True)
    assert given == [(False, False), (kind == "beams", kind != "beams")]


@pytest.mark.parametrize("kind", ["greedy", "drawn"])
def test_scores_are_those_of_transformers(model: ComposedModel, kind: str) -> None:
    options = OPTIONS[kind]
    torch.manual_seed(int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(0))))
    result = model.generate(
        **searches.padded(model, TEXTS), **options.arguments(8), return_dict_in_generate=True, output_logits=True
    )
    gained = model.compute_transition_scores(result.sequences, result.logits, normalize_logits=True)
    flat = [each for one in found(model, options, scores=True) for each in one]
    for each, row in zip(flat, gained, strict=True):
        assert each.score == pytest.approx(float(row[: len(each.tokens)].sum()), rel=1e-5)


def test_the_logits_of_all_steps_are_counted_where_they_are_kept(
    model: ComposedModel, plain: ComposedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, words = Generation(num_beams=2), int(model.config.decoder.vocab_size)
    free = 1 << 24
    without = targets_that_fit(model, options, 6, 40, free, 1 << 20, scores=False)
    with_scores = targets_that_fit(model, options, 6, 40, free, 1 << 20)
    assert with_scores < without
    place = free // 2 / with_scores - free // 2 / without  # bytes a target
    assert place == pytest.approx(40 * 4 * words, rel=0.1)
    engine = targets_that_fit(plain, options, 6, 40, free, 1 << 20)
    assert engine == targets_that_fit(plain, options, 6, 40, free, 1 << 20, scores=False)
    monkeypatch.setattr(memory, "free_memory", lambda device: 1 << 18)

    def targets(scores: bool) -> int:
        return ElasticStreamer[int](model, options, longest_source=6, max_target_length=40, scores=scores).targets

    assert targets(True) < targets(False)
