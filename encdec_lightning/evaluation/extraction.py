"""Sentences in, an extract out: the greedy oracle of Liu & Lapata (2019), and how sentences are chosen by scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from encdec_lightning.errors import require
from encdec_lightning.evaluation.words import Tokenizer, Words, grams

Criterion = Literal["rouge2", "rouge1+rouge2"]
"""The paper's (section 4.2), and that of its released code."""
SIZES: dict[Criterion, tuple[int, ...]] = {"rouge2": (2,), "rouge1+rouge2": (1, 2)}
"""The words of an n-gram, by criterion."""

ORACLE_WORDS: Tokenizer = "unicode"
"""What an oracle takes for words, where nothing else is said: those of all scripts, as they are written."""

Grams = list[set[tuple[str, ...]]]


def greedy_oracle(
    sentences: Sequence[str],
    references: Sequence[str],
    most: int = 3,
    criterion: Criterion = "rouge1+rouge2",
    words: Words | None = None,
) -> list[int]:
    """The numbers of the sentences that together are most like a reference, in their order, at most `most`.

    One sentence after another is added, whichever raises the criterion most, until none does: the F1 of n-grams, each
    of which counts once, and of several references the best one. Of two that are alike it is the first. The result is
    empty where no sentence shares a word (two, with `rouge2`) with a reference. Raises `UserErrors`.
    """
    require(
        ("most", most, most >= 1, "it must be at least 1"),
        ("criterion", criterion, criterion in get_args(Criterion), f"it must be one of {', '.join(SIZES)}"),
    )
    split = words or Words(ORACLE_WORDS, stemmer=False)
    wanted = [_grams(split.tokenize(each), criterion) for each in references]
    made = [_Sentence(_grams(split.tokenize(each), criterion), wanted) for each in sentences]
    left = {number: each for number, each in enumerate(made) if each.is_like_a_reference}  # others lower the criterion
    held = _Sentence([set() for _ in SIZES[criterion]], wanted)
    chosen: list[int] = []
    best = 0.0
    while left and len(chosen) < most:
        found, number = max((_likeness(held, each, wanted), -number) for number, each in left.items())
        if found <= best:
            break
        best = found
        chosen.append(-number)
        added = left.pop(-number)
        held.add(added)
        for each in left.values():
            each.take_out(added)
    return sorted(chosen)


def choose(sentences: Sequence[str], scores: Sequence[float], most: int, block_trigrams: bool = True) -> list[int]:
    """The numbers of the sentences with the highest scores, at most `most`, in the order of the text.

    With `block_trigrams` a sentence that shares three words in a row with one that has been chosen is passed over (Liu
    & Lapata, 2019). Words are what white space separates, in lower case. Raises `UserErrors`.
    """
    require(
        ("most", most, most >= 1, "it must be at least 1"),
        ("scores", len(scores), len(scores) == len(sentences), f"there are {len(sentences)} sentences"),
    )
    chosen: list[int] = []
    seen: set[tuple[str, ...]] = set()
    for number in sorted(range(len(sentences)), key=lambda each: -scores[each]):
        own = set(grams(sentences[number].lower().split(), 3)) if block_trigrams else set()
        if seen.isdisjoint(own):
            chosen.append(number)
            seen |= own
            if len(chosen) == most:
                break
    return sorted(chosen)


class _Sentence:
    """N-grams by size, and those of each reference among them; of a sentence those that are not held yet."""

    def __init__(self, grams: Grams, references: Sequence[Grams]) -> None:
        self.grams = grams
        self.hits = [[own & each for own, each in zip(grams, reference, strict=True)] for reference in references]

    @property
    def is_like_a_reference(self) -> bool:
        """Whether it has anything of one."""
        return any(map(any, self.hits))

    def add(self, other: _Sentence) -> None:
        """Hold another's too."""
        for own, more in self._beside(other):
            own |= more

    def take_out(self, other: _Sentence) -> None:
        """Another's are held now."""
        for own, held in self._beside(other):
            own -= held

    def _beside(self, other: _Sentence) -> Iterator[tuple[set[tuple[str, ...]], set[tuple[str, ...]]]]:
        for own, its in zip([self.grams, *self.hits], [other.grams, *other.hits], strict=True):
            yield from zip(own, its, strict=True)


def _grams(words: Sequence[str], criterion: Criterion) -> Grams:
    return [set(grams(words, size)) for size in SIZES[criterion]]


def _likeness(held: _Sentence, new: _Sentence, references: Sequence[Grams]) -> float:
    """The criterion's value for what is held and a sentence more: the sum of F1 over sizes, of the best reference."""
    sizes = [len(before) + len(more) for before, more in zip(held.grams, new.grams, strict=True)]
    best = 0.0
    for before, more, reference in zip(held.hits, new.hits, references, strict=True):
        hits = [len(one) + len(other) for one, other in zip(before, more, strict=True)]
        value = sum(
            2 * found / (size + len(wanted))
            for found, size, wanted in zip(hits, sizes, reference, strict=True)
            if found
        )
        best = max(best, value)
    return best
