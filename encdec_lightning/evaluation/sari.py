"""SARI (Xu et al. 2016, equations 3-7), in the variant with which the paper scores fusion and splitting."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.records import Prediction

LONGEST = 4  # tokens of an n-gram
_TOKEN = re.compile(r"\w+|[^\w\s]")

Grams = frozenset[tuple[str, ...]]


class Sari:
    """How well n-grams are kept, added and deleted, in percent, averaged over examples.

    As tensor2tensor computes it, which the paper used: n-grams are sets, 0/0 counts as 1, deletion is a precision.
    Other implementations differ by several points. Tokens are words and single signs, their case kept.
    """

    names: tuple[str, ...] = ("sari",)
    signature: str = "variant:tensor2tensor|tokens:words and signs|case:kept|version:1"
    higher_is_better: bool = True

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """The example's SARI, between 0 and 1; shape (1,)."""
        texts = (prediction.source, prediction.prediction, prediction.reference)
        tokens = [_TOKEN.findall(text) for text in texts]
        scores = [_sari(*(_grams(each, n) for each in tokens)) for n in range(1, LONGEST + 1)]
        return np.array([sum(scores) / LONGEST])

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Means in percent; (..., 1) to (..., 1)."""
        return 100.0 * total / count


def _grams(tokens: list[str], n: int) -> Grams:
    return frozenset(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def _sari(source: Grams, prediction: Grams, reference: Grams) -> float:
    kept = _f1(len(source & prediction & reference), len(source & prediction), len(source & reference))
    added = _f1(len((prediction - source) & reference), len(prediction - source), len(reference - source))
    deleted = _ratio(len(source - prediction - reference), len(source - prediction))
    return (kept + added + deleted) / 3


def _f1(right: int, selected: int, relevant: int) -> float:
    precision, recall = _ratio(right, selected), _ratio(right, relevant)
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
