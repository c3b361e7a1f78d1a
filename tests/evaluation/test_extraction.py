"""The greedy oracle equals a slow one that counts everything anew, and trigrams are blocked as plainly."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encdec_lightning import UserErrors
from encdec_lightning.evaluation.extraction import choose, greedy_oracle

WORDS = st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "rain", "fell"])
SENTENCES = st.lists(st.lists(WORDS, min_size=0, max_size=6).map(" ".join), min_size=1, max_size=6)


def ngrams(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[at : at + size]) for at in range(len(words) - size + 1)}


def f1(extract: list[str], reference: str, size: int) -> float:
    own = set().union(*(ngrams(re.findall("[a-z0-9]+", each.lower()), size) for each in extract))
    wanted = ngrams(re.findall("[a-z0-9]+", reference.lower()), size)
    return 2 * len(own & wanted) / (len(own) + len(wanted)) if own & wanted else 0.0


def slow_oracle(sentences: list[str], references: list[str], most: int, sizes: tuple[int, ...]) -> list[int]:
    def value(chosen: list[int]) -> float:
        extract = [sentences[number] for number in chosen]
        return max(sum(f1(extract, reference, size) for size in sizes) for reference in references)

    chosen: list[int] = []
    for _ in range(most):
        others = [number for number in range(len(sentences)) if number not in chosen]
        if not others:
            break
        best = max(others, key=lambda number: (value([*chosen, number]), -number))
        if value([*chosen, best]) <= (value(chosen) if chosen else 0.0):
            break
        chosen.append(best)
    return sorted(chosen)


@given(SENTENCES, st.lists(st.lists(WORDS, max_size=9).map(" ".join), min_size=1, max_size=3), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_the_oracle_is_the_slow_one(sentences: list[str], references: list[str], most: int):
    assert greedy_oracle(sentences, references, most) == slow_oracle(sentences, references, most, (1, 2))
    assert greedy_oracle(sentences, references, most, "rouge2") == slow_oracle(sentences, references, most, (2,))


def test_sentences_are_chosen_until_none_helps():
    sentences = ["The cat sat.", "It rained!", "The cat sat on the mat.", "Nothing"]
    assert greedy_oracle(sentences, ["the cat sat on the mat; it rained"]) == [1, 2]
    assert greedy_oracle(sentences, ["the cat sat on the mat; it rained"], most=1) == [2]
    assert greedy_oracle(sentences, ["no word of it"]) == [1] and greedy_oracle(sentences, ["zebra"]) == []
    assert greedy_oracle([], ["a"]) == [] and greedy_oracle(["", " "], ["a"]) == []
    assert greedy_oracle(["rained"], ["it rained"], criterion="rouge2") == []


def test_two_thousand_sentences_and_one():
    sentences = [f"word{number} and word{number + 1}" for number in range(2000)]
    assert 1500 in greedy_oracle(sentences, ["word1500 and word1501 word7"])
    assert greedy_oracle(["a cat"], ["the cat"]) == [0]


@given(SENTENCES, st.integers(1, 6), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_trigrams_are_blocked_as_the_released_code_does(sentences, most, block, random):
    scores = [random.random() for _ in sentences]
    kept: list[str] = []
    numbers: list[int] = []
    for number in sorted(range(len(sentences)), key=lambda each: -scores[each]):
        words = sentences[number].split()
        trigrams = [tuple(words[at : at + 3]) for at in range(len(words) - 2)]
        blocked = any(
            set(trigrams) & {tuple(other.split()[at : at + 3]) for at in range(len(other.split()) - 2)}
            for other in kept
        )
        if block and blocked:
            continue
        kept.append(sentences[number])
        numbers.append(number)
        if len(numbers) == most:
            break
    assert choose(sentences, scores, most, block) == sorted(numbers)


def test_more_sentences_than_there_are_and_mistakes():
    assert choose(["a", "b"], [0.1, 0.2], most=5) == [0, 1]
    assert choose([], [], most=3) == []
    with pytest.raises(UserErrors, match="there are 2 sentences"):
        choose(["a", "b"], [0.1], most=1)
    with pytest.raises(UserErrors, match="most is 0: it must be at least 1"):
        greedy_oracle(["a"], ["a"], most=0)
    with pytest.raises(UserErrors, match=r"criterion is 'rouge3': it must be one of rouge2, rouge1\+rouge2"):
        greedy_oracle(["a"], ["a"], criterion="rouge3")  # type: ignore[arg-type]
