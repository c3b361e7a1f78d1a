"""chrF and chrF++ (Popovic 2015, 2017), by sacrebleu."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.chrf import CHRF

from encdec_lightning.errors import require
from encdec_lightning.records import Prediction


class ChrF:
    """The F-score of n-grams of characters of the whole set, in percent; recall counts twice.

    Args:
        word_order: the longest n-grams of words that count too: 0 is chrF, 2 is chrF++.
        lowercase: whether case is ignored.
    """

    higher_is_better: bool = True

    def __init__(self, word_order: int = 0, lowercase: bool = False) -> None:
        require(("word_order", word_order, 0 <= word_order <= 4, "it must lie between 0 and 4"))
        self.names: tuple[str, ...] = ("chrf++" if word_order == 2 else "chrf",)
        self._chrf = CHRF(word_order=word_order, lowercase=lowercase)
        case = "lower" if lowercase else "kept"
        self.signature = f"case:{case}|characters:6|words:{word_order}|beta:2|sacrebleu:{version('sacrebleu')}"

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """Of each order, n-grams of prediction and of the best reference, and how many match; (3 * orders,)."""
        references = [[each] for each in prediction.references]
        (found,) = self._chrf._extract_corpus_statistics([prediction.prediction], references)
        return np.array(found, dtype=np.float64)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """ChrF in percent; (..., 3 * orders) to (..., 1)."""
        return np.apply_along_axis(self._score, -1, total)

    def _score(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([self._chrf._compute_score_from_stats([round(each) for each in sums.tolist()]).score])
