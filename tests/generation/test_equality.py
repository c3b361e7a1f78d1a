"""Property tests: the engine writes what `model.generate` writes, or what an obvious search of our own does."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace

import pytest
import searches
import tiny
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from encdec_lightning import Generation, compose
from encdec_lightning.composition.composed_model import ComposedModel
from encdec_lightning.generation.model_runner import ModelRunner
from encdec_lightning.generation.search import Hypothesis

LONGEST = 11
draws = functools.partial(settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def models(files: tiny.Files) -> dict[str, ComposedModel]:
    torch.manual_seed(0)
    made = {
        "bert": compose(files.bert, files.bert, weights="tied"),
        "gpt2": compose(files.bert, files.gpt2),
        "roberta": compose(files.roberta, files.roberta),
        "prefix": compose(None, files.gpt2),
    }
    return {name: searches.sharpen(model) for name, model in made.items()}


FEW = st.integers(1, 8)


@st.composite
def options(draw: st.DrawFn, beams: st.SearchStrategy[int] = FEW) -> Generation:
    count = draw(beams)
    return Generation(
        num_beams=count,
        num_return_sequences=draw(st.integers(1, count)),
        min_length=draw(st.integers(0, 6)),
        length_penalty=draw(st.sampled_from([0.0, 0.5, 1.0, 2.0, -1.0])),
        early_stopping=draw(st.sampled_from([True, False, "never"])),
        no_repeat_ngram_size=draw(st.integers(0, 4)),
    )


places = st.integers(1, 4)
lengths = st.lists(st.integers(1, 23), min_size=1, max_size=5)
names = st.sampled_from(["bert", "gpt2", "roberta", "prefix"])


@draws(max_examples=40)
@given(names, options(), lengths, st.integers(6, LONGEST), places, st.integers(0, 99))
def test_the_same_as_transformers(models, name, generation, sizes, longest, room, seed):
    searches.assert_same(models[name], searches.sources(sizes, seed), generation, longest, room)


@draws(max_examples=25)
@given(names, options(st.sampled_from([1, 2, 61, 62, 123, 130, 161, 330])), st.integers(1, 3), st.integers(0, 7),
       st.integers(0, 4), st.booleans(), st.integers(0, 99))  # fmt: skip
def test_the_same_at_the_ends_of_what_there_is(models, name, generation, longest, shortest, ngram, ends, seed):
    """More beams than words, targets of one token, no end before the last token, repeats longer than the target."""
    model = copy.deepcopy(models[name])
    if ends:
        model.generation_config.eos_token_id = [searches.END, 17, 30]
    generation = replace(generation, min_length=min(shortest, longest), no_repeat_ngram_size=ngram)
    texts = searches.sources([3, 11], seed)
    # a near-tie in mid-search can cost more at the end: then both must be the same in float64
    assert agree(model, texts, generation, longest) or agree(model.double(), texts, generation, longest)


def agree(model: ComposedModel, texts: list[Tensor], generation: Generation, longest: int) -> bool:
    """Equal scores, and targets that are among the others with that score; what ties with their last may be another."""
    wanted = searches.theirs(model, texts, generation, longest)
    for got, other in zip(searches.ours(model, texts, generation, longest, 2), wanted, strict=True):
        there = {tuple(each.tokens): each.score for each in other if each.score > -1e7}  # the rest is impossible
        if generation.num_beams == 1:
            if [tuple(each.tokens) for each in got] != list(there):
                return False
            continue
        last, scores = min(there.values(), default=0.0), [each.score for each in got]
        if len(there) != len(got) or scores != pytest.approx(sorted(there.values(), reverse=True), abs=1e-3):
            return False
        if any(abs(there.get(tuple(each.tokens), last) - each.score) > 1e-3 for each in got):
            return False
    return True


@pytest.mark.slow
@draws(max_examples=1000)
@given(names, options(), lengths, st.integers(6, 30), places, st.integers(0, 9999))
def test_the_same_as_transformers_in_many_cases(models, name, generation, sizes, longest, room, seed):
    searches.assert_same(models[name], searches.sources(sizes, seed), generation, longest, room)


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "gpt2", "roberta", "prefix"])
def test_a_longer_source_that_comes_later_changes_nothing(models: dict[str, ComposedModel], name: str) -> None:
    model, texts, written = models[name], searches.sources([2, 9]), [searches.START]
    runner = ModelRunner(model, 2, 1, 6, searches.START)

    def logits(text: Tensor, tokens: list[int]) -> Tensor:
        source = {"input_ids": text[None], "attention_mask": torch.ones(1, len(text)).long()}
        return model(**source, decoder_input_ids=torch.tensor([tokens])).logits[0, -1]

    runner.admit([0], texts[:1])
    for number, token in enumerate((7, 8), start=1):
        written.append(token)
        runner.step(torch.tensor([[token]]), [number])
    runner.admit([1], texts[1:])
    pieces = runner.step(torch.tensor([[9], [10]]), [3, 1])
    got = torch.cat([compute() for compute in pieces], dim=1)
    wanted = [logits(texts[0], [*written, 9]), logits(texts[1], [searches.START, 10])]
    assert torch.allclose(got, torch.stack(wanted), atol=1e-4)


@torch.no_grad()
def obvious(model: ComposedModel, text: Tensor, generation: Generation, longest: int) -> list[Hypothesis]:
    """Beam search from its definition: lists, one text at a time, every step from the start."""
    running, finished = [(0.0, [searches.START])], []
    beams = generation.num_beams
    for length in range(1, longest + 1):
        ids = torch.tensor([tokens for _, tokens in running])
        source = {"input_ids": text.expand(len(ids), -1), "attention_mask": torch.ones(len(ids), len(text)).long()}
        logs = model(**source, decoder_input_ids=ids, use_cache=False).logits[:, -1].log_softmax(-1).tolist()
        grown = []
        for (score, tokens), row in zip(running, logs, strict=True):
            for word, gain in enumerate(row):
                too_short = word == searches.END and length <= generation.min_length
                if not too_short and not repeats([*tokens, word], generation.no_repeat_ngram_size):
                    grown.append((score + gain, [*tokens, word]))
        grown.sort(key=lambda each: -each[0])
        ended = [tokens[-1] == searches.END or length == longest for _, tokens in grown[: 2 * beams]]
        best = list(zip(grown[: 2 * beams], ended, strict=True))
        finished += [(score / generation.penalty(length), tokens) for (score, tokens), end in best[:beams] if end]
        finished = sorted(finished, key=lambda each: -each[0])[:beams]
        running = [each for each, end in best if not end][:beams]
        if not running or (len(finished) == beams and generation.early_stopping is True):
            break
        at = longest if generation.early_stopping == "never" and generation.length_penalty > 0 else length
        if len(finished) == beams and running[0][0] / generation.penalty(at) <= finished[-1][0]:
            break
    return [Hypothesis(tokens[1:], score) for score, tokens in finished[: generation.num_return_sequences]]


def repeats(tokens: list[int], size: int) -> bool:
    """Whether the last n-gram was there before."""
    grams = [tuple(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]
    return size > 0 and len(grams) > 0 and grams[-1] in grams[:-1]


@draws(max_examples=25)
@given(names, st.integers(2, 5), st.sampled_from([0.0, 0.6, 1.0, 2.0]), st.sampled_from([True, False, "never"]),
       st.integers(0, 3), st.integers(0, 4), lengths, places, st.integers(0, 99))  # fmt: skip
def test_the_penalty_of_wu_as_an_obvious_search_has_it(
    models, name, beams, alpha, stopping, ngram, shortest, sizes, room, seed
):
    generation = Generation(
        num_beams=beams, length_penalty=alpha, length_normalization="wu", early_stopping=stopping,
        no_repeat_ngram_size=ngram, min_length=shortest, num_return_sequences=beams,
    )  # fmt: skip
    texts = searches.sources(sizes, seed)
    for got, text in zip(searches.ours(models[name], texts, generation, 8, room), texts, strict=True):
        for one, two in zip(got, obvious(models[name], text, generation, 8), strict=True):
            assert abs(one.score - two.score) < 1e-4


def test_the_penalty_of_wu_by_hand():
    assert Generation(length_normalization="wu", length_penalty=1.0).penalty(7) == 2.0
    assert Generation(length_normalization="wu", length_penalty=0.5).penalty(19) == 2.0
    assert Generation(length_penalty=2.0).penalty(3) == 9.0


def test_no_repeat_is_ever_emitted(models):
    for beams in (1, 4):
        options = Generation(num_beams=beams, num_return_sequences=beams, no_repeat_ngram_size=3, min_length=30)
        for hypotheses in searches.ours(models["bert"], searches.sources([9, 4]), options, 30):
            for each in hypotheses:
                assert not any(repeats([0, *each.tokens][:end], 3) for end in range(1, 32))
        free = Generation(num_beams=beams, min_length=30)
        found = searches.ours(models["bert"], searches.sources([9, 4]), free, 30)
        assert any(repeats([0, *best.tokens][:end], 3) for (best, *_) in found for end in range(1, 32))
