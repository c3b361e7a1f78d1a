"""Texts in, words out, as metrics compare them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Literal

Tokenizer = Literal["ascii", "unicode"]
TOKENIZERS: tuple[Tokenizer, ...] = ("ascii", "unicode")
STEMMED_FROM = 4
"""Letters of the shortest word that is stemmed, as in ROUGE-1.5.5."""
_ASCII = re.compile("[a-z0-9]+")
_WORD_OR_SIGN = re.compile(r"\w+|[^\w\s]")
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
"""Blocks of scripts that write no space between words."""


def words_and_signs(text: str) -> list[str]:
    """Words, and every other sign but white space by itself, their case kept: tensor2tensor's tokens."""
    return _WORD_OR_SIGN.findall(text)


class Words:
    """Splits texts into lower-cased words; takes the place of rouge-score's tokenizer, and gives the same for `ascii`.

    Args:
        tokenizer: `ascii` knows a-z and 0-9 alone, as ROUGE-1.5.5 and the papers do. `unicode` knows the letters,
            marks and digits of all scripts; what is written without spaces is taken sign by sign.
        stemmer: whether Porter's stemmer takes the endings off English words of more than three letters.
    """

    def __init__(self, tokenizer: Tokenizer = "ascii", stemmer: bool = True) -> None:
        self._ascii, self._stemmer = tokenizer == "ascii", stemmer

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        found = _ASCII.findall(text.lower()) if self._ascii else unicode_words(text)
        if not self._stemmer:
            return found
        return [_stem(word) if len(word) >= STEMMED_FROM and word.isascii() else word for word in found]


@lru_cache(maxsize=1 << 18)
def _stem(word: str) -> str:
    stemmed: str = _porter().stem(word)
    return stemmed


@lru_cache(maxsize=1)
def _porter() -> Any:
    """NLTK's stemmer, whose package takes a third of a second to import."""
    from nltk.stem.porter import PorterStemmer  # type: ignore[import-untyped]

    return PorterStemmer()


def unicode_words(text: str) -> list[str]:
    """The words of a text in any script, in lower case; composed and decomposed letters are the same."""
    return unicodedata.normalize("NFC", text).lower().translate(_SPACED).split()


class _Spaced(dict[int, str]):
    """{a sign: what stands for it}: itself, between spaces where it is a word by itself, or a space."""

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        self[code] = " "
        if unicodedata.category(sign)[0] in "LMN":
            alone = any(first <= code <= last for first, last in _WITHOUT_SPACES)
            self[code] = f" {sign} " if alone and unicodedata.category(sign)[0] != "M" else sign
        return self[code]


_SPACED = _Spaced()


def grams(words: Iterable[str], n: int) -> list[tuple[str, ...]]:
    """The n-grams of a sequence of words, each as often as it occurs."""
    held = tuple(words)
    return list(zip(*(held[i:] for i in range(n)), strict=False))
