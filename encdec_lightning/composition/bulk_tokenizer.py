"""`BulkTokenizer`: texts to token ids at the full speed of a tokenizer, and the cutting of what is too long."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from encdec_lightning.errors import UserError

Ids = NDArray[np.uint32]
PROBE = "one text"


class BulkTokenizer:
    """Ids of texts, `prefix + tokens + suffix`, as calling the tokenizer gives them, whole or cut.

    A fast tokenizer is asked through its Rust core, which spares most of what the call in Python costs. Where a
    tokenizer has no such core, it is called.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prefix: Sequence[int], suffix: Sequence[int]) -> None:
        self.prefix, self.suffix = (np.array(part, dtype=np.uint32) for part in (prefix, suffix))
        self.cuts_left = tokenizer.truncation_side == "left"
        self.unknown_id: int | None = tokenizer.unk_token_id
        self._splits_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
        self._slow = tokenizer
        self._core = copy.deepcopy(tokenizer.backend_tokenizer) if tokenizer.is_fast else None
        if self._core is not None:
            self._core.no_truncation()
            self._core.no_padding()
            self._core.encode_special_tokens = self._splits_special_tokens

    @classmethod
    def with_special_tokens(cls, tokenizer: PreTrainedTokenizerBase) -> BulkTokenizer:
        """With what the tokenizer itself puts around a text."""
        whole = list(tokenizer(PROBE)["input_ids"])
        tokens = list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
        for start in range(len(whole) - len(tokens) + 1):
            if whole[start : start + len(tokens)] == tokens:
                return cls(tokenizer, whole[:start], whole[start + len(tokens) :])
        expected = "its special tokens must stand before and after a text's own tokens"
        raise UserError("tokenizer", tokenizer.name_or_path, expected)

    def __call__(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text, whole: (length,) each."""
        if self._core is not None:
            encoded = (each.ids for each in self._core.encode_batch_fast(list(texts), add_special_tokens=False))
        else:
            called = self._slow(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
            encoded = iter(called["input_ids"])
        return [np.concatenate([self.prefix, np.array(ids, dtype=np.uint32), self.suffix]) for ids in encoded]

    def cut(self, ids: Ids, max_length: int) -> Ids:
        """The ids with so many of the text's tokens left out that `max_length` remain, special ones included.

        They go at the end, or at the start where the tokenizer's `truncation_side` says so.
        """
        excess = len(ids) - max_length
        if excess <= 0:
            return ids
        at = len(self.prefix) if self.cuts_left else len(ids) - len(self.suffix) - excess
        return np.concatenate([ids[:at], ids[at + excess :]])

    def signature(self) -> str:
        """A hash of all that decides the ids."""
        if self._core is not None:
            rules = self._core.to_str()
        else:
            kind = f"{type(self._slow).__module__}.{type(self._slow).__qualname__}"
            rules = json.dumps([kind, sorted(self._slow.get_vocab().items()), self._slow.init_kwargs], default=str)
        around = [
            self.prefix.tolist(),
            self.suffix.tolist(),
            self.cuts_left,
            self.unknown_id,
            self._splits_special_tokens,
        ]
        return hashlib.sha256(f"{rules}{around}".encode()).hexdigest()
