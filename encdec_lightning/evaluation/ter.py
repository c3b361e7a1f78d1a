"""TER (Snover et al. 2006), by sacrebleu."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.ter import TER

from encdec_lightning.records import Prediction


class Ter:
    """Edits for each word of the references, of the whole set, in percent; a phrase that moves is one edit.

    Args:
        case_sensitive: whether case counts.
        normalized: whether punctuation is split from words.
    """

    names: tuple[str, ...] = ("ter",)
    higher_is_better: bool = False

    def __init__(self, case_sensitive: bool = False, normalized: bool = False) -> None:
        self._ter = TER(case_sensitive=case_sensitive, normalized=normalized)
        case = "kept" if case_sensitive else "lower"
        tokens = "tercom" if normalized else "white space"
        self.signature = f"case:{case}|tokens:{tokens}|punctuation:kept|sacrebleu:{version('sacrebleu')}"

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """The fewest edits to a reference, and the mean length of the references; (2,)."""
        found = self._ter.corpus_score([prediction.prediction], [[each] for each in prediction.references])
        return np.array([found.num_edits, found.ref_length], dtype=np.float64)

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """TER in percent; (..., 2) to (..., 1). Of references without words it is 100, or 0 without edits."""
        edits, length = total[..., :1], total[..., 1:]
        return np.where(length > 0, 100.0 * edits / np.maximum(length, 1), np.where(edits > 0, 100.0, 0.0))
