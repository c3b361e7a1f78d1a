"""Texts become the ids that the tokenizer itself gives."""

import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.examples.examples import InMemory, tokenize
from encdec_lightning.records import Pair

WORDPIECE, ROBERTA, GPT2 = tiny.wordpiece(), tiny.byte_pairs(roberta=True), tiny.byte_pairs(roberta=False)
ALL = {
    "bert": (Tokenizers(WORDPIECE), WORDPIECE, WORDPIECE),
    "roberta": (Tokenizers(ROBERTA), ROBERTA, ROBERTA),
    "bert to gpt2": (Tokenizers(WORDPIECE, GPT2), WORDPIECE, GPT2),
    "roberta to bert": (Tokenizers(ROBERTA, WORDPIECE), ROBERTA, WORDPIECE),
}
PAIRS = [Pair(row["key"], row["document"], row["summary"]) for row in tiny.pairs(8)]


@pytest.mark.parametrize("name", ALL)
def test_the_same_as_calling_the_tokenizer(name):
    tokenizers, source, target = ALL[name]
    examples = tokenize(PAIRS, tokenizers, 500, 500)
    for number, pair in enumerate(PAIRS):
        source_ids, target_ids = (ids.tolist() for ids in examples.ids(number))
        assert examples.pair(number) == pair
        assert source_ids == source(pair.source)["input_ids"]
        assert target_ids == [*target(pair.target, add_special_tokens=False)["input_ids"], tokenizers.end_id]
    assert tokenizers.end_id == (target.sep_token_id if target is WORDPIECE else target.eos_token_id)


@settings(deadline=None)
@given(name=st.sampled_from(list(ALL)), longest=st.integers(3, 12), text=st.text("abc é😀.", min_size=1, max_size=30))
def test_what_is_cut_keeps_its_last_special_token(name, longest, text):
    tokenizers, source, target = ALL[name]
    examples = tokenize([Pair("1", text, text)], tokenizers, longest, longest)
    source_ids, target_ids = (ids.tolist() for ids in examples.ids(0))
    whole = source(text)["input_ids"]
    assert source_ids == (whole if len(whole) <= longest else [*whole[: longest - 1], whole[-1]])
    assert target_ids == [*target(text, add_special_tokens=False)["input_ids"][: longest - 1], tokenizers.end_id]


def test_lengths():
    examples = tokenize(PAIRS, ALL["bert"][0], 12, 4)
    assert examples.lengths.dtype == np.int32
    assert examples.lengths.tolist() == [[len(ids) for ids in examples.ids(number)] for number in range(len(PAIRS))]
    assert examples.lengths.max(axis=0).tolist() == [12, 4]
    assert InMemory([], [], []).lengths.shape == (0, 2)


def test_a_limit_does_not_stay_with_the_tokenizer():
    tokenizers = ALL["bert"][0]
    before = tokenize(PAIRS, tokenizers, 500, 500)
    tokenize(PAIRS, tokenizers, 5, 3)
    after = tokenize(PAIRS, tokenizers, 500, 500)
    assert after.lengths.tolist() == before.lengths.tolist()
