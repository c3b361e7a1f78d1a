"""What texts are like, right or not: their length, how much of them is new, how often they repeat themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from encdec_lightning.evaluation.words import grams, unicode_words
from encdec_lightning.records import Prediction

ORDERS = (1, 2, 3, 4)
"""Words of an n-gram."""
FUNCTION_WORDS = frozenset(
    """
    a about above after again against all also am an and any are as at be because been before being below between
    both but by can cannot could did do does doing down during each few for from further had has have having he her
    here hers herself him himself his how i if in into is it its itself just me more most my myself no nor not now
    of off on once only or other ought our ours ourselves out over own said same say says she should so some such
    than that the their theirs them themselves then there these they this those through to too under until up upon
    very was we were what when where which while who whom why will with would you your yours yourself s t re ve ll d
    m ain aren couldn didn doesn don hadn hasn haven isn mightn mustn needn shan shouldn wasn weren wouldn
    """.split()  # noqa: SIM905
)
"""English words that a text may well have twice."""


class Length:
    """Words of a prediction, and how many times as long as its (first) reference it is, both on average."""

    names: tuple[str, ...] = ("length", "length_ratio")
    signature: str = "words:unicode|ratio:of sums|version:1"
    higher_is_better: Mapping[str, bool] = {}

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """Words of prediction and reference; (2,)."""
        texts = (prediction.prediction, prediction.reference)
        return np.array([len(unicode_words(text)) for text in texts], dtype=np.float64)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Mean words, and the ratio; (..., 2) to (..., 2)."""
        own, right = total[..., 0], total[..., 1]
        return np.stack([own / count, own / np.where(right, right, np.nan)], axis=-1)


class NovelNgrams:
    """The share of a prediction's n-grams that its source does not have, in percent, averaged over examples.

    Of n-grams of 1 to 4 words, each once, as in Narayan et al. (2018), table 1. A text without any adds 0.
    """

    names: tuple[str, ...] = tuple(f"novel_{n}grams" for n in ORDERS)
    signature: str = "words:unicode|n-grams:once|version:1"
    higher_is_better: Mapping[str, bool] = {}
    needs_source: bool = True

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """The share for each order, in 0..1; (4,)."""
        own, source = unicode_words(prediction.prediction), unicode_words(prediction.source)
        shares = []
        for n in ORDERS:
            found = {*grams(own, n)}
            shares.append(len(found - {*grams(source, n)}) / len(found) if found else 0.0)
        return np.array(shares)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Means in percent; (..., 4) to (..., 4)."""
        return 100.0 * total / count


class Repetition:
    """Percent of predictions that have a content word more than once (Rothe et al., table 7).

    A content word has a letter and is none of the English `FUNCTION_WORDS`.
    """

    names: tuple[str, ...] = ("repetition",)
    signature: str = "words:unicode|function words:english|version:2"
    higher_is_better: bool = False

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """1 if a word is repeated, else 0; (1,)."""
        counts = Counter(unicode_words(prediction.prediction))
        repeated = [word for word, times in counts.items() if times > 1 and any(map(str.isalpha, word))]
        return np.array([any(word not in FUNCTION_WORDS for word in repeated)], dtype=np.float64)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Shares in percent; (..., 1) to (..., 1)."""
        return 100.0 * total / count
