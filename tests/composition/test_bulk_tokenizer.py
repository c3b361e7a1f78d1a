"""The encoder gives what calling the tokenizer gives, whole and cut."""

from __future__ import annotations

import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CanineTokenizer, PreTrainedTokenizerFast

from encdec_lightning.composition.bulk_tokenizer import BulkTokenizer
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.errors import UserError


def around(template: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose special tokens stand as in a template such as `$A [SEP]`."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *tiny.NOUNS, "one", "text"]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(name, words.index(name)) for name in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


TOKENIZERS = {
    "bert": tiny.wordpiece(),
    "roberta": tiny.byte_pairs(roberta=True),
    "gpt2": tiny.byte_pairs(roberta=False),
    "t5": around("$A [SEP]"),
    "xlnet": around("$A [SEP] [CLS]"),
    "two before": around("[CLS] [SEP] $A"),
    "nothing": around("$A"),
    "slow": CanineTokenizer(),
}
TEXTS = st.lists(st.text("abc é😀文.\n") | st.just("matrix graph list one text"), min_size=1, max_size=4)


@settings(deadline=None)
@given(texts=TEXTS, longest=st.integers(4, 12), side=st.sampled_from(["left", "right"]))
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_same_as_a_call(name, texts, longest, side):
    tokenizer = TOKENIZERS[name]
    tokenizer.truncation_side = side
    encoder = BulkTokenizer.with_special_tokens(tokenizer)
    whole = encoder(texts)
    assert [ids.tolist() for ids in whole] == [list(ids) for ids in tokenizer(texts)["input_ids"]]
    cut = tokenizer(texts, truncation=True, max_length=longest)["input_ids"]
    assert [encoder.cut(ids, longest).tolist() for ids in whole] == [list(ids) for ids in cut]


def test_the_tokenizers_own_settings_do_not_matter():
    tokenizer = tiny.wordpiece()
    expected = tokenizer("the matrix is a list")["input_ids"]
    tokenizer(["the matrix is a list", "x"], truncation=True, max_length=4, padding=True)  # these stay with its core
    assert BulkTokenizer.with_special_tokens(tokenizer)(["the matrix is a list"])[0].tolist() == expected


def test_signatures_tell_tokenizers_apart():
    for tokenizer in TOKENIZERS.values():
        tokenizer.truncation_side = "right"
    found = [BulkTokenizer.with_special_tokens(tokenizer).signature() for tokenizer in TOKENIZERS.values()]
    assert len(set(found)) == len(found)
    assert BulkTokenizer.with_special_tokens(tiny.wordpiece()).signature() == found[0]
    grown = tiny.wordpiece()
    grown.add_tokens(["newword"])
    assert BulkTokenizer.with_special_tokens(grown).signature() not in found
    assert (
        Tokenizers(tiny.wordpiece()).signature()
        != Tokenizers(tiny.wordpiece(), tiny.byte_pairs(roberta=False)).signature()
    )


def test_special_tokens_inside_a_text_are_refused():
    odd = around("$A")
    odd.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    odd.add_special_tokens({"mask_token": "[MASK]"})
    BulkTokenizer.with_special_tokens(odd)  # as long as they stay out of it

    class Inside(type(odd)):
        def __call__(self, text, add_special_tokens=True, **options):
            found = super().__call__(text, add_special_tokens=add_special_tokens, **options)
            if add_special_tokens:
                found["input_ids"] = [found["input_ids"][0], 3, *found["input_ids"][1:]]
            return found

    inside = Inside(tokenizer_object=odd.backend_tokenizer, unk_token="[UNK]")
    with pytest.raises(UserError, match="its special tokens must stand before and after a text's own tokens"):
        BulkTokenizer.with_special_tokens(inside)
