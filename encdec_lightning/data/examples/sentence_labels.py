"""`SentenceLabels`: the targets of an extract, 1 for a sentence of the greedy oracle and 0 for another."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from encdec_lightning.composition.bulk_tokenizer import Ids
from encdec_lightning.composition.sentence_tokenizer import SentenceTokenizer
from encdec_lightning.composition.tokenizers import Tokenizers
from encdec_lightning.data.examples.label_workers import Labellers
from encdec_lightning.data.options import Extraction
from encdec_lightning.errors import UserError
from encdec_lightning.evaluation.extraction import ORACLE_WORDS, greedy_oracle
from encdec_lightning.records import Pair

MANY = 500
"""Pairs at once for which it is worth a second of starting processes: a task has many more."""


class SentenceLabels:
    """Takes the place of the targets' tokenizer: a document's target is a label for each of its sentences.

    Labels are those of the whole document, before it is cut, as in Liu & Lapata's code: an oracle's sentence that the
    model does not see leaves fewer that are right, and perhaps none.
    """

    prefix = suffix = np.zeros(0, dtype=np.uint32)
    unknown_id = None
    vocabulary_size = 2

    def __init__(self, tokenizers: Tokenizers, extraction: Extraction) -> None:
        """Raises `UserError` for tokenizers that do not mark sentences."""
        sentences = tokenizers.source_in_bulk
        if not isinstance(sentences, SentenceTokenizer):
            raise UserError("tokenizers.sentences", tokenizers.sentences, "an extract needs to know where one ends")
        self._sentences, self._extraction = sentences, extraction
        self._labellers: Labellers | None = None

    def __call__(self, pairs: Sequence[Pair]) -> list[Ids]:
        """The labels of each pair's sentences, before a source is cut: (sentences,) each.

        Many pairs are shared out over processes, which stay for the next ones until `close`.
        """
        split = self._sentences.sentences([pair.source for pair in pairs])
        most, criterion = self._extraction.oracle_sentences, self._extraction.oracle
        documents = [
            (sentences, (pair.target, *pair.other_targets)) for sentences, pair in zip(split, pairs, strict=True)
        ]
        if len(pairs) >= MANY:
            self._labellers = self._labellers or Labellers()
            chosen = self._labellers(documents, most, criterion)
        else:
            chosen = [greedy_oracle(*document, most, criterion) for document in documents]
        found = [np.zeros(len(sentences), dtype=np.uint32) for sentences in split]
        for labels, numbers in zip(found, chosen, strict=True):
            labels[numbers] = 1
        return found

    def close(self) -> None:
        """End the processes, if there are any."""
        if self._labellers is not None:
            self._labellers.close()
            self._labellers = None

    def cut(self, labels: Ids, source: Ids) -> Ids:
        """The labels of those sentences that a source still has."""
        return labels[: self._sentences.count(source)]

    def signature(self) -> str:
        """A hash of all that decides the labels."""
        rules = (self._sentences.signature(), self._extraction.oracle, self._extraction.oracle_sentences, ORACLE_WORDS)
        return hashlib.sha256(repr(rules).encode()).hexdigest()
