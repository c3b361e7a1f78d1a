"""SARI against the obvious slow way, with counters as in the paper's equations."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encdec_lightning.evaluation.metric import score
from encdec_lightning.evaluation.registry import load_metric
from encdec_lightning.records import Prediction

WORDS = st.lists(st.sampled_from("a b c d .".split()), max_size=8).map(" ".join)


def grams(text: str, n: int) -> Counter:
    words = text.split()
    return Counter(set(zip(*(words[i:] for i in range(n)), strict=False)))


def f_beta(right: float, selected: float, relevant: float, beta: float = 1) -> float:
    precision = right / selected if selected else 1.0
    if beta == 0:
        return precision
    recall = right / relevant if relevant else 1.0
    return 2 * precision * recall / (precision + recall) if precision > 0 and recall > 0 else 0.0


def slow(source: str, prediction: str, reference: str) -> float:
    """Xu et al. (2016), equations 3 to 7, over n-grams of one reference."""
    total = 0.0
    for n in range(1, 5):
        s, p, r = (grams(text, n) for text in (source, prediction, reference))
        kept = f_beta(sum(((s & p) & (s & r)).values()), sum((s & p).values()), sum((s & r).values()))
        added = f_beta(sum(((p - s) & r).values()), sum((p - s).values()), sum((r - s).values()))
        deleted = f_beta(sum(((s - p) & (s - r)).values()), sum((s - p).values()), 1, beta=0)
        total += (kept + added + deleted) / 3 / 4
    return 100 * total


@given(source=WORDS, prediction=WORDS, reference=WORDS)
def test_against_the_equations(source, prediction, reference):
    one = Prediction("1", source, reference, prediction)
    assert score([one], load_metric("sari"))["sari"].value == pytest.approx(slow(source, prediction, reference))


def test_the_reference_is_perfect_and_a_mean_is_a_mean():
    right = Prediction("1", "a b c d e", "a b x d", "a b x d")
    copied = Prediction("2", "a b c d e", "a b x d", "a b c d e")
    sari = load_metric("sari")
    values = [score([each], sari)["sari"].value for each in (right, copied)]
    assert values[0] == 100.0 > values[1]
    assert score([right, copied], sari)["sari"].value == pytest.approx(sum(values) / 2)


def test_signs_are_words():
    """A model's text has its full stop at the word or apart."""
    sari = load_metric("sari")
    apart, joined = (
        score([Prediction("1", "It was .", "It is .", text)], sari)["sari"].value for text in ("It is .", "It is.")
    )
    assert apart == joined == 100.0
