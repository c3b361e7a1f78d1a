"""Corpus BLEU-4, by sacrebleu."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

from encdec_lightning.records import Prediction


class Bleu:
    """BLEU-4 of the whole set (Papineni et al. 2002), case kept, tokens as in mteval-v13a."""

    higher_is_better: bool = True

    def __init__(self, name: str = "bleu", tokenize: str = "13a", lowercase: bool = False) -> None:
        self.names: tuple[str, ...] = (name,)
        self._bleu = BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
        case = "lower" if lowercase else "kept"
        self.signature = f"case:{case}|tokenize:{tokenize}|smooth:exp|sacrebleu:{version('sacrebleu')}"

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """Matched and all n-grams of 1 to 4 tokens, then the lengths of prediction and reference; shape (10,)."""
        found = self._bleu.corpus_score([prediction.prediction], [[prediction.reference]])
        return np.array([*found.counts, *found.totals, found.sys_len, found.ref_len], dtype=np.float64)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """BLEU in percent; (..., 10) to (..., 1)."""
        return np.apply_along_axis(_bleu, -1, total)


def uncased_bleu() -> Bleu:
    """BLEU-4 in lower case, punctuation apart from words: the paper's for translation (Rothe et al., table 4).

    The paper used the script of TensorFlow's official Transformer, to which sacrebleu's `intl` tokens come closest.
    """
    return Bleu("bleu_uncased", tokenize="intl", lowercase=True)


def _bleu(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    whole = [round(value) for value in sums.tolist()]
    return np.array([BLEU.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9], smooth_method="exp").score])
