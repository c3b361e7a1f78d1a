"""ROUGE-1, ROUGE-2 and ROUGE-L: F1 in percent, by Google's rouge-score with the Porter stemmer."""

from __future__ import annotations

import re
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from rouge_score.rouge_scorer import RougeScorer

from encdec_lightning.records import Prediction


class Rouge:
    """Mean F1 over examples. For texts in Latin script.

    rouge-score lower-cases a text and keeps only a-z and 0-9: accented letters split words, and a text in another
    script has no token left and scores 0. Such references are `unscorable`.
    """

    names: tuple[str, ...] = ("rouge1", "rouge2", "rougeL")
    signature: str = f"f1|stemmer:porter|tokenizer:ascii|rouge-score:{version('rouge-score')}"
    higher_is_better: bool = True

    compares: str = "the letters a-z and digits"

    def __init__(self) -> None:
        self.scorer = RougeScorer(list(self.names), use_stemmer=True)

    def statistics(self, prediction: Prediction) -> NDArray[np.float64]:
        """The three F1 of one example, each in 0..1; shape (3,). A text without a token scores 0."""
        scores = self.scorer.score(target=prediction.reference, prediction=prediction.prediction)
        return np.array([scores[name].fmeasure for name in self.names], dtype=np.float64)

    def unscorable(self, reference: str) -> bool:
        """Whether the reference has no token, so that every prediction scores 0."""
        return not re.search("[a-z0-9]", reference.lower())

    def aggregate(self, total: NDArray[np.float64], count: int) -> NDArray[np.float64]:
        """Means in percent; (..., 3) to (..., 3)."""
        return 100.0 * total / count
