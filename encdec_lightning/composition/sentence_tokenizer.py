"""`SentenceTokenizer`: the special tokens around every sentence of a source instead of around the whole."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
from transformers import PreTrainedTokenizerBase

from encdec_lightning.composition.bulk_tokenizer import BulkTokenizer, Ids
from encdec_lightning.composition.options import LINES
from encdec_lightning.composition.sentence_rules import split_sentences
from encdec_lightning.errors import UserError


class SentenceTokenizer:
    """Ids of texts, `[CLS] first sentence [SEP] [CLS] second sentence [SEP]` (Liu & Lapata, section 3.1).

    It stands in for a `BulkTokenizer`. Inside a sentence the two tokens do not occur: where a text spells one out, the
    unknown token takes its place, so that the number of sentences is the number of first tokens.
    """

    cuts_left = False

    def __init__(self, tokenizer: PreTrainedTokenizerBase, sentences: str) -> None:
        """Raises `UserError` for a tokenizer that puts no token before, or none after a text, or knows no unknown."""
        self._bulk, self._rule = BulkTokenizer.with_special_tokens(tokenizer), sentences
        self.prefix, self.suffix, self.unknown_id = self._bulk.prefix, self._bulk.suffix, self._bulk.unknown_id
        found = len(self.prefix), len(self.suffix)
        if found != (1, 1) or self.unknown_id is None or self.prefix[0] == self.suffix[0]:
            expected = f"{tokenizer.name_or_path} does not put one token before a text and another one after it"
            raise UserError("encoder_sentences", sentences, expected)

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, whole: (length,) each. A text without a sentence has the two tokens alone."""
        split = [split_sentences(text, self._rule) for text in texts]
        encoded = iter(self._bulk([each for sentences in split for each in sentences]))
        return [self._joined([next(encoded) for _ in sentences]) for sentences in split]

    def sentences(self, texts: Sequence[str]) -> list[list[str]]:
        """The sentences of each text, as many as `__call__` marks: those of which the tokenizer makes a token."""
        split = [split_sentences(text, self._rule) for text in texts]
        encoded = iter(self._bulk([each for sentences in split for each in sentences]))
        return [[each for each in sentences if len(next(encoded)) > 2] for sentences in split]

    def count(self, ids: Ids) -> int:
        """How many sentences ids have."""
        return int((ids == self.prefix[0]).sum())

    def cut(self, ids: Ids, max_length: int) -> Ids:
        """The first ids, as many as fit with the end token; a last sentence of which no word fits is left out.

        Fewer than three hold no word: then the two tokens alone are left.
        """
        if len(ids) <= max_length:
            return ids
        if max_length < 3:
            return np.concatenate([self.prefix, self.suffix])
        kept = ids[: max_length - 1]
        if kept[-1] == self.prefix[0]:
            kept = kept[:-1]
        return kept if kept[-1] == self.suffix[0] else np.concatenate([kept, self.suffix])

    def signature(self) -> str:
        """A hash of all that decides the ids."""
        rule = f"{self._rule}|sentencex {version('sentencex')}" if self._rule != LINES else self._rule
        return hashlib.sha256(f"{self._bulk.signature()}|sentences:{rule}".encode()).hexdigest()

    def _joined(self, sentences: list[Ids]) -> Ids:
        around = (self.prefix[0], self.suffix[0])
        kept = []
        for ids in sentences:
            inner = ids[1:-1]
            if len(inner):
                inner = np.where(np.isin(inner, around), np.uint32(self.unknown_id or 0), inner)
                kept.append(np.concatenate([self.prefix, inner, self.suffix]))
        return np.concatenate(kept) if kept else np.concatenate([self.prefix, self.suffix])
