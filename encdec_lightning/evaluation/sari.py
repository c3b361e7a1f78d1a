"""SARI (Xu et al. 2016, equations 3-7), in two variants that differ by several points."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from encdec_lightning.evaluation.words import grams, words_and_signs
from encdec_lightning.records import Prediction

LONGEST = 4  # tokens of an n-gram

Grams = frozenset[tuple[str, ...]]


class Sari:
    """How well n-grams are kept, added and deleted, in percent, averaged over examples: the paper's variant.

    As tensor2tensor computes it, with which the paper scores fusion and splitting: n-grams are sets, 0/0 counts as 1,
    deletion is a precision. Tokens are words and single signs, their case kept. tensor2tensor knows one reference; of
    several, the value is the mean over them.
    """

    names: tuple[str, ...] = ("sari",)
    signature: str = "variant:tensor2tensor|tokens:words and signs|case:kept|references:mean|version:1"
    higher_is_better: bool = True
    needs_source: bool = True

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """The example's SARI, between 0 and 1; shape (1,)."""
        source, own = (words_and_signs(text) for text in (prediction.source, prediction.prediction))
        scores = [
            _sari(*(frozenset(grams(each, n)) for each in (source, own, words_and_signs(reference))))
            for reference in prediction.references
            for n in range(1, LONGEST + 1)
        ]
        return np.array([sum(scores) / len(scores)])

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Means in percent; (..., 1) to (..., 1)."""
        return 100.0 * total / count


class StandardSari:
    """SARI as its authors' script computes it, in percent, averaged over examples.

    N-grams count as often as they occur and as many references as have them; 0/0 is 0; deletion is a precision. Tokens
    are those of mteval-v13a in lower case, as in EASSE.
    """

    names: tuple[str, ...] = ("sari_standard",)
    signature: str = f"variant:xu2016|tokenize:13a|case:lower|version:1|sacrebleu:{version('sacrebleu')}"
    higher_is_better: bool = True
    needs_source: bool = True

    def __init__(self) -> None:
        self._tokenize = Tokenizer13a()  # type: ignore[no-untyped-call]

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """The example's SARI, between 0 and 1; shape (1,)."""
        source, own, *right = (
            self._tokenize(text.lower()).split()
            for text in (prediction.source, prediction.prediction, *prediction.references)
        )
        scores = []
        for n in range(1, LONGEST + 1):
            references: Counter[tuple[str, ...]] = Counter()
            for each in right:
                references.update(grams(each, n))
            scores.append(_standard(_repeated(source, n, len(right)), _repeated(own, n, len(right)), references))
        return np.array([sum(scores) / LONGEST])

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Means in percent; (..., 1) to (..., 1)."""
        return 100.0 * total / count


Counts = Counter[tuple[str, ...]]


def _repeated(tokens: list[str], n: int, times: int) -> Counts:
    """How often n-grams occur, times the number of references."""
    return Counter({gram: count * times for gram, count in Counter(grams(tokens, n)).items()})


def _standard(source: Counts, own: Counts, references: Counts) -> float:
    kept, right_to_keep = source & own, source & references
    rightly_kept = kept & references
    precision, recall = _mean_share(rightly_kept, kept), _mean_share(rightly_kept, right_to_keep)
    deleted = source - own
    added, right_to_add = own.keys() - source.keys(), references.keys() - source.keys()
    rightly_added = len(added & references.keys())
    scores = (
        _harmonic(precision, recall),
        _mean_share(deleted - references, deleted),
        _harmonic(_share(rightly_added, len(added)), _share(rightly_added, len(right_to_add))),
    )
    return sum(scores) / len(scores)


def _mean_share(part: Counts, whole: Counts) -> float:
    """The mean over n-grams of the share of their occurrences."""
    return _share(sum(count / whole[gram] for gram, count in part.items()), len(whole))


def _sari(source: Grams, prediction: Grams, reference: Grams) -> float:
    kept = _f1(len(source & prediction & reference), len(source & prediction), len(source & reference))
    added = _f1(len((prediction - source) & reference), len(prediction - source), len(reference - source))
    deleted = _share(len(source - prediction - reference), len(source - prediction), of_nothing=1.0)
    return (kept + added + deleted) / 3


def _f1(right: int, selected: int, relevant: int) -> float:
    return _harmonic(_share(right, selected, of_nothing=1.0), _share(right, relevant, of_nothing=1.0))


def _harmonic(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


def _share(part: float, whole: int, of_nothing: float = 0.0) -> float:
    return part / whole if whole else of_nothing
