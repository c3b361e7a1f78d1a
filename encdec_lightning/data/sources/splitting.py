"""Train, validation and test parts that are a function of content, with near-duplicates on one side only."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from encdec_lightning.records import Pair

VALIDATION_SHARE, TEST_SHARE = 0.03, 0.05  # of the groups
GRAM = 4  # words
NEAR = 0.3  # share of the shorter text's 4-grams in common that makes two texts near-duplicates

Parts = dict[str, list[Pair]]


def split(pairs: Iterable[Pair], group: Callable[[Pair], str]) -> Parts:
    """{"train", "validation", "test"}: each group goes to one part, chosen by a hash of its name.

    Of pairs with the same source or the same target words only the one with the least id stays. Then test gives way to
    nothing, validation to test, and train to both: a pair leaves if it is a near-duplicate of one of theirs.
    """
    parts: Parts = {"train": [], "validation": [], "test": []}
    for pair in _distinct(pairs):
        parts[part_of(group(pair))].append(pair)
    test = parts["test"]
    validation = without_near_duplicates(parts["validation"], test)
    train = without_near_duplicates(parts["train"], test + validation)
    return {"train": train, "validation": validation, "test": test}


def part_of(group: str) -> str:
    """The part a group belongs to, whatever other groups there are."""
    draw = int.from_bytes(hashlib.sha256(group.encode()).digest()[:8], "big") / 2**64
    if draw < TEST_SHARE:
        return "test"
    return "validation" if draw < TEST_SHARE + VALIDATION_SHARE else "train"


def without_near_duplicates(pairs: list[Pair], others: list[Pair]) -> list[Pair]:
    """The pairs whose source does not share `NEAR` of its 4-grams, or of the other's, with any of `others`."""
    grams_of = [_grams(other.source) for other in others]
    index: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    for number, grams in enumerate(grams_of):
        for gram in grams:
            index[gram].append(number)

    def near(pair: Pair) -> bool:
        grams = _grams(pair.source)
        common = Counter(number for gram in grams for number in index.get(gram, ()))
        return any(count >= NEAR * min(len(grams), len(grams_of[number])) for number, count in common.items())

    return [pair for pair in pairs if not near(pair)]


def _distinct(pairs: Iterable[Pair]) -> list[Pair]:
    sources: set[str] = set()
    targets: set[str] = set()
    kept = []
    for pair in sorted(pairs, key=lambda each: (each.id, each.source, each.target)):
        source, target = " ".join(_words(pair.source)), " ".join(_words(pair.target))
        if source not in sources and target not in targets:
            sources.add(source)
            targets.add(target)
            kept.append(pair)
    return kept


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _grams(text: str) -> set[tuple[str, ...]]:
    words = _words(text)
    return {tuple(words[i : i + GRAM]) for i in range(max(1, len(words) - GRAM + 1))}
