"""The engine and `model.generate` write the same, for every decoder that composition supports."""

from __future__ import annotations

import copy
import warnings

import pytest
import searches
import tiny
import torch

from encdec_lightning import Generation
from encdec_lightning.composition.architectures import ARCHITECTURES
from encdec_lightning.composition.compose import compose
from encdec_lightning.generation import generate
from encdec_lightning.generation.generate import stream
from encdec_lightning.generation.support import obstacle


@pytest.fixture(autouse=True)
def nothing_announced(monkeypatch):
    monkeypatch.setattr(generate, "_announced", set())


DECODERS = [("decoder", name) for name, each in ARCHITECTURES.items() if each.can_decode]
MERGED = [("merged", name) for name in ARCHITECTURES if tiny.merges(name)]
PREFIXES = [("prefix", name) for name, each in ARCHITECTURES.items() if each.prefixes]
SLOW = {("prefix", "bloom"), ("decoder", "bloom")}
LENGTHS = [9, 30, 17, 3, 12]


@pytest.mark.parametrize(("role", "family"), [each for each in DECODERS + MERGED + PREFIXES if each not in SLOW])
def test_the_same_as_transformers(probe, role, family):
    model = searches.sharpen(copy.deepcopy(probe(role, family)))
    texts = searches.sources(LENGTHS)
    if family == "blenderbot":  # its config has this, for sources in its own vocabulary
        assert obstacle(model, 44) == "its generation config sets encoder_no_repeat_ngram_size"
        model.generation_config.encoder_no_repeat_ngram_size = None
    assert obstacle(model, 44) is None
    for options in (
        Generation(no_repeat_ngram_size=2, min_length=5),
        Generation(num_beams=4, no_repeat_ngram_size=2, min_length=5, num_return_sequences=2),
    ):
        searches.assert_same(model, texts, options, 12, 64, 2)


@pytest.mark.parametrize(("role", "family"), sorted(SLOW))
@pytest.mark.parametrize(
    "options",
    [
        Generation(),
        Generation(num_beams=3, num_return_sequences=2),
        Generation(do_sample=True, top_k=5, temperature=1.5, min_length=4),
    ],
)
def test_what_the_engine_cannot_run_is_said_and_run_by_transformers(probe, role, family, options):
    model = searches.sharpen(copy.deepcopy(probe(role, family)))
    texts = searches.sources(LENGTHS)
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match=f"runs {family}, slower: its attention counts positions"):
        found = dict(stream(model, enumerate(texts), options, max_target_length=9, targets=6,
                            generator=torch.Generator().manual_seed(3)))  # fmt: skip
    assert torch.equal(torch.get_rng_state(), before)
    if options.do_sample:
        for number, text in enumerate(texts):
            (drawn,) = found[number]
            ids = torch.tensor([[searches.START, *drawn.tokens]])
            with torch.no_grad():
                logs = model(input_ids=text[None], decoder_input_ids=ids[:, :-1]).logits.log_softmax(-1)
            assert abs(logs[0].gather(1, ids[0, 1:, None]).sum().item() - drawn.score) < 1e-3
        return
    for number, hypotheses in enumerate(searches.theirs(model, texts, options, 9)):
        assert [each.tokens for each in found[number]] == [each.tokens for each in hypotheses]


def test_a_fall_back_is_said_once_for_each_reason(probe):
    model = searches.sharpen(copy.deepcopy(probe("decoder", "bert")))
    said = []
    for name in ("repetition_penalty", "repetition_penalty", "encoder_repetition_penalty"):
        model.generation_config.repetition_penalty = model.generation_config.encoder_repetition_penalty = None
        setattr(model.generation_config, name, 1.2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            list(stream(model, enumerate(searches.sources([4])), Generation(), max_target_length=3))
        said.append([str(each.message).rpartition(" ")[2] for each in caught if "slower" in str(each.message)])
    assert said == [["repetition_penalty"], [], ["encoder_repetition_penalty"]]


def test_a_setting_of_the_model_that_only_transformers_obeys_is_an_obstacle(probe):
    model = copy.deepcopy(probe("decoder", "bert"))
    for name, value in (("repetition_penalty", 1.2), ("bad_words_ids", [[5, 6]]), ("begin_suppress_tokens", [7])):
        assert obstacle(model, 20) is None
        setattr(model.generation_config, name, value)
        assert obstacle(model, 20) == f"its generation config sets {name}"
        setattr(model.generation_config, name, None)


def test_sinusoids_that_count_positions_by_themselves_are_an_obstacle(files, tmp_path, monkeypatch):
    monkeypatch.setitem(tiny.PECULIAR, "trocr", {"use_learned_position_embeddings": False})
    trocr = tiny.family_checkpoint(tmp_path, "trocr")
    model = searches.sharpen(compose(files.bert, trocr).eval())
    assert obstacle(model, 20) == "its sinusoids count positions by themselves"
    texts, options = searches.sources(LENGTHS), Generation(num_beams=3)
    with pytest.warns(UserWarning, match="runs trocr, slower: its sinusoids count positions by themselves"):
        found = dict(stream(model, enumerate(texts), options, max_target_length=9))
    for number, hypotheses in enumerate(searches.theirs(model, texts, options, 9)):
        assert [each.tokens for each in found[number]] == [each.tokens for each in hypotheses]


def test_a_window_shorter_than_the_sequence_is_an_obstacle(probe):
    model = copy.deepcopy(probe("prefix", "mistral"))
    model.config.decoder.sliding_window = 16
    assert obstacle(model, 16) is None
    assert "sees 16 tokens only" in str(obstacle(model, 17))


def test_tokens_that_the_model_forces_or_forbids(probe):
    model = searches.sharpen(copy.deepcopy(probe("decoder", "bart")))
    texts = searches.sources(LENGTHS)
    config = model.generation_config
    config.forced_eos_token_id, config.forced_bos_token_id = searches.END, 9
    frequent = searches.theirs(model, texts, Generation(), 10)[0][0].tokens[2]
    config.suppress_tokens, config.bad_words_ids = [frequent], [[11]]
    for beams in (1, 3):
        options = Generation(num_beams=beams)
        searches.assert_same(model, texts, options, 10, 64, 2)
        for (best,) in searches.ours(model, texts, options, 10):
            assert best.tokens[0] == 9 and best.tokens[-1] == searches.END and frequent not in best.tokens


def test_several_end_tokens(probe):
    model = searches.sharpen(copy.deepcopy(probe("decoder", "bert")))
    model.generation_config.eos_token_id = [2, 17, 30]
    texts = searches.sources(LENGTHS)
    for beams in (1, 3):
        searches.assert_same(model, texts, Generation(num_beams=beams), 10)
