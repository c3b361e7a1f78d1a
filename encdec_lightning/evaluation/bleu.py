"""Corpus BLEU-4 (Papineni et al. 2002): sacrebleu's, and NLTK's, with which WikiSplit is scored."""

from __future__ import annotations

import math
import sys
from collections import Counter
from functools import reduce
from importlib.metadata import version
from operator import or_

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

from encdec_lightning.errors import require
from encdec_lightning.evaluation.words import grams
from encdec_lightning.records import Prediction

ORDERS = (1, 2, 3, 4)
"""Words of an n-gram."""


class Bleu:
    """sacrebleu's BLEU of the whole set.

    Args:
        tokenize: the name of one of sacrebleu's tokenizers that need no further package: 13a (as mteval-v13a), intl,
            zh, char, none.
        lowercase: whether case is ignored.
    """

    names: tuple[str, ...] = ("bleu",)
    higher_is_better: bool = True

    def __init__(self, tokenize: str = "13a", lowercase: bool = False) -> None:
        known = ("13a", "intl", "zh", "char", "none")
        require(("tokenize", tokenize, tokenize in known, f"it must be one of {', '.join(known)}"))
        self._bleu = BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
        case = "lower" if lowercase else "kept"
        self.signature = f"case:{case}|tokenize:{tokenize}|smooth:exp|sacrebleu:{version('sacrebleu')}"

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """Matched and all n-grams of 1 to 4 tokens, then the lengths of prediction and closest reference; (10,)."""
        found = self._bleu.corpus_score([prediction.prediction], [[each] for each in prediction.references])
        return np.array([*found.counts, *found.totals, found.sys_len, found.ref_len], dtype=np.float64)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """BLEU in percent; (..., 10) to (..., 1)."""
        return np.apply_along_axis(_bleu, -1, total)


class UncasedBleu(Bleu):
    """BLEU-4 in lower case, punctuation apart from words: the paper's for translation (Rothe et al., table 4).

    The paper used the script of TensorFlow's official Transformer, to which sacrebleu's `intl` tokens come closest.
    """

    names: tuple[str, ...] = ("bleu_uncased",)

    def __init__(self) -> None:
        super().__init__(tokenize="intl", lowercase=True)


class NltkBleu:
    """NLTK's `corpus_bleu` of texts that are split at white space, case kept: WikiSplit's (Botha et al. 2018)."""

    names: tuple[str, ...] = ("bleu_nltk",)
    signature: str = "case:kept|tokens:white space|smooth:none|as:nltk.corpus_bleu|version:1"
    higher_is_better: bool = True

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """As `Bleu.statistics`."""
        own, right = prediction.prediction.split(), [each.split() for each in prediction.references]
        matched, possible = [], []
        for n in ORDERS:
            counts = Counter(grams(own, n))
            most: Counter[tuple[str, ...]] = reduce(or_, (Counter(grams(each, n)) for each in right))
            matched.append((counts & most).total())
            possible.append(max(counts.total(), 1))
        closest = min((abs(len(each) - len(own)), len(each)) for each in right)[1]
        return np.array([*matched, *possible, len(own), closest], dtype=np.float64)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """BLEU in percent; (..., 10) to (..., 1)."""
        return np.apply_along_axis(_nltk_bleu, -1, total)


def _bleu(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    whole = [round(value) for value in sums.tolist()]
    return np.array([BLEU.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9], smooth_method="exp").score])


def _nltk_bleu(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    matched, possible, own, right = sums[:4], sums[4:8], sums[8], sums[9]
    if not matched[0]:
        return np.zeros(1)
    shorter = 1.0 if own > right else math.exp(1 - right / own)
    smallest = sys.float_info.min  # NLTK's for an order without a match
    logs = [math.log(part / whole if part else smallest) for part, whole in zip(matched, possible, strict=True)]
    return np.array([100.0 * shorter * math.exp(sum(logs) / len(ORDERS))])
