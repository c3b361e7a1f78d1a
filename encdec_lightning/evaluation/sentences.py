"""Where the sentences of a text end, without a model of a language."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

QUOTES = "\"'“”‘’«»„"
INITIALS = re.compile(r"(?:[^\W\d_]\.)+")
"""Single letters, each with a full stop: e.g., i.e., U.S., J."""
ABBREVIATIONS = frozenset(
    ("etc.", "vs.", "cf.", "al.", "fig.", "mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "sen.", "gov.", "gen.", "rep.")
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, without white space around them; none of an empty text.

    A sentence ends with a word in . ! or ? (closing quotes or brackets may follow) before a word that starts with an
    upper-case letter, a digit or a quote, unless the word is an abbreviation. In a text without any upper-case letter,
    as uncased models write it, any word may begin a sentence.
    """
    ends = [0, *sentence_ends(text), len(text)]
    return [each for begin, end in pairwise(ends) if (each := text[begin:end].strip())]


def lines_or_sentences(text: str) -> list[str]:
    """The lines of a text of several, blank ones left out, else its sentences."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines if len(lines) > 1 else sentences(text)


def sentence_ends(text: str) -> Iterator[int]:
    """The places behind the sentences of a text, but for the last one."""
    cased = text != text.lower()
    for word, following in pairwise(re.finditer(r"\S+", text)):
        bare = word[0].strip(QUOTES + "()[]")
        first = following[0][0]
        abbreviation = INITIALS.fullmatch(bare) or bare.lower() in ABBREVIATIONS
        starts_sentence = not cased or first.isupper() or first.isdigit() or first in QUOTES
        if bare.endswith((".", "!", "?")) and starts_sentence and not abbreviation:
            yield word.end()
