"""Two vocabularies of one size from the same text: WordPiece for BERT, byte-level BPE for RoBERTa, GPT-2 and Llama."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, GPT2Tokenizer, PreTrainedTokenizerBase, RobertaTokenizer

SIZE = 8192
LONGEST = 512
"""Tokens that a checkpoint reads at most."""
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BPE_TOKENS = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>")
INSIDE = 0xF0000
"""Added to a character that does not begin its word: a plane of Unicode that no text uses."""


def wordpiece(texts: Iterable[str], size: int = SIZE) -> BertTokenizer:
    """A cased WordPiece tokenizer, always the same for the same text.

    The library's own trainer numbers its first pieces in an order that differs from process to process, and with it the
    vocabulary. So a BPE is trained on words whose inner characters are other ones than their first: they are the
    alphabet, in an order that is fixed, and become "##" and the character in the end.
    """
    normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False)
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )  # fmt: skip
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s"), "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=size - len(BERT_TOKENS), limit_alphabet=1000, min_frequency=2, show_progress=False
    )
    marked = (word[0] + "".join(chr(INSIDE + ord(each)) for each in word[1:]) for word in sorted(words.elements()))
    trained.train_from_iterator(marked, trainer)
    pieces = sorted(trained.get_vocab(), key=trained.get_vocab().get)
    vocabulary = {word: number for number, word in enumerate([*BERT_TOKENS, *map(_plain, pieces)])}
    return BertTokenizer(vocab=vocabulary, do_lower_case=False, strip_accents=False, model_max_length=LONGEST)


def _plain(piece: str) -> str:
    text = "".join(chr(ord(each) - INSIDE) if ord(each) >= INSIDE else each for each in piece)
    return f"##{text}" if ord(piece[0]) >= INSIDE else text


def byte_bpe(texts: Iterable[str], size: int = SIZE) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges of a byte-level BPE."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(BPE_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    core: dict[str, Any] = json.loads(trained.to_str())["model"]
    return core["vocab"], [tuple(merge) for merge in core["merges"]]


def tokenizer_of(family: str, texts: Sequence[str], size: int = SIZE) -> PreTrainedTokenizerBase:
    """The tokenizer of a family's checkpoint."""
    if family in ("bert", "bert_masks"):
        return wordpiece(texts, size)
    vocabulary, merges = byte_bpe(texts, size)
    if family == "roberta":
        return RobertaTokenizer(vocab=vocabulary, merges=merges, model_max_length=LONGEST)
    return GPT2Tokenizer(vocab=vocabulary, merges=merges, pad_token="<pad>", model_max_length=LONGEST)
