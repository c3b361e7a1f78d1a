"""A search that finds nothing says so; penalties, however strong, lose no target."""

from __future__ import annotations

import copy

import pytest
import searches
import torch

from encdec_lightning import Generation, UserError, compose
from encdec_lightning.errors import UserErrors
from encdec_lightning.generation.candidates import GROUPS, PIECE, candidates
from encdec_lightning.generation.generate import stream
from encdec_lightning.generation.memory import ElasticStreamer

TEXTS = searches.sources([6, 4])


SEARCHES = {
    "greedy": {},
    "beams": {"num_beams": 2},
    "drawn": {"do_sample": True},
    "drawn twice": {"do_sample": True, "num_return_sequences": 2},
    "drawn of few": {"do_sample": True, "top_k": 5, "top_p": 0.9},
}


@pytest.mark.parametrize("scores", [True, False])
@pytest.mark.parametrize("words", [slice(None), slice(7, 8)], ids=["all words", "one word"])
@pytest.mark.parametrize("options", SEARCHES.values(), ids=SEARCHES)
def test_logits_that_are_no_numbers_are_named(probe, options, words, scores):
    model = searches.sharpen(copy.deepcopy(probe("decoder", "bert")))
    with torch.no_grad():
        model.decoder.get_output_embeddings().weight[words] = float("nan")
    sentence = "^next token is None: no target was found for a source: the model's logits are no finite numbers"
    with pytest.raises(UserError, match=sentence):
        list(stream(model, enumerate(TEXTS), Generation(**options), max_target_length=5, scores=scores))


@pytest.mark.parametrize("penalty", [-8.0, -4.0, 8.0])
def test_a_strong_penalty_chooses_among_targets_and_loses_none(probe, penalty: float):
    model = searches.sharpen(copy.deepcopy(probe("decoder", "bert")))
    options = Generation(num_beams=3, min_length=20, length_penalty=penalty)
    found = dict(stream(model, enumerate(TEXTS), options, max_target_length=30))
    for hypotheses in found.values():
        (best,) = hypotheses
        assert 20 < len(best.tokens) <= 30 and best.score < 0 and best.score != -torch.inf
    with pytest.raises(UserErrors, match=r"length_penalty is 9.0: it must lie between -8 and 8"):
        Generation(num_beams=3, length_penalty=9.0)


def test_pieces_that_lie_side_by_side_in_memories_of_their_own_are_not_taken_for_one():
    """A GPU's allocator may put them so; here each piece's memory is a part of one buffer that ends with the piece."""
    count, buffer = 2, torch.randn(3, 4, PIECE).numpy()
    apart = [torch.from_numpy(piece) for piece in buffer]
    assert apart[1].data_ptr() - apart[0].data_ptr() == apart[0].untyped_storage().nbytes()
    assert len(apart) * GROUPS > 4 * count
    found = candidates([lambda piece=piece: piece for piece in apart], count)
    expected = torch.cat(apart, dim=1).topk(count, dim=1)
    assert torch.equal(found.logits, expected.values) and torch.equal(found.tokens, expected.indices)


def test_a_model_that_scores_sentences_writes_nothing(files):
    scorer = compose(files.bert, None, encoder_sentences="lines")
    for run in (
        lambda: list(stream(scorer, enumerate(TEXTS), Generation(), max_target_length=5)),
        lambda: ElasticStreamer(scorer, Generation(), longest_source=6, max_target_length=5),
    ):
        with pytest.raises(UserError, match="it scores sentences; to write a text a model needs a decoder"):
            run()


def test_the_length_of_the_sources_decides_whether_a_window_is_in_the_way(probe, recwarn):
    model = copy.deepcopy(probe("prefix", "mistral"))
    model.config.decoder.sliding_window = 16
    searches.sharpen(model)
    start = ElasticStreamer(model, Generation(num_beams=2), longest_source=6, max_target_length=8)
    found = dict(start([*enumerate(TEXTS)]))
    assert not [each for each in recwarn if "slower" in str(each.message)]
    for number, hypotheses in enumerate(searches.theirs(model, TEXTS, Generation(num_beams=2), 8)):
        assert [each.tokens for each in found[number]] == [each.tokens for each in hypotheses]
    with pytest.raises(UserError, match="the model reads 6 at most"):
        list(start([(0, searches.sources([7])[0])]))
    with pytest.warns(UserWarning, match="its attention sees 16 tokens only, and a sequence may have 17"):
        list(ElasticStreamer(model, Generation(), longest_source=9, max_target_length=8)([*enumerate(TEXTS)]))
